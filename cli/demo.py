"""`rehead demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rehead.files import check_output
from rehead.progress import results, say


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the drawn data, the runs and the picture sheet.")] = Path(
        "runs/demo"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo if it is there.")] = False,
) -> None:
    """See transfer learning work in a few minutes: no data, no network.

    Draws a small data set, trains one backbone to classify it, keeps the body, swaps in a detection and then a
    segmentation head, fine-tunes each, and does the same from scratch.

    Example: rehead demo --out runs/demo
    """
    check_output(out, folder=True, overwrite=overwrite)

    from rehead.tasks.demo import demo as run

    rows = run(out, device=device)
    table = Table(
        title="The same steps on the same images, with and without the trained backbone", title_justify="left"
    )
    for column in ("task", "figure", "transferred", "from scratch"):
        table.add_column(column, justify="left" if column in ("task", "figure") else "right")
    for row in rows:
        scratch = "-" if row.scratch is None else f"{row.scratch:.3f}"
        table.add_row(row.task, row.figure, f"{row.transferred:.3f}", scratch)
    results().print(table)
    say(f"Pictures: {out}/sheet.png. Each run folder in {out} has its config, figures and checkpoints.")

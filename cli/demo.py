"""`rehead demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rehead.files import check_output
from rehead.terminal import Column, Table, results, say


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the synthetic data, the runs and the picture sheet.")] = Path(
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

    from rehead.demo.demo import demo as run

    rows = run(out, device=device)
    table = Table(
        *("task", "figure", Column("transferred", right=True), Column("from scratch", right=True)),
        title="The same steps on the same images, with and without the trained backbone",
        lines=True,
    )
    for row in rows:
        scratch = "-" if row.scratch is None else f"{row.scratch:.3f}"
        table.row(row.task, row.figure, f"{row.transferred:.3f}", scratch)
    results().print(table)
    say(f"Pictures: {out}/sheet.png. Each run folder in {out} has its config, metrics and checkpoints.")

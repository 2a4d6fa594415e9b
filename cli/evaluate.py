"""`rehead evaluate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from rehead.cli.options import Plugins
from rehead.files import check_output, json_text, write_text
from rehead.terminal import Column, Table, results, say


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of rehead.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the checkpoint's config: key=value ...", metavar="key=value")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the metrics to this file.")] = None,
    plugins: Plugins = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --json if it is there.")] = False,
) -> None:
    """Metrics of a checkpoint: COCO AP, IoU, or accuracy.

    Example: rehead evaluate runs/camvid_unet/best.safetensors data.split=test --json metrics.json
    """
    from rehead.configs.overrides import parse_overrides

    parsed = parse_overrides(overrides or [])
    # Of several processes one says it; the others find nobody to join.
    if json_file is not None and os.environ.get("RANK", "0") == "0":
        check_output(json_file, "--json", inputs=[checkpoint], overwrite=overwrite)

    from rehead.tasks.evaluate import evaluate as run

    metrics = run(checkpoint, parsed, plugins=plugins or [], output=json_file)
    if os.environ.get("RANK", "0") != "0":
        return  # the first of several processes speaks and writes for all
    if json_file is not None:
        write_text(json_file, json_text(metrics, indent=2) + "\n")
    for key, own in metrics.items():
        say(f"{checkpoint}, head '{key}'")
        results().print(_table(own))


def _table(metrics: dict[str, Any]) -> Table:
    table = Table("figure", Column("value", right=True), lines=True)
    for name, value in metrics.items():
        if not isinstance(value, dict):
            table.row(name, _shown(value))
    for name, group in metrics.items():
        if isinstance(group, dict):
            for part, value in group.items():
                table.row(f"{name} {part}", _shown(value))
    return table


def _shown(value: float | None) -> str:
    """A figure in 0..1 with four digits; a dash where nothing could be measured (COCO says -1)."""
    return "-" if value is None or value < 0 else f"{value:.4f}"

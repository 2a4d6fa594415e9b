"""`rehead predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rehead.cli.options import Plugins
from rehead.errors import DataError, listed


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of rehead.")],
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", metavar="PATH...")],
    out: Annotated[Path, typer.Option(help="Folder for pictures and predictions.json.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    plugins: Plugins = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier prediction left in the folder if it is there.")
    ] = False,
) -> None:
    """Predict images: pictures, and one predictions.json.

    Boxes are written in COCO results form, class maps as PNG masks with your own ids.

    Example: rehead predict runs/coco_faster_rcnn/best.safetensors street.jpg --out predicted
    """
    if not any(path.exists() for path in paths):
        raise DataError(f"no such image or folder: {listed(paths)}")

    from rehead.tasks.predict import predict as run

    run(checkpoint, paths, out, device, plugins=plugins or [], overwrite=overwrite)

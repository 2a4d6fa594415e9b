"""`rehead export-weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rehead.cli.options import Plugins
from rehead.files import check_output
from rehead.terminal import say


def export_weights(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of rehead.")],
    out: Annotated[Path, typer.Option(help="The state dict: .safetensors, or .pth and others as torch saves.")],
    plugins: Plugins = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a checkpoint's tensors under the names of torchvision or segmentation-models-pytorch.

    Example: rehead export-weights runs/camvid_unet/best.safetensors --out unet.pth
    """
    check_output(out, inputs=[checkpoint], overwrite=overwrite)

    from rehead.interop.exchange import export_weights as run
    from rehead.interop.exchange import write
    from rehead.models.model import load

    library, tensors = run(load(checkpoint, plugins=plugins or []))
    write(out, tensors)
    say(f"{out}: {len(tensors)} tensors, for {library}'s load_state_dict(..., strict=True)")

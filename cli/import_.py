"""`rehead import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rehead.errors import ConfigError, listed
from rehead.files import check_output
from rehead.terminal import say


def import_(
    library: Annotated[str, typer.Argument(help="torchvision or smp (segmentation-models-pytorch)")],
    file: Annotated[Path, typer.Argument(help="The state dict: .pth, .safetensors, ...")],
    name: Annotated[str, typer.Option("--as", help="The model there: fasterrcnn_resnet50_fpn, unet_resnet18, ...")],
    out: Annotated[Path, typer.Option(help="The new checkpoint, a .safetensors file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Options that the model was built with: model.head.KEY=VALUE ...", metavar="key=value"),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Names, one per class: a,b,c")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Make a checkpoint of another library's whole model, which then gives the same numbers.

    Example: rehead import torchvision fasterrcnn.pth --as fasterrcnn_resnet50_fpn --out fasterrcnn.safetensors
    """
    from rehead.configs.overrides import parse_overrides

    if out.suffix != ".safetensors":
        raise ConfigError([f"--out: '{out}' should end with .safetensors"], "rehead import")
    check_output(out, inputs=[file], overwrite=overwrite)
    names = None if classes is None else [each.strip() for each in classes.split(",") if each.strip()]
    parsed = parse_overrides(overrides or [])

    from rehead.interop.exchange import import_model

    model = import_model(library, file, name, names, parsed)
    model.save(out)
    body, head = model.backbone.options, model.head("main")
    eps = f", their eps {body.norm_eps:g} (model.backbone.norm_eps=...)" if body.norm_eps is not None else ""
    frozen = f", norms frozen{eps}" if body.norm == "frozen" else ""
    say(f"{out}: {library}'s {name}, {len(head.classes)} classes ({listed(head.classes.names)}){frozen}")

"""`rehead swap`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rehead.cli.options import Plugins
from rehead.errors import ConfigError
from rehead.files import check_output
from rehead.terminal import say


def swap(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of rehead.")],
    head: Annotated[str, typer.Option(help="The new head (see: rehead heads).")],
    classes: Annotated[str, typer.Option(help="What the new head tells apart: a,b,c")],
    out: Annotated[Path, typer.Option(help="The new checkpoint, a .safetensors file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Options of the new head: model.head.KEY=VALUE ...", metavar="key=value"),
    ] = None,
    plugins: Plugins = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Keep a checkpoint's backbone, bit for bit, and give it another head with random weights.

    Example: rehead swap runs/camvid_unet/best.safetensors --head faster_rcnn --classes cat,dog --out cats.safetensors
    """
    from rehead.configs.heads import HEADS
    from rehead.configs.load import load_config
    from rehead.configs.overrides import parse_overrides
    from rehead.configs.plugins import import_plugins

    import_plugins(plugins or [], "--plugins")  # the new head may be one of theirs
    names = [name.strip() for name in classes.split(",") if name.strip()]
    problems = [] if head in HEADS else [f"--head: {HEADS.unknown(head)}"]
    if not names:
        problems.append("--classes: name at least one, such as cat,dog")
    if out.suffix != ".safetensors":
        problems.append(f"--out: '{out}' should end with .safetensors")
    parsed = parse_overrides(overrides or [])
    # The head's name and classes have flags of their own; its `weight` is among other heads, of which none is left.
    flags = ("name", "classes", "weight")
    problems += [
        f"{key}: only options of the new head can be given here, such as model.head.score_threshold=0.1"
        for key in parsed
        if not key.startswith("model.head.") or key.removeprefix("model.head.").partition(".")[0] in flags
    ]
    if problems:
        raise ConfigError(problems, "rehead swap")
    check_output(out, inputs=[checkpoint], overwrite=overwrite)
    raw = {"task": HEADS.get(head).about["task"], "model": {"head": {"name": head}}}
    options = load_config(raw, parsed).model.heads["main"]

    from rehead.models.model import load

    model = load(checkpoint, plugins=plugins or []).swap_head(options, names)
    model.save(out)
    say(
        f"{out}: the backbone of {checkpoint} ({model.backbone.options.name}) with a new {head} head for "
        f"{len(names)} classes. Train it with model.init={out}"
    )

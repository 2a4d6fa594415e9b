"""`rehead data`: commands about data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rehead.configs.load import load_config, parse_overrides
from rehead.errors import ConfigError

data = typer.Typer(
    name="data",
    help="Look at a data set.\n\nExample: rehead data show camvid_unet_r18 data.root=datasets/camvid --out camvid.jpg",
    no_args_is_help=True,
)


@data.callback()
def _several() -> None:
    """Without it, a single command would stand for all of `rehead data`."""


@data.command()
def show(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe.", metavar="CONFIG")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .jpg, ...")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values by dotted key: key=value ...", metavar="key=value")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images.")] = 4,
    draws: Annotated[int, typer.Option(min=0, help="Augmentations of each image, where the split is train.")] = 3,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
) -> None:
    """Draw samples with their annotation, before and after augmentation, as one picture.

    Example: rehead data show camvid_unet_r18 data.root=datasets/camvid data.augment=strong --out camvid.jpg
    """
    from PIL import Image

    if out.suffix.lower() not in Image.registered_extensions():
        raise ConfigError([f"--out: {out} should end in .png, .jpg or another format of pictures"], "rehead data show")
    parsed = parse_overrides(overrides or [])
    load_config(config, parsed)  # says what is wrong before torch takes its seconds to import

    from rehead.tasks.show_data import show_data

    show_data(config, parsed, out, count=count, draws=draws, split=split)

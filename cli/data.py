"""`rehead data`: commands about data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rehead.cli.data_check import check
from rehead.errors import ConfigError
from rehead.files import check_output

Images = Literal["copy", "link"]

data = typer.Typer(
    name="data",
    help="Look at a data set, and find what is wrong with it.\n\nExample: rehead data check datasets/raccoon",
    no_args_is_help=True,
)
data.command()(check)


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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture if it is there.")] = False,
) -> None:
    """Draw samples with their annotation, before and after augmentation, as one picture.

    Example: rehead data show camvid_unet_r18 data.root=datasets/camvid data.augment=strong --out camvid.jpg
    """
    from PIL import Image

    from rehead.configs.load import load_config
    from rehead.configs.overrides import parse_overrides

    if out.suffix.lower() not in Image.registered_extensions():
        raise ConfigError([f"--out: {out} should end in .png, .jpg or another format of pictures"], "rehead data show")
    parsed = parse_overrides(overrides or [])
    loaded = load_config(config, parsed)  # says what is wrong before torch takes its seconds to import
    check_output(out, inputs=loaded.data.paths(), overwrite=overwrite)

    from rehead.tasks.show_data import show_data

    show_data(config, parsed, out, count=count, draws=draws, split=split)


@data.command()
def stats(
    source: Annotated[str, typer.Argument(help="A folder of data, a YAML file, or the name of a recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values by dotted key: data.scale=10000 ...", metavar="key=value")
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, help="Of the model's input; the configuration's or the first image's unless given."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many are read, evenly from the training images.")] = 1000,
) -> None:
    """Measure the training images: mean and std of every channel, and the range of their numbers.

    Example: rehead data stats datasets/sentinel data.scale=10000 --channels 4
    """
    from rehead.configs.overrides import parse_overrides
    from rehead.datasets.audit.findings import Findings
    from rehead.datasets.audit.numbers import channel_statistics
    from rehead.datasets.audit.sources import open_all
    from rehead.errors import DataError
    from rehead.terminal import results, say
    from rehead.yaml_text import yaml_text

    findings = Findings()
    found = open_all(source, parse_overrides(overrides or []), findings)
    readers = [one.reader for one in found.sources if one.split == "train"]
    if not readers:
        reason = f": {findings[0].file}: {findings[0].message}" if findings else ""
        raise DataError(f"{source}: no training images that could be measured{reason}")
    channels = channels or found.channels
    measured = channel_statistics(readers[0], channels, found.scale, images)
    say(f"{measured.images} of {len(readers[0])} training images, {channels} channels")
    if measured.numbers is not None:
        say(f"numbers in their files: {measured.numbers}")
    backbone = {
        "in_channels": channels,
        "mean": [float(f"{value:.4g}") for value in measured.mean],
        "std": [float(f"{value:.4g}") for value in measured.std],
    }
    written = {"data": {"scale": measured.scale}} if measured.scale is not None else {}
    results().data(yaml_text({**written, "model": {"backbone": backbone}}, default_flow_style=None))


@data.command()
def convert(
    source: Annotated[str, typer.Argument(help="A folder of data, a YAML file, or the name of a recipe.")],
    dest: Annotated[Path, typer.Argument(help="The folder to write: a new one.")],
    to: Annotated[str, typer.Option(help="The format to write: coco, yolo, voc, masks, folders, or a plugin's.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values by dotted key: data.format=masks ...", metavar="key=value")
    ] = None,
    images: Annotated[Images, typer.Option(help="Copy the images, or make hard links of them.")] = "copy",
) -> None:
    """Write a data set anew in another format, with every split, and say what that format could not hold.

    Example: rehead data convert datasets/raccoon raccoon_coco --to coco
    """
    from rehead.configs.overrides import parse_overrides
    from rehead.datasets.content import lines
    from rehead.datasets.every_split import open_every_split, read_of, source_of
    from rehead.datasets.write import write
    from rehead.terminal import results, say
    from rehead.yaml_text import yaml_text

    check_output(dest, "DEST", folder=True)
    options, task = source_of(source, parse_overrides(overrides or []), maps=to == "masks")
    check_output(dest, "DEST", folder=True, inputs=read_of(source, options))
    written = write(open_every_split(options, task), to, dest, link=images == "link")
    for line in lines(written.notes):
        say(f"not kept: {line}")
    say(f"{dest}: written; the configuration that reads it:")
    scale = {} if options.scale is None else {"scale": options.scale}
    results().data(yaml_text({"data": {**written.options, **scale}}))


@data.command()
def split(
    source: Annotated[str, typer.Argument(help="A folder of data, a YAML file, or the name of a recipe.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values by dotted key: data.format=masks ...", metavar="key=value")
    ] = None,
    val: Annotated[float, typer.Option(help="Share of the training images for validation.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of the training images for the test.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw; another one gives other splits.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the lists; splits/ beside the data unless given.")
    ] = None,
) -> None:
    """Draw splits from the training images, near-duplicates on one side, and write the images' names down.

    Example: rehead data split datasets/raccoon --val 0.2 --test 0.1
    """
    from rehead.configs.overrides import parse_overrides
    from rehead.configs.readers import FoldersSplit
    from rehead.datasets.every_split import read_of, source_of
    from rehead.datasets.split import write_split
    from rehead.terminal import results, say
    from rehead.yaml_text import yaml_text

    shares = {name: share for name, share in (("val", val), ("test", test)) if share}
    wrong = [
        f"--{name}: {share:g} is no share; give more than 0 and less than 1"
        for name, share in shares.items()
        if not 0 < share < 1
    ]
    if not wrong and (not shares or sum(shares.values()) >= 1):
        wrong = ["--val and --test: leave some images to train on" if shares else "--val: nothing to draw"]
    if wrong:
        raise ConfigError(wrong, "rehead data split")
    options, task = source_of(source, parse_overrides(overrides or []))
    root = Path(options.root).expanduser()
    # Beside the data unless told otherwise; among folders of classes, one of lists would be another class.
    among = isinstance(options.train, FoldersSplit) and root / options.train.images == root
    beside = root.absolute().with_name(f"{root.absolute().name}_splits") if among else root / "splits"
    folder = out if out is not None else beside
    check_output(folder, folder=True, inputs=[] if out is None else read_of(source, options))
    written = write_split(options, task, shares, seed, folder)
    say(f"{folder}: written; the configuration that reads it:")
    results().data(yaml_text({"data": written}))

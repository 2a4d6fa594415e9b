"""`rehead backbones`: what there is, and what one of them looks like inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rehead.errors import ConfigError
from rehead.files import check_output
from rehead.terminal import Column, Table, results

if TYPE_CHECKING:
    from rehead.configs.schema import BackboneOptions

SHORTCUTS = {
    "none": "A plain network: no block adds its input back.",
    "identity": "identity: the block adds its input back as it is.",
    "projection": "projection: its input through a 1x1 convolution.",
    "projection (dashed)": "projection - -: through a 1x1 convolution, where channels or size change.",
    "zero padding (dashed)": "zero padding - -: with channels of zeros added, where channels or size change.",
}
"""What each kind in `Row.shortcut` means; dashed as in the figures of the paper."""


def backbones(
    name: Annotated[str | None, typer.Argument(help="a backbone, or a wildcard such as 'convnext*'")] = None,
    size: Annotated[int, typer.Option(min=1, help="height and width of the image, in pixels")] = 224,
    freeze: Annotated[str, typer.Option(help="entries that do not learn: 0, 1, ... or all")] = "0",
    output_stride: Annotated[int, typer.Option(help="32, or 16 or 8 for a dilated network")] = 32,
    weights: Annotated[str, typer.Option(help="imagenet, a timm tag, or none")] = "imagenet",
    plain: Annotated[bool, typer.Option("--plain", help="the network without its shortcuts")] = False,
    shortcut: Annotated[str, typer.Option(help="the paper's option A, B or C")] = "B",
    picture: Annotated[Path | None, typer.Option(help="draw the network to this .png, .svg or .pdf")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the picture if it is there")] = False,
) -> None:
    """List the backbones, or show one block by block: shapes, strides, parameters, shortcuts.

    Nothing is downloaded. Without a NAME it lists rehead's own; a wildcard lists timm's models.

    Example: rehead backbones resnet34 --size 224 --picture resnet34.png
    """
    if name is not None and not any(letter in name for letter in "*?["):
        shortcut = shortcut.upper()
        if picture is not None:
            check_output(picture, "--picture", overwrite=overwrite)
        if plain and shortcut != "B":
            raise ConfigError([f"--plain and --shortcut {shortcut}: a plain network has no shortcuts"], "command line")
        given = {"name": name, "output_stride": output_stride, "weights": weights, "residual": not plain}
        _show(_options(freeze, **given, shortcut=shortcut), size, picture)
    elif picture is not None:
        raise ConfigError(["--picture draws one network: give its NAME"], "command line")
    elif name is None:
        _list_ours()
    else:
        _list_timm(name)


def _options(freeze: str, **given: Any) -> BackboneOptions:
    from pydantic import ValidationError

    from rehead.configs.schema import BackboneOptions

    try:
        return BackboneOptions(**given, freeze=int(freeze) if freeze.isdigit() else freeze)
    except ValidationError as error:
        problems = {f"--{str(d['loc'][0]).replace('_', '-')}: {d['msg']}" for d in error.errors() if d["loc"]}
        messages = {d["msg"].removeprefix("Value error, ") for d in error.errors()}
        raise ConfigError(sorted(problems or messages), "command line") from error


def _list_ours() -> None:
    import timm

    from rehead.backbones.describe import summarise
    from rehead.configs.backbones import BACKBONES
    from rehead.configs.schema import BackboneOptions

    table = _table("rehead's own backbones", "name", "block", "blocks", "size:", "channels of C1..", "paper")
    for entry in BACKBONES:
        summary = summarise(BackboneOptions(name=entry.name), 64)
        channels = " ".join(str(row.shape[0]) for row in summary.rows if row.feature)
        block, blocks, paper = (entry.about.get(fact, "") for fact in ("block", "blocks", "paper"))
        table.row(entry.name, block, blocks, _millions(summary.parameters), channels, paper)
    console = results()
    console.print(
        table,
        "",
        f"size: parameters without a classifier. There are {len(timm.list_models())} more in timm: "
        "`rehead backbones 'convnext*'` lists those that match, `rehead backbones NAME` shows one block by block. "
        "timm/resnet50 is timm's model where the name is ours too.",
    )


def _list_timm(pattern: str) -> None:
    import timm

    from rehead.errors import BuildError

    names = timm.list_models(pattern.removeprefix("timm/"))
    if not names:
        raise BuildError(f"no timm model matches '{pattern}'; * stands for any letters, as in '*convnext*'")
    console = results()
    console.columns(names)
    console.print(f"{len(names)} of timm's models match '{pattern}'")


def _show(options: BackboneOptions, size: int, picture: Path | None) -> None:

    from rehead.backbones.describe import summarise

    summary = summarise(options, size)
    title = f"{_title(options)}, image {size}x{size}"
    if picture is not None:
        from rehead.backbones.picture import draw_network
        from rehead.terminal import say

        draw_network(summary, title, picture)
        say(f"drawn: {picture}")
    inside = any(row.layers for row in summary.rows)
    headings = ["block", "ends", "output:", "stride:", "parameters:", "frozen"]
    table = _table(title, *headings, *(["sees:", "adds back"] if inside else []))
    if inside:
        kinds = {row.shortcut for row in summary.rows}
        seen = "output: channels, height, width. sees: pixels of the image that it depends on, each way."
        table.caption = [seen, *(text for kind, text in SHORTCUTS.items() if kind in kinds)]
    for row in summary.rows:
        parameters = "?" if row.parameters is None else f"{row.parameters:,}"
        frozen = "-" if row.parameters == 0 else "yes" if row.frozen else "no"
        cells = [row.name, row.feature, "x".join(map(str, row.shape)), str(row.stride), parameters, frozen]
        table.row(*cells, *([str(row.receptive_field), row.shortcut.replace("(dashed)", "- -")] if inside else []))
    frozen_share = _millions(summary.frozen_parameters) if summary.frozen_parameters else "none"
    console = results()
    console.print(
        table,
        "",
        f"{_millions(summary.parameters)} parameters, {frozen_share} of them frozen; "
        f"pixels in 0..1 are normalised with mean {_numbers(summary.mean)} and std {_numbers(summary.std)}; "
        f"images are resized with {summary.interpolation} interpolation",
    )


def _title(options: BackboneOptions) -> str:
    name = options.name if options.residual else f"plain {options.name}"
    name += f" with shortcuts {options.shortcut}" if options.shortcut != "B" else ""
    return name + (f", output stride {options.output_stride}" if options.output_stride != 32 else "")


def _table(title: str, *headings: str) -> Table:
    """A table that fits 80 columns; a heading that ends in a colon stands over numbers."""
    columns = [Column(heading.removesuffix(":"), right=heading.endswith(":"), whole=True) for heading in headings]
    return Table(*columns, title=title, tight=True)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)

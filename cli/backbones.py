"""`rehead backbones`: what there is, and what one of them looks like inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from rehead.configs.schema import BackboneOptions


def backbones(
    name: Annotated[str | None, typer.Argument(help="a backbone, or a wildcard such as 'convnext*'")] = None,
    size: Annotated[int, typer.Option(min=1, help="height and width of the image, in pixels")] = 224,
    freeze: Annotated[str, typer.Option(help="entries that do not learn: 0, 1, ... or all")] = "0",
    output_stride: Annotated[int, typer.Option(help="32, or 16 or 8 for a dilated network")] = 32,
    weights: Annotated[str, typer.Option(help="imagenet, a timm tag, or none")] = "imagenet",
) -> None:
    """List the backbones, or show one block by block: shapes, strides, parameters, shortcuts.

    Nothing is downloaded. Without a NAME it lists rehead's own; a wildcard lists timm's models.

    Example: rehead backbones resnet34 --size 224
    """
    if name is None:
        _list_ours()
    elif any(letter in name for letter in "*?["):
        _list_timm(name)
    else:
        _show(_options(name=name, freeze=freeze, output_stride=output_stride, weights=weights), size)


def _options(**given: Any) -> BackboneOptions:
    from pydantic import ValidationError

    from rehead.configs.schema import BackboneOptions
    from rehead.errors import ConfigError

    freeze = given["freeze"]
    try:
        return BackboneOptions(**{**given, "freeze": int(freeze) if freeze.isdigit() else freeze})
    except ValidationError as error:
        problems = {f"--{str(d['loc'][0]).replace('_', '-')}: {d['msg']}" for d in error.errors() if d["loc"]}
        messages = {d["msg"].removeprefix("Value error, ") for d in error.errors()}
        raise ConfigError(sorted(problems or messages), "command line") from error


def _list_ours() -> None:
    import timm
    from rich.console import Console

    from rehead.backbones.describe import summarise
    from rehead.configs.backbones import BACKBONES
    from rehead.configs.schema import BackboneOptions

    table = _table("rehead's own backbones", "name", "block", "blocks", "size:", "channels of C1..", "paper")
    for entry in BACKBONES:
        summary = summarise(BackboneOptions(name=entry.name), 64)
        channels = " ".join(str(row.shape[0]) for row in summary.rows if row.feature)
        block, blocks, paper = (entry.about.get(fact, "") for fact in ("block", "blocks", "paper"))
        table.add_row(entry.name, block, blocks, _millions(summary.parameters), channels, paper)
    console = Console()
    console.print(table, "")
    console.print(
        f"size: parameters without a classifier. There are {len(timm.list_models())} more in timm: "
        "`rehead backbones 'convnext*'` lists those that match, `rehead backbones NAME` shows one block by block. "
        "timm/resnet50 is timm's model where the name is ours too.",
        highlight=False,
        markup=False,
    )


def _list_timm(pattern: str) -> None:
    import timm
    from rich.columns import Columns
    from rich.console import Console

    from rehead.errors import BuildError

    names = timm.list_models(pattern.removeprefix("timm/"))
    if not names:
        raise BuildError(f"no timm model matches '{pattern}'; * stands for any letters, as in '*convnext*'")
    console = Console()
    console.print(Columns(names, padding=(0, 2), column_first=True), highlight=False, markup=False)
    console.print(f"{len(names)} of timm's models match '{pattern}'", highlight=False, markup=False)


def _show(options: BackboneOptions, size: int) -> None:
    from rich.console import Console

    from rehead.backbones.describe import summarise

    summary = summarise(options, size)
    shortcuts = any(row.shortcut != "-" for row in summary.rows)
    headings = ["block", "feature", "output CxHxW:", "stride:", "parameters:", "frozen"]
    table = _table(f"{options.name}, image {size}x{size}", *headings, *(["shortcut"] if shortcuts else []))
    if shortcuts:
        table.caption = (
            "Every block adds its input back to what its layers make of it. identity: the input as it is. "
            "projection (dashed): the input through a 1x1 convolution, where channels or size change."
        )
        table.caption_justify = "left"
    for row in summary.rows:
        parameters = "?" if row.parameters is None else f"{row.parameters:,}"
        frozen = "-" if row.parameters == 0 else "yes" if row.frozen else "no"
        cells = [row.name, row.feature, "x".join(map(str, row.shape)), str(row.stride), parameters, frozen]
        table.add_row(*cells, *([row.shortcut] if shortcuts else []))
    frozen_share = _millions(summary.frozen_parameters) if summary.frozen_parameters else "none"
    console = Console()
    console.print(table, "")
    console.print(
        f"{_millions(summary.parameters)} parameters, {frozen_share} of them frozen; "
        f"pixels in 0..1 are normalised with mean {_numbers(summary.mean)} and std {_numbers(summary.std)}; "
        f"images are resized with {summary.interpolation} interpolation",
        highlight=False,
        markup=False,
    )


def _table(title: str, *headings: str) -> Table:
    """A table that fits 80 columns; a heading that ends in a colon stands over numbers."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    for heading in headings:
        table.add_column(heading.removesuffix(":"), justify="right" if heading.endswith(":") else "left", no_wrap=True)
    return table


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:g}" for value in values)

"""Reports as one HTML page that loads nothing from anywhere: what is on it, and the template that all share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rehead.files import write_text
from rehead.terminal import visible


@dataclass(frozen=True)
class Picture:
    """A small image with a caption.

    Attributes:
        caption: beneath it.
        jpeg: the file, in base64; empty where there is nothing to show.
    """

    caption: str
    jpeg: str = ""


@dataclass(frozen=True)
class Group:
    """Pictures of one thing.

    Attributes:
        title: what they show.
        kind: `error`, `warning` or `advice`, for its colour; or nothing.
        lines: beneath the title.
        pictures: in order.
    """

    title: str
    kind: str = ""
    lines: Sequence[str] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Table:
    """Rows of text, all but the first cell of each on the right.

    Attributes:
        heads: of the columns.
        rows: their cells.
        bars: by row, the length of a bar in 0..1; none unless given.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[float] = ()


@dataclass(frozen=True)
class Histogram:
    """Bars side by side.

    Attributes:
        title: above it.
        shares: of each bar, its height in 0..1.
        ticks: places in 0..1 along the axis, with their labels.
    """

    title: str
    shares: Sequence[float]
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Section:
    """A part of a page: its lines, then tables, histograms and groups of pictures."""

    title: str
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    histograms: Sequence[Histogram] = ()
    groups: Sequence[Group] = ()


@dataclass
class Page:
    """A whole report."""

    title: str
    summary: Sequence[str] = ()
    sections: list[Section] = field(default_factory=list)


def _shown(value: object) -> object:
    """Also of what leaves no mark, the page shows that it is there."""
    return visible(value) if isinstance(value, str) else value


def render(page: Page) -> str:
    """A page as HTML; whatever names and messages hold stays text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Not by the suffix of the template's name, which could be misspelt.
    shared = Environment(
        loader=PackageLoader("rehead", "."),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return shared.get_template("page.html.j2").render(page=page)


def write_page(path: Path, page: Page) -> None:
    """Writes a page, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    write_text(path, render(page))

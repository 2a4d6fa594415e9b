"""A network as a picture, after figure 3 of the residual paper (1512.03385): where is x added back?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line

from rehead.backbones.describe import Description, Row
from rehead.errors import OutputError
from rehead.files import atomic_path

ENDINGS = (".png", ".svg", ".pdf")
INK, GREY, ADDED = "#222222", "#6b7280", "#c2410c"
FILLS = ("#f3f4f6", "#fef3c7", "#dcfce7", "#dbeafe", "#ede9fe", "#fce7f3")

# In points, 72 to the inch: of the headings, a stage's label, a block, what stands between two, a line of text,
# the space above a block for its shortcut, and the space between two stages.
TOP, LABEL, BOX, GAP, LINE, ARC, BETWEEN = 90, 112, 96, 44, 14, 34, 46
WIDTH = 480
"""At least: the sentences need it."""
FULL, FIRST = 6, 3
"""A stage of more blocks than `FULL` is cut short: its first blocks, how many more there are, and its last."""
LEGEND = (
    ("identity", "-", "the input as it is"),
    ("projection", "-", "through a 1x1 convolution"),
    ("projection (dashed)", "--", "through a 1x1 convolution, where the shape changes"),
    ("zero padding (dashed)", "--", "with channels of zeros added, where the shape changes"),
)


def draw_network(description: Description, title: str, file: Path) -> None:
    """Saves the picture of `network_figure`.

    Raises:
        OutputError: if the name does not end in .png, .svg or .pdf, or the place cannot be written.
    """
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        raise OutputError(f"cannot draw {file}: its name should end in {', '.join(ENDINGS)}")
    with atomic_path(file) as temporary:
        network_figure(description, title).savefig(temporary, format=ending[1:], dpi=144)


def network_figure(description: Description, title: str) -> Figure:
    """Draws stages, blocks with their layers, shapes, and what each block adds back, dashed where the shape changes.

    Args:
        description: from `summarise`.
        title: stands above.
    """
    stages = _stages(description.rows)
    columns = max(len(list(_cut(stage))) for stage in stages)
    heights = [_height(stage) for stage in stages]
    width = max(WIDTH, LABEL + columns * (BOX + GAP) + 40)
    legend = LINE * (1 + len({row.shortcut for row in description.rows if _adds(row)}))
    height = TOP + sum(heights) + BETWEEN * len(stages) + legend
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    _text(axes, 14, 22, title, size=13, weight="bold")
    _text(axes, 14, 46, _answer(description.rows), size=9.5, colour=ADDED, wrap=width - 28)
    top = float(TOP)
    before: Row | None = None
    for index, (stage, tall) in enumerate(zip(stages, heights, strict=True)):
        middle = top + (tall + _above(stage)) / 2
        end = _draw_stage(axes, stage, before, middle, FILLS[min(index, len(FILLS) - 1)])
        if index + 1 < len(stages):
            following = top + tall + BETWEEN + (heights[index + 1] + _above(stages[index + 1])) / 2
            _wrap_round(axes, end, middle, top + tall + BETWEEN / 2 - 4, following)
        top += tall + BETWEEN
        before = stage[-1]
    _legend(axes, description.rows, top)
    return figure


def _stages(rows: Sequence[Row]) -> list[list[Row]]:
    """The stem, then the blocks of each stage."""

    def stage(row: Row) -> str:
        name, dot, _ = row.name.partition(".")
        if not row.layers:
            return row.name
        return name if dot else "stem"

    return [list(group) for _, group in groupby(rows, stage)]


def _height(stage: Sequence[Row]) -> float:
    return _above(stage) + max(_box_height(row) for row in stage)


def _above(stage: Sequence[Row]) -> float:
    """The space that shortcuts need above the blocks."""
    return ARC if any(_adds(row) for row in stage) else 0


def _box_height(row: Row) -> float:
    return 14 + LINE * max(1, len(row.layers))


def _adds(row: Row) -> bool:
    return row.shortcut not in ("-", "none")


def _answer(rows: Sequence[Row]) -> str:
    """Where x is added back, in a sentence."""
    if not any(row.layers for row in rows):
        return "One box per feature map; what its blocks add back is not known here."
    shapes = [_shape(row) for row in rows if _adds(row)]
    if not shapes:
        return "A plain network: x is added back nowhere."
    counts = [f"{len(list(group))} at {shape}" for shape, group in groupby(shapes)]
    return f"x is added back {len(shapes)} times: {', '.join(counts)} (channels x height x width)."


def _shape(row: Row) -> str:
    return "x".join(map(str, row.shape))


def _draw_stage(axes: Axes, stage: Sequence[Row], before: Row | None, middle: float, fill: str) -> float:
    """Draws one row of blocks; returns where it ends."""
    last = stage[-1]
    name = stage[0].name.partition(".")[0] if last.layers else last.name
    _text(axes, 14, middle - 20, "stem" if name == "conv1" else name, size=10, weight="bold")
    _text(axes, 14, middle - 5, _shape(last), size=9)
    _text(axes, 14, middle + 9, f"stride {last.stride}", size=8, colour=GREY)
    if last.receptive_field is not None:
        _text(axes, 14, middle + 22, f"sees {last.receptive_field} px", size=8, colour=GREY)
    x = float(LABEL)
    for row, skipped in _cut(stage):
        if skipped:
            _arrow(axes, [(x - GAP / 2, middle), (x + BOX + GAP / 2, middle)], colour=GREY, head=False, style=":")
            _text(axes, x + BOX / 2, middle - 12, f"{skipped} more", size=9, colour=GREY, align="center")
            _text(axes, x + BOX / 2, middle + 12, "the same", size=9, colour=GREY, align="center")
        else:
            _draw_block(axes, row, before, x, middle, fill)
            before = row
        x += BOX + GAP
    return x - GAP / 2


def _cut(stage: Sequence[Row]) -> Iterator[tuple[Row, int]]:
    """The blocks to draw, and 0; or of those left out the first, and how many they are."""
    if len(stage) <= FULL:
        yield from ((row, 0) for row in stage)
        return
    yield from ((row, 0) for row in stage[:FIRST])
    yield stage[FIRST], len(stage) - FIRST - 1
    yield stage[-1], 0


def _draw_block(axes: Axes, row: Row, before: Row | None, x: float, middle: float, fill: str) -> None:
    tall = _box_height(row)
    box = FancyBboxPatch(
        (x, middle - tall / 2), BOX, tall, boxstyle="round,pad=0,rounding_size=5", facecolor=fill, edgecolor=INK
    )
    axes.add_patch(box)
    lines = row.layers or (_shape(row),)
    for index, line in enumerate(lines):
        _text(axes, x + BOX / 2, middle + LINE * (index - (len(lines) - 1) / 2), line, size=9, align="center")
    start, plus, end = x - GAP / 2, x + BOX + GAP / 2 - 8, x + BOX + GAP / 2
    _arrow(axes, [(start, middle), (x, middle)])
    if not _adds(row):
        _arrow(axes, [(x + BOX, middle), (end, middle)], head=False)
    else:
        _arrow(axes, [(x + BOX, middle), (plus - 6, middle)])
        _arrow(axes, [(plus + 6, middle), (end, middle)], head=False)
        over = middle - tall / 2 - ARC * 0.55
        style = "--" if "dashed" in row.shortcut else "-"
        path = [(start + 7, middle), (start + 7, over), (plus, over), (plus, middle - 6)]
        _arrow(axes, path, colour=ADDED, style=style, width=1.6, gid=f"{row.name} {row.shortcut}")
        if row.shortcut != "identity":
            _text(axes, x + BOX / 2, over - 7, _through(row, before), size=8, colour=ADDED, align="center")
        axes.add_patch(Circle((plus, middle), 6, facecolor="white", edgecolor=ADDED, linewidth=1.4, zorder=3))
        _text(axes, plus, middle, "+", size=10, colour=ADDED, align="center", weight="bold")
        if before is not None and before.shape != row.shape:
            change = f"{_shape(before)} to {_shape(row)}"
            _text(axes, x + BOX / 2, middle + tall / 2 + 9, change, size=7.5, colour=ADDED, align="center")
    if row.feature:
        _text(axes, end - 4, middle + 17, row.feature, size=10, weight="bold", align="center")
        if row.name == "conv1":
            # The stage's label says what comes out of the max pool; heads read what goes into it.
            _text(axes, end, middle - 22, _shape(row), size=7.5, colour=GREY, align="center")


def _through(row: Row, before: Row | None) -> str:
    """What the shortcut is made of, such as `1x1, 128, /2`."""
    stride = row.stride // before.stride if before is not None else 1
    step = f", /{stride}" if stride > 1 else ""
    return f"1x1, {row.shape[0]}{step}" if "projection" in row.shortcut else f"zeros{step}"


def _wrap_round(axes: Axes, x: float, y: float, between: float, following: float) -> None:
    """From the end of a stage round to the beginning of the next."""
    start = LABEL - GAP / 2
    _arrow(axes, [(x, y), (x + 12, y), (x + 12, between), (start, between), (start, following)], head=False)


def _legend(axes: Axes, rows: Sequence[Row], top: float) -> None:
    kinds = {row.shortcut for row in rows}
    for kind, style, text in LEGEND:
        if kind in kinds:
            _arrow(axes, [(14, top), (44, top)], colour=ADDED, style=style, width=1.6)
            _text(axes, 52, top, text, size=8.5, colour=ADDED)
            top += LINE
    if any(row.layers for row in rows):
        _text(
            axes, 14, top, "3x3, 64, /2: kernel, channels, stride; C1, C2, ...: what heads read", size=8.5, colour=GREY
        )


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float,
    colour: str = INK,
    align: str = "left",
    weight: str = "normal",
    wrap: float | None = None,
) -> None:
    # Centred on its line; DejaVu Sans, which matplotlib brings along, is about 0.55 of its size wide.
    per_line = int(wrap / (0.55 * size)) if wrap else len(text) + 1
    lines = []
    while len(text) > per_line:
        cut = text.rfind(" ", 0, per_line)
        lines.append(text[:cut])
        text = text[cut + 1 :]
    axes.text(x, y, "\n".join([*lines, text]), size=size, color=colour, ha=align, va="center", weight=weight, zorder=4)


def _arrow(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    *,
    colour: str = INK,
    style: str = "-",
    width: float = 1.0,
    head: bool = True,
    gid: str | None = None,
) -> None:
    """A line through points; `gid` names it in an SVG file."""
    axes.add_patch(
        FancyArrowPatch(
            path=Line(points),
            arrowstyle="-|>,head_length=4,head_width=2.2" if head else "-",
            color=colour,
            linestyle=style,
            linewidth=width,
            joinstyle="round",
            shrinkA=0,
            shrinkB=0,
            zorder=2,
            gid=gid,
        )
    )

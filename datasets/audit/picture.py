"""A picture of a data set's boxes and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rehead.datasets.audit.classes import Counts
from rehead.datasets.audit.statistics import LARGE, LONG, SMALL, BoxStatistics
from rehead.files import atomic_path
from rehead.terminal import visible

SHOWN = 30
"""Classes, the most frequent ones; more cannot be read."""

LONGEST = 40
"""Letters of a class's name that are drawn."""

COLOURS = {"train": "#1d78d8", "val": "#f57a1e", "test": "#2eaa50"}


def draw(path: Path, boxes: BoxStatistics | None, counts: Counts, unit: str) -> None:
    """Draws box sizes, aspect ratios and class counts.

    Args:
        path: of the picture.
        boxes: where there are any.
        counts: of examples, by class and split.
        unit: what is counted, such as `objects`.

    Raises:
        OutputError: if it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12 if boxes else 6, 4), layout="constrained")
    panels: Any = figure.subplots(1, 3 if boxes else 1, squeeze=False)[0]
    if boxes is not None:
        _sizes(panels[0], boxes)
        _ratios(panels[1], boxes)
    _classes(panels[-1], counts, unit)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def _sizes(axes: Any, boxes: BoxStatistics) -> None:
    edges = np.geomspace(4, 1024, 33)
    axes.hist(np.clip(boxes.roots, 4, 1024), edges, color=COLOURS["train"])
    axes.set_xscale("log", base=2)
    ticks = [4, 16, SMALL, LARGE, 256, 1024]
    axes.set_xticks(ticks, map(str, ticks))
    for edge in (SMALL, LARGE):
        axes.axvline(edge, color="#444", linestyle=":")
    axes.set(title="box sizes, resized", xlabel="square root of the area, pixels", ylabel="boxes")


def _ratios(axes: Any, boxes: BoxStatistics) -> None:
    axes.hist(np.clip(boxes.ratios, 1 / 8, 8), np.geomspace(1 / 8, 8, 33), color=COLOURS["train"])
    axes.set_xscale("log", base=2)
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    axes.set_xticks(ticks, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    for edge in (1 / LONG, LONG):
        axes.axvline(edge, color="#444", linestyle=":")
    axes.set(title="aspect ratios", xlabel="height / width", ylabel="boxes")


def _classes(axes: Any, counts: Counts, unit: str) -> None:
    names = sorted(counts, key=lambda name: -sum(counts[name].values()))
    shown = names[:SHOWN]
    splits = list(dict.fromkeys(split for own in counts.values() for split in own))
    place = np.arange(len(shown))
    height = 0.8 / max(1, len(splits))
    for number, split in enumerate(splits):
        own = [counts[name].get(split, 0) for name in shown]
        axes.barh(place + (number - (len(splits) - 1) / 2) * height, own, height, label=split, color=COLOURS[split])
    labels = [visible(name) for name in shown]
    labels = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in labels]
    # A name may hold dollars, between which matplotlib would read formulas.
    axes.set_yticks(place, labels, fontsize=9 if len(shown) <= 12 else 6, parse_math=False)
    axes.invert_yaxis()
    if len(splits) > 1:
        axes.legend()
    title = "classes" if len(names) == len(shown) else f"the {len(shown)} most frequent of {len(names)} classes"
    axes.set(title=title, xlabel=unit)
    most = max((count for own in counts.values() for count in own.values()), default=0)
    least = min((count for own in counts.values() for count in own.values() if count), default=0)
    if least and most / least > 100:
        axes.set_xscale("log")
        axes.set_xlabel(f"{unit}, logarithmic")

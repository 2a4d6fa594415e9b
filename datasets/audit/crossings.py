"""Outlines whose edges cross: many polygons at a time, each edge against every other of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 1000
"""Points of a polygon up to which it is looked at: the work grows with their square."""

ENOUGH = 1 << 18
"""Pairs of edges that are compared at once: a few MB, which stay in the processor's cache."""


class Crossing(NamedTuple):
    """A polygon whose edges cross.

    Attributes:
        row: the number that it was given with.
        pairs: of edges that cross.
        x: of the first place, in the polygon's own unit.
        y: the same.
        points: that the polygon has.
    """

    row: int
    pairs: int
    x: float
    y: float
    points: int


class Crossings:
    """Takes polygons one at a time, and compares those of the same number of points together."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[tuple[int, NDArray[np.float64]]]] = defaultdict(list)
        self._found: list[Crossing] = []

    def add(self, row: int, polygon: Sequence[float]) -> None:
        """Takes a polygon.

        Args:
            row: a number to know it by.
            polygon: finite `x, y, x, y, ...`, as COCO has them. Of more than `MOST` points nothing is found.
        """
        count = len(polygon) // 2
        if not 4 <= count <= MOST:
            return
        waiting = self._waiting[count]
        waiting.append((row, np.array(polygon, np.float64)))
        if len(waiting) * count * count >= ENOUGH:
            self._compare(self._waiting.pop(count))

    def found(self) -> list[Crossing]:
        """The polygons that cross themselves, by their numbers."""
        for waiting in self._waiting.values():
            self._compare(waiting)
        self._waiting.clear()
        return sorted(self._found)

    def _compare(self, waiting: Sequence[tuple[int, NDArray[np.float64]]]) -> None:
        corners = np.stack([polygon for _, polygon in waiting])
        x, y = corners[:, ::2], corners[:, 1::2]
        dx, dy = np.roll(x, -1, 1) - x, np.roll(y, -1, 1) - y
        # [b, i, j]: on which side of edge i corner j lies. Exactly 0 for the edge's own ends, so neighbours, edges of
        # no length and what only touches never count.
        side = dx[:, :, None] * (y[:, None] - y[:, :, None]) - dy[:, :, None] * (x[:, None] - x[:, :, None])
        split = side * np.roll(side, -1, 2) < 0
        cross = split & split.transpose(0, 2, 1)
        for place in np.flatnonzero(cross.any(axis=(1, 2))).tolist():
            bridges = _there_and_back(x[place], y[place])
            pairs = np.argwhere(cross[place] & ~bridges & ~bridges[:, None])
            if not len(pairs):
                continue
            edge, other = pairs[0].tolist()
            start, end = side[place, other, edge], side[place, other, (edge + 1) % x.shape[1]]
            along = start / (start - end)
            at_x, at_y = (float(a[place, edge] + along * d[place, edge]) for a, d in ((x, dx), (y, dy)))
            self._found.append(Crossing(waiting[place][0], len(pairs) // 2, at_x, at_y, x.shape[1]))


def _there_and_back(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) the edges that another one goes back: they join parts of an object, and enclose nothing."""
    ends_x, ends_y = np.roll(x, -1), np.roll(y, -1)
    back = (x == ends_x[:, None]) & (y == ends_y[:, None]) & (ends_x == x[:, None]) & (ends_y == y[:, None])
    found: NDArray[np.bool_] = back.any(axis=1)
    return found

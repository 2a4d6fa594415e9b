"""From masks to outlines, for formats that have polygons alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

FINE = 4
"""By how much a mask is enlarged before its contours are taken: they run through the middle of pixels, not along
their edges, and are put back onto the edges afterwards."""


def outlines(mask: NDArray[Any]) -> list[Points]:
    """The outlines of a mask along the edges of its pixels: those of its parts, and of holes the other way round.

    Args:
        mask: (H, W), whatever is not 0 being inside.

    Returns:
        (M, 2) x, y each, in pixels.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return []
    top, left = int(rows.min()), int(columns.min())
    inside = (mask[top : rows.max() + 1, left : columns.max() + 1] != 0).astype(np.uint8)
    fine = np.pad(np.kron(inside, np.ones((FINE, FINE), np.uint8)), 1)
    found, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in found:
        points = np.round((contour[:, 0, :] - 0.5) / FINE) + np.array([left, top])
        points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
        if len(points) >= 4:
            parts.append(_corners(points))
    return parts


def _corners(points: Points) -> Points:
    """Without the points on a straight line between their neighbours."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns: Points = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return turns


def joined(parts: Sequence[Points], holes: bool = False) -> Points:
    """One polygon of several, by lines of no width from the first to each of the others.

    Args:
        parts: (M, 2) each.
        holes: whether the directions of the parts say which are holes; else all are turned the same way, or the
            area of one would be taken from that of another.
    """
    turned = [part if holes or _area(part) >= 0 else part[::-1] for part in parts]
    if len(turned) == 1:
        return turned[0]
    first, *others = turned
    pieces = [first, first[:1]]
    for part in others:
        pieces += [part, part[:1], first[:1]]
    return np.concatenate(pieces)


def _area(points: Points) -> float:
    """Signed, in square pixels."""
    x, y = points.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2

"""Instance masks between arrays and COCO's run-length codes. numpy and pycocotools only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RLE = dict[str, Any]
"""COCO's compressed run-length code: `size` (height, width), and `counts` in bytes."""


def encode(masks: NDArray[Any]) -> list[RLE]:
    """Codes of (N, H, W) masks, whatever is not 0 being inside."""
    from pycocotools import mask

    # One by one: a hundred masks of a photograph, in the order that is encoded, would be another gigabyte.
    return [mask.encode(np.asfortranarray((one != 0).view(np.uint8))) for one in masks]


def decode(codes: Sequence[RLE], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(N, H, W) uint8 masks, 1 inside, of codes for images of this (height, width)."""
    from pycocotools import mask

    if not codes:
        return np.zeros((0, *size), np.uint8)
    decoded: NDArray[np.uint8] = np.ascontiguousarray(mask.decode(list(codes)).transpose(2, 0, 1))
    return decoded


def code_of(segmentation: Any, size: tuple[int, int]) -> RLE:
    """The code of a COCO `segmentation`: polygons, or a run-length code, compressed or not.

    Args:
        segmentation: as read from JSON.
        size: (height, width) of the image.

    Raises:
        ValueError: saying what is wrong with it.
    """
    from pycocotools import mask

    problem = wrong_segmentation(segmentation, size)
    if problem:
        raise ValueError(problem)
    if isinstance(segmentation, list):
        if not segmentation:
            return encode(np.zeros((1, *size), np.uint8))[0]
        merged: RLE = mask.merge(mask.frPyObjects(segmentation, *size))
        return merged
    if isinstance(segmentation["counts"], list):
        compressed: RLE = mask.frPyObjects(segmentation, *size)
        return compressed
    counts = segmentation["counts"]
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}


def wrong_segmentation(segmentation: Any, size: tuple[int, int] | None) -> str:
    """Why a COCO `segmentation` gives no mask; empty if it does.

    Args:
        segmentation: as read from JSON.
        size: (height, width) of the image; None if it is not known.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6:
                return "a polygon is a list of x, y, x, y, ... with at least three points"
            try:
                finite = math.isfinite(sum(polygon))
            except (TypeError, OverflowError):
                finite = False
            if not finite:
                return "a polygon holds something else than finite numbers"
        return ""
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        return "a segmentation is a list of polygons, or a run-length code with size and counts"
    given, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(given, list) or len(given) != 2 or (size is not None and tuple(given) != size):
        return f"its run-length code is for height and width {given}, the image has {size}"
    if isinstance(counts, list) and sum(counts) != given[0] * given[1]:
        return f"its run-length code counts {sum(counts)} pixels; there are {given[0] * given[1]}"
    return ""


def to_json(code: RLE) -> RLE:
    """A code as JSON holds it: text instead of bytes."""
    return {**code, "counts": code["counts"].decode("ascii")}

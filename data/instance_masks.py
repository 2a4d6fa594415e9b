"""Instance masks between arrays and COCO's run-length codes. numpy and pycocotools only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rehead.errors import quoted

RLE = dict[str, Any]
"""COCO's compressed run-length code: `size` (height, width), and `counts` in bytes."""

NO_SEGMENTATION = "no segmentation, which instance masks are made from"

FAR = 2**20
"""Pixels beyond which a polygon's coordinates are no places in an image."""


def outline_of(raw: bytes) -> Any:
    """A segmentation, of its JSON.

    Raises:
        ValueError: if it is none, or holds numbers that no program has.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"its outline is not JSON: {error}") from error


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


def code_of(segmentation: Any, size: tuple[int, int], *, sound: bool = False) -> RLE:
    """The code of a COCO `segmentation`: polygons, or a run-length code, compressed or not.

    Args:
        segmentation: as read from JSON.
        size: (height, width) of the image.
        sound: whether it has been looked at before, with the size that the annotation says.

    Raises:
        ValueError: saying what is wrong with it, or that it is no outline at all.
    """
    from pycocotools import mask

    if sound:
        problem = "" if isinstance(segmentation, list) else wrong_size(segmentation["size"], size)
    else:
        problem = wrong_segmentation(segmentation, size) or no_outline(segmentation, size)
    if problem:
        raise ValueError(problem)
    if isinstance(segmentation, list):
        merged: RLE = mask.merge(mask.frPyObjects(segmentation, *size))
        return merged
    counts = segmentation["counts"]
    if isinstance(counts, list):
        compressed: RLE = mask.frPyObjects(segmentation, *size)
        return compressed
    return {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}


def pixels_of(code: RLE) -> int:
    """How many pixels are inside a mask."""
    from pycocotools import mask

    return int(mask.area(code))


def wrong_segmentation(segmentation: Any, size: tuple[int, int] | None) -> str:
    """Why no mask can be made of a COCO `segmentation`; empty if one can.

    pycocotools reads broken run-length codes without a word: what they leave open is memory that nobody has set.

    Args:
        segmentation: as read from JSON.
        size: (height, width) of the image; None if it is not known.
    """
    if isinstance(segmentation, list):
        return next(filter(None, map(_wrong_polygon, segmentation)), "")
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        return "a segmentation is a list of polygons, or a run-length code with size and counts"
    given, counts = segmentation["size"], segmentation["counts"]
    if problem := wrong_size(given, size):
        return problem
    if isinstance(counts, list):
        if not all(_is_whole(count) and count >= 0 for count in counts):
            return "the counts of its run-length code hold something else than whole numbers from 0 on"
        return _wrong_sum(sum(counts), given)
    if isinstance(counts, str):
        counts = counts.encode(errors="replace")
    if not isinstance(counts, bytes):
        return f"the counts of its run-length code are {type(counts).__name__}; they should be numbers or text"
    return wrong_codes([counts], [given])[0]


def wrong_size(given: Any, size: tuple[int, int] | None) -> str:
    """What is wrong with the `size` of a run-length code; empty if nothing is.

    Args:
        given: as read from JSON.
        size: (height, width) of the image; None if it is not known.
    """
    if not (isinstance(given, list | tuple) and len(given) == 2 and all(map(_is_whole, given))):
        return f"the size of its run-length code is {quoted(given)}; it should be height and width"
    if min(given) < 1 or (size is not None and tuple(given) != size):
        return f"its run-length code is for height and width {list(given)}, the image has {size}"
    return ""


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def no_outline(segmentation: Any, size: tuple[int, int] | None) -> str:
    """Why a COCO `segmentation` that is right as such says nothing of where its object is; empty if it does.

    Args:
        segmentation: that `wrong_segmentation` finds nothing wrong with.
        size: (height, width) of the image; None if it is not known.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            return NO_SEGMENTATION
        if size is not None and all(_is_outside(polygon, size) for polygon in segmentation):
            return f"nothing of its outline is inside {size[1]}x{size[0]} (width x height)"
        return ""
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return "" if any(counts[1::2]) else "its run-length code is that of an empty mask"
    text = counts.encode() if isinstance(counts, str) else counts
    empty = pixels_of({"size": list(segmentation["size"]), "counts": text}) == 0
    return "its run-length code is that of an empty mask" if empty else ""


def smaller_than_a_pixel(segmentation: Any, size: tuple[int, int]) -> bool:
    """Whether the mask of a usable COCO `segmentation` has no pixel: it lies between the middles of pixels."""
    if not isinstance(segmentation, list):
        return False
    thin = all(min(max(polygon[start::2]) - min(polygon[start::2]) for start in (0, 1)) < 2 for polygon in segmentation)
    return thin and pixels_of(code_of(segmentation, size)) == 0


def _wrong_polygon(polygon: Any) -> str:
    if not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6:
        return "a polygon is a list of x, y, x, y, ... with at least three points"
    try:
        if not math.isfinite(sum(polygon)):
            return "a polygon holds something else than finite numbers"
        # Edges are followed pixel by pixel.
        far = max(max(polygon), -min(polygon))
    except (TypeError, OverflowError):
        return "a polygon holds something else than finite numbers"
    return f"a polygon reaches to {far:g}, where no pixels are" if far > FAR else ""


def _is_outside(polygon: Sequence[float], size: tuple[int, int]) -> bool:
    x, y = polygon[::2], polygon[1::2]
    return max(x) <= 0 or max(y) <= 0 or min(x) >= size[1] or min(y) >= size[0]


def _wrong_sum(count: int, size: Sequence[int]) -> str:
    pixels = size[0] * size[1]
    return "" if count == pixels else f"its run-length code counts {count} pixels; there are {pixels}"


def wrong_codes(codes: Sequence[bytes], sizes: Sequence[Sequence[int]]) -> list[str]:
    """Why each of many compressed run-length codes gives no mask; empty where it does.

    A count is written in groups of 5 bits, the lowest first, each as a character from 48 on; 32 says that another
    group follows, and 16 in the last one that the number is negative. From the fourth on, what is written is the
    difference to the last but one (`rleFrString` in cocoapi's maskApi.c).

    Args:
        codes: `counts` of each.
        sizes: (height, width) of each.
    """
    lengths = np.array([len(code) for code in codes], np.int64)
    problems = ["its run-length code is empty" if not length else "" for length in lengths.tolist()]
    groups = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - 48
    if not len(groups):
        return problems
    code = np.repeat(np.arange(len(codes)), lengths)
    strange = (groups < 0) | (groups > 63)
    groups[strange] = 0
    closed = (groups & 32) == 0
    final = np.diff(code, append=len(codes)) > 0
    cut = final & ~closed
    ends = np.flatnonzero(closed | final)
    starts = np.append(0, ends[:-1] + 1)
    place = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
    long = place > 6  # more than 32 bits
    bits = 5 * np.minimum(place, 7)
    counts = np.add.reduceat((groups & 31) << bits, starts)
    counts -= np.where(groups[ends] & 16, np.int64(32) << bits[ends], 0)
    owner = code[starts]
    number = np.arange(len(counts)) - np.searchsorted(owner, owner)
    for first in (1, 2):
        chain = np.flatnonzero((number >= first) & ((number - first) % 2 == 0))
        if len(chain):
            sums = np.cumsum(counts[chain])
            before = np.append(0, sums)[np.searchsorted(owner[chain], owner[chain])]
            counts[chain] = sums - before
    totals = np.zeros(len(codes), np.int64)
    np.add.at(totals, owner, counts)
    for kind, wrong in (
        ("holds characters that stand for nothing", code[strange]),
        ("ends in the middle of a number", code[cut]),
        ("holds a number that is too large", code[long]),
        ("holds a negative number", owner[counts < 0]),
    ):
        for row in np.unique(wrong).tolist():
            problems[row] = problems[row] or f"its run-length code {kind}"
    for row, (total, size) in enumerate(zip(totals.tolist(), sizes, strict=True)):
        problems[row] = problems[row] or _wrong_sum(total, size)
    return problems


def to_json(code: RLE) -> RLE:
    """A code as JSON holds it: text instead of bytes."""
    return {**code, "counts": code["counts"].decode("ascii")}

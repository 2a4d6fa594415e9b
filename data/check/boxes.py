"""Boxes and outlines against their images and against one another: a few passes over whole columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rehead.data.check.findings import Findings
from rehead.data.check.images import Size, by
from rehead.data.instance_masks import wrong_segmentation
from rehead.data.readers.column_reader import ColumnReader
from rehead.data.readers.columns import id_at

EDGE = 1.0
"""Pixels that a box may reach over the edge: some formats count from 1, some round."""

INSTANCES = "instance_segmentation"


def report_boxes(reader: ColumnReader, sizes: Sequence[Size | None], findings: Findings) -> NDArray[np.bool_]:
    """Notes what is wrong with boxes.

    Args:
        reader: of a split with boxes.
        sizes: (height, width) of the images in pixels, by image; None where an image cannot be read.
        findings: take the notes.

    Returns:
        (N,) the objects that a repair leaves out.
    """
    columns = reader.columns
    assert columns.boxes is not None
    asked = reader.asked()
    boxes = columns.boxes.astype(np.float64)
    images = image_of(reader)
    known = np.array([(0, 0) if size is None else size for size in sizes], np.int64).reshape(-1, 2)[images]
    limits = known[:, ::-1]
    judged = asked & (limits > 0).all(axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]

    empty = asked & (sides <= 0).any(axis=1)
    for row in np.flatnonzero(empty).tolist():
        findings("empty_box", *_where(reader, images, row, _shown(boxes[row])))
    outside = judged & ~empty & ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= limits)).any(axis=1)
    over = np.maximum(np.maximum(-boxes[:, :2], boxes[:, 2:] - limits), 0).max(axis=1, initial=0)
    for row in np.flatnonzero(outside).tolist():
        said = f"{_shown(boxes[row])}, nothing of which is inside {_by(known[row])}"
        findings("box_outside", *_where(reader, images, row, said))
    for row in np.flatnonzero(judged & ~outside & (over > EDGE)).tolist():
        said = f"{_shown(boxes[row])} reaches {over[row]:.1f} pixels over {_by(known[row])}"
        findings("box_over_edge", *_where(reader, images, row, said))
    tiny = asked & ~empty & (sides.min(axis=1, initial=np.inf) <= 1)
    for row in np.flatnonzero(tiny).tolist():
        findings("tiny_box", *_where(reader, images, row, f"{_shown(boxes[row])}, {_side(sides[row])}"))
    twice = _twice(reader, images, boxes, asked & ~empty)
    for row, first in twice:
        said = f"{_shown(boxes[row])} as of {_name(reader, first)}"
        findings("duplicate_annotation", *_where(reader, images, row, said))
    useless = empty | outside
    useless[[row for row, _ in twice]] = True
    return useless


def image_of(reader: ColumnReader) -> NDArray[np.int64]:
    """(N,) the image of every object."""
    starts = reader.columns.starts
    assert starts is not None
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _name(reader: ColumnReader, row: int) -> str:
    objects = reader.columns.objects
    assert objects is not None
    name = id_at(objects, row)
    return f"annotation {name}" if isinstance(name, int) else str(name)


def _where(reader: ColumnReader, images: NDArray[np.int64], row: int, said: str) -> tuple[str, str]:
    return str(reader.folder / reader.columns.names[int(images[row])]), f"{_name(reader, row)}: {said}"


def _shown(box: NDArray[np.float64]) -> str:
    return "box " + " ".join(f"{value:.6g}" for value in box.tolist())


def _by(size: NDArray[np.int64]) -> str:
    height, width = size.tolist()
    return by((height, width))


def _side(sides: NDArray[np.float64]) -> str:
    return f"{sides[0]:.3g} wide, {sides[1]:.3g} high"


def _twice(
    reader: ColumnReader, images: NDArray[np.int64], boxes: NDArray[np.float64], judged: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """Objects like an earlier one of their image, with that one."""
    assert reader.columns.labels is not None
    rows = np.flatnonzero(judged)
    keys = np.column_stack([images[rows], reader.columns.labels[rows], np.rint(boxes[rows] * 100)]).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    earlier = rows[first][inverse.ravel()]
    return [(int(row), int(one)) for row, one in zip(rows, earlier, strict=True) if row != one]


def report_outlines(
    reader: ColumnReader, sizes: Sequence[Size | None], tasks: frozenset[str], findings: Findings
) -> NDArray[np.bool_]:
    """Notes outlines that give no mask, where masks are wanted or nobody said what is.

    Args:
        reader: of a split with boxes.
        sizes: (height, width) that the masks have, by image.
        tasks: of the heads; empty if not known.
        findings: take the notes.

    Returns:
        (N,) the objects that a repair leaves out.
    """
    columns = reader.columns
    assert columns.boxes is not None
    useless = np.zeros(len(columns.boxes), bool)
    texts = columns.segmentations
    if tasks and INSTANCES not in tasks:
        return useless
    asked = reader.asked()
    images = image_of(reader)
    if texts is None:
        if INSTANCES in tasks and asked.any():
            findings("no_segmentation", reader.annotations, f"none of its {int(asked.sum())} objects has an outline")
        return useless
    bare = []
    for row in np.flatnonzero(asked).tolist():
        raw = texts.raw(row)
        if not raw:
            bare.append(row)
            continue
        size = sizes[int(images[row])]
        code, problem = outline_problem(raw, size)
        if problem:
            findings(code, *_where(reader, images, row, problem))
            useless[row] = True
    if INSTANCES in tasks:
        for row in bare:
            findings("no_segmentation", *_where(reader, images, row, "no outline, which its mask is made from"))
        useless[bare] = True
    elif len(bare) < int(asked.sum()):
        for row in bare:
            findings("missing_outline", *_where(reader, images, row, "no outline, though others have one"))
    return useless


def outline_problem(raw: bytes, size: Size | None) -> tuple[str, str]:
    """What is wrong with a segmentation's JSON: a code and a sentence, both empty if nothing is.

    Args:
        raw: as the columns keep it.
        size: (height, width) of the image; None if it is not known.
    """
    try:
        segmentation: Any = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        return "broken_polygon", f"its outline is not JSON: {error}"
    problem = wrong_segmentation(segmentation, size)
    if problem:
        return "broken_polygon", problem
    if isinstance(segmentation, list) and sum(_area(polygon) for polygon in segmentation) < 1e-6:
        return "empty_outline", f"its {len(segmentation)} polygons enclose nothing"
    return "", ""


def _area(polygon: Sequence[float]) -> float:
    """Square pixels inside `x, y, x, y, ...` (the shoelace formula)."""
    x, y = polygon[::2], polygon[1::2]
    twice = sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))
    return abs(twice) / 2

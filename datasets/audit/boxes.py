"""Boxes, keypoints and outlines against their images and one another: a few passes over whole columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.data.instance_masks import no_outline, outline_of, smaller_than_a_pixel, wrong_segmentation
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import id_at
from rehead.datasets.audit.crossings import Crossings
from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.images import Size, by

EDGE = 1.0
"""Pixels that a box or a point may be over the edge: some formats count from 1, some round."""

INSTANCES = "instance_segmentation"


Reasons = NDArray[np.object_]
"""(N,) by object, the code of the finding for which a repair leaves something of it out; empty where nothing is."""


def report_boxes(reader: AnnotationReader, sizes: Sequence[Size | None], findings: Findings) -> Reasons:
    """Notes what is wrong with boxes.

    Args:
        reader: of a split with boxes.
        sizes: (height, width) of the images in pixels, by image; None where an image cannot be read.
        findings: take the notes.

    Returns:
        For which finding a repair leaves an object out.
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
        findings("empty_box", *_where(reader, images, row, _box(reader, images, row)), box=_corners(boxes[row]))
    outside = judged & ~empty & ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= limits)).any(axis=1)
    over = np.maximum(np.maximum(-boxes[:, :2], boxes[:, 2:] - limits), 0).max(axis=1, initial=0)
    for row in np.flatnonzero(outside).tolist():
        said = f"{_box(reader, images, row)}, nothing of which is inside {_by(known[row])}"
        findings("box_outside", *_where(reader, images, row, said), over[row], _corners(boxes[row]))
    for row in np.flatnonzero(judged & ~outside & (over > EDGE)).tolist():
        said = f"{_box(reader, images, row)} reaches {over[row]:.1f} pixels over {_by(known[row])}"
        findings("box_over_edge", *_where(reader, images, row, said), over[row], _corners(boxes[row]))
    tiny = asked & ~empty & (sides.min(axis=1, initial=np.inf) <= 1)
    for row in np.flatnonzero(tiny).tolist():
        said = f"{_box(reader, images, row)}, {_side(sides[row])}"
        findings("tiny_box", *_where(reader, images, row, said), -sides[row].min(), _corners(boxes[row]))
    twice = _twice(reader, images, boxes, asked & ~empty)
    for row, first in twice:
        said = f"{_box(reader, images, row)} as of {name_of_object(reader, first)}"
        findings("duplicate_annotation", *_where(reader, images, row, said), box=_corners(boxes[row]))
    useless = np.full(len(boxes), "", object)
    useless[[row for row, _ in twice]] = "duplicate_annotation"
    useless[outside] = "box_outside"
    useless[empty] = "empty_box"
    return useless


def image_of(reader: AnnotationReader) -> NDArray[np.int64]:
    """(N,) the image of every object."""
    starts = reader.columns.starts
    assert starts is not None
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def name_of_object(reader: AnnotationReader, row: int) -> str:
    """What messages call an object."""
    objects = reader.columns.objects
    assert objects is not None
    name = id_at(objects, row)
    return f"annotation {name}" if isinstance(name, int) else str(name)


def _where(reader: AnnotationReader, images: NDArray[np.int64], row: int, said: str) -> tuple[str, str]:
    return str(reader.folder / reader.columns.names[int(images[row])]), f"{name_of_object(reader, row)}: {said}"


def _corners(box: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2


def shown(reader: AnnotationReader, box: NDArray[Any]) -> str:
    """A box's corners as the file counts them: where pixels count from 1, the last one is inside."""
    x1, y1, x2, y2 = box.tolist()
    return "box " + " ".join(f"{value:.6g}" for value in (x1 + reader.first_pixel, y1 + reader.first_pixel, x2, y2))


def _box(reader: AnnotationReader, images: NDArray[np.int64], row: int) -> str:
    """The same of an object, with what stands in the file: the corners of an outline, or a box's centre and sides."""
    assert reader.columns.boxes is not None
    box = reader.columns.boxes[row]
    x1, y1, x2, y2 = box.tolist()
    outline = reader.columns.segmentations is not None and reader.columns.segmentations.raw(row)
    written = (x1, y1, x2, y2) if outline else ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return shown(reader, box) + _in_file(reader, int(images[row]), written)


def _in_file(reader: AnnotationReader, image: int, numbers: Sequence[float]) -> str:
    """Numbers across and down in turn as they stand in the file, where that has them as shares of the image's sides."""
    height, width = (0, 0) if reader.columns.sizes is None else reader.columns.sizes[image].tolist()
    if not (reader.shares and height and width):
        return ""
    shares = [number / (height if place % 2 else width) for place, number in enumerate(numbers)]
    return f" (in the file {' '.join(f'{share:.6g}' for share in shares)})"


def _by(size: NDArray[np.int64]) -> str:
    height, width = size.tolist()
    return by((height, width))


def _side(sides: NDArray[np.float64]) -> str:
    return f"{sides[0]:.3g} wide, {sides[1]:.3g} high"


def _twice(
    reader: AnnotationReader, images: NDArray[np.int64], boxes: NDArray[np.float64], judged: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """Objects like an earlier one of their image, with that one."""
    assert reader.columns.labels is not None
    rows = np.flatnonzero(judged)
    keys = np.column_stack([images[rows], reader.columns.labels[rows], np.rint(boxes[rows] * 100)]).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    earlier = rows[first][inverse.ravel()]
    return [(int(row), int(one)) for row, one in zip(rows, earlier, strict=True) if row != one]


def report_keypoints(reader: AnnotationReader, sizes: Sequence[Size | None], findings: Findings) -> None:
    """Notes labelled points outside their image.

    Args:
        reader: of a split with boxes; nothing is noted where it has no keypoints.
        sizes: (height, width) of the images in pixels, by image; None where an image cannot be read.
        findings: take the notes.
    """
    points = reader.columns.keypoints
    if points is None:
        return
    images = image_of(reader)
    known = np.array([(0, 0) if size is None else size for size in sizes], np.int64).reshape(-1, 2)[images]
    judged = reader.asked() & (known > 0).all(axis=1)
    outside = points_outside(points, known[:, ::-1]) & judged[:, None]
    names = reader.classes.keypoints
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        which = np.flatnonzero(outside[row]).tolist()
        x, y = points[row, which[0], :2].tolist()
        labelled = int((points[row, :, 2] > 0).sum())
        place = f"{x:.6g} {y:.6g}{_in_file(reader, int(images[row]), (x, y))}"
        first = f"{names[which[0]]} at {place}" + (f" and {len(which) - 1} more" if len(which) > 1 else "")
        said = f"{len(which)} of {labelled} labelled points outside {_by(known[row])}: {first}"
        findings("keypoint_outside", *_where(reader, images, row, said))


def points_outside(points: NDArray[np.float32], limits: NDArray[Any]) -> NDArray[np.bool_]:
    """(N, P) which labelled points lie outside by more than `EDGE`.

    Args:
        points: (N, P, 3) x, y in pixels, and the visibility.
        limits: (N, 2) width and height of the images, or (2,).
    """
    far = (points[..., :2] < -EDGE) | (points[..., :2] > limits[..., None, :] + EDGE)
    outside: NDArray[np.bool_] = far.any(axis=-1) & (points[..., 2] > 0)
    return outside


def report_outlines(
    reader: AnnotationReader,
    sizes: Sequence[Size | None],
    tasks: frozenset[str],
    useless: Reasons,
    findings: Findings,
) -> Reasons:
    """Notes outlines that give no mask or cross themselves, where masks are wanted or nobody said what is.

    Args:
        reader: of a split with boxes.
        sizes: (height, width) that the masks have, by image.
        tasks: of the heads; empty if not known.
        useless: for which finding a repair leaves an object out. An object without an outline is added where masks
            are to be learned.
        findings: take the notes.

    Returns:
        For which finding it leaves out the outline alone, where nobody said that masks are to be learned.
    """
    columns = reader.columns
    wanted = INSTANCES in tasks
    shapeless = np.full(len(useless), "", object)
    texts = columns.segmentations
    if tasks and not wanted:
        return shapeless
    asked = reader.asked()
    images = image_of(reader)
    if texts is None:
        if wanted and asked.any():
            findings("no_segmentation", reader.annotations, f"none of its {int(asked.sum())} objects has an outline")
        return shapeless
    outside = useless == "box_outside"
    lacking = useless if wanted else shapeless
    bare: dict[int, str] = {}
    flat: dict[int, str] = {}
    crossings = Crossings()
    for row in np.flatnonzero(asked).tolist():
        raw = texts.raw(row)
        if not raw:
            bare[row] = "no outline"
            continue
        size = sizes[int(images[row])]
        problem, none, polygons = _looked_at(raw, size)
        if problem:
            findings("broken_polygon", *_where(reader, images, row, problem))
            lacking[row] = lacking[row] or "broken_polygon"
        elif none:
            # Of a box that is outside, the outline is too.
            if not outside[row]:
                bare[row] = none
        elif polygons is not None and sum(map(_area, polygons)) < 1e-6:
            flat[row] = f"its {len(polygons)} polygons enclose nothing"
        elif polygons is not None and size is not None and smaller_than_a_pixel(polygons, size):
            flat[row] = "the middle of no pixel is inside it"
        for polygon in polygons or ():
            crossings.add(row, polygon)
    crossed = crossings.found()
    # The halves of an hour-glass cancel each other, but are there.
    for row in sorted(flat.keys() - {one.row for one in crossed}):
        findings("empty_outline", *_where(reader, images, row, flat[row]))
        lacking[row] = lacking[row] or "empty_outline"
    for row, pairs, x, y, points in crossed:
        often = "cross" if pairs == 1 else f"cross {pairs} times, first"
        place = f"{x:.1f} {y:.1f}{_in_file(reader, int(images[row]), (x, y))}"
        said = f"edges of its outline of {points} points {often} at {place}"
        findings("self_crossing", *_where(reader, images, row, said))
    if wanted:
        for row, why in bare.items():
            findings("no_segmentation", *_where(reader, images, row, f"{why}, so it has no mask"))
            useless[row] = useless[row] or "no_segmentation"
    elif len(bare) < int(asked.sum()):
        for row, why in bare.items():
            findings("missing_outline", *_where(reader, images, row, f"{why}; others have one"))
            # What is nowhere in the image is as good as none.
            shapeless[row] = "missing_outline" if texts.raw(row) else ""
    return shapeless


def _looked_at(raw: bytes, size: Size | None) -> tuple[str, str, list[list[float]] | None]:
    """Why a segmentation's JSON gives no mask, and why it is none, empty if it is right; its polygons, if it has any.

    Args:
        raw: as the columns keep it.
        size: (height, width) of the image; None if it is not known.
    """
    try:
        segmentation: Any = outline_of(raw)
    except ValueError as error:
        return str(error), "", None
    problem = wrong_segmentation(segmentation, size)
    none = "" if problem else no_outline(segmentation, size)
    return problem, none, segmentation if isinstance(segmentation, list) and not problem and not none else None


def _area(polygon: Sequence[float]) -> float:
    """Square pixels inside `x, y, x, y, ...` (the shoelace formula)."""
    x, y = polygon[::2], polygon[1::2]
    twice = sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))
    return abs(twice) / 2

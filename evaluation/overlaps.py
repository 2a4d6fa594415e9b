"""How far detections and objects overlap: boxes, masks, keypoints; the numbers are pycocotools'."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.data.instance_masks import NO_SEGMENTATION, wrong_codes, wrong_segmentation, wrong_size
from rehead.errors import DataError
from rehead.evaluation.matching import THRESHOLDS, Bools, Floats, Ints

SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
"""How far COCO's 17 keypoints may be off, over the object's scale."""
SIGMA = 0.05
"""The same where there are not 17."""

Rows = Sequence[Mapping[str, Any]]


class Overlap(ABC):
    """Called with the numbers of detections and objects, (P,) each, by detection, it gives (P,) in 0..1."""

    @abstractmethod
    def __call__(self, found: Ints, wanted: Ints) -> Floats:
        """Overlaps of pairs; those below the lowest threshold may be given as 0."""

    @abstractmethod
    def areas(self) -> Floats:
        """(D,) of the detections in pixels."""


class BoxOverlap(Overlap):
    """Intersection over union; over the detection alone where the object is a crowd.

    Args:
        objects: with `bbox`, xywh.
        detections: with `bbox`.
        crowd: (G,).
    """

    def __init__(self, objects: Rows, detections: Rows, crowd: Bools) -> None:
        self.objects, self.detections = (_boxes(rows) for rows in (objects, detections))
        self.crowd = crowd

    def __call__(self, found: Ints, wanted: Ints) -> Floats:
        """See `Overlap`."""
        shared = _shared(self.detections[found], self.objects[wanted])
        area, other = self.areas()[found], (self.objects[:, 2] * self.objects[:, 3])[wanted]
        union = np.where(self.crowd[wanted], area, area + other - shared)
        return np.divide(shared, union, out=np.zeros(len(found)), where=shared > 0)

    def areas(self) -> Floats:
        """Width times height."""
        return np.asarray(self.detections[:, 2] * self.detections[:, 3])


class MaskOverlap(Overlap):
    """The same of masks, by pycocotools' own run-length code, for the pairs that may reach a threshold.

    Args:
        objects: with `segmentation`.
        detections: with `segmentation`, RLE.
        crowd: (G,).
        group: (D,) sorted, of the detections: images and classes.
        sizes: (height, width) of images by id, for outlines.
    """

    def __init__(
        self,
        objects: Rows,
        detections: Rows,
        crowd: Bools,
        group: Ints,
        sizes: Mapping[Any, tuple[int | None, int | None]],
    ) -> None:
        from pycocotools import mask

        self.code = mask
        self.crowd, self.group = crowd, group
        self.objects, self.detections = (
            [self._encoded(row, sizes[row["image_id"]]) for row in rows] for rows in (objects, detections)
        )
        for rows, codes in ((objects, self.objects), (detections, self.detections)):
            texts = [code["counts"] for code in codes]
            encoded = [text.encode(errors="replace") if isinstance(text, str) else text for text in texts]
            for row, problem in zip(rows, wrong_codes(encoded, [code["size"] for code in codes]), strict=True):
                if problem:
                    raise DataError(f"image {row['image_id']!r}: a mask cannot be judged: {problem}")

    def _encoded(self, row: Mapping[str, Any], size: tuple[int | None, int | None]) -> Any:
        """A mask's compressed code, whose counts are still to be looked at."""
        segmentation = row.get("segmentation")
        known = (size[0], size[1]) if size[0] is not None and size[1] is not None else None
        if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str | bytes):
            given = segmentation.get("size")
            problem = wrong_size(given, known)
        else:
            problem = wrong_segmentation(segmentation, known) or ("" if segmentation else NO_SEGMENTATION)
        if not problem and isinstance(segmentation, list) and known is None:
            problem = "polygons, but the ground truth does not say how large the image is"
        if problem:
            raise DataError(f"image {row['image_id']!r}: a mask cannot be judged: {problem}")
        assert segmentation is not None
        if isinstance(segmentation, list):
            return self.code.merge(self.code.frPyObjects(segmentation, *size))
        if isinstance(segmentation["counts"], list):
            return self.code.frPyObjects(segmentation, *segmentation["size"])
        return segmentation

    def __call__(self, found: Ints, wanted: Ints) -> Floats:
        """See `Overlap`."""
        overlaps = np.zeros(len(found))
        if not len(found):
            return overlaps
        boxes, others = (np.asarray(self.code.toBbox(rows)).reshape(-1, 4) for rows in (self.detections, self.objects))
        area, other = self.areas()[found], self._pixels(self.objects)[wanted]
        most = np.minimum(np.minimum(area, other), _shared(boxes[found], others[wanted]))
        whole = np.where(self.crowd[wanted], area, area + other - most)
        hopeful = np.flatnonzero((most > 0) & (most >= THRESHOLDS[0] * whole * (1 - 1e-9)))
        # One call for all the pairs of an image and class.
        borders = np.flatnonzero(np.diff(self.group[found[hopeful]])) + 1
        for pairs in np.split(hopeful, borders):
            if not len(pairs):
                continue
            rows, row = np.unique(found[pairs], return_inverse=True)
            columns, column = np.unique(wanted[pairs], return_inverse=True)
            table = self.code.iou(
                [self.detections[one] for one in rows],
                [self.objects[one] for one in columns],
                self.crowd[columns].astype(int).tolist(),
            )
            overlaps[pairs] = table[row, column]
        return overlaps

    def areas(self) -> Floats:
        """Pixels of the masks."""
        return self._pixels(self.detections)

    def object_areas(self) -> Floats:
        """(G,) pixels of the objects' masks."""
        return self._pixels(self.objects)

    def _pixels(self, masks: Sequence[Any]) -> Floats:
        # One by one: of a list, pycocotools writes the areas into 8 bits.
        return np.array([self.code.area(mask) for mask in masks], float)


class KeypointOverlap(Overlap):
    """Object keypoint similarity.

    Args:
        objects: with `keypoints` and `bbox`.
        detections: with `keypoints`.
        area: (G,) of the objects.
    """

    def __init__(self, objects: Rows, detections: Rows, area: Floats) -> None:
        self.objects, self.area = objects, area
        points = next((len(row["keypoints"]) for row in (*objects, *detections)), 0)
        for rows in (objects, detections):
            _refuse_other_lengths(rows, "keypoints", points)
        self.detections = np.array([row["keypoints"] for row in detections], float).reshape(-1, points // 3 or 1, 3)
        self.sigmas = SIGMAS if points == 3 * len(SIGMAS) else np.full(points // 3, SIGMA)

    def __call__(self, found: Ints, wanted: Ints) -> Floats:
        """See `Overlap`."""
        overlaps = np.zeros(len(found))
        order = np.argsort(wanted, kind="stable")
        for pairs in np.split(order, np.flatnonzero(np.diff(wanted[order])) + 1):
            if len(pairs):
                overlaps[pairs] = self._with(wanted[pairs[0]], self.detections[found[pairs]])
        return overlaps

    def _with(self, number: int, points: Floats) -> Floats:
        """(D, points, 3) -> (D,) similarity to an object."""
        x, y, visible = np.array(self.objects[number]["keypoints"], float).reshape(-1, 3).T
        if (visible > 0).any():
            across, down = points[..., 0] - x, points[..., 1] - y
        else:
            # Nothing of it is labelled: what lies within twice its box is not held against a detection.
            left, top, width, height = self.objects[number]["bbox"]
            across = _beyond(points[..., 0], left - width, left + width * 2)
            down = _beyond(points[..., 1], top - height, top + height * 2)
        off = (across**2 + down**2) / (self.sigmas * 2) ** 2 / (self.area[number] + np.spacing(1)) / 2
        if (visible > 0).any():
            off = off[:, visible > 0]
        return np.asarray(np.sum(np.exp(-np.ascontiguousarray(off)), axis=1) / off.shape[1])

    def areas(self) -> Floats:
        """Of the boxes around all keypoints of a detection."""
        if not len(self.detections):
            return np.zeros(0)
        x, y = self.detections[..., 0], self.detections[..., 1]
        return np.asarray((x.max(1) - x.min(1)) * (y.max(1) - y.min(1)))


def _refuse_other_lengths(rows: Rows, key: str, length: int) -> None:
    """Numbers that are one short would be read as parts of the next object's."""
    for row in rows:
        if len(row.get(key) or ()) != length:
            found = row.get(key)
            raise DataError(f"image {row['image_id']!r}: {key} should be {length} numbers, found {found!r}")


def _boxes(rows: Rows) -> Floats:
    _refuse_other_lengths(rows, "bbox", 4)
    # From one flat list: NumPy takes twice as long over a list of lists.
    return np.fromiter(chain.from_iterable(row["bbox"] for row in rows), float).reshape(-1, 4)


def _shared(boxes: Floats, others: Floats) -> Floats:
    """(P, 4) and (P, 4), xywh -> (P,) area of the intersections."""
    ends, other_ends = boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]
    sides = np.minimum(ends, other_ends) - np.maximum(boxes[:, :2], others[:, :2])
    return np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)


def _beyond(points: Floats, low: float, high: float) -> NDArray[np.float64]:
    return np.maximum(0, low - points) + np.maximum(0, points - high)

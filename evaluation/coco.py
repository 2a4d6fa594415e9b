"""COCO's metrics: twelve of boxes or masks, ten of keypoints, equal to pycocotools' to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rehead.errors import DataError
from rehead.evaluation.matching import AREAS, Curves, Detections, Objects, curves, match
from rehead.evaluation.overlaps import BoxOverlap, KeypointOverlap, MaskOverlap, Overlap

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In the order of `COCOeval.stats`."""
KEYPOINT_FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
"""The same for keypoints, at most 20 objects per image."""

HALF, THREE_QUARTERS = 0, 5
"""Where 0.5 and 0.75 are among the thresholds."""

Kind = Literal["bbox", "segm", "keypoints"]
COMPARED: dict[Kind, str] = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
"""What of a result each kind compares."""
MOST: dict[Kind, tuple[int, ...]] = {"bbox": (1, 10, 100), "segm": (1, 10, 100), "keypoints": (20,)}
"""Detections of an image and class that count."""
RANGES: dict[Kind, tuple[str, ...]] = {
    "bbox": ("all", "small", "medium", "large"),
    "segm": ("all", "small", "medium", "large"),
    "keypoints": ("all", "medium", "large"),
}


def coco_metrics(
    ground_truth: Mapping[str, Any] | Path,
    results: Sequence[Mapping[str, Any]] | Path,
    kind: Kind = "bbox",
) -> dict[str, float]:
    """Judges detections.

    Where an annotation has no `area`, masks are judged by the pixels of its mask, and boxes and keypoints by its box.

    An annotation may have the number 0, a match with which pycocotools takes for no match
    (https://github.com/cocodataset/cocoapi/issues/507).

    Args:
        ground_truth: COCO instances, or the path of its JSON. Not changed.
        results: `{image_id, category_id, bbox (xywh), segmentation or keypoints, score}` each, or the path of
            their JSON. Not changed.
        kind: what is compared: boxes, masks, or keypoints by their object keypoint similarity (OKS).

    Returns:
        AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl, in 0..1; -1 where there is no ground truth. Of
        keypoints, AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl.

    Raises:
        DataError: for files that are not COCO's, or results for images that the ground truth lacks.
    """
    truth_name, truth = _load(ground_truth, "ground truth")
    results_name, found = _load(results, "results")
    _check_truth(truth_name, truth)
    images = {one: number for number, one in enumerate(sorted({image["id"] for image in truth["images"]}))}
    classes = {one: number for number, one in enumerate(sorted({one["id"] for one in truth["categories"]}))}
    annotations = [one for one in truth["annotations"] if one["image_id"] in images and one["category_id"] in classes]
    groups = np.array(
        [classes[one["category_id"]] * len(images) + images[one["image_id"]] for one in annotations], np.int64
    )
    order = np.argsort(groups, kind="stable")
    annotations = [annotations[row] for row in order.tolist()]
    crowd = np.array([bool(one.get("iscrowd")) for one in annotations], bool)
    empty = np.array([kind == "keypoints" and not _labelled(one) for one in annotations], bool)
    groups = groups[order]
    area = np.array([_area(one) for one in annotations], float)

    image, category, score = _columns(results_name, found, images, classes, kind)
    # Of classes that the ground truth does not list.
    row = np.flatnonzero(category >= 0)
    found_groups = category[row] * len(images) + image[row]
    detections = Detections(found_groups, np.zeros(len(row)), score[row], row).best(MOST[kind][-1])
    kept = [found[row] for row in detections.row.tolist()]
    overlap: Overlap
    unknown = np.isnan(area)
    if kind != "segm":
        area[unknown] = BoxOverlap([], [annotations[row] for row in np.flatnonzero(unknown)], crowd).areas()
    if kind == "bbox":
        overlap = BoxOverlap(annotations, kept, crowd)
    elif kind == "segm":
        sizes = {image["id"]: (image.get("height"), image.get("width")) for image in truth["images"]}
        overlap = masks = MaskOverlap(annotations, kept, crowd, detections.group, sizes)
        area[unknown] = masks.object_areas()[unknown]
    else:
        overlap = KeypointOverlap(annotations, kept, area)
    # The first result decides what the sizes of all of them are taken from, as in pycocotools.
    by_box = kind != "bbox" and len(found) > 0 and bool(found[0].get("bbox"))
    detections.area = (BoxOverlap([], kept, crowd) if by_box else overlap).areas()
    objects = Objects(groups, area, crowd, crowd | empty)
    ranges = [AREAS[name] for name in RANGES[kind]]
    matches = match(objects, detections, overlap, ranges)
    found_curves = curves(objects, detections, matches, len(classes), len(images), MOST[kind], ranges)
    return keypoint_summary(found_curves) if kind == "keypoints" else summary(found_curves)


def summary(found: Curves) -> dict[str, float]:
    """The twelve metrics."""
    precision, recall = found.precision, found.recall
    values = [
        *(_mean(curve) for curve in (precision[0], precision[0, HALF], precision[0, THREE_QUARTERS])),
        *(_mean(precision[area]) for area in (1, 2, 3)),
        *(_mean(recall[most, 0]) for most in (0, 1, 2)),
        *(_mean(recall[2, area]) for area in (1, 2, 3)),
    ]
    return dict(zip(METRICS, values, strict=True))


def keypoint_summary(found: Curves) -> dict[str, float]:
    """The ten metrics of keypoints."""
    values = [
        _mean(part)
        for curve in (found.precision, found.recall[0])
        for part in (curve[0], curve[0, HALF], curve[0, THREE_QUARTERS], curve[1], curve[2])
    ]
    return dict(zip(KEYPOINT_FIGURES, values, strict=True))


def _mean(values: NDArray[np.float64]) -> float:
    """Over the classes that there is something to find of; -1 without any."""
    there = values[values > -1]
    return float(np.mean(there)) if len(there) else -1.0


def _labelled(annotation: Mapping[str, Any]) -> int:
    """How many keypoints are, which some files leave to be counted."""
    number: int | None = annotation.get("num_keypoints")
    return sum(value > 0 for value in annotation["keypoints"][2::3]) if number is None else number


def _area(annotation: Mapping[str, Any]) -> float:
    """Many files leave it out: not a number then."""
    area = annotation.get("area")
    return float("nan") if area is None else float(area)


def _load(source: Any, what: str) -> tuple[str, Any]:
    if not isinstance(source, Path):
        return what, source
    try:
        return str(source), msgspec.json.decode(source.read_bytes())
    except OSError as error:
        raise DataError(f"{source}: the {what} cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{source}: broken JSON: {error}") from error


def _check_truth(name: str, truth: Any) -> None:
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth, Mapping) or not isinstance(truth.get(key), list):
            raise DataError(f"{name}: no list of {key}; a ground truth is COCO's instances format")


def _columns(
    name: str, results: Any, images: Mapping[Any, int], classes: Mapping[Any, int], kind: Kind
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The numbers of images and classes (-1 for one that is not there), and the scores, (N,) each."""
    if not isinstance(results, Sequence):
        raise DataError(f"{name}: should be a list of detections, found {type(results).__name__}")
    wanted = ("image_id", "category_id", "score", COMPARED[kind])
    try:
        image, category, score, _ = ([result[key] for result in results] for key in wanted)
    except (KeyError, TypeError):
        lacking = (
            (number, [key for key in wanted if not isinstance(result, Mapping) or key not in result])
            for number, result in enumerate(results)
        )
        number, absent = next((number, absent) for number, absent in lacking if absent)
        raise DataError(f"{name}: detection {number} lacks {', '.join(absent)}") from None
    unknown = [one for one in image if one not in images]
    if unknown:
        raise DataError(
            f"{name}: {len(set(unknown))} images are not in the ground truth, first: {unknown[0]!r}; "
            "were the results made on another split?"
        )
    return (
        np.array([images[one] for one in image], np.int64),
        np.array([classes.get(one, -1) for one in category], np.int64),
        np.array(score, float),
    )

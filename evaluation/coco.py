"""COCO's twelve figures through pycocotools, the reference that everything faster must agree with."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from rehead.errors import DataError

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""In the order of `COCOeval.stats`."""
KEYPOINT_FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
"""The same for keypoints, at most 20 objects per image."""
SIGMA = 0.05
"""How far a keypoint may be off, over the object's scale, where there are not COCO's 17 (theirs: 0.025 to 0.107)."""

Kind = Literal["bbox", "segm", "keypoints"]
COMPARED: dict[Kind, str] = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
"""What of a result each kind compares."""


def coco_figures(
    ground_truth: Mapping[str, Any] | Path,
    results: Sequence[Mapping[str, Any]] | Path,
    kind: Kind = "bbox",
) -> dict[str, float]:
    """Judges detections.

    Ground-truth annotations are renumbered from 1 first, because pycocotools takes a match with annotation
    0 for no match (https://github.com/cocodataset/cocoapi/issues/507). That changes no other figure.

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
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth_name, truth = _load(ground_truth, "ground truth")
    results_name, detections = _load(results, "results")
    _check_truth(truth_name, truth)
    _check_results(results_name, detections, truth, kind)
    # New dicts, since pycocotools writes into those it is given.
    annotations = [_completed(annotation, number) for number, annotation in enumerate(truth["annotations"], start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        judged = COCO()
        judged.dataset = {**truth, "annotations": annotations}
        judged.createIndex()
        if detections:
            found = judged.loadRes([dict(detection) for detection in detections])
        else:
            # loadRes looks at the first of the results, whether there is one or not.
            found = COCO()
            found.dataset = {**judged.dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(judged, found, kind)
        points = _points(truth)
        if kind == "keypoints" and points != len(evaluation.params.kpt_oks_sigmas):
            evaluation.params.kpt_oks_sigmas = np.full(points, SIGMA)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = KEYPOINT_FIGURES if kind == "keypoints" else FIGURES
    return {name: float(value) for name, value in zip(names, evaluation.stats, strict=True)}


def _points(truth: Mapping[str, Any]) -> int:
    """How many keypoints an object of the ground truth has."""
    return next((len(one["keypoints"]) // 3 for one in truth["annotations"] if one.get("keypoints")), 0)


def _load(source: Any, what: str) -> tuple[str, Any]:
    if not isinstance(source, Path):
        return what, source
    try:
        return str(source), msgspec.json.decode(source.read_bytes())
    except OSError as error:
        raise DataError(f"{source}: the {what} cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{source}: broken JSON: {error}") from error


def _completed(annotation: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A copy with what pycocotools needs but many files leave out."""
    completed = {"iscrowd": 0, **annotation, "id": number}
    if "area" not in completed and "bbox" in completed:
        completed["area"] = completed["bbox"][2] * completed["bbox"][3]
    return completed


def _check_truth(name: str, truth: Any) -> None:
    for key in ("images", "annotations", "categories"):
        if not isinstance(truth, Mapping) or not isinstance(truth.get(key), list):
            raise DataError(f"{name}: no list of {key}; a ground truth is COCO's instances format")


def _check_results(name: str, results: Any, truth: Mapping[str, Any], kind: Kind) -> None:
    if not isinstance(results, Sequence):
        raise DataError(f"{name}: should be a list of detections, found {type(results).__name__}")
    wanted = ("image_id", "category_id", "score", COMPARED[kind])
    for number, result in enumerate(results):
        absent = [key for key in wanted if not isinstance(result, Mapping) or key not in result]
        if absent:
            raise DataError(f"{name}: detection {number} lacks {', '.join(absent)}")
    known = {image["id"] for image in truth["images"]}
    unknown = [result["image_id"] for result in results if result["image_id"] not in known]
    if unknown:
        raise DataError(
            f"{name}: {len(set(unknown))} images are not in the ground truth, first: {unknown[0]!r}; "
            "were the results made on another split?"
        )

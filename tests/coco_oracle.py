"""COCO's metrics as pycocotools itself gives them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def pycocotools_figures(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> list[float]:
    """`COCOeval.stats`; annotations are numbered from 1, as it needs them."""
    annotations = [{**annotation, "id": number} for number, annotation in enumerate(truth["annotations"], start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        judged = COCO()
        judged.dataset = {**truth, "annotations": annotations}
        judged.createIndex()
        found = judged.loadRes([dict(result) for result in results])
        evaluation = COCOeval(judged, found, kind)
        if kind == "keypoints":
            points = len(truth["annotations"][0]["keypoints"]) // 3 if truth["annotations"] else 17
            if points != 17:
                evaluation.params.kpt_oks_sigmas = np.full(points, 0.05)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]

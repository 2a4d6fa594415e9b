"""Metrics of images that may have several classes each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRESENT = 0.5
"""From this probability on a class is said to be present."""


class MultiLabel:
    """Collects the probability and the truth of every class, image by image.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.probabilities: list[NDArray[np.float32]] = []
        self.present: list[NDArray[np.bool_]] = []

    def update(self, probabilities: NDArray[np.float32], present: NDArray[np.bool_]) -> None:
        """Adds one image.

        Args:
            probabilities: (K,) float32 in 0..1.
            present: (K,) bool.
        """
        self.probabilities.append(probabilities)
        self.present.append(present)

    def metrics(self, names: Sequence[str]) -> dict[str, Any]:
        """The metrics over every image so far; None where there is nothing to measure.

        Args:
            names: of the K classes.

        Returns:
            mAP: mean of the APs of the classes that occur in the truth.
            micro_F1: F1 of all decisions together, a class being predicted from `PRESENT` on.
            macro_F1: mean of the F1s of the classes that occur in the truth or in the prediction.
            AP: average precision by name; None for a class that no image has.
        """
        shape = (-1, self.num_classes)
        scores = np.asarray(self.probabilities, np.float32).reshape(shape)
        truth = np.asarray(self.present, np.bool_).reshape(shape)
        by_class = [average_precision(*columns) for columns in zip(scores.T, truth.T, strict=True)]
        occurring = [value for value in by_class if value is not None]
        predicted = scores >= PRESENT
        both, either = (predicted & truth).sum(axis=0), predicted.sum(axis=0) + truth.sum(axis=0)
        counted = either > 0
        return {
            "mAP": float(np.mean(occurring)) if occurring else None,
            "micro_F1": float(2 * both.sum() / either.sum()) if counted.any() else None,
            "macro_F1": float(np.mean(2 * both[counted] / either[counted])) if counted.any() else None,
            "AP": dict(zip(names, by_class, strict=True)),
        }


def average_precision(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float | None:
    """The mean, over the images that have a class, of the precision among those ranked as high or higher.

    Not interpolated, as the papers on multi-label COCO and VOC compute it; images of one score share a rank, as
    in scikit-learn's `average_precision_score`, so that the order of the images decides nothing.

    Args:
        scores: (N,) of one class.
        truth: (N,) bool, whether the image has it.

    Returns:
        0..1, or None if no image has the class.
    """
    if not truth.any():
        return None
    order = np.argsort(-scores)
    last_of_rank = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(truth[order])[last_of_rank]
    precision = hits / (last_of_rank + 1)
    return float(np.diff(hits, prepend=0) @ precision / hits[-1])

"""Intersection over union of semantic maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.errors import DataError
from rehead.types import IGNORE_16, ignore_of, map_type


class ConfusionMatrix:
    """Counts pixels by true and predicted class over a data set.

    Attributes:
        counts: (K, K) int64; rows are the truth, columns the prediction. Those of several processes add up.

    Args:
        num_classes: K, at most 32767.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORE_16:
            raise DataError(f"{num_classes} classes; a semantic map has room for 1 to {IGNORE_16}")
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        """Adds one image.

        Args:
            prediction: (H, W) in 0..K-1, uint8 for up to 255 classes, else int16.
            truth: (H, W), likewise, or `ignore_of` its type, which does not count.

        Raises:
            DataError: for maps of different sizes or types, or values outside.
        """
        classes = len(self.counts)
        if prediction.shape != truth.shape:
            raise DataError(f"the prediction is {prediction.shape} but the truth {truth.shape} (height, width)")
        wanted = map_type(classes)
        if prediction.dtype != wanted or truth.dtype != wanted:
            raise DataError(
                f"semantic maps of {classes} classes are {wanted}, found {prediction.dtype} (prediction), "
                f"{truth.dtype} (truth)"
            )
        if prediction.size and prediction.max() >= classes:
            raise DataError(f"the prediction has class {prediction.max()}; classes are 0..{classes - 1}")
        ignored = ignore_of(truth)
        if ((truth >= classes) & (truth != ignored)).any():
            raise DataError(f"the truth has values that are neither 0..{classes - 1} nor {ignored} (not counted)")
        # One small number per pair of values; ignored pixels land in a row of their own. Up to 15 classes the
        # numbers stay in 8 bits, which makes this as fast as memory allows.
        number = np.min_scalar_type((classes + 1) * classes - 1).type
        pairs: NDArray[Any] = np.minimum(truth, truth.dtype.type(classes)).astype(number)
        pairs = pairs * number(classes) + prediction.astype(number)
        counted = np.bincount(pairs.ravel(), minlength=(classes + 1) * classes)
        self.counts += counted.reshape(classes + 1, classes)[:classes]

    def metrics(self, names: Sequence[str]) -> dict[str, Any]:
        """The metrics over everything counted so far; 0 where no pixel counted.

        Args:
            names: of the K classes.

        Returns:
            mIoU: mean of the IoUs of the classes that occur in the truth or in the prediction.
            pixel_accuracy: share of the counted pixels that are right.
            mean_accuracy: mean, over the classes that occur in the truth, of the share that is right.
            IoU: by name; None for a class that occurs in neither.
        """
        right = np.diag(self.counts)
        truth, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        union = truth + predicted - right
        iou = [float(r / u) if u else None for r, u in zip(right, union, strict=True)]
        occurring = [value for value in iou if value is not None]
        return {
            "mIoU": float(np.mean(occurring)) if occurring else 0.0,
            "pixel_accuracy": float(right.sum() / truth.sum()) if truth.any() else 0.0,
            "mean_accuracy": float(np.mean(right[truth > 0] / truth[truth > 0])) if truth.any() else 0.0,
            "IoU": dict(zip(names, iou, strict=True)),
        }

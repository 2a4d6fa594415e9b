"""Accuracy of image labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Accuracy:
    """Counts images whose class is the most probable, or among the five most probable.

    Attributes:
        right: (2,) int64, images right in the first and in the first five places. Those of several
            processes add up.
        count: images seen.
    """

    def __init__(self) -> None:
        self.right: NDArray[np.int64] = np.zeros(2, np.int64)
        self.count = 0

    def update(self, probabilities: NDArray[Any], label: int) -> None:
        """Adds one image.

        Args:
            probabilities: (K,), any scores of which more is better. Between equals the lower class comes first.
            label: the true class, 0..K-1.
        """
        best = np.argsort(-probabilities, kind="stable")[:5]
        self.right += (best[0] == label, label in best)
        self.count += 1

    def metrics(self) -> dict[str, float]:
        """`top1` and `top5`, shares of the images seen; with five classes or fewer, top5 is 1. 0 of no images is 0."""
        top1, top5 = (self.right / max(self.count, 1)).tolist()
        return {"top1": top1, "top5": top5}

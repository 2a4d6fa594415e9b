"""Classification: one class per image, judged by top-1 and top-5 accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.errors import DataError
from rehead.evaluation.classification import Accuracy
from rehead.tasks.base import Evaluator, Metrics, Picture, Task
from rehead.types import Classes, Prediction
from rehead.visualize.draw import draw_label

TOP = 5
"""How many of the best classes `predictions.json` lists."""


class Classification(Task):
    """One class per image."""

    def evaluator(self, reader: Reader, classes: Classes) -> Evaluator:
        """Accuracy of the best guess and of the best five."""
        return LabelEvaluator(len(classes))

    def has_ground_truth(self, truth: Sample) -> bool:
        """Images with a label."""
        return truth.label is not None

    def draw(self, image: Picture, prediction: Prediction, classes: Classes) -> Picture:
        """The best guess and its probability."""
        assert prediction.probabilities is not None
        probability, label = prediction.probabilities.max(0)
        return draw_label(image, f"{classes.names[int(label)]} {float(probability):.2f}", None)

    def draw_truth(self, image: Picture, truth: Sample, classes: Classes) -> Picture:
        """The true class."""
        return draw_label(image, classes.names[class_of(truth)], None)

    def records(
        self, prediction: Prediction, classes: Classes, image_id: int | str, stem: str, out: Path
    ) -> list[Metrics]:
        """The five best classes with their probabilities, best first."""
        guesses = ranked(prediction, classes)[:TOP]
        return [{"image_id": image_id, **guesses[0], "top": guesses}]


class LabelEvaluator(Evaluator):
    """Counts right guesses.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self.accuracy = Accuracy()
        self.classes = classes

    def update(self, truth: Sample, prediction: Prediction) -> None:
        """Adds an image."""
        assert prediction.probabilities is not None
        self.accuracy.update(prediction.probabilities.numpy(), class_of(truth))

    def collected(self) -> tuple[NDArray[np.int64], int]:
        """The counts."""
        return self.accuracy.right, self.accuracy.count

    def merge(self, collected: tuple[NDArray[np.int64], int]) -> None:
        """Counts add up."""
        right, count = collected
        self.accuracy.right += right
        self.accuracy.count += count

    def metrics(self) -> Metrics:
        """`top1`, and `top5` where there are more than five classes; 0..1."""
        metrics = self.accuracy.metrics()
        return metrics if self.classes > TOP else {"top1": metrics["top1"]}


def class_of(truth: Sample) -> int:
    """The class of an image, 0..K-1: of a soft label, the most probable one.

    Raises:
        DataError: if it has no label.
    """
    if truth.label is None:
        raise DataError(f"image {truth.image_id!r} has no class to judge by")
    return int(truth.label.argmax()) if isinstance(truth.label, np.ndarray) else int(truth.label)


def ranked(prediction: Prediction, classes: Classes) -> list[Metrics]:
    """Every class with its probability, best first."""
    assert prediction.probabilities is not None
    scores, labels = prediction.probabilities.sort(descending=True, stable=True)
    return [
        {"class": classes.names[label], "score": score}
        for score, label in zip(scores.tolist(), labels.tolist(), strict=True)
    ]

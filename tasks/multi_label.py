"""Multi-label classification: any number of classes per image, judged by mean average precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.errors import DataError
from rehead.evaluation.multi_label import PRESENT, MultiLabel
from rehead.tasks.base import Evaluator, Metrics, Picture, Task
from rehead.tasks.classification import TOP, ranked
from rehead.types import Classes, Prediction
from rehead.visualize.draw import draw_classes


class MultiLabelClassification(Task):
    """A yes or no for every class."""

    def evaluator(self, reader: Reader, classes: Classes) -> Evaluator:
        """Average precision of each class, and F1."""
        return ClassesEvaluator(classes)

    def has_ground_truth(self, truth: Sample) -> bool:
        """Images with a label, even where no class is present."""
        return truth.label is not None

    def draw(self, image: Picture, prediction: Prediction, classes: Classes) -> Picture:
        """The classes from `PRESENT` on with their probabilities, best first."""
        assert prediction.probabilities is not None
        scores, labels = prediction.probabilities.sort(descending=True, stable=True)
        said = scores >= PRESENT
        return draw_classes(image, labels[said].tolist(), classes.names, scores[said].tolist())

    def draw_truth(self, image: Picture, truth: Sample, classes: Classes) -> Picture:
        """The classes that are present."""
        return draw_classes(image, np.flatnonzero(present(truth, len(classes))).tolist(), classes.names)

    def records(
        self, prediction: Prediction, classes: Classes, image_id: int | str, stem: str, out: Path
    ) -> list[Metrics]:
        """`classes`, every one from `PRESENT` on, and `top`, the five most probable; both best first."""
        guesses = ranked(prediction, classes)
        said = [guess for guess in guesses if guess["score"] >= PRESENT]
        return [{"image_id": image_id, "classes": said, "top": guesses[:TOP]}]


class ClassesEvaluator(Evaluator):
    """Collects probabilities."""

    def __init__(self, classes: Classes) -> None:
        self.names = classes.names
        self.images = MultiLabel(len(classes))

    def update(self, truth: Sample, prediction: Prediction) -> None:
        """Adds an image."""
        assert prediction.probabilities is not None
        self.images.update(prediction.probabilities.numpy(), present(truth, len(self.names)))

    def collected(self) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
        """Probabilities and truth of every image."""
        return self.images.probabilities, self.images.present

    def merge(self, collected: tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]) -> None:
        """More images; their order decides nothing."""
        probabilities, present = collected
        self.images.probabilities += probabilities
        self.images.present += present

    def metrics(self) -> Metrics:
        """`mAP`, `micro_F1`, `macro_F1`, and `AP` by class."""
        return self.images.metrics(self.names)


def present(truth: Sample, num_classes: int) -> NDArray[np.bool_]:
    """(K,) bool, whether an image has a class: the one of a hard label, or those from `PRESENT` on.

    Raises:
        DataError: if it has no label.
    """
    if truth.label is None:
        raise DataError(f"image {truth.image_id!r} has no classes to judge by")
    if isinstance(truth.label, np.ndarray):
        return np.asarray(truth.label >= PRESENT)
    return np.asarray(np.arange(num_classes) == truth.label)

"""Semantic segmentation: a class per pixel, judged by IoU at the original size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.errors import DataError
from rehead.evaluation.segmentation import ConfusionMatrix
from rehead.files import atomic_path
from rehead.tasks.base import Evaluator, Metrics, Picture, Task
from rehead.types import Classes, Prediction
from rehead.visualize.draw import draw_semantic


class Segmentation(Task):
    """One class per pixel."""

    def evaluator(self, reader: Reader, classes: Classes) -> Evaluator:
        """IoU from one confusion matrix over all images."""
        return PixelEvaluator(classes)

    def has_ground_truth(self, truth: Sample) -> bool:
        """Images with a class map."""
        return truth.semantic is not None

    def draw(self, image: Picture, prediction: Prediction, classes: Classes) -> Picture:
        """The class map over the image."""
        assert prediction.semantic is not None
        return draw_semantic(image, prediction.semantic.numpy(), classes.names)

    def draw_truth(self, image: Picture, truth: Sample, classes: Classes) -> Picture:
        """The mask over the image."""
        assert truth.semantic is not None
        return draw_semantic(image, truth.semantic, classes.names)

    def records(
        self, prediction: Prediction, classes: Classes, image_id: int | str, stem: str, out: Path
    ) -> list[Metrics]:
        """A PNG of the user's own mask values or colours, and where it lies."""
        assert prediction.semantic is not None
        if classes.colours:
            values = np.asarray(classes.colours, dtype=np.uint8)
        else:
            values = np.asarray(classes.ids, dtype=np.uint8 if max(classes.ids) < 256 else np.uint16)
        path = out / "masks" / f"{stem}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(values[prediction.semantic.numpy()]).save(temporary)
        return [{"image_id": image_id, "mask": str(path.relative_to(out))}]


class PixelEvaluator(Evaluator):
    """Counts pixels by class."""

    def __init__(self, classes: Classes) -> None:
        self.names = classes.names
        self.matrix = ConfusionMatrix(len(classes))

    def update(self, truth: Sample, prediction: Prediction) -> None:
        """Adds an image's pixels, at the original size."""
        assert prediction.semantic is not None
        if truth.semantic is None:
            raise DataError(f"image {truth.image_id!r} has no mask to judge by")
        self.matrix.update(prediction.semantic.numpy(), truth.semantic)

    def collected(self) -> NDArray[np.int64]:
        """The counts."""
        return self.matrix.counts

    def merge(self, collected: NDArray[np.int64]) -> None:
        """Counts add up."""
        self.matrix.counts += collected

    def metrics(self) -> Metrics:
        """`mIoU`, `pixel_accuracy`, and `IoU` by class."""
        return self.matrix.metrics(self.names)

"""Detection: boxes judged by the twelve COCO metrics."""

from __future__ import annotations

from pathlib import Path

from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.datasets.coco_format import ground_truth
from rehead.evaluation.coco import coco_metrics
from rehead.tasks.base import Evaluator, Metrics, Picture, Task
from rehead.types import Classes, Prediction
from rehead.visualize.draw import draw_boxes

DRAWN_FROM = 0.3
"""Boxes below this score are left out of pictures (never out of metrics and files)."""


class Detection(Task):
    """One class and one box per object."""

    def evaluator(self, reader: Reader, classes: Classes) -> Evaluator:
        """COCO AP."""
        return BoxEvaluator(reader)

    def has_ground_truth(self, truth: Sample) -> bool:
        """Images with boxes, even where there are none."""
        return truth.boxes is not None

    def draw(self, image: Picture, prediction: Prediction, classes: Classes) -> Picture:
        """The boxes from `DRAWN_FROM` on."""
        assert prediction.boxes is not None
        assert prediction.labels is not None
        assert prediction.scores is not None
        keep = prediction.scores >= DRAWN_FROM
        boxes, labels, scores = (
            value[keep].numpy() for value in (prediction.boxes, prediction.labels, prediction.scores)
        )
        return draw_boxes(self.under(image, prediction), boxes, labels, classes.names, scores, image.shape)

    def draw_truth(self, image: Picture, truth: Sample, classes: Classes) -> Picture:
        """Every annotated box."""
        assert truth.boxes is not None
        assert truth.labels is not None
        return draw_boxes(self.under(image, truth), truth.boxes, truth.labels, classes.names, None, image.shape)

    def under(self, image: Picture, found: Prediction | Sample) -> Picture:
        """What boxes are drawn over: the image."""
        return image

    def records(
        self, prediction: Prediction, classes: Classes, image_id: int | str, stem: str, out: Path
    ) -> list[Metrics]:
        """COCO results form, with the user's own category ids."""
        return coco_results(prediction, classes, image_id)


class BoxEvaluator(Evaluator):
    """Collects COCO results."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.results: list[Metrics] = []

    def update(self, truth: Sample, prediction: Prediction) -> None:
        """Adds an image's boxes, under the ids of the data's own files."""
        self.results += coco_results(prediction, self.reader.classes, truth.image_id)

    def collected(self) -> list[Metrics]:
        """The results."""
        return self.results

    def merge(self, collected: list[Metrics]) -> None:
        """More results; their order among images decides nothing."""
        self.results += collected

    def metrics(self) -> Metrics:
        """The twelve COCO metrics under `bbox`."""
        return {"bbox": coco_metrics(ground_truth(self.reader), self.results)}


def coco_results(prediction: Prediction, classes: Classes, image_id: int | str) -> list[Metrics]:
    """Boxes as xywh with the user's category ids, best first."""
    assert prediction.boxes is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    return [
        {
            "image_id": image_id,
            "category_id": classes.ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in zip(
            prediction.boxes.tolist(), prediction.labels.tolist(), prediction.scores.tolist(), strict=True
        )
    ]

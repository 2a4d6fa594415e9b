"""Keypoint detection: boxes by the twelve COCO metrics, named points of objects by COCO's ten of OKS."""

from __future__ import annotations

from pathlib import Path

from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.datasets.coco_format import ground_truth
from rehead.evaluation.coco import coco_metrics
from rehead.tasks.base import Evaluator, Metrics, Picture
from rehead.tasks.detection import DRAWN_FROM, BoxEvaluator, Detection, coco_results
from rehead.types import Classes, Prediction
from rehead.visualize.draw import draw_keypoints


class KeypointDetection(Detection):
    """One class, one box and some named points per object."""

    def evaluator(self, reader: Reader, classes: Classes) -> Evaluator:
        """COCO AP of boxes and of keypoints."""
        return KeypointEvaluator(reader)

    def has_ground_truth(self, truth: Sample) -> bool:
        """Images with keypoints, even where there are none."""
        return truth.keypoints is not None

    def draw(self, image: Picture, prediction: Prediction, classes: Classes) -> Picture:
        """Boxes and points from `DRAWN_FROM` on."""
        assert prediction.keypoints is not None
        assert prediction.scores is not None
        points = prediction.keypoints[prediction.scores >= DRAWN_FROM].numpy().copy()
        # A predicted point is always somewhere; its own score says how sure it is, not whether it is there.
        points[..., 2] = 1
        return draw_keypoints(super().draw(image, prediction, classes), points, image.shape[:2])

    def draw_truth(self, image: Picture, truth: Sample, classes: Classes) -> Picture:
        """Every annotated box and every labelled point."""
        assert truth.keypoints is not None
        return draw_keypoints(super().draw_truth(image, truth, classes), truth.keypoints, image.shape[:2])

    def records(
        self, prediction: Prediction, classes: Classes, image_id: int | str, stem: str, out: Path
    ) -> list[Metrics]:
        """COCO results form."""
        return keypoint_results(prediction, classes, image_id)


class KeypointEvaluator(BoxEvaluator):
    """Collects COCO results with keypoints."""

    def update(self, truth: Sample, prediction: Prediction) -> None:
        """Adds an image's boxes and points, under the ids of the data's own files."""
        self.results += keypoint_results(prediction, self.reader.classes, truth.image_id)

    def metrics(self) -> Metrics:
        """The twelve COCO metrics under `bbox`, and the ten of keypoints under `keypoints`."""
        truth = ground_truth(self.reader)
        # The judge takes what kind of results these are from the keys of the first.
        boxes = [{key: value for key, value in result.items() if key != "keypoints"} for result in self.results]
        points = [{key: value for key, value in result.items() if key != "bbox"} for result in self.results]
        return {"bbox": coco_metrics(truth, boxes), "keypoints": coco_metrics(truth, points, "keypoints")}


def keypoint_results(prediction: Prediction, classes: Classes, image_id: int | str) -> list[Metrics]:
    """COCO results with boxes and keypoints (x, y, 1 of each point in a row), best first."""
    assert prediction.keypoints is not None
    points = prediction.keypoints.clone()
    points[..., 2] = 1
    boxes = coco_results(prediction, classes, image_id)
    return [{**box, "keypoints": own} for box, own in zip(boxes, points.flatten(1).tolist(), strict=True)]

"""Instance segmentation: boxes and masks, each judged by the twelve COCO metrics."""

from __future__ import annotations

from pathlib import Path

from rehead.data.instance_masks import encode, to_json
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.datasets.coco_format import ground_truth
from rehead.evaluation.coco import coco_metrics
from rehead.tasks.base import Evaluator, Metrics, Picture
from rehead.tasks.detection import DRAWN_FROM, BoxEvaluator, Detection, coco_results
from rehead.types import Classes, Prediction
from rehead.visualize.draw import draw_instances


class InstanceSegmentation(Detection):
    """One class, one box and one mask per object."""

    def evaluator(self, reader: Reader, classes: Classes) -> Evaluator:
        """COCO AP of boxes and of masks."""
        return MaskEvaluator(reader)

    def has_ground_truth(self, truth: Sample) -> bool:
        """Images with masks, even where there are none."""
        return truth.masks is not None

    def under(self, image: Picture, found: Prediction | Sample) -> Picture:
        """The image with its masks, those predicted from `DRAWN_FROM` on."""
        assert found.masks is not None
        assert found.labels is not None
        if isinstance(found, Sample):
            return draw_instances(image, found.masks, found.labels)
        assert found.scores is not None
        keep = found.scores >= DRAWN_FROM
        return draw_instances(image, found.masks[keep].numpy(), found.labels[keep].numpy())

    def records(
        self, prediction: Prediction, classes: Classes, image_id: int | str, stem: str, out: Path
    ) -> list[Metrics]:
        """COCO results form, masks as compressed run-length codes."""
        return mask_results(prediction, classes, image_id)


class MaskEvaluator(BoxEvaluator):
    """Collects COCO results with masks, as run-length codes: a hundred masks of an image would be 30 MB."""

    def update(self, truth: Sample, prediction: Prediction) -> None:
        """Adds an image's boxes and masks, under the ids of the data's own files."""
        self.results += mask_results(prediction, self.reader.classes, truth.image_id)

    def metrics(self) -> Metrics:
        """The twelve COCO metrics under `bbox`, and again under `segm`."""
        truth = ground_truth(self.reader, masks=True)
        # The area of a result is that of its box where it has one, so each kind goes by itself.
        boxes = [{key: value for key, value in result.items() if key != "segmentation"} for result in self.results]
        masks = [{key: value for key, value in result.items() if key != "bbox"} for result in self.results]
        return {"bbox": coco_metrics(truth, boxes), "segm": coco_metrics(truth, masks, "segm")}


def mask_results(prediction: Prediction, classes: Classes, image_id: int | str) -> list[Metrics]:
    """COCO results with boxes and masks, best first."""
    assert prediction.masks is not None
    codes = encode(prediction.masks.numpy())
    boxes = coco_results(prediction, classes, image_id)
    return [{**box, "segmentation": to_json(code)} for box, code in zip(boxes, codes, strict=True)]

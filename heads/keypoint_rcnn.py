"""Keypoint R-CNN: Faster R-CNN that also finds named points of an object (He et al., 1703.06870, section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from rehead.configs.detection_heads import KeypointRCNNOptions
from rehead.errors import BuildError, listed
from rehead.heads.base import Features, at_least_float32
from rehead.heads.detection import truth
from rehead.heads.faster_rcnn import FasterRCNN
from rehead.heads.roi_align import RoIAlign
from rehead.types import Classes, FeatureSpec, Frame, Prediction, Target

POOLED = 14
"""Height and width of what the keypoint branch sees of a box; its heat maps are four times that."""


class KeypointRCNN(FasterRCNN):
    """Equal to torchvision's with the same weights.

    Its loss `loss_keypoint` is a softmax over the places of a heat map, for every visible point.
    """

    def __init__(self, options: KeypointRCNNOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        widths = [options.keypoint_channels] * options.keypoint_convs
        self.roi_heads.keypoint_roi_pool = KeypointRoIAlign(self.neck.feature_specs, POOLED, options.roi_aligned)
        self.roi_heads.keypoint_head = KeypointRCNNHeads(options.channels, widths)
        self.roi_heads.keypoint_predictor = ExactKeypointPredictor(  # type: ignore[no-untyped-call]
            options.keypoint_channels, number_of_points(options, classes)
        )

    def has_targets(self, target: Target) -> bool:
        """Images with keypoints, even where there are none."""
        return target.keypoints is not None

    def truth(self, targets: Sequence[Target], frames: Sequence[Frame]) -> list[dict[str, Tensor]]:
        """torchvision's targets, with keypoints."""
        return truth(targets, frames, first_label=1, also="keypoints")

    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """Boxes, scores, labels and keypoints, best first, at most `detections` per image."""
        found = self.detect(features, frames)
        predictions = self.predictions(found, frames)
        for prediction, one, frame in zip(predictions, found, frames, strict=True):
            places = frame.points_to_original(at_least_float32(one["keypoints"][..., :2]))
            prediction.keypoints = torch.cat([places, one["keypoints_scores"][..., None]], dim=-1)
        return predictions


class KeypointRoIAlign(RoIAlign):
    """RoIAlign that, in prediction, leaves its list of boxes on the CPU.

    torchvision reads the boxes of that list next, to resize every heat map: two numbers of each, each of them a wait
    for the device (`torchvision.models.detection.roi_heads.heatmaps_to_keypoints`). Now there is one for an image.
    """

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Features of regions, as of `RoIAlign`."""
        pooled = super().forward(x, boxes, image_shapes)
        if not self.training:
            boxes[:] = [some.cpu() for some in boxes]
        return pooled


def number_of_points(options: KeypointRCNNOptions, classes: Classes) -> int:
    """How many keypoints an object has: those of the option or of the data, or COCO's 17.

    Raises:
        BuildError: where option and data differ.
    """
    known = len(classes.keypoints)
    if options.keypoints is not None and known and options.keypoints != known:
        raise BuildError(
            f"keypoint_rcnn: keypoints={options.keypoints}, but the data's objects have {known} "
            f"({listed(classes.keypoints)}); leave keypoints out"
        )
    return options.keypoints or known or 17


class ExactKeypointPredictor(KeypointRCNNPredictor):
    """torchvision's, with float32 outputs in mixed precision too."""

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, P, 56, 56) logits."""
        logits: Tensor = super().forward(pooled)  # type: ignore[no-untyped-call]
        # torchvision's loss takes a view, which channels_last does not allow.
        return at_least_float32(logits).contiguous()

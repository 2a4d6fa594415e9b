"""Mask R-CNN: Faster R-CNN that also says which pixels of a box are the object's (He et al., 1703.06870)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from rehead.configs.detection_heads import MaskRCNNOptions
from rehead.heads.base import Features, at_least_float32
from rehead.heads.detection import truth
from rehead.heads.faster_rcnn import FasterRCNN
from rehead.heads.masks_in_boxes import MasksInBoxes
from rehead.heads.necks import NORM_LAYERS
from rehead.heads.roi_align import RoIAlign
from rehead.types import Classes, FeatureSpec, Frame, Prediction, Target

POOLED = 14
"""Height and width of what the mask branch sees of a box; it answers with twice that."""


class MaskRCNN(FasterRCNN):
    """Equal to torchvision's with the same weights."""

    def __init__(self, options: MaskRCNNOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        widths = [options.mask_channels] * options.mask_convs
        self.roi_heads.mask_roi_pool = RoIAlign(self.neck.feature_specs, POOLED, options.roi_aligned)
        self.roi_heads.mask_head = MaskRCNNHeads(options.channels, widths, 1, NORM_LAYERS[options.norm])
        self.roi_heads.mask_predictor = ExactMaskPredictor(  # type: ignore[no-untyped-call]
            options.mask_channels, options.mask_channels, len(classes) + 1
        )

    def has_targets(self, target: Target) -> bool:
        """Images with masks, even where there are none."""
        return target.masks is not None

    def truth(self, targets: Sequence[Target], frames: Sequence[Frame]) -> list[dict[str, Tensor]]:
        """torchvision's targets, with masks."""
        return truth(targets, frames, first_label=1, also="masks")

    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """Boxes, scores, labels and masks of the original size, best first, at most `detections` per image."""
        found = self.detect(features, frames)
        predictions = self.predictions(found, frames)
        for prediction, one, frame in zip(predictions, found, frames, strict=True):
            assert prediction.boxes is not None
            prediction.masks = MasksInBoxes.of(one["masks"][:, 0], prediction.boxes, frame.original)
        return predictions


class ExactMaskPredictor(MaskRCNNPredictor):
    """torchvision's, with float32 outputs in mixed precision too."""

    def forward(self, pooled: Tensor) -> Tensor:
        """(R, K + 1, 28, 28) logits."""
        logits: Tensor = super().forward(pooled)  # type: ignore[no-untyped-call]
        return at_least_float32(logits)

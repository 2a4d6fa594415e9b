"""torchvision's heads on regions, with fewer waits for the device in training."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision.models.detection import roi_heads as parts

from rehead.heads.matching import BoxCoder, Matcher, Sampler, places

Shapes = list[tuple[int, int]]


class RoIHeads(parts.RoIHeads):
    """Takes torchvision's arguments; detections and losses are torchvision's, the drawing of samples apart."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        own, sampler = self.proposal_matcher, self.fg_bg_sampler
        self.box_coder = BoxCoder(self.box_coder.weights)
        self.proposal_matcher = Matcher(own.high_threshold, own.low_threshold, own.allow_low_quality_matches)
        self.fg_bg_sampler = Sampler(sampler.batch_size_per_image, sampler.positive_fraction)

    def subsample(self, labels: list[Tensor]) -> list[Tensor]:
        """The proposals of each image that count in the loss, by their places."""
        positive, negative = self.fg_bg_sampler(labels)
        return places([one | other for one, other in zip(positive, negative, strict=True)])

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: Shapes,
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in training mode, detections in eval mode.

        Args:
            features: (B, C, H, W) by level.
            proposals: (N_i, 4) per image.
            image_shapes: height and width per image.
            targets: boxes, labels, and masks or keypoints where the heads learn them; in training mode.
        """
        if not self.training:
            found: tuple[list[dict[str, Tensor]], dict[str, Tensor]]
            found = super().forward(features, proposals, image_shapes)
            return found
        boxes, matched, labels, distances = self.select_training_samples(proposals, targets)
        regions = self.box_head(self.box_roi_pool(features, boxes, image_shapes))
        scores, deltas = self.box_predictor(regions)
        classifier, box_reg = parts.fastrcnn_loss(scores, deltas, labels, distances)
        losses = {"loss_classifier": classifier, "loss_box_reg": box_reg}
        if self.mask_predictor is not None or self.keypoint_predictor is not None:
            assert targets is not None
            positive = places([own > 0 for own in labels])
            boxes = [own[index] for own, index in zip(boxes, positive, strict=True)]
            matched = [own[index] for own, index in zip(matched, positive, strict=True)]
            losses |= self._losses_of_objects(features, boxes, image_shapes, targets, matched)
        return [], losses

    def _losses_of_objects(
        self,
        features: dict[str, Tensor],
        boxes: list[Tensor],
        image_shapes: Shapes,
        targets: list[dict[str, Tensor]],
        matched: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of the heads that look at objects alone: at boxes, of which each image's match these objects."""
        losses = {}
        if self.mask_predictor is not None:
            logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
            masks, labels = ([target[name] for target in targets] for name in ("masks", "labels"))
            losses["loss_mask"] = parts.maskrcnn_loss(logits, boxes, masks, labels, matched)
        if self.keypoint_predictor is not None:
            logits = self.keypoint_predictor(self.keypoint_head(self.keypoint_roi_pool(features, boxes, image_shapes)))
            points = [target["keypoints"] for target in targets]
            losses["loss_keypoint"] = parts.keypointrcnn_loss(logits, boxes, points, matched)
        return losses

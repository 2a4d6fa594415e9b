"""torchvision's heads on regions, with fewer waits for the device in training and another loss if wanted."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import roi_heads as parts

from rehead.heads.matching import BoxCoder, Matcher, Sampler, places

Shapes = list[tuple[int, int]]


class RoIHeads(parts.RoIHeads):
    """Detections and losses are torchvision's, the drawing of samples apart.

    Takes torchvision's arguments, and the `beta` of the boxes' smooth L1; see `RegionProposals`.
    """

    def __init__(self, *arguments: Any, beta: float, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        own, sampler = self.proposal_matcher, self.fg_bg_sampler
        self.beta = beta
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
        classifier, box_reg = box_losses(scores, deltas, labels, distances, self.beta)
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


def box_losses(
    logits: Tensor, deltas: Tensor, labels: list[Tensor], wanted: list[Tensor], beta: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the classes, and the loss of the boxes of those proposals that are objects.

    The boxes' loss is summed over objects and coordinates and divided by the number of all sampled proposals, as in
    torchvision and in Detectron2.

    Args:
        logits: (R, K + 1) of the sampled proposals of all images; column 0 is the background.
        deltas: (R, 4 (K + 1)).
        labels: (R_i,) int64 per image, 0 for background.
        wanted: (R_i, 4) deltas per image.
        beta: of smooth L1; 0 is L1.
    """
    of = torch.cat(labels)
    objects = (of > 0).nonzero()[:, 0]
    own = deltas.reshape(len(deltas), -1, 4)[objects, of[objects]]
    boxes = F.smooth_l1_loss(own, torch.cat(wanted)[objects], beta=beta, reduction="sum")
    return F.cross_entropy(logits, of), boxes / of.numel()

"""The losses of Faster R-CNN's two stages. Smooth L1 of the boxes is torchvision's, or L1 as Detectron2 has it.

Smooth L1 is a parabola up to `beta` and a straight line beyond (Girshick, 1504.08083). torchvision has beta = 1/9 in
its code; here it is a number, and 0 is L1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import roi_heads
from torchvision.models.detection.rpn import RegionProposalNetwork


class RegionProposals(RegionProposalNetwork):
    """torchvision's, with a `beta`."""

    def __init__(self, *arguments: Any, beta: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.beta = beta

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The loss of objectness, a mean over the sampled anchors, and that of the boxes, divided by as many.

        Args:
            objectness: (A, 1) of the anchors of all images.
            pred_bbox_deltas: (A, 4).
            labels: (A_i,) per image, 1 for an object, 0 for background, -1 for neither.
            regression_targets: (A_i, 4) deltas per image.
        """
        positive, negative = (torch.where(torch.cat(chosen))[0] for chosen in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        wanted = torch.cat(regression_targets)[positive]
        boxes = F.smooth_l1_loss(pred_bbox_deltas[positive], wanted, beta=self.beta, reduction="sum")
        objects = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled])
        return objects, boxes / sampled.numel()


class RoIHeads(roi_heads.RoIHeads):
    """torchvision's, with a `beta`."""

    def __init__(self, *arguments: Any, beta: float, **options: Any) -> None:
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]
        self.beta = beta

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections in eval mode, losses by name in training.

        torchvision's training is written out here, since it calls its loss as a function of its module.
        """
        found: tuple[list[dict[str, Tensor]], dict[str, Tensor]]
        if not self.training:
            found = super().forward(features, proposals, image_shapes)
            return found
        assert targets is not None
        proposals, matched, labels, wanted = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        classifier, box_reg = box_losses(logits, deltas, labels, wanted, self.beta)
        losses = {"loss_classifier": classifier, "loss_box_reg": box_reg}
        objects = [torch.where(of > 0)[0] for of in labels]
        boxes = [own[some] for own, some in zip(proposals, objects, strict=True)]
        matched = [own[some] for own, some in zip(matched, objects, strict=True)]
        if self.has_mask():  # type: ignore[no-untyped-call]
            logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
            masks, classes = ([target[name] for target in targets] for name in ("masks", "labels"))
            losses["loss_mask"] = roi_heads.maskrcnn_loss(logits, boxes, masks, classes, matched)
        if self.has_keypoint():  # type: ignore[no-untyped-call]
            pooled = self.keypoint_roi_pool(features, boxes, image_shapes)
            logits = self.keypoint_predictor(self.keypoint_head(pooled))
            keypoints = [target["keypoints"] for target in targets]
            losses["loss_keypoint"] = roi_heads.keypointrcnn_loss(logits, boxes, keypoints, matched)
        return [], losses


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
    objects = torch.where(of > 0)[0]
    own = deltas.reshape(len(deltas), -1, 4)[objects, of[objects]]
    boxes = F.smooth_l1_loss(own, torch.cat(wanted)[objects], beta=beta, reduction="sum")
    return F.cross_entropy(logits, of), boxes / of.numel()

"""RetinaNet: focal loss on every anchor of a feature pyramid (Lin et al., 1708.02002), from torchvision's parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from rehead.configs.detection_heads import GROUPS, RetinaNetOptions
from rehead.heads.detection import anchor_generator
from rehead.heads.matching import BoxCoder, Matcher, places
from rehead.heads.necks import build_neck
from rehead.heads.one_stage import BackboneStub, OneStage
from rehead.heads.sparse_gradient import skip_zeros
from rehead.types import Classes, FeatureSpec


class RetinaNet(OneStage):
    """Equal to torchvision's, version 1 or 2, with the same weights.

    Two losses: `loss_classification` and `loss_bbox_regression`.
    """

    def __init__(self, options: RetinaNetOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        self.neck = build_neck(options.neck, specs, options.channels, finest=8, extra=options.p6_input)
        anchors = anchor_generator(
            options.anchor_sizes or [octave_sizes(spec.stride) for spec in self.neck.feature_specs.values()],
            options.aspect_ratios,
            self.neck.feature_specs,
        )
        head = RetinaNetHead(
            options.channels,
            anchors.num_anchors_per_location()[0],
            len(classes),
            norm_layer=partial(nn.GroupNorm, GROUPS) if options.norm == "group" else None,
        )
        for tower in (head.classification_head.conv, head.regression_head.conv):
            del tower[options.convs :]
        if options.norm is None:
            # Normalisation would spread the gradient of the few matched anchors over the whole map.
            skip_zeros(head.regression_head)
        # torchvision's own second version sets it so too; no argument does.
        head.regression_head._loss_type = options.box_loss
        head.regression_head.box_coder = BoxCoder(head.regression_head.box_coder.weights)
        self.wrap(
            detection.RetinaNet(
                BackboneStub(options.channels),
                len(classes),
                anchor_generator=anchors,
                head=head,
                score_thresh=options.score_threshold,
                nms_thresh=options.nms,
                detections_per_img=options.detections,
                topk_candidates=options.candidates,
            )
        )
        self.torchvision_model.proposal_matcher = Matcher(
            options.positive_iou, options.negative_iou, allow_low_quality_matches=True
        )

    def matched_losses(
        self, targets: list[dict[str, Tensor]], outputs: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]
    ) -> dict[str, Tensor]:
        """Focal loss on every anchor but the doubtful, box loss on those that match an object."""
        matched = [self._matched(target["boxes"], own) for target, own in zip(targets, anchors, strict=True)]
        objects = places([own >= 0 for own in matched])
        return {
            "classification": self._classification(targets, outputs["cls_logits"], matched, objects),
            "bbox_regression": self._regression(targets, outputs["bbox_regression"], anchors, matched, objects),
        }

    def _matched(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """(A,) which of an image's boxes each anchor matches, below 0 for none."""
        if not len(boxes):
            return torch.full(
                (len(anchors),), self.torchvision_model.proposal_matcher.BELOW_LOW_THRESHOLD, device=anchors.device
            )
        found: Tensor = self.torchvision_model.proposal_matcher(box_iou(boxes, anchors))
        return found

    def _classification(
        self, targets: list[dict[str, Tensor]], logits: Tensor, matched: list[Tensor], objects: list[Tensor]
    ) -> Tensor:
        """The mean over the images of their focal losses, each over its number of matched anchors."""
        losses = []
        for target, own, match, index in zip(targets, logits, matched, objects, strict=True):
            wanted = torch.zeros_like(own)
            wanted[index, target["labels"][match[index]]] = 1.0
            loss = sigmoid_focal_loss(own, wanted).sum(dim=1)
            counts = match != self.torchvision_model.proposal_matcher.BETWEEN_THRESHOLDS
            losses.append(loss.where(counts, 0).sum() / max(1, len(index)))
        return torch.stack(losses).mean()

    def _regression(
        self,
        targets: list[dict[str, Tensor]],
        deltas: Tensor,
        anchors: list[Tensor],
        matched: list[Tensor],
        objects: list[Tensor],
    ) -> Tensor:
        """The mean over the images of their box losses, each over its number of matched anchors."""
        wanted = torch.cat(
            [target["boxes"][match[index]] for target, match, index in zip(targets, matched, objects, strict=True)]
        )
        own = torch.cat([image[index] for image, index in zip(deltas, objects, strict=True)])
        start = torch.cat([image[index] for image, index in zip(anchors, objects, strict=True)])
        coder: BoxCoder = self.torchvision_model.head.regression_head.box_coder
        if self.torchvision_model.head.regression_head._loss_type == "l1":
            loss = (own - coder.encode_single(wanted, start)).abs().sum(dim=1)
        else:
            loss = generalized_box_iou_loss(coder.decode_single(own, start), wanted)
        counts = [len(index) for index in objects]
        return torch.stack([part.sum() / max(1, len(part)) for part in torch.split(loss, counts)]).mean()


def octave_sizes(stride: int) -> list[float]:
    """Three anchor sizes per octave from 4 x stride on, in whole pixels as torchvision has them."""
    return [float(int(4 * stride * 2 ** (step / 3))) for step in range(3)]

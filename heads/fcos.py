"""FCOS: every point of a pyramid inside an object says how far its sides are (Tian et al., 1904.01355)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.fcos import FCOSHead

from rehead.configs.detection_heads import FCOSOptions
from rehead.heads.base import loss_normalizer
from rehead.heads.detection import anchor_generator
from rehead.heads.necks import build_neck
from rehead.heads.one_stage import BackboneStub, OneStage
from rehead.types import Classes, FeatureSpec


class FCOS(OneStage):
    """Equal to torchvision's with the same weights.

    Three losses: `loss_classification`, `loss_bbox_regression` and `loss_bbox_ctrness`.
    """

    def __init__(self, options: FCOSOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        self.neck = build_neck(options.neck, specs, options.channels, finest=8, extra="P5")
        # An "anchor" is a point with its level's stride: distances are counted in strides.
        points = [[float(spec.stride)] for spec in self.neck.feature_specs.values()]
        self.wrap(
            detection.FCOS(
                BackboneStub(options.channels),
                len(classes),
                anchor_generator=anchor_generator(points, [1.0], self.neck.feature_specs),
                head=CountedFCOSHead(options.channels, 1, len(classes), options.convs),
                center_sampling_radius=options.sampling_radius,
                score_thresh=options.score_threshold,
                nms_thresh=options.nms,
                detections_per_img=options.detections,
                topk_candidates=options.candidates,
            )
        )

    def matched_losses(
        self, targets: list[dict[str, Tensor]], outputs: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]
    ) -> dict[str, Tensor]:
        """Focal loss on every point; GIoU and centre-ness on those near the centre of an object of their size."""
        losses: dict[str, Tensor] = self.torchvision_model.compute_loss(targets, outputs, anchors, sizes)
        return losses

    def skip_batch(self, device: torch.device) -> None:
        """Points of objects are counted."""
        loss_normalizer(torch.tensor(0, device=device))


class CountedFCOSHead(FCOSHead):
    """torchvision's, whose losses are divided by the number of points that are an object's, here by all processes'."""

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """As torchvision's, by its names.

        Args:
            targets: boxes and labels per image.
            head_outputs: of all points.
            anchors: of all points, per image.
            matched_idxs: (A,) per image, which of its boxes a point belongs to, below 0 for none.
        """
        losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        own = (torch.stack(matched_idxs) >= 0).sum()
        factor = own.clamp(min=1) / loss_normalizer(own)
        return {name: factor * loss for name, loss in losses.items()}

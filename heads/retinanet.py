"""RetinaNet: focal loss on every anchor of a feature pyramid (Lin et al., 1708.02002), from torchvision's parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.retinanet import RetinaNetHead

from rehead.configs.detection_heads import GROUPS, RetinaNetOptions
from rehead.heads.detection import anchor_generator
from rehead.heads.necks import build_neck
from rehead.heads.one_stage import Neckless, OneStage
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
        self.hold(
            detection.RetinaNet(
                Neckless(options.channels),
                len(classes),
                anchor_generator=anchors,
                head=head,
                score_thresh=options.score_threshold,
                nms_thresh=options.nms,
                detections_per_img=options.detections,
                fg_iou_thresh=options.positive_iou,
                bg_iou_thresh=options.negative_iou,
                topk_candidates=options.candidates,
            )
        )

    def matched_losses(
        self, targets: list[dict[str, Tensor]], outputs: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]
    ) -> dict[str, Tensor]:
        """Focal loss on every anchor but the doubtful, box loss on those that match an object."""
        losses: dict[str, Tensor] = self.rules.compute_loss(targets, outputs, anchors)
        return losses


def octave_sizes(stride: int) -> list[float]:
    """Three anchor sizes per octave from 4 x stride on, in whole pixels as torchvision has them."""
    return [float(int(4 * stride * 2 ** (step / 3))) for step in range(3)]

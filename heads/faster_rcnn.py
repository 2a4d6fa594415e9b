"""Faster R-CNN (Ren et al., 1506.01497) on a feature pyramid (Lin et al., 1612.03144), from torchvision's parts.

Parameter names inside `rpn` and `roi_heads` are torchvision's. Inside torchvision label 0 is the
background; nobody else sees that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead

from rehead.configs.detection_heads import RCNNOptions
from rehead.heads.base import Features, Head, at_least_float32
from rehead.heads.detection import anchor_generator, float32_pyramid, image_list, predictions, truth
from rehead.heads.necks import NORM_LAYERS, build_neck
from rehead.heads.proposals import RegionProposals
from rehead.heads.roi_align import RoIAlign
from rehead.heads.roi_heads import RoIHeads
from rehead.heads.sparse_gradient import skip_zeros
from rehead.types import Classes, FeatureSpec, Frame, Prediction, Target

POOLED = 7
"""Height and width of what the box branch sees of a proposal."""


class FasterRCNN(Head):
    """A pyramid, region proposals and box classification; equal to torchvision's with the same weights."""

    divisor = 32

    def __init__(self, options: RCNNOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        self.neck = build_neck(options.neck, specs, options.channels, norm=options.norm)
        # One size per level: 8 x stride is FPN's 32..512 on strides 4..64.
        sizes = options.anchor_sizes or [[8.0 * spec.stride] for spec in self.neck.feature_specs.values()]
        anchors = anchor_generator(sizes, options.aspect_ratios, self.neck.feature_specs)
        self.rpn = RegionProposals(
            anchors,
            ExactRPNHead(options.channels, anchors.num_anchors_per_location()[0], options.rpn_convs),
            fg_iou_thresh=options.rpn_positive_iou,
            bg_iou_thresh=options.rpn_negative_iou,
            batch_size_per_image=options.rpn_sampled,
            positive_fraction=options.rpn_positive_fraction,
            pre_nms_top_n={"training": options.rpn_pre_nms_train, "testing": options.rpn_pre_nms_test},
            post_nms_top_n={"training": options.rpn_post_nms_train, "testing": options.rpn_post_nms_test},
            nms_thresh=options.rpn_nms,
            beta=options.beta(options.rpn_box_loss or options.box_loss),
        )
        self.roi_heads = RoIHeads(
            RoIAlign(self.neck.feature_specs, POOLED, options.roi_aligned),
            _box_head(options),
            ExactPredictor(options.representation, len(classes) + 1),  # type: ignore[no-untyped-call]
            fg_iou_thresh=options.box_positive_iou,
            # Between the two thresholds a proposal would count for nothing; the recipe leaves no such gap.
            bg_iou_thresh=options.box_positive_iou,
            batch_size_per_image=options.box_sampled,
            positive_fraction=options.box_positive_fraction,
            bbox_reg_weights=None,
            score_thresh=options.score_threshold,
            nms_thresh=options.nms,
            detections_per_img=options.detections,
            beta=options.beta(options.box_loss),
        )

    def has_targets(self, target: Target) -> bool:
        """Images with boxes, even where there are none."""
        return target.boxes is not None

    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """torchvision's four losses: `loss_objectness`, `loss_rpn_box_reg`, `loss_classifier`, `loss_box_reg`.

        What is built on this head adds its own.
        """
        wanted = self.truth(targets, frames)
        pyramid = float32_pyramid(self.neck, features)
        proposals, rpn_losses = self.rpn(image_list(frames), pyramid, wanted)
        _, roi_losses = self.roi_heads(pyramid, proposals, [frame.size for frame in frames], wanted)
        return {**rpn_losses, **roi_losses}

    def truth(self, targets: Sequence[Target], frames: Sequence[Frame]) -> list[dict[str, Tensor]]:
        """torchvision's targets."""
        return truth(targets, frames, first_label=1)

    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """Boxes, scores and labels, best first, at most `detections` per image."""
        return self.predictions(self.detect(features, frames), frames)

    def detect(self, features: Features, frames: Sequence[Frame]) -> list[dict[str, Tensor]]:
        """torchvision's detections, in batch pixels."""
        pyramid = float32_pyramid(self.neck, features)
        proposals, _ = self.rpn(image_list(frames), pyramid)
        found: list[dict[str, Tensor]]
        found, _ = self.roi_heads(pyramid, proposals, [frame.size for frame in frames])
        return found

    def predictions(self, found: Sequence[Mapping[str, Tensor]], frames: Sequence[Frame]) -> list[Prediction]:
        """The boxes of detections, in original pixels."""
        return predictions(found, frames, first_label=1)


def _box_head(options: RCNNOptions) -> nn.Module:
    if options.box_convs == 0:
        return TwoMLPHead(options.channels * POOLED**2, options.representation)
    return FastRCNNConvFCHead(
        (options.channels, POOLED, POOLED),
        [options.channels] * options.box_convs,
        [options.representation],
        NORM_LAYERS[options.norm],
    )


class ExactRPNHead(RPNHead):
    """torchvision's; coordinates are decoded in the type of its outputs, so they are float32 in mixed precision too.

    Its convolutions know that most of their gradient is zeros.
    """

    def __init__(self, channels: int, anchors: int, convs: int) -> None:
        super().__init__(channels, anchors, convs)
        skip_zeros(self.conv)

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box deltas per level."""
        objectness, deltas = super().forward(levels)
        return [at_least_float32(value) for value in objectness], [at_least_float32(value) for value in deltas]


class ExactPredictor(FastRCNNPredictor):
    """torchvision's, with float32 outputs for the same reason."""

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores and box deltas per RoI."""
        scores, deltas = super().forward(pooled)  # type: ignore[no-untyped-call]
        return at_least_float32(scores), at_least_float32(deltas)

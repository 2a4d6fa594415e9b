"""The options of the detection heads; the defaults are torchvision's."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rehead.configs.base import HeadOptions

GROUPS = 32
"""Groups of every group norm in a tower (Wu and He, 1803.08494)."""

NeckName = Literal["fpn", "pafpn", "simple_pyramid"]
Norm = Literal["batch"]
BoxLoss = Literal["smooth_l1", "l1"]

TORCHVISION_BETA = 1 / 9
"""Where smooth L1 becomes a straight line in torchvision's Faster R-CNN, in both stages."""


class PyramidOptions(HeadOptions):
    """What every detection head has: a neck."""

    neck: NeckName | None = Field(
        None, description="fpn, or simple_pyramid where all maps of the backbone have one stride, unless given"
    )


class RCNNOptions(PyramidOptions):
    """What the heads that look at proposals share.

    `rpn_convs: 2`, `box_convs: 4` and `norm: batch` make them torchvision's second version
    (`fasterrcnn_resnet50_fpn_v2`, `maskrcnn_resnet50_fpn_v2`; Li et al., 2111.11429). `roi_aligned: true` and
    `box_loss: l1` are Detectron2's.
    """

    fitted: ClassVar[tuple[str, ...]] = ("anchor_sizes", "aspect_ratios", "roi_aligned")

    channels: int = Field(256, ge=1, description="of every pyramid level")
    norm: Norm | None = Field(None, description="in the pyramid and after each convolution per RoI")
    rpn_convs: int = Field(1, ge=1, description="before proposals are made")
    box_convs: int = Field(0, ge=0, description="per RoI, before one fully connected layer; 0: two such layers alone")
    representation: int = Field(1024, ge=1, description="width of the fully connected layers per RoI")
    anchor_sizes: list[list[float]] | None = Field(None, description="pixels, per level; 8 x stride unless given")
    aspect_ratios: list[float] = Field([0.5, 1.0, 2.0], description="height / width")
    roi_aligned: bool = Field(
        False, description="RoIs moved by half a pixel of their map, to where pixels' centres are, and never widened"
    )
    box_loss: BoxLoss = Field("smooth_l1", description="of the boxes per RoI")
    rpn_box_loss: BoxLoss | None = Field(None, description="of the proposals' boxes; box_loss's unless given")
    box_beta: float | None = Field(
        None, gt=0, description="difference from which on smooth_l1 is a straight line; 1/9 unless given"
    )
    rpn_pre_nms_train: int = Field(2000, ge=1)
    rpn_pre_nms_test: int = Field(1000, ge=1)
    rpn_post_nms_train: int = Field(2000, ge=1)
    rpn_post_nms_test: int = Field(1000, ge=1)
    rpn_nms: float = Field(0.7, gt=0, le=1)
    rpn_positive_iou: float = Field(0.7, gt=0, le=1)
    rpn_negative_iou: float = Field(0.3, ge=0, le=1)
    rpn_sampled: int = Field(256, ge=1, description="anchors per image that count in the loss")
    rpn_positive_fraction: float = Field(0.5, gt=0, le=1)
    box_positive_iou: float = Field(0.5, gt=0, le=1)
    box_sampled: int = Field(512, ge=1, description="proposals per image that count in the loss")
    box_positive_fraction: float = Field(0.25, gt=0, le=1)
    score_threshold: float = Field(0.05, ge=0, lt=1)
    nms: float = Field(0.5, gt=0, le=1)
    detections: int = Field(100, ge=1, description="per image at most")

    @model_validator(mode="after")
    def _beta_has_a_use(self) -> RCNNOptions:
        if self.box_beta is not None and "smooth_l1" not in (self.box_loss, self.rpn_box_loss):
            raise ValueError("box_beta belongs to smooth_l1, and both stages have l1; leave it out")
        return self

    def beta(self, loss: BoxLoss) -> float:
        """The loss of boxes as a number: where smooth L1 becomes a straight line; 0 for L1."""
        return 0.0 if loss == "l1" else self.box_beta or TORCHVISION_BETA


class FasterRCNNOptions(RCNNOptions):
    """Faster R-CNN on a feature pyramid; the defaults are torchvision's `fasterrcnn_resnet50_fpn`."""

    name: Literal["faster_rcnn"] = "faster_rcnn"


class MaskRCNNOptions(RCNNOptions):
    """Mask R-CNN; the defaults are torchvision's `maskrcnn_resnet50_fpn`."""

    name: Literal["mask_rcnn"] = "mask_rcnn"
    mask_convs: int = Field(4, ge=1, description="before a mask is predicted")
    mask_channels: int = Field(256, ge=1, description="of each of them")


class KeypointRCNNOptions(RCNNOptions):
    """Keypoint R-CNN; the defaults are torchvision's `keypointrcnn_resnet50_fpn`."""

    name: Literal["keypoint_rcnn"] = "keypoint_rcnn"
    keypoints: int | None = Field(None, ge=1, description="per object; as many as the data have unless given")
    keypoint_convs: int = Field(8, ge=1, description="before the heat maps are predicted")
    keypoint_channels: int = Field(512, ge=1, description="of each of them")


class RetinaNetOptions(PyramidOptions):
    """RetinaNet; the defaults are torchvision's `retinanet_resnet50_fpn`.

    `norm: group`, `box_loss: giou` and `p6_input: C5` make it `retinanet_resnet50_fpn_v2`.
    """

    fitted: ClassVar[tuple[str, ...]] = ("anchor_sizes", "aspect_ratios", "p6_input")

    name: Literal["retinanet"] = "retinanet"
    channels: int = Field(256, ge=1, description="of every pyramid level and both towers")
    p6_input: Literal["P5", "C5"] = Field(
        "P5", description="what the two levels beyond the backbone start from: its last map in the pyramid, or its own"
    )
    convs: int = Field(4, ge=1, le=4, description="in each tower, before its prediction")
    norm: Literal["group"] | None = Field(None, description="in the towers")
    anchor_sizes: list[list[float]] | None = Field(
        None, description="pixels, per level; 4 x stride times 1, 2^(1/3) and 2^(2/3) unless given"
    )
    aspect_ratios: list[float] = Field([0.5, 1.0, 2.0], min_length=1, description="height / width")
    positive_iou: float = Field(0.5, gt=0, le=1, description="of an anchor that is an object")
    negative_iou: float = Field(0.4, ge=0, le=1, description="background below; left out in between")
    box_loss: Literal["l1", "giou"] = "l1"
    score_threshold: float = Field(0.05, ge=0, lt=1)
    candidates: int = Field(1000, ge=1, description="boxes per level, before NMS")
    nms: float = Field(0.5, gt=0, le=1)
    detections: int = Field(300, ge=1, description="per image at most")

    @model_validator(mode="after")
    def _fits(self) -> RetinaNetOptions:
        if self.norm == "group" and self.channels % GROUPS:
            raise ValueError(f"norm=group needs channels that are a multiple of {GROUPS}, found {self.channels}")
        if self.negative_iou > self.positive_iou:
            raise ValueError(f"negative_iou {self.negative_iou} must not exceed positive_iou {self.positive_iou}")
        return self


class FCOSOptions(PyramidOptions):
    """FCOS; the defaults are torchvision's `fcos_resnet50_fpn`."""

    name: Literal["fcos"] = "fcos"
    channels: int = Field(
        256, ge=GROUPS, multiple_of=GROUPS, description="of every pyramid level and both towers, for their group norms"
    )
    convs: int = Field(4, ge=1, description="in each tower, before its prediction")
    sampling_radius: float = Field(
        1.5, gt=0, description="strides around a box's centre within which points belong to it"
    )
    score_threshold: float = Field(0.2, ge=0, lt=1)
    candidates: int = Field(1000, ge=1, description="boxes per level, before NMS")
    nms: float = Field(0.6, gt=0, le=1)
    detections: int = Field(100, ge=1, description="per image at most")

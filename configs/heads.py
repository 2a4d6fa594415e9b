"""The heads by name: their options, and where their code is. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from rehead.configs.base import Options
from rehead.registry import Registry

Target = TypeVar("Target", bound=Callable[..., Any])


class HeadOptions(Options):
    """What every head has: its name in the table below.

    `fitted` names the options that weights were trained for and that their shapes do not show.
    """

    fitted: ClassVar[tuple[str, ...]] = ()

    name: str


class ClassificationOptions(HeadOptions):
    """Pooling, dropout and one linear layer on the last feature map."""

    fitted: ClassVar[tuple[str, ...]] = ("pooling",)

    name: Literal["classification"] = "classification"
    pooling: Literal["avg", "max"] = "avg"
    dropout: float = Field(0.0, ge=0, lt=1)


class FasterRCNNOptions(HeadOptions):
    """Faster R-CNN on a feature pyramid; the defaults are torchvision's `fasterrcnn_resnet50_fpn`."""

    fitted: ClassVar[tuple[str, ...]] = ("anchor_sizes", "aspect_ratios")

    name: Literal["faster_rcnn"] = "faster_rcnn"
    channels: int = Field(256, ge=1, description="of every pyramid level")
    representation: int = Field(1024, ge=1, description="width of the two fully connected layers per RoI")
    anchor_sizes: list[list[float]] | None = Field(None, description="pixels, per level; 8 x stride unless given")
    aspect_ratios: list[float] = Field([0.5, 1.0, 2.0], description="height / width")
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


class UNetOptions(HeadOptions):
    """segmentation-models-pytorch's U-Net decoder; the defaults are those of `smp.Unet`."""

    name: Literal["unet"] = "unet"
    decoder_channels: list[int] = Field([256, 128, 64, 32, 16], min_length=1, description="deepest first")
    decoder_norm: Literal["batchnorm", "layernorm", "instancenorm", "inplace", "identity"] = "batchnorm"
    attention: Literal["scse"] | None = None


HEADS: Registry[HeadOptions] = Registry("head")
HEADS.add(
    "classification",
    ClassificationOptions,
    "rehead.heads.classification:Classification",
    task="classification",
    wants="the last feature map",
    paper="global average pooling and a linear layer, as in He et al., 1512.03385",
)
HEADS.add(
    "faster_rcnn",
    FasterRCNNOptions,
    "rehead.heads.faster_rcnn:FasterRCNN",
    task="detection",
    wants="one feature map per stride from 4 up",
    paper="Ren et al., 1506.01497, with FPN, Lin et al., 1612.03144",
)
HEADS.add(
    "unet",
    UNetOptions,
    "rehead.heads.unet:UNet",
    task="segmentation",
    wants="feature maps from stride 2 or 4 down",
    paper="Ronneberger et al., 1505.04597",
)


def register_head(
    name: str, options: type[HeadOptions], *, task: str, wants: str = "", paper: str = ""
) -> Callable[[Target], Target]:
    """Registers a head of one's own: a decorator on its class.

    Args:
        name: what a configuration writes under `model.head.name`.
        options: its pydantic options; `name` must allow this name.
        task: `classification`, `detection` or `segmentation`.
        wants: the features it needs, for `rehead heads`.
        paper: its source, for `rehead heads`.
    """
    return HEADS.register(name, options, task=task, wants=wants, paper=paper)

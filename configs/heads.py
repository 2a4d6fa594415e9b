"""The heads by name: their options, and where their code is. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rehead.configs.base import HeadOptions
from rehead.configs.classification_heads import ClassificationOptions, LinearOptions, MLPOptions
from rehead.configs.detection_heads import (
    FasterRCNNOptions,
    FCOSOptions,
    KeypointRCNNOptions,
    MaskRCNNOptions,
    RetinaNetOptions,
)
from rehead.configs.segmentation_heads import (
    DeepLabV3Options,
    DeepLabV3PlusOptions,
    DPTOptions,
    FPNSegmentationOptions,
    LinkNetOptions,
    MAnetOptions,
    PANOptions,
    PSPNetOptions,
    SegFormerOptions,
    TorchvisionDeepLabV3Options,
    TorchvisionFCNOptions,
    UNetOptions,
    UNetPlusPlusOptions,
    UPerNetOptions,
)
from rehead.configs.tasks import CLASSIFICATION, MULTI_LABEL, TASKS, unknown_task
from rehead.errors import ConfigError
from rehead.registry import Registry

if TYPE_CHECKING:
    from rehead.configs.schema import Config

Target = TypeVar("Target", bound=Callable[..., Any])


HEADS: Registry[HeadOptions] = Registry("head")
HEADS.add(
    "linear",
    LinearOptions,
    "rehead.heads.classification:Linear",
    task="classification",
    wants="the last feature map",
    paper="global average pooling and a linear layer, as in He et al., 1512.03385",
)
HEADS.add(
    "mlp",
    MLPOptions,
    "rehead.heads.classification:MLP",
    task="classification",
    wants="the last feature map",
    paper="layer norm and a hidden layer with GELU, as timm's MLP classifiers",
)
HEADS.add(
    "faster_rcnn",
    FasterRCNNOptions,
    "rehead.heads.faster_rcnn:FasterRCNN",
    task="detection",
    wants="maps whose strides double from 4, or one map",
    paper="Ren et al., 1506.01497, with FPN, Lin et al., 1612.03144",
)
HEADS.add(
    "mask_rcnn",
    MaskRCNNOptions,
    "rehead.heads.mask_rcnn:MaskRCNN",
    task="instance_segmentation",
    wants="maps whose strides double from 4, or one map",
    paper="He et al., 1703.06870",
)
HEADS.add(
    "keypoint_rcnn",
    KeypointRCNNOptions,
    "rehead.heads.keypoint_rcnn:KeypointRCNN",
    task="keypoint_detection",
    wants="maps whose strides double from 4, or one map",
    paper="He et al., 1703.06870, section 5",
)
HEADS.add(
    "retinanet",
    RetinaNetOptions,
    "rehead.heads.retinanet:RetinaNet",
    task="detection",
    wants="maps whose strides double from 8, or one map",
    paper="Lin et al., 1708.02002",
)
HEADS.add(
    "fcos",
    FCOSOptions,
    "rehead.heads.fcos:FCOS",
    task="detection",
    wants="maps whose strides double from 8, or one map",
    paper="Tian et al., 1904.01355",
)
HEADS.add(
    "unet",
    UNetOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="maps from stride 2 or 4 on",
    paper="Ronneberger et al., 1505.04597",
)
HEADS.add(
    "unetplusplus",
    UNetPlusPlusOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="maps from stride 2 or 4 on",
    paper="Zhou et al., 1807.10165",
)
HEADS.add(
    "manet",
    MAnetOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="maps from stride 2 or 4 on",
    paper="Fan et al., IEEE Access 8, 2020",
)
HEADS.add(
    "linknet",
    LinkNetOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="maps from stride 2 or 4 on",
    paper="Chaurasia and Culurciello, 1707.03718",
)
HEADS.add(
    "fpn_segmentation",
    FPNSegmentationOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="maps of four strides",
    paper="Kirillov et al., 1901.02446",
)
HEADS.add(
    "pspnet",
    PSPNetOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="the last map, best of stride 8",
    paper="Zhao et al., 1612.01105",
)
HEADS.add(
    "pan",
    PANOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="two to four maps from stride 4 on",
    paper="Li et al., 1805.10180",
)
HEADS.add(
    "deeplabv3",
    DeepLabV3Options,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="the last map, best of stride 8",
    paper="Chen et al., 1706.05587",
)
HEADS.add(
    "deeplabv3plus",
    DeepLabV3PlusOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="two maps, best of stride 4 and 16",
    paper="Chen et al., 1802.02611",
)
HEADS.add(
    "upernet",
    UPerNetOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="maps from stride 4 on",
    paper="Xiao et al., 1807.10221",
)
HEADS.add(
    "segformer",
    SegFormerOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="maps from stride 4 on",
    paper="Xie et al., 2105.15203",
)
HEADS.add(
    "dpt",
    DPTOptions,
    "rehead.heads.smp_decoders:SMPSegmentation",
    task="segmentation",
    wants="two to four maps, such as a ViT's",
    paper="Ranftl et al., 2103.13413",
)
HEADS.add(
    "torchvision_fcn",
    TorchvisionFCNOptions,
    "rehead.heads.torchvision_segmentation:TorchvisionSegmentation",
    task="segmentation",
    wants="the last two maps, best of stride 8",
    paper="Long et al., 1411.4038",
)
HEADS.add(
    "torchvision_deeplabv3",
    TorchvisionDeepLabV3Options,
    "rehead.heads.torchvision_segmentation:TorchvisionSegmentation",
    task="segmentation",
    wants="the last two maps, best of stride 8",
    paper="Chen et al., 1706.05587",
)


def task_of(options: HeadOptions) -> str:
    """The task of a head with these options, which its data must serve and its predictions are judged by.

    Several classes per image need other data and other metrics than one, with the same heads.
    """
    return MULTI_LABEL.name if _multi_label(options) else HEADS.get(options.name).about["task"]


def image_task(config: Config) -> str:
    """The task that says how images are resized and augmented.

    It is the configuration's own, but the crops that suit one class per image would cut some of several off.
    """
    several = config.task == CLASSIFICATION.name and any(map(_multi_label, config.model.heads.values()))
    return MULTI_LABEL.name if several else config.task


def _multi_label(options: HeadOptions) -> bool:
    return isinstance(options, ClassificationOptions) and options.multi_label


def register_head(
    name: str, options: type[HeadOptions], *, task: str, wants: str = "", paper: str = ""
) -> Callable[[Target], Target]:
    """Registers a head of one's own: a decorator on its class.

    Args:
        name: what a configuration writes under `model.head.name`.
        options: its pydantic options; `name` must allow this name.
        task: `classification`, `detection`, `instance_segmentation`, `keypoint_detection` or `segmentation`.
        wants: the features it needs, for `rehead heads`.
        paper: its source, for `rehead heads`.

    Raises:
        ConfigError: for a task that is not known.
    """
    if task not in TASKS:
        raise ConfigError([unknown_task(task)], f"head '{name}'")
    return HEADS.register(name, options, task=task, wants=wants, paper=paper)

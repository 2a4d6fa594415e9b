"""Options of the semantic segmentation heads. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rehead.configs.base import HeadOptions, Options

Norm = Literal["batchnorm", "instancenorm", "identity"]
Channels = Annotated[int, Field(ge=1)]


class TermOptions(Options):
    """A term of the loss."""

    weight: float = Field(1.0, gt=0)


class CrossEntropyOptions(TermOptions):
    """Cross-entropy of the softmax, averaged over the pixels that count."""

    class_weights: list[Annotated[float, Field(ge=0)]] | None = Field(None, description="one per class, in their order")
    label_smoothing: float = Field(0.0, ge=0, lt=1)


class FocalOptions(TermOptions):
    """Cross-entropy in which pixels that are right already count less (Lin et al., 1708.02002)."""

    gamma: float = Field(2.0, ge=0, description="0 is plain cross-entropy")


class SegmentationLossOptions(Options):
    """The terms that are added up: `{cross_entropy: {}, dice: {weight: 0.5}}`."""

    cross_entropy: CrossEntropyOptions | None = None
    dice: TermOptions | None = None
    focal: FocalOptions | None = None
    lovasz: TermOptions | None = None

    @model_validator(mode="after")
    def _something(self) -> SegmentationLossOptions:
        if not self.terms():
            raise ValueError(
                f"name at least one term, such as {{dice: {{}}}}; known: {', '.join(type(self).model_fields)}"
            )
        return self

    def terms(self) -> dict[str, TermOptions]:
        """The terms that were asked for, by name."""
        return {name: value for name, value in self if value is not None}


class SegmentationOptions(HeadOptions):
    """What every semantic segmentation head has."""

    loss: SegmentationLossOptions = SegmentationLossOptions(cross_entropy=CrossEntropyOptions())


class UNetOptions(SegmentationOptions):
    """segmentation-models-pytorch's U-Net decoder; the defaults are those of `smp.Unet`."""

    name: Literal["unet"] = "unet"
    decoder_channels: list[Channels] = Field([256, 128, 64, 32, 16], min_length=1, description="deepest first")
    decoder_norm: Norm = "batchnorm"
    attention: Literal["scse"] | None = None


class UNetPlusPlusOptions(SegmentationOptions):
    """U-Net with dense skip paths; the defaults are those of `smp.UnetPlusPlus`."""

    name: Literal["unetplusplus"] = "unetplusplus"
    decoder_channels: list[Channels] = Field([256, 128, 64, 32, 16], min_length=1, description="deepest first")
    decoder_norm: Norm = "batchnorm"
    attention: Literal["scse"] | None = None


class MAnetOptions(SegmentationOptions):
    """U-Net with attention over places and channels; the defaults are those of `smp.MAnet`."""

    name: Literal["manet"] = "manet"
    decoder_channels: list[Channels] = Field([256, 128, 64, 32, 16], min_length=1, description="deepest first")
    decoder_norm: Norm = "batchnorm"
    attention_channels: int = Field(64, ge=1, description="SMP's decoder_pab_channels")


class LinkNetOptions(SegmentationOptions):
    """The features' own channels, added instead of concatenated; as `smp.Linknet`."""

    name: Literal["linknet"] = "linknet"
    decoder_norm: Norm = "batchnorm"


class FPNSegmentationOptions(SegmentationOptions):
    """A feature pyramid whose levels are merged; the defaults are those of `smp.FPN`."""

    name: Literal["fpn_segmentation"] = "fpn_segmentation"
    pyramid_channels: int = Field(256, ge=1)
    segmentation_channels: int = Field(128, ge=32, multiple_of=32, description="its norms have 32 groups")
    merge: Literal["add", "cat"] = "add"
    dropout: float = Field(0.2, ge=0, lt=1)


class PSPNetOptions(SegmentationOptions):
    """Pyramid pooling on the last map; best on a backbone with `output_stride: 8`."""

    name: Literal["pspnet"] = "pspnet"
    stride: int | None = Field(None, ge=1, description="of the map that it reads, the last one's unless given; SMP: 8")
    channels: int = Field(512, ge=1)
    decoder_norm: Norm = "batchnorm"
    dropout: float = Field(0.2, ge=0, lt=1)


class PANOptions(SegmentationOptions):
    """Pyramid attention; the defaults are those of `smp.PAN`, which dilates: `output_stride: 16`."""

    name: Literal["pan"] = "pan"
    channels: int = Field(32, ge=1)


class DeepLabV3Options(SegmentationOptions):
    """Atrous pyramid pooling on the last map; as `smp.DeepLabV3`, on a backbone with `output_stride: 8`."""

    fitted: ClassVar[tuple[str, ...]] = ("atrous_rates",)

    name: Literal["deeplabv3"] = "deeplabv3"
    channels: int = Field(256, ge=1)
    atrous_rates: tuple[Channels, Channels, Channels] = (12, 24, 36)
    separable: bool = False
    dropout: float = Field(0.5, ge=0, lt=1)


class DeepLabV3PlusOptions(SegmentationOptions):
    """DeepLabV3 refined by the map of stride 4; as `smp.DeepLabV3Plus`, which dilates: `output_stride: 16`."""

    fitted: ClassVar[tuple[str, ...]] = ("atrous_rates",)

    name: Literal["deeplabv3plus"] = "deeplabv3plus"
    channels: int = Field(256, ge=1)
    atrous_rates: tuple[Channels, Channels, Channels] = (12, 24, 36)
    separable: bool = True
    dropout: float = Field(0.5, ge=0, lt=1)


class UPerNetOptions(SegmentationOptions):
    """Pyramid pooling on the last map and a feature pyramid below; the defaults are those of `smp.UPerNet`."""

    name: Literal["upernet"] = "upernet"
    channels: int = Field(256, ge=1)
    decoder_norm: Norm = "batchnorm"


class SegFormerOptions(SegmentationOptions):
    """One linear layer per map, all resized to stride 4; the defaults are those of `smp.Segformer`."""

    name: Literal["segformer"] = "segformer"
    channels: int = Field(256, ge=1)


class DPTOptions(SegmentationOptions):
    """Dense prediction transformer without class tokens; the defaults are those of `smp.DPT`."""

    name: Literal["dpt"] = "dpt"
    intermediate_channels: list[Channels] = Field(
        [256, 512, 1024, 1024], min_length=2, description="shallowest first; the first are used if maps are fewer"
    )
    fusion_channels: int = Field(256, ge=1)


class TorchvisionOptions(SegmentationOptions):
    """What torchvision's segmentation heads share."""

    auxiliary_weight: float = Field(
        0.5, ge=0, description="of the loss of a second classifier, on the map before the last; 0: none"
    )


class TorchvisionFCNOptions(TorchvisionOptions):
    """torchvision's `fcn_resnet50`, on a backbone with `output_stride: 8`."""

    name: Literal["torchvision_fcn"] = "torchvision_fcn"


class TorchvisionDeepLabV3Options(TorchvisionOptions):
    """torchvision's `deeplabv3_resnet50`, on a backbone with `output_stride: 8`."""

    fitted: ClassVar[tuple[str, ...]] = ("atrous_rates",)

    name: Literal["torchvision_deeplabv3"] = "torchvision_deeplabv3"
    atrous_rates: tuple[Channels, Channels, Channels] = (12, 24, 36)

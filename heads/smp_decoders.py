"""segmentation-models-pytorch's decoders on our features."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder
from segmentation_models_pytorch.decoders.pan.decoder import PANDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from rehead.configs.segmentation_heads import PSPNetOptions, SegmentationOptions
from rehead.errors import BuildError
from rehead.heads.base import Features, described, one_per_stride
from rehead.heads.segmentation import SemanticHead
from rehead.types import Classes, FeatureSpec, Frame


@dataclass(frozen=True)
class Inputs:
    """What SMP's decoders read by position: image, stride 2, stride 4, ...

    Attributes:
        names: of the feature in each place; None for the image, which no decoder looks at, and where the
            backbone has nothing so fine (ConvNeXt starts at stride 4): a map without channels keeps the place.
        channels: of each place.
        strides: of each place.
    """

    names: list[str | None]
    channels: list[int]
    strides: list[int]

    @property
    def empty(self) -> int:
        """How many places behind the image are empty."""
        return self.names.count(None) - 1

    @property
    def given(self) -> str:
        """The strides of what the backbone gives, for errors."""
        return ", ".join(str(stride) for name, stride in zip(self.names, self.strides, strict=True) if name is not None)


@dataclass(frozen=True)
class Parts:
    """A decoder with its classifier, and the sizes that they work on.

    Attributes:
        decoder: list of maps -> one map.
        head: that map -> class scores of the image's size.
        multiple: of the image's height and width, in pixels; None for that of every stride.
        minimum: of the image's height and width, in pixels.
    """

    decoder: nn.Module
    head: nn.Module
    multiple: int | None = None
    minimum: int = 1


class SMPSegmentation(SemanticHead):
    """An SMP decoder; parameter names inside `decoder` and `segmentation_head` are SMP's."""

    def __init__(self, options: SegmentationOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        choose, build = DECODERS[options.name]
        if isinstance(options, PSPNetOptions) and options.stride is not None:
            specs = _up_to(options.stride, specs)
        self.inputs = choose(options.name, specs)
        parts = build(options, self.inputs, len(classes))
        self.decoder = parts.decoder
        self.segmentation_head = parts.head
        self.multiple = parts.multiple or math.lcm(*self.inputs.strides)
        self.minimum = parts.minimum
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    @property
    def reads(self) -> Collection[str]:
        """What the decoder is given."""
        return [name for name in self.inputs.names if name is not None]

    def logits(self, features: Features, frames: Sequence[Frame]) -> Tensor:
        """(B, K, H, W) class scores of the padded batch size."""
        height, width = frames[0].padded
        # Most decoders double sizes and add, which fits only if the strides divide the image's size. Where they
        # do not, the maps are filled up with zeros to the next size that they divide, and the scores cut.
        size = [-(-max(side, self.minimum) // self.multiple) * self.multiple for side in (height, width)]
        some = next(iter(features.values()))
        maps = []
        for name, stride in zip(self.inputs.names, self.inputs.strides, strict=True):
            h, w = (-(-side // stride) for side in size)
            found = some.new_empty(len(frames), 0, h, w) if name is None else features[name]
            # Padding by nothing would copy.
            fits = found.shape[2:] == (h, w)
            maps.append(found if fits else F.pad(found, (0, w - found.shape[3], 0, h - found.shape[2])))
        scores: Tensor = self.segmentation_head(self.decoder(maps))
        return scores[:, :, :height, :width]


def doubling(name: str, specs: Mapping[str, FeatureSpec]) -> Inputs:
    """The deepest map of every stride from 2 on, which decoders that go up step by step want."""
    levels = one_per_stride(specs, finest=2)
    if not levels:
        raise BuildError(f"{name} needs a feature map of stride 2 or more; the backbone gives {described(specs)}")
    first = next(iter(levels.values())).stride
    missing = [stride for stride in (2**power for power in range(1, 10)) if stride < first]
    return Inputs(
        [None] * (1 + len(missing)) + list(levels),
        [0] * (1 + len(missing)) + [spec.channels for spec in levels.values()],
        [1, *missing, *(spec.stride for spec in levels.values())],
    )


def staged(name: str, specs: Mapping[str, FeatureSpec]) -> Inputs:
    """Every map of stride 4 or more, behind the deepest of stride 2: a dilated stage keeps its place, as in SMP."""
    stages = {key: spec for key, spec in specs.items() if spec.stride >= 4}
    if len(stages) < 2:
        raise BuildError(
            f"{name} needs two feature maps of stride 4 or more; the backbone gives {described(specs)}; "
            "unet and linknet take finer ones"
        )
    second = next((key for key in reversed(list(specs)) if specs[key].stride == 2), None)
    return Inputs(
        [None, second, *stages],
        [0, specs[second].channels if second else 0, *(spec.channels for spec in stages.values())],
        [1, 2, *(spec.stride for spec in stages.values())],
    )


def _up_to(stride: int, specs: Mapping[str, FeatureSpec]) -> dict[str, FeatureSpec]:
    """The maps up to the last one of a stride."""
    names = [name for name, spec in specs.items() if spec.stride == stride]
    if not names:
        raise BuildError(f"stride={stride}: no feature map has it; the backbone gives {described(specs)}")
    order = list(specs)
    return {name: specs[name] for name in order[: order.index(names[-1]) + 1]}


def last(name: str, specs: Mapping[str, FeatureSpec]) -> Inputs:
    """The last map alone."""
    key, spec = list(specs.items())[-1]
    return Inputs([key], [spec.channels], [spec.stride])


def _unet(options: Any, inputs: Inputs, classes: int) -> Parts:
    channels = _decoder_channels(options, inputs)
    decoder = UnetDecoder(
        inputs.channels,
        channels,
        n_blocks=len(channels),
        use_norm=options.decoder_norm,
        attention_type=options.attention,
    )
    _check_attention(options.name, decoder)
    # It resizes to the size of each map and so takes any.
    return Parts(decoder, SegmentationHead(channels[-1], classes, kernel_size=3), multiple=1)


def _unetplusplus(options: Any, inputs: Inputs, classes: int) -> Parts:
    _check_steps(options.name, inputs)
    if inputs.empty > 1:
        raise BuildError(
            f"unetplusplus needs a feature map of stride 2 or 4; the backbone gives maps of strides {inputs.given}; "
            "unet goes up from any, dpt takes maps of one stride"
        )
    channels = _decoder_channels(options, inputs)
    decoder = UnetPlusPlusDecoder(
        inputs.channels,
        channels,
        n_blocks=len(channels),
        use_norm=options.decoder_norm,
        attention_type=options.attention,
    )
    _check_attention(options.name, decoder)
    return Parts(decoder, SegmentationHead(channels[-1], classes, kernel_size=3))


def _manet(options: Any, inputs: Inputs, classes: int) -> Parts:
    _check_steps(options.name, inputs)
    channels = _decoder_channels(options, inputs)
    decoder = MAnetDecoder(
        inputs.channels,
        channels,
        n_blocks=len(channels),
        use_norm=options.decoder_norm,
        pab_channels=options.attention_channels,
    )
    return Parts(decoder, SegmentationHead(channels[-1], classes, kernel_size=3))


def _linknet(options: Any, inputs: Inputs, classes: int) -> Parts:
    _check_steps(options.name, inputs)
    blocks = len(inputs.channels) - 1
    decoder = LinknetDecoder(inputs.channels, prefinal_channels=32, n_blocks=blocks, use_norm=options.decoder_norm)
    return Parts(decoder, SegmentationHead(32, classes, kernel_size=1))


def _fpn(options: Any, inputs: Inputs, classes: int) -> Parts:
    _check_steps(options.name, inputs)
    found = len(inputs.names) - 1 - inputs.empty
    if found < 4:
        raise BuildError(
            f"fpn_segmentation needs four feature maps, each half as fine as the one before; the backbone gives maps "
            f"of strides {inputs.given}; unet takes any number, dpt maps of one stride"
        )
    decoder = FPNDecoder(
        inputs.channels,
        encoder_depth=len(inputs.channels) - 1,
        pyramid_channels=options.pyramid_channels,
        segmentation_channels=options.segmentation_channels,
        dropout=options.dropout,
        merge_policy=options.merge,
    )
    return Parts(decoder, SegmentationHead(decoder.out_channels, classes, kernel_size=1, upsampling=inputs.strides[-4]))


def _pspnet(options: Any, inputs: Inputs, classes: int) -> Parts:
    if inputs.channels[-1] % 4:
        raise BuildError(
            f"pspnet pools at 4 sizes and gives each a quarter of the channels, but the last feature map has "
            f"{inputs.channels[-1]}, which 4 does not divide"
        )
    decoder = PSPDecoder(
        inputs.channels, use_norm=options.decoder_norm, out_channels=options.channels, dropout=options.dropout
    )
    return Parts(decoder, SegmentationHead(options.channels, classes, kernel_size=3, upsampling=inputs.strides[-1]))


def _pan(options: Any, inputs: Inputs, classes: int) -> Parts:
    depth: Any = len(inputs.channels) - 1
    if depth > 5:
        raise BuildError(f"pan takes at most four feature maps of stride 4 or more; the backbone gives {depth - 1}")
    decoder = PANDecoder(inputs.channels, encoder_depth=depth, decoder_channels=options.channels)
    head = SegmentationHead(options.channels, classes, kernel_size=3, upsampling=inputs.strides[2])
    # It halves the last map three times.
    return Parts(decoder, head, minimum=8 * max(inputs.strides))


def _deeplabv3(options: Any, inputs: Inputs, classes: int) -> Parts:
    decoder = DeepLabV3Decoder(
        inputs.channels[-1],
        out_channels=options.channels,
        atrous_rates=options.atrous_rates,
        aspp_separable=options.separable,
        aspp_dropout=options.dropout,
    )
    return Parts(decoder, SegmentationHead(options.channels, classes, kernel_size=1, upsampling=inputs.strides[-1]))


def _deeplabv3plus(options: Any, inputs: Inputs, classes: int) -> Parts:
    depth: Any = len(inputs.channels) - 1
    decoder = DeepLabV3PlusDecoder(
        inputs.channels,
        encoder_depth=depth,
        out_channels=options.channels,
        atrous_rates=options.atrous_rates,
        output_stride=16,
        aspp_separable=options.separable,
        aspp_dropout=options.dropout,
    )
    fine = inputs.strides[2]
    # SMP knows output strides 8 and 16; ours may be 32.
    decoder.up = nn.Upsample(mode="bilinear", scale_factor=inputs.strides[-1] / fine, align_corners=True)
    return Parts(decoder, SegmentationHead(options.channels, classes, kernel_size=1, upsampling=fine))


def _upernet(options: Any, inputs: Inputs, classes: int) -> Parts:
    decoder = UPerNetDecoder(
        inputs.channels,
        encoder_depth=len(inputs.channels) - 1,
        decoder_channels=options.channels,
        use_norm=options.decoder_norm,
    )
    return Parts(decoder, SegmentationHead(options.channels, classes, kernel_size=1, upsampling=inputs.strides[2]))


def _segformer(options: Any, inputs: Inputs, classes: int) -> Parts:
    decoder = SegformerDecoder(
        inputs.channels, encoder_depth=len(inputs.channels) - 1, segmentation_channels=options.channels
    )
    head = SegmentationHead(options.channels, classes, kernel_size=1, upsampling=4)
    return Parts(decoder, head, multiple=math.lcm(4, *inputs.strides))


class _DPT(DPTDecoder):
    """Without prefix tokens, which a backbone does not give."""

    def forward(self, features: list[Tensor]) -> Tensor:  # type: ignore[override]
        fused: Tensor = super().forward(features[2:], [None] * (len(features) - 2))
        return fused


def _dpt(options: Any, inputs: Inputs, classes: int) -> Parts:
    strides = inputs.strides[2:]
    if len(strides) > len(options.intermediate_channels):
        raise BuildError(
            f"dpt: intermediate_channels has {len(options.intermediate_channels)} values but the backbone gives "
            f"{len(strides)} feature maps of stride 4 or more"
        )
    if any(stride & (stride - 1) for stride in strides):
        raise BuildError(f"dpt needs strides that are powers of 2; the backbone's are {', '.join(map(str, strides))}")
    decoder = _DPT(
        inputs.channels[2:],
        strides,
        encoder_has_prefix_tokens=False,
        readout="ignore",
        intermediate_channels=options.intermediate_channels[: len(strides)],
        fusion_channels=options.fusion_channels,
    )
    head = DPTSegmentationHead(options.fusion_channels, classes, kernel_size=3, upsampling=2)
    # Whatever the strides were, it brings the maps to 4, 8, 16, ...
    return Parts(decoder, head, multiple=max(*strides, 2 ** (1 + len(strides))))


def _check_steps(name: str, inputs: Inputs) -> None:
    """That every map is half as fine as the one before."""
    if inputs.strides != [2**power for power in range(len(inputs.strides))]:
        raise BuildError(
            f"{name} needs strides that double from map to map; the backbone gives maps of strides {inputs.given}; "
            "upernet and segformer take any"
        )


def _decoder_channels(options: Any, inputs: Inputs) -> list[int]:
    """The channels of as many steps as the backbone's strides need, those nearest to the image."""
    blocks = len(inputs.channels) - 1
    channels: list[int] = options.decoder_channels
    if blocks > len(channels):
        raise BuildError(
            f"{options.name}: decoder_channels has {len(channels)} values but this backbone needs {blocks}, "
            f"one per doubling from stride {inputs.strides[-1]} to 1"
        )
    return channels[-blocks:]


def _check_attention(name: str, decoder: nn.Module) -> None:
    """That attention, which works on a sixteenth of a block's channels, has some everywhere."""
    if any(isinstance(module, nn.Conv2d) and module.out_channels == 0 for module in decoder.modules()):
        raise BuildError(
            f"{name}: attention=scse divides the channels of every block by 16, and a block has fewer; raise "
            "decoder_channels to 16 or more, take a wider backbone, or leave attention out"
        )


Choose = Callable[[str, Mapping[str, FeatureSpec]], Inputs]
DECODERS: dict[str, tuple[Choose, Callable[[Any, Inputs, int], Parts]]] = {
    "unet": (doubling, _unet),
    "unetplusplus": (doubling, _unetplusplus),
    "manet": (doubling, _manet),
    "linknet": (doubling, _linknet),
    "fpn_segmentation": (doubling, _fpn),
    "pspnet": (last, _pspnet),
    "pan": (staged, _pan),
    "deeplabv3": (last, _deeplabv3),
    "deeplabv3plus": (staged, _deeplabv3plus),
    "upernet": (staged, _upernet),
    "segformer": (staged, _segformer),
    "dpt": (staged, _dpt),
}
"""The features that each decoder reads, and how it is built."""

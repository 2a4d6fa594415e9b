"""Necks: from the backbone's features to a pyramid of equally wide maps, whose strides double."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.misc import Conv2dNormActivation

from rehead.configs.detection_heads import NeckName, Norm
from rehead.errors import BuildError
from rehead.heads.base import Features, described, level, one_per_stride
from rehead.types import FeatureSpec

Extra = Literal["pool", "P5", "C5"]
NormLayer = Callable[[int], nn.Module]

NORM_LAYERS: dict[Norm | None, NormLayer | None] = {"batch": nn.BatchNorm2d, None: None}
"""torchvision's `norm_layer` of a `norm` option."""


class Neck(nn.Module):
    """Maps (B, C, H, W) by the backbone's names to (B, channels, H, W) by pyramid level.

    Attributes:
        feature_specs: of the outputs, finest first.
    """

    feature_specs: dict[str, FeatureSpec]

    def name_levels(self, channels: int, strides: Sequence[int]) -> None:
        """Fills `feature_specs`: P2 has stride 4, P3 8, ..."""
        self.feature_specs = {f"P{level(stride)}": FeatureSpec(channels, stride) for stride in strides}


class FPN(Neck):
    """torchvision's feature pyramid: what the coarse maps know is handed down (Lin et al., 1612.03144).

    On a backbone with strides 4..32 it gives P2..P6 with `finest=4` and `extra="pool"`, P3..P7 with
    `finest=8` and one of the others.

    Args:
        specs: the backbone's.
        channels: of every output.
        finest: the stride to start from; a backbone that ends before it gives its last map alone.
        extra: the levels beyond the backbone: one by max-pooling, or two by convolutions of stride 2
            (1708.02002) on the last level of the pyramid ("P5") or of the backbone ("C5").
        norm: after every convolution but those of `extra`.

    Raises:
        BuildError: if the strides do not double from one level to the next.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        channels: int,
        finest: int = 4,
        extra: Extra = "pool",
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        levels = doubling(specs, finest)
        self.inputs = list(levels)
        widths = [spec.channels for spec in levels.values()]
        self.fpn = FeaturePyramidNetwork(
            widths,
            channels,
            extra_blocks=self.extra_blocks(extra, widths[-1], channels),
            norm_layer=NORM_LAYERS[norm],
        )
        strides = [spec.stride for spec in levels.values()]
        self.name_levels(channels, [*strides, *beyond(strides[-1], extra)])

    def extra_blocks(self, extra: Extra, last: int, channels: int) -> ExtraFPNBlock | None:
        """What torchvision's pyramid ends with."""
        return extra_levels(extra, last, channels)

    def forward(self, features: Features) -> Features:
        """See `Neck`."""
        pyramid = self.fpn({name: features[name] for name in self.inputs})
        return dict(zip(self.feature_specs, pyramid.values(), strict=True))


class PAFPN(FPN):
    """A feature pyramid and a second way, back up: what the fine maps know is handed on (Liu et al., 1803.01534).

    The finest level stays; each coarser one is the one before, halved by a convolution, plus the pyramid's own,
    and then a convolution; each convolution with a ReLU.

    Args: those of `FPN`; `extra` starts from the ends of the second way.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        channels: int,
        finest: int = 4,
        extra: Extra = "pool",
        norm: Norm | None = None,
    ) -> None:
        super().__init__(specs, channels, finest, extra, norm)
        steps = range(len(self.inputs) - 1)
        layer = NORM_LAYERS[norm]
        self.down = nn.ModuleList(Conv2dNormActivation(channels, channels, 3, 2, norm_layer=layer) for _ in steps)
        self.fuse = nn.ModuleList(Conv2dNormActivation(channels, channels, 3, norm_layer=layer) for _ in steps)
        self.extra = extra_levels(extra, specs[self.inputs[-1]].channels, channels)

    def extra_blocks(self, extra: Extra, last: int, channels: int) -> None:
        """None yet: they follow the second way."""

    def forward(self, features: Features) -> Features:
        """See `Neck`."""
        maps = [features[name] for name in self.inputs]
        finest, *coarser = self.fpn(dict(zip(self.inputs, maps, strict=True))).values()
        found = [finest]
        for down, fuse, own in zip(self.down, self.fuse, coarser, strict=True):
            found.append(fuse(_to_size(down(found[-1]), own) + own))
        found, _ = self.extra(found, maps, list(self.inputs))
        return dict(zip(self.feature_specs, found, strict=True))


class SimplePyramid(Neck):
    """A pyramid from the last map alone, for backbones of one stride (ViTDet: Li et al., 2203.16527).

    Two deconvolutions make it four times as fine, one twice, a max pool half; then a 1x1 and a 3x3 convolution,
    each with a layer norm over the channels.

    Args:
        specs: the backbone's.
        channels: of every output.
        finest: the stride to start from, at most four times as fine as the map.
        extra: the levels beyond, as in `FPN`; there is no "C5".
        norm: has no meaning here.

    Raises:
        BuildError: for `extra="C5"`: the backbone has no map of the coarsest level's stride.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        channels: int,
        finest: int = 4,
        extra: Extra = "pool",
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        self.last, spec = list(specs.items())[-1]
        if extra == "C5":
            raise BuildError(
                f"p6_input: C5 needs a map of the coarsest level's stride, {2 * spec.stride}, which a simple pyramid "
                f"makes itself; the backbone gives {described(specs)}; use p6_input=P5"
            )
        ups = [factor for factor in (4, 2) if spec.stride % factor == 0 and spec.stride // factor >= finest]
        self.scales = nn.ModuleList(
            [_finer(spec.channels, factor) for factor in ups] + [nn.Identity(), nn.MaxPool2d(2, ceil_mode=True)]
        )
        widths = [spec.channels // factor for factor in ups] + [spec.channels] * 2
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, channels, 1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm2d(channels),
            )
            for width in widths
        )
        self.extra = extra_levels(extra, channels, channels)
        strides = [*(spec.stride // factor for factor in ups), spec.stride, 2 * spec.stride]
        self.name_levels(channels, [*strides, *beyond(strides[-1], extra)])

    def forward(self, features: Features) -> Features:
        """See `Neck`."""
        last = features[self.last]
        found = [conv(scale(last)) for scale, conv in zip(self.scales, self.convs, strict=True)]
        found, _ = self.extra(found, [last], [""] * len(found))
        return dict(zip(self.feature_specs, found, strict=True))


NECKS: dict[NeckName, type[FPN] | type[SimplePyramid]] = {
    "fpn": FPN,
    "pafpn": PAFPN,
    "simple_pyramid": SimplePyramid,
}


def build_neck(
    name: NeckName | None,
    specs: Mapping[str, FeatureSpec],
    channels: int,
    finest: int = 4,
    extra: Extra = "pool",
    norm: Norm | None = None,
) -> Neck:
    """The neck of a name; without one, `simple_pyramid` where the backbone has one stride only, else `fpn`.

    The other arguments are those of `FPN`.

    Raises:
        BuildError: if the backbone's strides do not fit; names both sides.
    """
    if name is None:
        name = "simple_pyramid" if len({spec.stride for spec in specs.values()}) == 1 else "fpn"
    return NECKS[name](specs, channels, finest, extra, norm)


def doubling(specs: Mapping[str, FeatureSpec], finest: int) -> dict[str, FeatureSpec]:
    """The deepest map of every stride from `finest` on, or the last alone.

    Raises:
        BuildError: if the strides do not double from one to the next.
    """
    levels = one_per_stride(specs, min(finest, max(spec.stride for spec in specs.values())))
    strides = [spec.stride for spec in levels.values()]
    if any(fine * 2 != coarse for fine, coarse in itertools.pairwise(strides)):
        raise BuildError(
            f"a feature pyramid needs strides that double from {finest} or more, such as "
            f"{finest}, {2 * finest}, {4 * finest}; the backbone gives {described(specs)}; "
            "neck=simple_pyramid needs its last map alone"
        )
    return levels


def beyond(stride: int, extra: Extra) -> list[int]:
    """The strides of the extra levels."""
    return [2 * stride] if extra == "pool" else [2 * stride, 4 * stride]


def extra_levels(extra: Extra, last: int, channels: int) -> ExtraFPNBlock:
    """torchvision's block that adds levels to (pyramid, inputs, names); `last` is the width of the last input."""
    if extra == "pool":
        return LastLevelMaxPool()
    block = LastLevelP6P7(channels if extra == "P5" else last, channels)
    # torchvision tells the two apart by their widths, which may be equal.
    block.use_P5 = extra == "P5"
    return block


def _to_size(value: Tensor, like: Tensor) -> Tensor:
    """Some backbones' maps are a cell off what halving gives."""
    return value if value.shape[2:] == like.shape[2:] else F.interpolate(value, size=like.shape[2:])


def _finer(channels: int, factor: int) -> nn.Module:
    """Deconvolutions that double the size and halve the channels, once or twice."""
    first = nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)
    if factor == 2:
        return first
    second = nn.ConvTranspose2d(channels // 2, channels // 4, 2, stride=2)
    return nn.Sequential(first, LayerNorm2d(channels // 2), nn.GELU(), second)

"""The feature pyramid: strong features at every stride (Lin et al., 1612.03144)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from rehead.errors import BuildError
from rehead.heads.base import Features, described, level, one_per_stride
from rehead.types import FeatureSpec

Extra = Literal["pool", "P5", "C5"]


class FPN(nn.Module):
    """torchvision's pyramid over the backbone's features from a stride up, and coarser levels beyond them.

    Attributes:
        feature_specs: of the outputs; on a backbone with strides 4..32, P2..P6 with `finest=4` and
            `extra="pool"`, P3..P7 with `finest=8` and one of the others.

    Args:
        specs: the backbone's.
        channels: of every output.
        finest: the stride to start from; a backbone that ends before it gives its last map alone.
        extra: the levels beyond the backbone: one by max-pooling, or two by convolutions of stride 2
            (1708.02002) on the last level of the pyramid ("P5") or of the backbone ("C5").

    Raises:
        BuildError: if the strides do not double from one level to the next.
    """

    def __init__(self, specs: Mapping[str, FeatureSpec], channels: int, finest: int = 4, extra: Extra = "pool") -> None:
        super().__init__()
        levels = one_per_stride(specs, min(finest, max(spec.stride for spec in specs.values())))
        strides = [spec.stride for spec in levels.values()]
        if any(fine * 2 != coarse for fine, coarse in itertools.pairwise(strides)):
            raise BuildError(
                f"a feature pyramid needs strides that double from {finest} or more, such as "
                f"{finest}, {2 * finest}, {4 * finest}; the backbone gives {described(specs)}"
            )
        self.inputs = list(levels)
        beyond = [2 * strides[-1]] if extra == "pool" else [2 * strides[-1], 4 * strides[-1]]
        self.feature_specs = {f"P{level(stride)}": FeatureSpec(channels, stride) for stride in [*strides, *beyond]}
        widths = [spec.channels for spec in levels.values()]
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_blocks=_extra_blocks(extra, widths[-1], channels))

    def forward(self, features: Features) -> Features:
        """Maps (B, C, H, W) by name to (B, channels, H, W) by pyramid level."""
        pyramid = self.fpn({name: features[name] for name in self.inputs})
        return dict(zip(self.feature_specs, pyramid.values(), strict=True))


def _extra_blocks(extra: Extra, last: int, channels: int) -> ExtraFPNBlock:
    if extra == "pool":
        return LastLevelMaxPool()
    block = LastLevelP6P7(channels if extra == "P5" else last, channels)
    # torchvision tells the two apart by their widths, which may be equal.
    block.use_P5 = extra == "P5"
    return block

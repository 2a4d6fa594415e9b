"""The feature pyramid: strong features at every stride (Lin et al., 1612.03144)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rehead.errors import BuildError
from rehead.heads.base import Features, described, level, one_per_stride
from rehead.types import FeatureSpec


class FPN(nn.Module):
    """torchvision's pyramid over the backbone's features from stride 4 up, and one level more by max-pooling.

    Attributes:
        feature_specs: of the outputs, P2..P6 on a backbone with strides 4..32.

    Args:
        specs: the backbone's.
        channels: of every output.

    Raises:
        BuildError: if the strides do not double from one level to the next.
    """

    def __init__(self, specs: Mapping[str, FeatureSpec], channels: int) -> None:
        super().__init__()
        levels = one_per_stride(specs, finest=4)
        strides = [spec.stride for spec in levels.values()]
        if not levels or any(fine * 2 != coarse for fine, coarse in itertools.pairwise(strides)):
            raise BuildError(
                f"a feature pyramid needs strides that double from 4 or more, such as 4, 8, 16, 32; "
                f"the backbone gives {described(specs)}"
            )
        self.inputs = list(levels)
        self.feature_specs = {
            f"P{level(stride)}": FeatureSpec(channels, stride) for stride in [*strides, 2 * strides[-1]]
        }
        self.fpn = FeaturePyramidNetwork(
            [spec.channels for spec in levels.values()], channels, extra_blocks=LastLevelMaxPool()
        )

    def forward(self, features: Features) -> Features:
        """Maps (B, C, H, W) by name to (B, channels, H, W) by pyramid level."""
        pyramid = self.fpn({name: features[name] for name in self.inputs})
        return dict(zip(self.feature_specs, pyramid.values(), strict=True))

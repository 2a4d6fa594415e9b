"""A fault of oneDNN on processors with AVX2 or AVX-512, and the way around it.

The weight gradient of a 1x1 convolution with a stride, of fewer channels in channels_last than a vector holds (8 with
AVX2, 16 with AVX-512), writes past the end of its memory: it is wrong by more than its own size, or the process dies or
hangs (https://github.com/uxlfoundation/oneDNN/issues/6035; seen with torch 2.15). On AVX-512 it takes larger maps, such
as 56 pixels. Other kernels, more channels, and bfloat16 are right; benchmarks/convolutions.py is the sweep. A 1x1
convolution with a stride reads every stride-th pixel and no other, so the same is computed, on every CPU, by taking
those pixels first and convolving with stride 1.
"""

from __future__ import annotations

import logging
from functools import cache

import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger("rehead")

ENOUGH_CHANNELS = 16
"""The vector width of AVX-512, from which on the gradient is right on every processor."""


def is_affected(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one of those whose weight gradient may be wrong."""
    return (
        conv.kernel_size == (1, 1)
        and max(conv.stride) > 1
        and conv.groups == 1
        and conv.in_channels < ENOUGH_CHANNELS
        and conv.padding == (0, 0)
    )


def convolve(pixels: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """The forward of a convolution with another weight and bias than its own.

    Args:
        pixels: (B, C_in, H, W).
        weight: (C_out, C_in / groups, h, w).
        bias: (C_out,).
        conv: stride, padding, dilation and groups are its; padding is a tuple, never a word.

    Returns:
        (B, C_out, H', W').
    """
    if pixels.device.type == "cpu" and is_affected(conv):
        rows, columns = conv.stride
        return F.conv2d(pixels[:, :, ::rows, ::columns], weight, bias)
    return F.conv2d(pixels, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class SlicedConv2d(nn.Conv2d):
    """`nn.Conv2d` where `is_affected`."""

    def _conv_forward(self, pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(pixels, weight, bias, self)


def protect(network: nn.Module) -> int:
    """Makes every affected convolution of a network a `SlicedConv2d`; says once that there are any.

    Parameters, their names and hooks stay.

    Returns:
        How many there are.
    """
    found = [module for module in network.modules() if type(module) is nn.Conv2d and is_affected(module)]
    for conv in found:
        conv.__class__ = SlicedConv2d
    if found:
        _say()
    return len(found)


@cache
def _say() -> None:
    logger.info(
        "1x1 convolutions with a stride and fewer than %d channels are computed from a slice on CPUs: "
        "oneDNN's gradient of them is wrong",
        ENOUGH_CHANNELS,
    )

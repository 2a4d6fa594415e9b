"""Normalisation layers, and BatchNorm as the affine map that it is once it no longer learns."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from rehead.backbones.onednn import convolve

NormKind = Literal["batch", "group"]


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """BatchNorm, or GroupNorm with 32 groups (Wu and He, 1803.08494) and fewer where channels are few.

    A group of one channel would be instance normalisation, which leaves nothing of a 1 x 1 map.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(n for n in (32, 16, 8, 4, 2, 1) if n == 1 or (channels % n == 0 and channels >= 2 * n))
    return nn.GroupNorm(groups, channels)


def conv_norm(pixels: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """`norm(conv(pixels))`, in one convolution where the norm is a BatchNorm that is frozen.

    In eval BatchNorm is y = scale * x + shift for each channel, so it folds into the convolution's
    weight and bias: one pass less over the largest tensors. Folding happens here and not in the
    module, so the keys stay and the gradient still reaches the convolution's own weight. A norm that
    could still learn is left alone, which keeps an ordinary network equal to torchvision's bit for bit.

    Args:
        pixels: (B, C_in, H, W).
        conv: a convolution without bias.
        norm: a norm over its C_out channels.

    Returns:
        (B, C_out, H', W').
    """
    if not isinstance(norm, AnyBatchNorm) or norm.training or norm.weight.requires_grad:
        return norm(conv(pixels))  # type: ignore[no-any-return]
    assert norm.running_mean is not None  # it tracks its statistics, as is BatchNorm2d's default
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    weight = conv.weight * scale.reshape(-1, 1, 1, 1)
    return convolve(pixels, weight, shift, conv)

"""Convolutions whose output matters to the loss in few places.

Of some 60,000 anchors of an image a region proposal network learns from 256 (Ren et al., 1506.01497, section 3.1.3),
and RetinaNet's boxes from those anchors that match an object: nearly all of the gradient that reaches their 3x3
convolutions is zeros. Here the backward pass takes the places that have a gradient: the same sums without the zeros.
On a CPU only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW = 1 / 8
"""Of a map's places, above which gathering what belongs to them costs more than it saves."""


class SparseGradientConv2d(nn.Conv2d):
    """`nn.Conv2d` of 3x3, stride 1 and padding 1, whose backward pass skips places without a gradient."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> SparseGradientConv2d:
        """The same convolution, with the same parameters."""
        made = cls(conv.in_channels, conv.out_channels, 3, padding=1, device="meta")
        made.weight, made.bias = conv.weight, conv.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        # On a GPU, finding the places would wait for the device, and zeros cost next to nothing there.
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        return _Convolution.apply(x, self.weight, self.bias)  # type: ignore[no-any-return]


def skip_zeros(module: nn.Module) -> None:
    """Makes every 3x3 convolution in a module one with a `SparseGradientConv2d`'s backward; its parameters stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
            setattr(module, name, SparseGradientConv2d.of(child))
        else:
            skip_zeros(child)


class _Convolution(torch.autograd.Function):
    """Exact: where the gradient of all output channels is zero, a place adds nothing to any gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # In mixed precision the gradient has the type that the forward pass computed in.
        x, weight = (saved.to(gradient.dtype) for saved in ctx.saved_tensors)
        image, row, column = gradient.ne(0).any(dim=1).nonzero(as_tuple=True)
        count, _, height, width = x.shape
        if len(image) > FEW * count * height * width:
            x_too, *parameters = ctx.needs_input_grad
            return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
                gradient, x, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [x_too, *parameters]
            )
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        # Of the N places: their gradients, and the rows of `padded` that their windows read.
        gradients = gradient[image, :, row, column]
        corner = (image * (height + 2) + row) * (width + 2) + column
        step = torch.arange(3, device=x.device)
        windows = corner[:, None] + (step[:, None] * (width + 2) + step).flatten()
        read = padded.flatten(0, 2)[windows].flatten(1)
        of_weight = (gradients.T @ read).view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        spread = gradients @ weight.permute(0, 2, 3, 1).flatten(1)
        of_x = torch.zeros_like(padded)
        of_x.flatten(0, 2).index_add_(0, windows.flatten(), spread.view(-1, x.shape[1]))
        return of_x[:, 1:-1, 1:-1].permute(0, 3, 1, 2), of_weight, gradients.sum(0)

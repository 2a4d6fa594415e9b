"""Deep residual networks: He, Zhang, Ren and Sun, 2015, arXiv 1512.03385.

Names and arithmetic are torchvision's, so its weights and timm's fit without renaming: the state dict
is torchvision's without `fc`.

    entry | paper   | output | resnet18  | resnet34  | resnet50      | resnet101      | resnet152
    C1    | conv1   | /2     | 7x7, 64, stride 2
    C2    | conv2_x | /4     | 3x3 max pool, stride 2, then the blocks:
          |         |        | 2 basic   | 3 basic   | 3 bottleneck  | 3 bottleneck   | 3 bottleneck
    C3    | conv3_x | /8     | 2         | 4         | 4             | 4              | 8
    C4    | conv4_x | /16    | 2         | 6         | 6             | 23             | 36
    C5    | conv5_x | /32    | 2         | 3         | 3             | 3              | 3

Channels of a stage's 3x3 convolutions: 64, 128, 256, 512; a bottleneck block gives out four times that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from rehead.backbones.base import Backbone
from rehead.backbones.norms import NormKind, conv_norm, make_norm
from rehead.backbones.pretraining import IMAGENET_MEAN, IMAGENET_STD, Pretraining, published_resnet, resolve
from rehead.configs.schema import BackboneOptions
from rehead.types import FeatureSpec


def conv3x3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Without bias, as every convolution here: the norm that follows has one."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Changes the number of channels, pixel by pixel."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class Projection(nn.Sequential):
    """The shortcut where a block changes size: 1x1 convolution and norm (equation 2, the paper's option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormKind) -> None:
        super().__init__(conv1x1(inputs, outputs, stride), make_norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        return conv_norm(x, conv, norm)


def shortcut(inputs: int, outputs: int, stride: int, norm: NormKind) -> Projection | None:
    """What the block's input passes through before it is added back; None is the identity, which costs nothing."""
    if stride == 1 and inputs == outputs:
        return None
    return Projection(inputs, outputs, stride, norm)


class Block(nn.Module, ABC):
    """y = relu(F(x) + shortcut(x)): the layers learn what to add to their input (equation 1).

    Built with the channels in, the channels of its 3x3 convolutions, the stride, the kind of norm, and the
    dilations of the 3x3 convolution that reads the block's input and of one after it.

    Attributes:
        expansion: channels out over the channels of the 3x3 convolutions.
        downsample: the shortcut; None for the identity. The name is torchvision's.
    """

    expansion: int
    downsample: nn.Module | None

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """F(x), before the addition."""

    @abstractmethod
    def last_norm(self) -> nn.Module:
        """The norm whose output is added to the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        return F.relu(self.residual(x) + identity, inplace=True)


class BasicBlock(Block):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, norm: NormKind, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride, dilations[0])
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv3x3(width, width, dilation=dilations[1])
        self.bn2 = make_norm(norm, width)
        self.downsample = shortcut(inputs, width, stride, norm)

    def residual(self, x: Tensor) -> Tensor:
        """3x3, 3x3."""
        x = F.relu(conv_norm(x, self.conv1, self.bn1), inplace=True)
        return conv_norm(x, self.conv2, self.bn2)

    def last_norm(self) -> nn.Module:
        """After the second convolution."""
        return self.bn2


class Bottleneck(Block):
    """1x1 down, 3x3, 1x1 up: the depth of three layers at the cost of two (figure 5, right).

    The stride is on the 3x3 convolution, as in torchvision (ResNet v1.5); the paper has it on the first
    1x1, which throws three quarters of the pixels away unseen and costs half a percent of accuracy.
    """

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, norm: NormKind, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv1x1(inputs, width)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv3x3(width, width, stride, dilations[0])
        self.bn2 = make_norm(norm, width)
        self.conv3 = conv1x1(width, outputs)
        self.bn3 = make_norm(norm, outputs)
        self.downsample = shortcut(inputs, outputs, stride, norm)

    def residual(self, x: Tensor) -> Tensor:
        """1x1, 3x3, 1x1."""
        x = F.relu(conv_norm(x, self.conv1, self.bn1), inplace=True)
        x = F.relu(conv_norm(x, self.conv2, self.bn2), inplace=True)
        return conv_norm(x, self.conv3, self.bn3)

    def last_norm(self) -> nn.Module:
        """After the third convolution."""
        return self.bn3


class ResNet(Backbone):
    """The residual network without its classifier.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        blocks: how many in each of the four stages.
        in_channels: of the image.
        width: channels of the stem, 64 in the paper; every other width follows from it.
        output_stride: 32; 16 or 8 keep the last one or two stages at the stride before them and widen
            their 3x3 convolutions by dilation instead, so that each still sees as far.
        norm: `batch`, or `group` for batches too small to have statistics.
        zero_init_residual: the last norm of every block starts at 0, so a new network starts as its
            shortcuts alone and grows its residual branches (Goyal et al., 1706.02677).
        mean: (C,) of the pixels in 0..1.
        std: (C,).
        interpolation: `bilinear` or `bicubic`.
        pretraining: the published weights that fit.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        *,
        in_channels: int = 3,
        width: int = 64,
        output_stride: int = 32,
        norm: NormKind = "batch",
        zero_init_residual: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        pretraining: Pretraining | None = None,
    ) -> None:
        strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
        widths = [width, 2 * width, 4 * width, 8 * width]
        specs = {"C1": FeatureSpec(width, 2)}
        for stage in range(4):
            specs[f"C{stage + 2}"] = FeatureSpec(widths[stage] * block.expansion, strides[stage])
        super().__init__(specs, mean, std, interpolation, pretraining)

        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        stride_in, dilation_in = 4, 1
        for stage in range(4):
            stride = strides[stage] // stride_in
            # Where the stride stays, each pixel is now twice as near as the filter was meant for.
            dilation = dilation_in * (2 if stage > 0 and stride == 1 else 1)
            layers: list[nn.Module] = []
            for index in range(blocks[stage]):
                if index == 0:
                    # What the first block reads has the spacing of the stage before (torchvision's rule).
                    layers.append(block(inputs, widths[stage], stride, norm, (dilation_in, dilation)))
                else:
                    layers.append(block(inputs, widths[stage], 1, norm, (dilation, dilation)))
                inputs = widths[stage] * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            stride_in, dilation_in = strides[stage], dilation
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al., 1502.01852: keeps the variance of gradients through relu.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, Block) and zero_init_residual:
                last = module.last_norm()
                assert isinstance(last.weight, Tensor)
                nn.init.zeros_(last.weight)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) float32, normalised -> C1 (stride 2, before the max pool) to C5."""
        features = {"C1": F.relu(conv_norm(pixels, self.conv1, self.bn1), inplace=True)}
        x = self.maxpool(features["C1"])
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            features[f"C{stage + 1}"] = x
        return features

    def ends(self) -> list[str]:
        """The stem ends with its norm (the relu has no module), each stage with its last block."""
        return ["bn1", "layer1", "layer2", "layer3", "layer4"]

    def input_convs(self) -> list[str]:
        """The 7x7."""
        return ["conv1.weight"]


VARIANTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


def resnet(options: BackboneOptions) -> ResNet:
    """The network that the options name, with random weights."""
    choice = resolve(options)
    block, blocks = VARIANTS[choice.architecture]
    pretraining = published_resnet(choice.architecture, choice.tag)
    return ResNet(
        block,
        blocks,
        in_channels=options.in_channels,
        width=options.width,
        output_stride=options.output_stride,
        norm="group" if options.norm == "group" else "batch",
        zero_init_residual=options.zero_init_residual,
        mean=options.mean or pretraining.mean,
        std=options.std or pretraining.std,
        interpolation=pretraining.interpolation,
        pretraining=pretraining,
    )

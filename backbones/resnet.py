"""Deep residual networks: He, Zhang, Ren and Sun, 2015, arXiv 1512.03385.

Names and arithmetic are torchvision's, so its weights and timm's fit without renaming: the state dict
is torchvision's without `fc`. One class holds the paper's networks for photographs (table 1)

    entry | paper   | output | resnet18  | resnet34  | resnet50      | resnet101      | resnet152
    C1    | conv1   | /2     | 7x7, 64, stride 2
    C2    | conv2_x | /4     | 3x3 max pool, stride 2, then the blocks:
          |         |        | 2 basic   | 3 basic   | 3 bottleneck  | 3 bottleneck   | 3 bottleneck
    C3    | conv3_x | /8     | 2         | 4         | 4             | 4              | 8
    C4    | conv4_x | /16    | 2         | 6         | 6             | 23             | 36
    C5    | conv5_x | /32    | 2         | 3         | 3             | 3              | 3

Channels of a stage's 3x3 convolutions: 64, 128, 256, 512; a bottleneck block gives out four times that.

and those for images of 32 pixels (section 4.2), which have three stages of 16, 32 and 64 channels:

    entry | output | resnet20 | resnet32 | resnet44 | resnet56 | resnet110
    C1    | /1     | 3x3, 16, stride 1
    C2    | /1     | 3 basic  | 5 basic  | 7 basic  | 9 basic  | 18 basic
    C3    | /2     | 3        | 5        | 7        | 9        | 18
    C4    | /4     | 3        | 5        | 7        | 9        | 18

Each of them can be built plain, with the layers alone, and with the paper's shortcuts A, B or C.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rehead.backbones.base import Backbone
from rehead.backbones.norms import NormKind, conv_norm, make_norm
from rehead.backbones.pretraining import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Pretraining,
    check_tag,
    published_resnet,
    resolve,
)
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError
from rehead.types import FeatureSpec

ShortcutOption = Literal["A", "B", "C"]


def conv3x3(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Without bias, as every convolution here: the norm that follows has one."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Changes the number of channels, pixel by pixel."""
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


class Projection(nn.Sequential):
    """A shortcut that learns: 1x1 convolution and norm (equation 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormKind) -> None:
        super().__init__(conv1x1(inputs, outputs, stride), make_norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        return conv_norm(x, conv, norm)


class ZeroPadding(nn.Module):
    """A shortcut without parameters where the shape changes: every stride-th pixel, then channels of zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.more = outputs - inputs
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def shortcut(inputs: int, outputs: int, stride: int, norm: NormKind, option: ShortcutOption | None) -> nn.Module | None:
    """What the block's input passes through before it is added back; None is the identity, which costs nothing.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the block.
        norm: of a projection.
        option: the paper's (section 4.1): `A`, zero padding where the shape changes; `B`, a projection there;
            `C`, a projection everywhere. None for a plain block, which adds nothing back.
    """
    if option is None:
        return None
    same = stride == 1 and inputs == outputs
    if option == "C" or (option == "B" and not same):
        return Projection(inputs, outputs, stride, norm)
    return None if same else ZeroPadding(inputs, outputs, stride)


class Block(nn.Module, ABC):
    """y = relu(F(x) + shortcut(x)): the layers learn what to add to their input (equation 1).

    Built with the channels in, the channels of its 3x3 convolutions, the stride, the kind of norm, the
    shortcut's option, None for a plain block y = relu(F(x)), and the dilations of the 3x3 convolution that
    reads the block's input and of one after it.

    Attributes:
        expansion: channels out over the channels of the 3x3 convolutions.
        residual: whether the input is added back.
        downsample: the shortcut; None for the identity and in a plain block. The name is torchvision's.
    """

    expansion: int
    residual: bool
    downsample: nn.Module | None

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """F(x), before the addition."""

    @abstractmethod
    def last_norm(self) -> nn.Module:
        """The norm whose output is added to the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / stride, W / stride)."""
        if not self.residual:
            return F.relu(self.branch(x), inplace=True)
        identity = x if self.downsample is None else self.downsample(x)
        return F.relu(self.branch(x) + identity, inplace=True)


class BasicBlock(Block):
    """Two 3x3 convolutions (figure 5, left)."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        norm: NormKind,
        option: ShortcutOption | None = "B",
        dilations: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride, dilations[0])
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv3x3(width, width, dilation=dilations[1])
        self.bn2 = make_norm(norm, width)
        self.downsample = shortcut(inputs, width, stride, norm, option)
        self.residual = option is not None

    def branch(self, x: Tensor) -> Tensor:
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
        self,
        inputs: int,
        width: int,
        stride: int,
        norm: NormKind,
        option: ShortcutOption | None = "B",
        dilations: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = conv1x1(inputs, width)
        self.bn1 = make_norm(norm, width)
        self.conv2 = conv3x3(width, width, stride, dilations[0])
        self.bn2 = make_norm(norm, width)
        self.conv3 = conv1x1(width, outputs)
        self.bn3 = make_norm(norm, outputs)
        self.downsample = shortcut(inputs, outputs, stride, norm, option)
        self.residual = option is not None

    def branch(self, x: Tensor) -> Tensor:
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
        blocks: how many in each stage.
        in_channels: of the image.
        width: channels of the stem; every other width follows from it.
        stem_stride: of what the stages read. 4 is for photographs: a 7x7 convolution of stride 2, then a max
            pool; 1 is for images of 32 pixels: one 3x3 convolution.
        output_stride: the stages that would go beyond it keep the stride before them and widen their 3x3
            convolutions by dilation instead, so that each still sees as far.
        dilate_first: whether the first 3x3 convolution of such a stage widens too, as in
            segmentation-models-pytorch; what it reads has the spacing of the stage before, so that it sees too far.
        shortcut: the paper's option `A`, `B` or `C`; None for a plain network, whose blocks add nothing back.
        norm: `batch`, or `group` for batches too small to have statistics.
        zero_init_residual: the last norm of every block starts at 0, so a new network starts as its
            shortcuts alone and grows its residual branches (Goyal et al., 1706.02677). A plain network has
            no shortcuts to start as, and none of it starts at 0.
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
        stem_stride: Literal[4, 1] = 4,
        output_stride: int = 32,
        dilate_first: bool = False,
        shortcut: ShortcutOption | None = "B",
        norm: NormKind = "batch",
        zero_init_residual: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
        pretraining: Pretraining | None = None,
    ) -> None:
        strides = [min(stem_stride * 2**stage, output_stride) for stage in range(len(blocks))]
        specs = {"C1": FeatureSpec(width, 2 if stem_stride == 4 else 1)}
        for stage, stride in enumerate(strides):
            specs[f"C{stage + 2}"] = FeatureSpec(width * 2**stage * block.expansion, stride)
        super().__init__(specs, mean, std, interpolation, pretraining)

        if stem_stride == 4:
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = conv3x3(in_channels, width)
        self.bn1 = make_norm(norm, width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem_stride == 4 else None
        inputs = width
        stride_in, dilation_in = int(stem_stride), 1
        for stage, count in enumerate(blocks):
            stride = strides[stage] // stride_in
            # Where the stride stays, each pixel is now twice as near as the filter was meant for.
            dilation = dilation_in * (2 if stage > 0 and stride == 1 else 1)
            layers: list[nn.Module] = []
            for index in range(count):
                # What the first block reads has the spacing of the stage before (torchvision's rule).
                dilations = (dilation_in if index == 0 and not dilate_first else dilation, dilation)
                layers.append(block(inputs, width * 2**stage, stride if index == 0 else 1, norm, shortcut, dilations))
                inputs = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            stride_in, dilation_in = strides[stage], dilation
        self._initialise(zero_init_residual and shortcut is not None)

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
        """(B, C, H, W) float32, normalised -> C1, the stem before its max pool, and the stages C2, C3, ..."""
        features = {"C1": F.relu(conv_norm(pixels, self.conv1, self.bn1), inplace=True)}
        x = features["C1"] if self.maxpool is None else self.maxpool(features["C1"])
        for stage in range(1, len(self.feature_specs)):
            x = self.get_submodule(f"layer{stage}")(x)
            features[f"C{stage + 1}"] = x
        return features

    def feature_modules(self) -> list[str]:
        """The stem ends with its norm (the relu has no module), each stage with its last block."""
        return ["bn1", *(f"layer{stage}" for stage in range(1, len(self.feature_specs)))]

    def input_convs(self) -> list[str]:
        """The stem's."""
        return ["conv1.weight"]


@dataclass(frozen=True)
class Variant:
    """What a name stands for; see `ResNet`."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, ...]
    width: int = 64
    stem_stride: Literal[4, 1] = 4


def _for_32_pixels(count: int) -> Variant:
    return Variant(BasicBlock, (count, count, count), width=16, stem_stride=1)


VARIANTS = {
    "resnet18": Variant(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Variant(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Variant(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Variant(Bottleneck, (3, 4, 23, 3)),
    "resnet152": Variant(Bottleneck, (3, 8, 36, 3)),
    "resnet20": _for_32_pixels(3),
    "resnet32": _for_32_pixels(5),
    "resnet44": _for_32_pixels(7),
    "resnet56": _for_32_pixels(9),
    "resnet110": _for_32_pixels(18),
}


def resnet(options: BackboneOptions) -> ResNet:
    """The network that the options name, with random weights.

    Raises:
        BuildError: for an `output_stride` that the network does not reach.
        WeightsError: for a tag of weights that are not published.
    """
    choice = resolve(options)
    variant = VARIANTS[choice.architecture]
    deepest = variant.stem_stride * 2 ** (len(variant.blocks) - 1)
    if options.output_stride < 32 and deepest <= options.output_stride:
        raise BuildError(
            f"output_stride: {choice.architecture} ends at stride {deepest} by itself; leave output_stride out"
        )
    published = published_resnet(choice.architecture, choice.tag) if variant.stem_stride == 4 else None
    if published is None:
        check_tag(choice.architecture, choice.tag)
    return ResNet(
        variant.block,
        variant.blocks,
        in_channels=options.in_channels,
        width=options.width or variant.width,
        stem_stride=variant.stem_stride,
        output_stride=options.output_stride,
        dilate_first=options.dilate_first,
        shortcut=options.shortcut if options.residual else None,
        norm="group" if options.norm == "group" else "batch",
        zero_init_residual=options.zero_init_residual,
        mean=options.mean or (published.mean if published else IMAGENET_MEAN),
        std=options.std or (published.std if published else IMAGENET_STD),
        interpolation=published.interpolation if published else "bilinear",
        # Published weights were trained with projections where the shape changes, and are worth little without.
        pretraining=published if options.residual and options.shortcut == "B" else None,
    )

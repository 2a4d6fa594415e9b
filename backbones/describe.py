"""A backbone block by block: what `rehead backbones NAME` shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rehead.backbones.base import Backbone
from rehead.backbones.build import construct
from rehead.backbones.resnet import Block, ResNet, ZeroPadding
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError


@dataclass(frozen=True)
class Row:
    """One block, or one feature entry of a network whose blocks are not known here.

    Attributes:
        name: of the module, such as `layer1.0`.
        feature: the entry of `feature_specs` that ends here, such as `C2`; empty for others.
        shape: channels, height and width of what comes out, for the image size asked for.
        stride: of what comes out, in pixels of the image.
        parameters: weights and biases in it; None where they cannot be told apart.
        frozen: whether it has parameters and none of them learns.
        shortcut: what the block adds back: `identity`; `projection (dashed)` or `zero padding (dashed)` where
            the shape changes, as figure 3 of the paper draws it; `projection` where it does not; `none` in a
            plain network; `-` for what is no block.
        receptive_field: height and width of the part of the image that one pixel of it can see (through the
            longest path, edges aside); None where it is not known.
        layers: of the block, in order, such as `3x3, 128, /2`; empty where they are not known.
    """

    name: str
    feature: str
    shape: tuple[int, int, int]
    stride: int
    parameters: int | None
    frozen: bool
    shortcut: str
    receptive_field: int | None = None
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """A backbone's rows, and what holds for all of it."""

    rows: list[Row]
    parameters: int
    frozen_parameters: int
    mean: list[float]
    std: list[float]
    interpolation: str


def describe(options: BackboneOptions, size: int = 224) -> list[Row]:
    """A backbone block by block, as it would be with trained weights; nothing is downloaded or computed.

    Args:
        options: the backbone's.
        size: height and width of the image, in pixels.

    Raises:
        BuildError: for what cannot be built, or does not take images of this size.
    """
    return summarise(options, size).rows


def summarise(options: BackboneOptions, size: int = 224) -> Description:
    """The same with totals and normalisation."""
    # On the meta device tensors have shapes and no values.
    with torch.device("meta"):
        backbone = construct(options)
        if options.weights != "none":
            backbone.freeze(options.freeze)
            if options.norm == "frozen":
                backbone.freeze_norms()
        pixels = torch.zeros(1, options.in_channels, size, size)
    rows = _resnet_rows(backbone, pixels) if isinstance(backbone, ResNet) else _feature_rows(backbone, pixels)
    parameters = list(backbone.parameters())
    return Description(
        rows=rows,
        parameters=sum(each.numel() for each in parameters),
        frozen_parameters=sum(each.numel() for each in parameters if not each.requires_grad),
        mean=backbone.normalisation["mean"],
        std=backbone.normalisation["std"],
        interpolation=backbone.interpolation,
    )


def _resnet_rows(backbone: ResNet, pixels: Tensor) -> list[Row]:
    shown = {name: module for name, module in backbone.named_modules() if isinstance(module, Block | nn.MaxPool2d)}
    shapes: dict[str, tuple[int, int, int]] = {}
    for name, module in shown.items():
        module.register_forward_hook(lambda _, __, output, name=name: shapes.update({name: _shape(output)}))
    features = _run(backbone, pixels)

    stages = dict(zip(backbone.feature_modules(), features, strict=True))
    last = {name.partition(".")[0]: name for name in shown}
    field = _Field()
    stem = [backbone.conv1, backbone.bn1]
    rows = [
        replace(
            _row("conv1", "C1", _shape(features["C1"]), backbone.feature_specs["C1"].stride, stem),
            receptive_field=field.through([backbone.conv1]),
            layers=(_layer(backbone.conv1),),
        )
    ]
    for name, module in shown.items():
        stage = name.partition(".")[0]
        # The pool halves the stem's map, ahead of the first stage.
        entry = stages.get(stage, "C2")
        feature = entry if stage in stages and last[stage] == name else ""
        stride = backbone.feature_specs[entry].stride
        layers = _layers(module)
        row = _row(name, feature, shapes[name], stride, module.modules(), _shortcut(module))
        field_after = field.through(layers)
        rows.append(replace(row, receptive_field=field_after, layers=tuple(_layer(layer) for layer in layers)))
    return rows


class _Field:
    """The receptive field, layer by layer: a k x k layer adds k - 1 steps of the spacing so far."""

    def __init__(self) -> None:
        self.size, self.spacing = 1, 1

    def through(self, layers: Iterable[nn.Conv2d | nn.MaxPool2d]) -> int:
        for layer in layers:
            self.size += (_first(layer.kernel_size) - 1) * _first(layer.dilation) * self.spacing
            self.spacing *= _first(layer.stride)
        return self.size


def _layers(module: nn.Module) -> list[nn.Conv2d | nn.MaxPool2d]:
    """What a block's input goes through on the longest path; the shortcut sees no further."""
    if isinstance(module, nn.MaxPool2d):
        return [module]
    return [child for child in module.children() if isinstance(child, nn.Conv2d)]


def _layer(layer: nn.Conv2d | nn.MaxPool2d) -> str:
    size, stride, dilation = (_first(each) for each in (layer.kernel_size, layer.stride, layer.dilation))
    text = f"{size}x{size} max pool" if isinstance(layer, nn.MaxPool2d) else f"{size}x{size}, {layer.out_channels}"
    return text + (f", /{stride}" if stride > 1 else "") + (f", dilated {dilation}" if dilation > 1 else "")


def _first(size: int | tuple[int, ...]) -> int:
    """The height; kernels, strides and dilations of our networks are square."""
    return size if isinstance(size, int) else size[0]


def _shortcut(module: nn.Module) -> str:
    if not isinstance(module, Block):
        return "-"
    if not module.residual:
        return "none"
    if module.downsample is None:
        return "identity"
    if isinstance(module.downsample, ZeroPadding):
        return "zero padding (dashed)"
    conv = module.downsample.get_submodule("0")
    assert isinstance(conv, nn.Conv2d)
    changes = conv.in_channels != conv.out_channels or _first(conv.stride) > 1
    return "projection (dashed)" if changes else "projection"


def _feature_rows(backbone: Backbone, pixels: Tensor) -> list[Row]:
    features = _run(backbone, pixels)
    specs = backbone.feature_specs
    try:
        names, parts = backbone.feature_modules(), backbone.stages()
    except BuildError:
        # Its entries cannot be told apart, so it is frozen whole or not at all.
        rows = [
            _row(name, name, _shape(map_), specs[name].stride, backbone.modules()) for name, map_ in features.items()
        ]
        return [replace(row, parameters=None) for row in rows]
    return [
        _row(name, feature, _shape(map_), specs[feature].stride, modules)
        for name, (feature, map_), modules in zip(names, features.items(), parts, strict=False)
    ]


def _run(backbone: Backbone, pixels: Tensor) -> dict[str, Tensor]:
    """The features, in eval so that a norm needs no second image."""
    backbone.eval()
    try:
        with torch.no_grad():
            features: dict[str, Tensor] = backbone(pixels)
    except RuntimeError as error:
        height, width = pixels.shape[-2:]
        raise BuildError(f"{backbone.title()} does not take images of {height}x{width}: {error}") from error
    return features


def _row(
    name: str,
    feature: str,
    shape: tuple[int, int, int],
    stride: int,
    modules: Iterable[nn.Module],
    shortcut: str = "-",
) -> Row:
    parameters = {parameter for module in modules for parameter in module.parameters(recurse=False)}
    return Row(
        # The adapter's own name in front of a timm module tells nobody anything.
        name=name.removeprefix("net."),
        feature=feature,
        shape=shape,
        stride=stride,
        parameters=sum(parameter.numel() for parameter in parameters),
        frozen=bool(parameters) and not any(parameter.requires_grad for parameter in parameters),
        shortcut=shortcut,
    )


def _shape(map_: Tensor) -> tuple[int, int, int]:
    channels, height, width = map_.shape[1:]
    return channels, height, width

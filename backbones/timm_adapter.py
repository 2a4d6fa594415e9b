"""Any timm model as a backbone. What timm knows of a model is read from it, never guessed."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import timm
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from timm.models import FeatureHookNet, model_entrypoint
from timm.models.hrnet import HighResolutionNetFeatures
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from rehead.backbones.base import Backbone, name_features
from rehead.backbones.pretraining import check_architecture, check_tag, from_timm, resolve
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError
from rehead.types import FeatureSpec


class TimmBackbone(Backbone):
    """A timm model made with `features_only=True`.

    Args:
        net: the model; it returns a list of maps and has timm's `feature_info` and `pretrained_cfg`.
        options: what was asked for.
        architecture: timm's name of it.
        tag: of its weights, None for timm's default.
        arguments: those given to `timm.create_model` that shape its tensors.
        input_size: (height, width) where the network takes no other, else None.
    """

    def __init__(
        self,
        net: nn.Module,
        options: BackboneOptions,
        architecture: str,
        tag: str | None,
        arguments: dict[str, Any],
        input_size: tuple[int, int] | None,
    ) -> None:
        cfg: Any = net.pretrained_cfg
        info: Any = net.feature_info
        strides: list[int] = info.reduction()
        specs = {
            name: FeatureSpec(channels, stride)
            for name, channels, stride in zip(name_features(strides), info.channels(), strides, strict=True)
        }
        pretraining = from_timm(cfg, architecture)
        super().__init__(
            specs,
            options.mean or pretraining.mean,
            options.std or pretraining.std,
            pretraining.interpolation,
            pretraining,
        )
        self.net = net
        # HRNet works on all of its resolutions to the end.
        self.parallel = isinstance(net, HighResolutionNetFeatures)
        self.timm_modules: list[str] = info.module_name()
        first = cfg.get("first_conv") or ()
        self.first_convs: list[str] = [first] if isinstance(first, str) else list(first)
        self.architecture = architecture
        self.tag = tag
        self.arguments = arguments
        self.input_size = input_size
        # Swin and its like keep channels last; timm says so rather than turn them round.
        self.channels_last = str(getattr(getattr(net, "output_fmt", None), "value", "NCHW")) == "NHWC"

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) float32, normalised -> one (B, channels, H / stride, W / stride) map per entry.

        Raises:
            BuildError: when the network does not take images of this size.
        """
        size = tuple(pixels.shape[-2:])
        if self.input_size is not None and size != self.input_size:
            height, width = self.input_size
            raise BuildError(
                f"timm's {self.architecture} takes images of {height}x{width} only, found {size[0]}x{size[1]}; "
                f"set data.resize to {{height: {height}, width: {width}}}, or choose another backbone"
            )
        try:
            maps = self.net(pixels)
        except AssertionError as error:
            raise BuildError(
                f"timm's {self.architecture} does not take images of {size[0]}x{size[1]}"
                f"{f': {error}' if str(error) else ''}; change data.resize, or choose another backbone"
            ) from error
        if self.channels_last:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        return dict(zip(self.feature_specs, maps, strict=True))

    def feature_modules(self) -> list[str]:
        """timm's feature modules, by their names inside the wrapper that timm puts around a model.

        Raises:
            BuildError: when timm names a module that the wrapper does not have.
        """
        by_file_name = {alias: name for name, _ in self.named_modules() for alias in self.checkpoint_keys(name)[::-1]}
        ends = []
        for module in self.timm_modules:
            if module not in by_file_name:
                raise BuildError(
                    f"timm's {self.architecture} does not say which module ends each feature "
                    f"(it names '{module}', which is not there): it cannot be frozen in part; use freeze=0 or all"
                )
            ends.append(by_file_name[module])
        return ends

    def checkpoint_keys(self, key: str) -> list[str]:
        """Our name, the wrapper's and the model's own: timm's wrappers rename `layers.0` to `layers_0`."""
        name = key.removeprefix("net.")
        names = [key, name]
        names += [name.removeprefix(wrapper) for wrapper in ("model.", "body.") if name.startswith(wrapper)]
        top, dot, rest = name.partition(".")
        names += [f"{top[:i]}.{top[i + 1 :]}{dot}{rest}" for i, letter in enumerate(top) if letter == "_"]
        return names

    def input_convs(self) -> list[str]:
        """What timm's pretrained configuration calls `first_conv`, one or several."""
        wanted = {f"{name}.weight" for name in self.first_convs}
        return [key for key in self.state_dict() if wanted.intersection(self.checkpoint_keys(key))]

    def converted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """What timm makes of a file in an older or original layout: it has a converter for many models."""
        versions = []
        for seed in (0, 1):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                try:
                    model = timm.create_model(
                        self.architecture,
                        pretrained=True,
                        pretrained_cfg=self.tag,
                        pretrained_cfg_overlay={"state_dict": dict(tensors)},
                        **self.arguments,
                    )
                except (RuntimeError, LookupError, ValueError, AttributeError, TypeError, AssertionError):
                    # Not a layout that timm knows: each converter fails on a strange file in its own way.
                    return None
            versions.append(model.state_dict())
        # Some families are loaded without strictness: what differs between two seeds came from no file.
        if not all(torch.equal(tensor, versions[1][name]) for name, tensor in versions[0].items()):
            return None
        return versions[0]

    def _convert_to_sync(self) -> None:
        hooked = isinstance(self.net, FeatureHookNet)
        if hooked and any(isinstance(self.get_submodule(end), AnyBatchNorm) for end in self.feature_modules()):
            raise BuildError(
                f"norm: sync cannot replace the norms that timm's {self.architecture} hooks; use norm=train"
            )
        convert_sync_batchnorm(self.net)


def timm_backbone(options: BackboneOptions) -> TimmBackbone:
    """The timm model that the options name, with random weights.

    Raises:
        BuildError: for an unknown name, and for what the model cannot do (features, dilation, channels).
        WeightsError: for an unknown tag.
    """
    choice = resolve(options)
    check_architecture(options.name, choice.architecture)
    check_tag(choice.architecture, choice.tag)
    title = f"timm's {choice.architecture}"
    ours = {
        "norm": options.norm == "group",
        "width": options.width is not None,
        "dilate_first": options.dilate_first,
        "residual": not options.residual,
        "shortcut": options.shortcut != "B",
        "zero_init_residual": not options.zero_init_residual,
    }
    for name, given in ours.items():
        if given:
            raise BuildError(f"{name}: {getattr(options, name)} is only for rehead's own ResNets, not for {title}")
    arguments: dict[str, Any] = {}
    dilation: dict[str, Any] = {}
    if options.in_channels != 3:
        arguments["in_chans"] = options.in_channels
    if _takes(choice.architecture, "dynamic_img_size"):
        # Position embeddings resampled to any image size, as detection and segmentation need.
        arguments["dynamic_img_size"] = True
    if options.output_stride != 32:
        dilation["output_stride"] = options.output_stride
    try:
        net: Any = timm.create_model(
            choice.architecture,
            pretrained=False,
            pretrained_cfg=choice.tag,
            features_only=True,
            **arguments,
            **dilation,
        )
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, AttributeError) as error:
        asked = [f"in_channels={options.in_channels}"] if options.in_channels != 3 else []
        asked += [f"output_stride={options.output_stride}"] if dilation else []
        what = f"with {' and '.join(asked)}" if asked else "as a backbone (timm's features_only)"
        advice = f"leave out {' and '.join(each.partition('=')[0] for each in asked)}, or " if asked else ""
        reason = str(error) or type(error).__name__
        raise BuildError(f"timm cannot build {choice.architecture} {what}: {reason}; {advice}choose another") from error
    strides = net.feature_info.reduction()
    if max(strides) > options.output_stride and dilation:
        raise BuildError(
            f"output_stride: {title} stays at stride {max(strides)} and cannot go to {options.output_stride}; "
            "leave output_stride out, or choose another backbone"
        )
    fixed = net.pretrained_cfg.get("fixed_input_size") and "dynamic_img_size" not in arguments
    height, width = net.pretrained_cfg["input_size"][-2:]
    size = (height, width) if fixed else None
    backbone = TimmBackbone(net, options, choice.architecture, choice.tag, arguments, size)
    # timm names the first convolution of all networks but those made for colours (CSATv2 turns RGB into YCbCr):
    # they take the argument, and fail on the first image.
    if options.in_channels != 3 and not backbone.input_convs():
        raise BuildError(
            f"in_channels: {title} has no convolution that sees the image, so it cannot go from 3 channels "
            f"to {options.in_channels}; leave in_channels out, or choose another backbone"
        )
    return backbone


def _takes(architecture: str, argument: str) -> bool:
    """Whether the models in an architecture's file of timm, or what they inherit from, have an argument."""
    module = sys.modules[model_entrypoint(architecture).__module__]
    classes = [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__]
    bases = {base for each in classes if issubclass(each, nn.Module) for base in each.__mro__}
    return any(argument in inspect.signature(base).parameters for base in bases if base is not object)

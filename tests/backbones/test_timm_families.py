"""The families of timm: what a published file gives, and what each family can and cannot do."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from helpers import undrawn
from safetensors.torch import save_file
from torch import Tensor, nn

from rehead.backbones import build_backbone
from rehead.backbones.base import Backbone
from rehead.backbones.build import construct
from rehead.backbones.weights import load
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError

# The smallest member of each family, and of each form that a family has.
FAMILIES = {
    "resnet18": [2, 4, 8, 16, 32],
    "resnet18d": [2, 4, 8, 16, 32],
    "resnext50_32x4d": [2, 4, 8, 16, 32],
    "wide_resnet50_2": [2, 4, 8, 16, 32],
    "seresnet18": [2, 4, 8, 16, 32],
    "resnest14d": [2, 4, 8, 16, 32],
    "res2net50_14w_8s": [2, 4, 8, 16, 32],
    "resnetv2_18": [2, 4, 8, 16, 32],
    "resnetv2_50x1_bit": [2, 4, 8, 16, 32],
    "regnetx_002": [2, 4, 8, 16, 32],
    "regnety_002": [2, 4, 8, 16, 32],
    "convnext_atto": [4, 8, 16, 32],
    "efficientnet_b0": [2, 4, 8, 16, 32],
    "hrnet_w18_small": [2, 4, 8, 16, 32],
    "swin_tiny_patch4_window7_224": [4, 8, 16, 32],
    "vit_tiny_patch16_224": [16, 16, 16],
}
ATTENTION = ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]
# HRNet works on all of its resolutions to the end, where its features end together; those with attention never dilate.
FREEZING = [name for name in FAMILIES if name != "hrnet_w18_small"]
DILATING = [name for name in FAMILIES if name not in (*ATTENTION, "hrnet_w18_small")]


def options(name: str, **given: Any) -> BackboneOptions:
    channels = given.get("in_channels", 3)
    if channels != 3:
        given.update(mean=[0.5] * channels, std=[0.25] * channels)
    return BackboneOptions(name=f"timm/{name}", **{"weights": "none", **given})


def sketch(name: str, **given: Any) -> Backbone:
    """On the meta device, where tensors have shapes and no values."""
    with torch.device("meta"):
        return construct(options(name, **given)).eval()


@functools.cache
def classifier(name: str) -> nn.Module:
    """What published files hold, on the meta device: all of the model, its classifier too."""
    with torch.device("meta"):
        return timm.create_model(name)


def randomise(state: dict[str, Tensor]) -> None:
    """Gives every tensor, BatchNorm statistics too, values of its own that keep deep networks alive."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))


def channels_first(maps: list[Tensor], channels: list[int]) -> list[Tensor]:
    return [
        each if each.shape[1] == count else each.permute(0, 3, 1, 2) for each, count in zip(maps, channels, strict=True)
    ]


@dataclass
class Loaded:
    """The same file in a backbone of ours and in timm's own features."""

    name: str
    file: str
    ours: Backbone
    theirs: nn.Module


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    name = request.param
    path = tmp_path_factory.mktemp(name) / "model.safetensors"
    state = {key: torch.empty_like(each, device="cpu") for key, each in classifier(name).state_dict().items()}
    randomise(state)
    save_file(state, path)
    overlay = {"file": str(path), "num_classes": 1000}
    with undrawn():
        ours = build_backbone(options(name, weights=str(path))).eval()
        theirs = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    # Up to hundreds of megabytes, which pytest would keep for days.
    path.unlink()
    return Loaded(name, str(path), ours, theirs)


@pytest.mark.numeric
def test_features_of_a_published_file_equal_timms(loaded: Loaded) -> None:
    ours, theirs = loaded.ours, loaded.theirs
    assert ours.report is not None
    assert ours.report.complete
    assert ours.report.source == loaded.file
    fixed = theirs.pretrained_cfg.get("fixed_input_size")
    pixels = images(*(theirs.pretrained_cfg["input_size"][1:] if fixed else (64, 96)))
    with torch.no_grad():
        found = list(ours(pixels).values())
        wanted = channels_first(theirs(pixels), theirs.feature_info.channels())
    assert len(found) == len(wanted) == len(FAMILIES[loaded.name])
    for mine, reference in zip(found, wanted, strict=True):
        assert torch.equal(mine, reference)
        assert mine.isfinite().all()
        # Both images say something of their own at every depth.
        assert (mine[0] - mine[1]).std() > 0.01 * mine.std() > 0


@pytest.mark.numeric
@pytest.mark.parametrize("loaded", ATTENTION, indirect=True)
def test_attention_takes_other_sizes_as_timm_does(loaded: Loaded) -> None:
    ours = loaded.ours
    theirs = timm.create_model(loaded.name, features_only=True, dynamic_img_size=True).eval()
    theirs.load_state_dict(loaded.theirs.state_dict())
    pixels = images(64, 96)
    with torch.no_grad():
        found = list(ours(pixels).values())
        wanted = channels_first(theirs(pixels), theirs.feature_info.channels())
    for mine, reference in zip(found, wanted, strict=True):
        assert torch.equal(mine, reference)


def test_statistics_are_those_of_the_weights(loaded: Loaded) -> None:
    cfg = timm.get_pretrained_cfg(loaded.name)
    assert tuple(loaded.ours.mean.tolist()) == pytest.approx(cfg.mean)
    assert tuple(loaded.ours.std.tolist()) == pytest.approx(cfg.std)
    assert loaded.ours.interpolation == cfg.interpolation


@pytest.mark.numeric
def test_every_parameter_gets_a_gradient(loaded: Loaded) -> None:
    loaded.ours.zero_grad()
    sum(each.square().mean() for each in loaded.ours(images(64, 96)).values()).backward()
    for name, parameter in loaded.ours.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", FAMILIES)
def test_strides_are_measured_ones(name: str) -> None:
    assert_maps_follow_specs(sketch(name), FAMILIES[name])


def assert_maps_follow_specs(backbone: Backbone, strides: list[int]) -> None:
    """The specs say these strides and timm's channels, and the maps have both."""
    specs = backbone.feature_specs
    info = backbone.net.feature_info
    assert [spec.stride for spec in specs.values()] == info.reduction() == strides
    assert [spec.channels for spec in specs.values()] == info.channels()
    features = backbone(torch.zeros(1, backbone.options.in_channels, 96, 128, device="meta"))
    assert list(features) == list(specs)
    for key, spec in specs.items():
        assert features[key].shape == (1, spec.channels, 96 // spec.stride, 128 // spec.stride)


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("name", DILATING)
def test_dilated_strides_are_measured_ones(name: str, stride: int) -> None:
    plain, backbone = sketch(name), sketch(name, output_stride=stride)
    assert_maps_follow_specs(backbone, [min(stride, usual) for usual in FAMILIES[name]])
    if stride == 8:  # At 16 a last stage of one block has nothing to dilate: its first still sees the stage before.
        assert any(max(each.dilation) > 1 for each in backbone.modules() if isinstance(each, nn.Conv2d))
    # The same file fills both.
    shapes = [{key: each.shape for key, each in net.state_dict().items()} for net in (plain, backbone)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - DILATING))
def test_no_dilation_is_said_at_construction(name: str, stride: int) -> None:
    with pytest.raises(BuildError, match=f"{name} with output_stride={stride}: .*leave out output_stride"):
        sketch(name, output_stride=stride)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", FAMILIES)
def test_other_channels_with_the_weights_of_rgb(name: str, channels: int) -> None:
    backbone = sketch(name, in_channels=channels)
    assert_maps_follow_specs(backbone, FAMILIES[name])
    assert [backbone.state_dict()[key].shape[1] for key in backbone.input_convs()] == [channels]
    assert load(backbone, classifier(name).state_dict(), "the RGB model").complete


@pytest.mark.filterwarnings("ignore:CSATv2 is designed")
def test_a_network_of_colours_says_at_construction_that_it_takes_no_others() -> None:
    with pytest.raises(BuildError, match=r"csatv2 .*cannot go from 3 channels to 4; leave in_channels out"):
        sketch("csatv2", in_channels=4)


@pytest.mark.parametrize("name", FREEZING)
def test_freezing_entries_freezes_what_they_depend_on(name: str) -> None:
    backbone = sketch(name)
    parameters = dict(backbone.named_parameters())
    features = list(backbone(torch.zeros(1, 3, 96, 128, device="meta")).values())
    for entries in range(1, len(features) + 1):
        sums = [each.sum() for each in features[:entries]]
        gradients = torch.autograd.grad(sums, list(parameters.values()), allow_unused=True, retain_graph=True)
        used = {key for key, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
        backbone.freeze(entries)
        assert {key for key, parameter in parameters.items() if not parameter.requires_grad} == used
        backbone.freeze(0)

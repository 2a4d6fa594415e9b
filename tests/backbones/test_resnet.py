"""rehead's ResNet is torchvision's and timm's, feature by feature, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from helpers import assert_equal_but_rounding, assert_equal_numbers
from torch import Tensor, nn
from torchvision.models import resnet

from rehead.backbones import build_backbone
from rehead.backbones.base import Backbone
from rehead.backbones.norms import make_norm
from rehead.backbones.resnet import BasicBlock, Block, ResNet
from rehead.configs.schema import BackboneOptions

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def randomise(module: nn.Module) -> nn.Module:
    """Gives every tensor, BatchNorm statistics too, a value of its own, so that a misplaced one shows."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.05, generator=generator)
    return module


def ours(name: str, **options: object) -> Backbone:
    return build_backbone(BackboneOptions(name=name, weights="none", **options))


def pair(theirs: Callable[[], nn.Module], ours: Callable[[], Backbone]) -> tuple[nn.Module, Backbone]:
    """Two networks in eval that share one random state dict; initialising large ones would take seconds."""
    with torch.device("meta"):
        reference, backbone = theirs().eval(), ours().eval()
    randomise(reference.to_empty(device="cpu"))
    state = {key: value for key, value in reference.state_dict().items() if not key.startswith("fc.")}
    assert list(backbone.state_dict()) == list(state)
    backbone.load_state_dict(state, assign=True)
    return reference.double(), backbone.double()


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2)).double()


def torchvision_features(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    stem = model.relu(model.bn1(model.conv1(pixels)))
    features = [stem]
    x = model.maxpool(stem)
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        features.append(x)
    return features


def assert_same(features: dict[str, Tensor], expected: list[Tensor]) -> None:
    assert list(features) == ["C1", "C2", "C3", "C4", "C5"]
    for found, wanted in zip(features.values(), expected, strict=True):
        assert wanted.abs().max() > 0
        assert_equal_numbers(found, wanted)


@pytest.mark.numeric
@pytest.mark.parametrize("name", [*NAMES[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[3:])])
def test_equals_torchvision(name: str) -> None:
    theirs, backbone = pair(lambda: getattr(torchvision.models, name)(weights=None), lambda: ours(name))
    pixels = images()
    with torch.no_grad():
        assert_same(backbone(pixels), torchvision_features(theirs, pixels))


@pytest.mark.numeric
def test_equals_torchvision_in_float32_too() -> None:
    theirs, backbone = pair(lambda: resnet.resnet50(weights=None), lambda: ours("resnet50"))
    with torch.no_grad():
        exact = torchvision_features(theirs, images())
        wanted = torchvision_features(theirs.float(), images().float())
        found = backbone.float()(images().float())
    for one, other, third in zip(found.values(), wanted, exact, strict=True):
        assert_equal_but_rounding(one, other, third)


@pytest.mark.numeric
def test_trains_as_torchvision() -> None:
    theirs = randomise(resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 2])).double().train()
    backbone = ResNet(BasicBlock, (1, 1, 1, 2)).double().train()
    backbone.load_state_dict(theirs.state_dict(), strict=False)
    pixels = images()
    found, wanted = backbone(pixels), torchvision_features(theirs, pixels)
    assert_same(found, wanted)
    found["C5"].square().mean().backward()
    wanted[-1].square().mean().backward()
    for name, parameter in backbone.named_parameters():
        reference = theirs.get_parameter(name).grad
        assert reference.abs().max() > 0
        assert_equal_numbers(parameter.grad, reference)
    # The statistics that BatchNorm gathers on the way are the same too.
    assert_equal_numbers(backbone.layer4[1].bn2.running_var, theirs.layer4[1].bn2.running_var)


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_equals_timm(name: str) -> None:
    theirs, backbone = pair(lambda: timm.create_model(name, features_only=True), lambda: ours(name))
    pixels = images()
    with torch.no_grad():
        assert_same(backbone(pixels), theirs(pixels))
    assert [spec.stride for spec in backbone.feature_specs.values()] == theirs.feature_info.reduction()
    assert [spec.channels for spec in backbone.feature_specs.values()] == theirs.feature_info.channels()


@pytest.mark.numeric
@pytest.mark.parametrize(("stride", "replaced"), [(8, [False, True, True]), (16, [False, False, True])])
def test_dilates_as_torchvision(stride: int, replaced: list[bool]) -> None:
    theirs, backbone = pair(
        lambda: torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replaced),
        lambda: ours("resnet50", output_stride=stride),
    )
    pixels = images()
    with torch.no_grad():
        found = backbone(pixels)
        assert_same(found, torchvision_features(theirs, pixels))
    assert [spec.stride for spec in backbone.feature_specs.values()] == [2, 4, 8, min(16, stride), stride]
    assert found["C5"].shape[-1] == 64 // stride


@pytest.mark.numeric
@pytest.mark.parametrize("stride", [8, 16])
def test_basic_blocks_dilate_as_timm(stride: int) -> None:
    # torchvision has no dilated basic block; timm has.
    theirs, backbone = pair(
        lambda: timm.create_model("resnet18", features_only=True, output_stride=stride),
        lambda: ours("resnet18", output_stride=stride),
    )
    with torch.no_grad():
        assert_same(backbone(images()), theirs(images()))


@pytest.mark.parametrize("options", [{}, {"width": 8}, {"output_stride": 8}, {"norm": "group", "width": 24}])
def test_features_are_what_the_specs_say(options: dict[str, object]) -> None:
    with torch.device("meta"):
        for name in ("resnet18", "resnet50"):
            backbone = ours(name, **options)
            features = backbone(torch.zeros(2, 3, 96, 96))
            assert list(features) == list(backbone.feature_specs)
            for key, spec in backbone.feature_specs.items():
                assert features[key].shape == (2, spec.channels, 96 // spec.stride, 96 // spec.stride)


def test_width_scales_every_stage() -> None:
    backbone = ours("resnet50", width=16)
    assert [spec.channels for spec in backbone.feature_specs.values()] == [16, 64, 128, 256, 512]
    assert backbone.layer3[0].conv2.out_channels == 64


def test_takes_any_number_of_channels() -> None:
    backbone = ours("resnet18", width=8, in_channels=5, mean=[0.1] * 5, std=[0.2] * 5)
    assert backbone(torch.randn(1, 5, 64, 64))["C5"].shape == (1, 64, 2, 2)
    torch.testing.assert_close(backbone.std, torch.full((5,), 0.2))


def test_new_blocks_start_as_their_shortcuts() -> None:
    for name in ("resnet18", "resnet50"):
        block = ours(name, width=8).layer4[1]
        x = torch.rand(1, 64 * block.expansion, 8, 8)
        assert torch.equal(block(x), x)
        assert not torch.equal(ours(name, width=8, zero_init_residual=False).layer4[1](x), x)


def test_convolutions_start_with_he_initialisation() -> None:
    torch.manual_seed(0)
    weight = ours("resnet18").layer4[1].conv1.weight
    assert weight.mean().abs() < 1e-4
    assert abs(weight.std() / (2 / (512 * 9)) ** 0.5 - 1) < 0.01


def test_shortcuts_are_identities_except_where_the_size_changes() -> None:
    for name, projections in (("resnet18", 3), ("resnet50", 4)):
        blocks = [module for module in ours(name, width=8).modules() if isinstance(module, Block)]
        assert sum(block.downsample is not None for block in blocks) == projections


def test_group_norm_replaces_every_batch_norm() -> None:
    backbone = ours("resnet18", norm="group")
    norms = [module for module in backbone.modules() if isinstance(module, nn.GroupNorm | nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all(isinstance(norm, nn.GroupNorm) and norm.num_groups == 32 for norm in norms)
    wanted = [key for key in ours("resnet18").state_dict() if not key.endswith(("_mean", "_var", "_tracked"))]
    assert list(backbone.state_dict()) == wanted


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (96, 32), (32, 16), (24, 8), (8, 4), (7, 1)])
def test_groups_have_more_than_one_channel(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert norm.num_groups == groups


def test_a_block_keeps_torchvisions_attribute_names() -> None:
    names = [name for name, _ in BasicBlock(4, 8, 2, "batch").named_children()]
    assert names == ["conv1", "bn1", "conv2", "bn2", "downsample"]


@pytest.mark.parametrize("name", NAMES)
def test_normalisation_is_that_of_the_usual_weights(name: str) -> None:
    cfg = timm.models.get_pretrained_cfg(f"{name}.tv_in1k")
    backbone = ours(name, width=2)
    assert (backbone.pretraining.hub, backbone.interpolation) == (cfg.hf_hub_id, cfg.interpolation)
    torch.testing.assert_close(backbone.mean, torch.tensor(cfg.mean))
    torch.testing.assert_close(backbone.std, torch.tensor(cfg.std))
    assert not {"mean", "std"} & set(backbone.state_dict())

"""What is frozen stays as it is, costs no graph, and is never random."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers import assert_equal_but_rounding, assert_equal_numbers
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet

from rehead.backbones import build_backbone
from rehead.backbones.base import Backbone
from rehead.backbones.norms import conv_norm
from rehead.backbones.resnet import Bottleneck, ResNet
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError

# One small model for each way in which timm wraps a network to get at its features.
TIMM = ["timm/test_resnet", "test_convnext", "test_vit", "test_efficientnet"]


def trained(name: str = "resnet18", **options: object) -> Backbone:
    """A backbone whose weights count as trained ones, though they are random."""
    given = {"weights": "none", **({"width": 16} if name.startswith("resnet") else {}), **options}
    return build_backbone(BackboneOptions(name=name, **given), trained=True).train()


def pixels(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def randomise(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5 if name.endswith(("var", "weight")) else -0.5, 1.5, generator=generator)
    return module


@pytest.mark.parametrize("entries", [0, 1, 3, 5, "all"])
def test_the_first_entries_do_not_learn(entries: int | str) -> None:
    backbone = trained(freeze=entries)
    count = 5 if entries == "all" else entries
    prefixes = [("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)]
    frozen = tuple(prefix for entry in prefixes[:count] for prefix in entry)
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (not name.startswith(frozen)), name


@pytest.mark.parametrize("name", ["resnet18", *TIMM])
def test_frozen_entries_build_no_graph(name: str) -> None:
    backbone = trained(name)
    for entries in range(1, len(backbone.feature_specs) + 1):
        backbone.freeze(entries)
        features = list(backbone(pixels()).values())
        assert all(not feature.requires_grad and feature.grad_fn is None for feature in features[:entries])
        assert all(feature.requires_grad for feature in features[entries:])


@pytest.mark.parametrize("name", ["resnet18", *TIMM])
def test_unfrozen_entries_learn_through_train(name: str) -> None:
    backbone = trained(name, freeze=1)
    loss = sum(feature.square().mean() for feature in backbone(pixels()).values())
    loss.backward()
    learning = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    assert learning
    assert len(learning) < len(list(backbone.parameters()))
    assert any(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in learning)


def test_frozen_norms_keep_their_statistics_through_train() -> None:
    backbone = trained(freeze=2)
    nn.Sequential(backbone).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone(pixels())
    changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "layer2.0.bn1.running_mean" in changed
    assert not [name for name in changed if name.startswith(("bn1.", "layer1."))]


def test_stochastic_depth_rests_in_frozen_entries() -> None:
    backbone = trained("test_convnext", freeze="all")
    assert not any(module.training for module in backbone.net.modules())


def test_freezing_again_starts_over() -> None:
    backbone = trained(freeze=3)
    backbone.freeze(1)
    assert backbone.layer1[0].conv1.weight.requires_grad
    assert backbone.layer1[0].bn1.training
    backbone.freeze("all")
    backbone.freeze(0)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())


def test_more_entries_than_there_are() -> None:
    with pytest.raises(BuildError, match=r"freeze: 6 .*'resnet18' has: 5 entries \(C1, C2, C3, C4, C5\)"):
        trained(freeze=6)


def test_a_model_that_cannot_be_frozen_in_part_says_so() -> None:
    with torch.device("meta"):
        with pytest.raises(BuildError, match=r"hrnet_w18_small .*freeze=0 or all"):
            trained("hrnet_w18_small", freeze=2)
        backbone = trained("hrnet_w18_small", freeze="all")
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("options", [{"freeze": 2}, {"freeze": "all"}, {"norm": "frozen"}])
def test_random_weights_are_never_frozen(options: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rehead"):
        backbone = build_backbone(BackboneOptions(name="resnet18", weights="none", width=8, **options)).train()
    assert "'resnet18' has random weights, so nothing of it is frozen" in caplog.text
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())


def test_a_checkpoint_loaded_afterwards_counts_as_trained() -> None:
    options = BackboneOptions(name="resnet18", weights="imagenet", width=8, freeze=1)
    backbone = build_backbone(options, load_weights=False)
    assert backbone.report is None
    assert not backbone.conv1.weight.requires_grad


@pytest.mark.numeric
@pytest.mark.parametrize("freeze", [0, 2])
def test_frozen_norms_equal_the_unfolded_form(freeze: int) -> None:
    # In float64, where nothing but a mistake makes a difference.
    reference = randomise(resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 2])).eval().double()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    backbone = ResNet(Bottleneck, (1, 1, 1, 2)).train().double()
    backbone.load_state_dict(reference.state_dict(), strict=False)
    backbone.freeze(freeze)
    backbone.freeze_norms()
    images = pixels(32).double()

    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
    wanted = reference.layer4(reference.layer3(reference.layer2(reference.layer1(x))))
    found = backbone(images)["C5"]
    assert_equal_numbers(found, wanted)
    wanted.square().mean().backward()
    found.square().mean().backward()
    compared = 0
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            gradient = reference.get_parameter(name).grad
            assert gradient.abs().max() > 0
            assert_equal_numbers(parameter.grad, gradient)
            compared += 1
    assert compared == {0: 20, 2: 15}[freeze]


@pytest.mark.numeric
def test_folding_costs_no_precision_that_matters() -> None:
    reference = randomise(trained(freeze=0)).eval()
    backbone = trained(norm="frozen")
    backbone.load_state_dict(reference.state_dict())
    folded, plain = backbone(pixels()).values(), reference(pixels()).values()
    exact = reference.double()(pixels().double()).values()
    for found, wanted, third in zip(folded, plain, exact, strict=True):
        assert not torch.equal(found, wanted)
        assert_equal_but_rounding(found, wanted, third)


def test_frozen_norms_are_folded_and_stay_batch_norms() -> None:
    plain = trained()
    backbone = trained(norm="frozen")
    assert list(backbone.state_dict()) == list(plain.state_dict())
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert not any(norm.training or norm.weight.requires_grad or norm.bias.requires_grad for norm in norms)
    called: list[nn.Module] = []
    for norm in norms:
        norm.register_forward_hook(lambda module, *_: called.append(module))
    backbone(pixels())
    assert not called


def test_a_norm_that_may_still_learn_is_not_folded() -> None:
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval()
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(conv_norm(x, conv, norm), norm(conv(x)))
    conv_norm(x, conv, norm).sum().backward()
    assert norm.weight.grad is not None


@pytest.mark.parametrize("name", ["timm/test_resnet", "test_efficientnet"])
def test_frozen_norms_of_a_timm_model(name: str) -> None:
    backbone = trained(name, norm="frozen")
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    before = [norm.running_mean.clone() for norm in norms]
    sum(feature.sum() for feature in backbone(pixels()).values()).backward()
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert any(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["resnet18", "timm/test_resnet", "test_efficientnet"])
def test_sync_keeps_keys_and_outputs(name: str) -> None:
    plain, backbone = trained(name), trained(name, norm="sync")
    assert list(backbone.state_dict()) == list(plain.state_dict())
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    randomise(plain)
    backbone.load_state_dict(plain.state_dict())
    images = pixels().double()
    plain.double().eval()
    backbone.double().eval()
    for found, wanted in zip(backbone(images).values(), plain(images).values(), strict=True):
        assert_equal_numbers(found, wanted)


@pytest.mark.parametrize(
    ("name", "norm", "message"),
    [
        ("timm/test_resnet", "group", "norm: group is only for rehead's own ResNets, not for timm's test_resnet"),
        ("test_convnext", "frozen", "norm: frozen is about batch normalisation, but backbone 'test_convnext'"),
        ("test_vit", "sync", "norm: sync is about batch normalisation, but backbone 'test_vit' has none"),
    ],
)
def test_norm_policies_that_a_model_cannot_follow(name: str, norm: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build_backbone(BackboneOptions(name=name, weights="none", norm=norm))

"""The paper's own variants: plain networks, shortcuts A, B and C, three stages for images of 32 pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_equal_numbers
from torch import Tensor, nn

from rehead.backbones import build_backbone
from rehead.backbones.resnet import Block, ResNet, ZeroPadding
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError, WeightsError

SMALL = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]


def build(name: str, **options: Any) -> ResNet:
    backbone = build_backbone(BackboneOptions(name=name, **{"weights": "none", **options}))
    assert isinstance(backbone, ResNet)
    return backbone


def blocks(backbone: ResNet) -> list[Block]:
    return [module for module in backbone.modules() if isinstance(module, Block)]


@pytest.mark.parametrize(("name", "millions"), [*zip(SMALL, (0.27, 0.46, 0.66, 0.85, 1.7), strict=True)])
def test_parameters_are_those_of_table_6(name: str, millions: float) -> None:
    with torch.device("meta"):
        backbone = build(name, shortcut="A")
    classifier = 64 * 10 + 10
    count = sum(parameter.numel() for parameter in backbone.parameters()) + classifier
    assert round(count / 1e6, 2 if millions < 1 else 1) == millions


@pytest.mark.parametrize("name", SMALL)
def test_depth_is_what_the_name_says(name: str) -> None:
    with torch.device("meta"):
        convs = [module for module in build(name, residual=False).modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) + 1 == int(name.removeprefix("resnet"))


def test_three_stages_at_strides_1_2_4() -> None:
    backbone = build("resnet20")
    features = backbone(torch.zeros(2, 3, 32, 32))
    assert {name: tuple(map_.shape[1:]) for name, map_ in features.items()} == {
        "C1": (16, 32, 32),
        "C2": (16, 32, 32),
        "C3": (32, 16, 16),
        "C4": (64, 8, 8),
    }
    assert [spec.stride for spec in backbone.feature_specs.values()] == [1, 1, 2, 4]
    assert [spec.channels for spec in build("resnet20", width=8).feature_specs.values()] == [8, 8, 16, 32]


def reference(name: str, state: dict[str, Tensor], pixels: Tensor, shortcut: str | None) -> Tensor:
    """The last feature of a three-stage network, written out with functions; norms in eval."""

    def norm(x: Tensor, key: str) -> Tensor:
        mean, var, weight, bias = (state[f"{key}.{it}"] for it in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    x = F.relu(norm(F.conv2d(pixels, state["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for index in range((int(name.removeprefix("resnet")) - 2) // 6):
            key = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            y = F.relu(norm(F.conv2d(x, state[f"{key}.conv1.weight"], stride=stride, padding=1), f"{key}.bn1"))
            y = norm(F.conv2d(y, state[f"{key}.conv2.weight"], padding=1), f"{key}.bn2")
            if shortcut == "A" and stride == 2:
                y = y + torch.cat([x[:, :, ::2, ::2], torch.zeros_like(x[:, :, ::2, ::2])], dim=1)
            elif f"{key}.downsample.0.weight" in state:
                y = y + norm(F.conv2d(x, state[f"{key}.downsample.0.weight"], stride=stride), f"{key}.downsample.1")
            elif shortcut is not None:
                y = y + x
            x = F.relu(y)
    return x


@pytest.mark.numeric
@pytest.mark.parametrize("shortcut", ["A", "B", "C", None])
def test_equals_the_arithmetic_of_the_paper(shortcut: str | None) -> None:
    options: dict[str, Any] = {"residual": False} if shortcut is None else {"shortcut": shortcut}
    backbone = build("resnet20", **options, zero_init_residual=False).eval().double()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in backbone.state_dict().items():
        if key.endswith("running_var") or ("bn" in key and key.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif key.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
    pixels = torch.randn(2, 3, 32, 32, generator=generator).double()
    with torch.no_grad():
        found, wanted = backbone(pixels)["C4"], reference("resnet20", backbone.state_dict(), pixels, shortcut)
    assert wanted.std() > 0.1
    assert_equal_numbers(found, wanted)


@pytest.mark.parametrize(
    ("name", "shortcut", "identities", "paddings", "projections"),
    [
        ("resnet20", "A", 7, 2, 0),
        ("resnet20", "B", 7, 0, 2),
        ("resnet20", "C", 0, 0, 9),
        # A bottleneck's first stage changes channels too.
        ("resnet50", "A", 12, 4, 0),
        ("resnet50", "B", 12, 0, 4),
        ("resnet50", "C", 0, 0, 16),
    ],
)
def test_shortcuts(name: str, shortcut: str, identities: int, paddings: int, projections: int) -> None:
    with torch.device("meta"):
        backbone = build(name, shortcut=shortcut, width=8)
        backbone(torch.zeros(2, 3, 64, 64))
    found = [block.downsample for block in blocks(backbone)]
    assert sum(each is None for each in found) == identities
    assert sum(isinstance(each, ZeroPadding) for each in found) == paddings
    assert len(found) - identities - paddings == projections


def test_a_plain_network_is_the_residual_one_without_what_is_added() -> None:
    plain, residual = build("resnet34", residual=False, width=8), build("resnet34", shortcut="A", width=8)
    assert list(plain.state_dict()) == list(residual.state_dict())
    assert not any(block.residual for block in blocks(plain))
    assert all(block.residual for block in blocks(residual))
    block = blocks(plain)[1]
    x = torch.rand(2, 8, 4, 4)
    assert torch.equal(block(x), F.relu(block.branch(x)))


def test_a_plain_network_does_not_start_at_zero() -> None:
    # With its last norms at 0 nothing would come out of it, and no gradient back.
    for name in ("resnet18", "resnet50"):
        backbone = build(name, residual=False, width=8, zero_init_residual=True)
        assert all(block.last_norm().weight.min() == 1 for block in blocks(backbone))
        assert backbone(torch.randn(2, 3, 64, 64))["C5"].std() > 0


def test_zero_padding_keeps_its_input_and_adds_zeros_after_it() -> None:
    x = torch.randn(1, 3, 5, 5)
    y = ZeroPadding(3, 8, 2)(x)
    assert y.shape == (1, 8, 3, 3)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert not y[:, 3:].any()


@pytest.mark.parametrize("shortcut", ["A", "C"])
def test_dilated_networks_take_every_shortcut(shortcut: str) -> None:
    with torch.device("meta"):
        backbone = build("resnet18", shortcut=shortcut, output_stride=8)
        assert backbone(torch.zeros(2, 3, 64, 64))["C5"].shape == (2, 512, 8, 8)


def test_what_the_small_networks_cannot_do() -> None:
    with pytest.raises(BuildError, match="resnet20 ends at stride 4 by itself; leave output_stride out"):
        build("resnet20", output_stride=8)
    with pytest.raises(WeightsError, match=r"nothing is published for backbone 'resnet20': give .*FILE, or .*none"):
        build("resnet20", weights="imagenet")
    with pytest.raises(WeightsError, match="resnet20 has no weights 'tv_in1k'"):
        build("resnet20", weights="tv_in1k")


@pytest.mark.parametrize(
    ("options", "title"),
    [({"residual": False}, "residual: false"), ({"shortcut": "A"}, "shortcut: A"), ({"shortcut": "C"}, "shortcut: C")],
)
def test_published_weights_are_only_for_the_network_they_were_trained_in(options: dict[str, Any], title: str) -> None:
    with pytest.raises(WeightsError, match=rf"nothing is published for backbone 'resnet18' \({title}\)"):
        build("resnet18", weights="imagenet", **options)


def test_a_plain_network_has_no_shortcuts_to_choose() -> None:
    with pytest.raises(ValueError, match="shortcut: C has no meaning with residual: false"):
        BackboneOptions(name="resnet18", residual=False, shortcut="C")


def test_timms_models_come_as_they_are() -> None:
    for options, message in (({"residual": False}, "residual: False is only for"), ({"shortcut": "A"}, "shortcut: A")):
        with pytest.raises(BuildError, match=message):
            build("timm/resnet18", **options)

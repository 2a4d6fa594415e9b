"""`rehead backbones` tells what a network is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
import typer
from torch import nn
from typer.testing import CliRunner

from rehead.backbones import build_backbone
from rehead.backbones.base import Backbone
from rehead.backbones.describe import Row, describe, summarise
from rehead.cli.backbones import backbones
from rehead.configs.backbones import BACKBONES
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError, ConfigError

app = typer.Typer()
app.command()(backbones)


def run(*arguments: str, columns: int = 80) -> list[str]:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


def test_resnet34_block_by_block() -> None:
    rows = describe(BackboneOptions(name="resnet34", freeze=2))
    blocks = {1: 3, 2: 4, 3: 6, 4: 3}
    names = [f"layer{stage}.{index}" for stage, count in blocks.items() for index in range(count)]
    assert [row.name for row in rows] == ["conv1", "maxpool", *names]
    assert rows[0] == Row("conv1", "C1", (64, 112, 112), 2, 64 * 3 * 49 + 2 * 64, True, "-", 7, ("7x7, 64, /2",))
    assert rows[1] == Row("maxpool", "", (64, 56, 56), 4, 0, False, "-", 11, ("3x3 max pool, /2",))
    by_name = {row.name: row for row in rows}
    # Two 3x3 convolutions from 128 to 128 channels with two norms, and the input added back as it is.
    weights = 2 * 9 * 128**2 + 4 * 128
    layers = ("3x3, 128", "3x3, 128")
    assert by_name["layer2.3"] == Row("layer2.3", "C3", (128, 28, 28), 8, weights, False, "identity", 179, layers)
    assert {row.name for row in rows if row.shortcut == "projection (dashed)"} == {
        "layer2.0",
        "layer3.0",
        "layer4.0",
    }
    assert {row.name for row in rows if row.frozen} == {"conv1", "layer1.0", "layer1.1", "layer1.2"}


def measured_fields(backbone: Backbone, size: int) -> list[int]:
    """How many rows of an image of `size` rows the middle pixel of each feature depends on, by its gradient."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            # Nothing cancels, and no relu closes.
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    fields = []
    pixels = torch.ones(1, 3, size, 64, dtype=torch.float64, requires_grad=True)
    for map_ in backbone(pixels).values():
        middle = map_[0, :, map_.shape[2] // 2, map_.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, pixels, retain_graph=True)
        fields.append(int((gradient.abs().sum((0, 1, 3)) > 0).sum()))
    return fields


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet18", 512, {}),
        ("resnet18", 640, {"output_stride": 8}),
        ("resnet50", 512, {}),
        ("resnet20", 96, {}),
        ("resnet20", 96, {"residual": False}),
        ("resnet20", 96, {"shortcut": "C"}),
    ],
)
def test_the_receptive_field_is_what_the_gradient_reaches(name: str, size: int, options: dict[str, Any]) -> None:
    options = {"name": name, "weights": "none", "width": 2, "zero_init_residual": False, **options}
    rows = summarise(BackboneOptions(**options), size).rows
    backbone = build_backbone(BackboneOptions(**options)).double().eval()
    # A max pool passes the gradient to one pixel of its window; an average sees them all.
    backbone.maxpool = None if backbone.maxpool is None else nn.AvgPool2d(3, 2, 1)
    assert [row.receptive_field for row in rows if row.feature] == measured_fields(backbone, size)


def test_receptive_fields_of_the_usual_networks() -> None:
    for name, wanted in (("resnet18", 435), ("resnet34", 899)):
        assert describe(BackboneOptions(name=name), 64)[-1].receptive_field == wanted


@pytest.mark.parametrize(
    ("options", "first_of_a_stage", "others"),
    [
        ({"shortcut": "A"}, "zero padding (dashed)", "identity"),
        ({"shortcut": "B"}, "projection (dashed)", "identity"),
        ({"shortcut": "C"}, "projection (dashed)", "projection"),
        ({"residual": False}, "none", "none"),
    ],
)
def test_shortcuts_of_the_paper(options: dict[str, Any], first_of_a_stage: str, others: str) -> None:
    rows = {row.name: row.shortcut for row in describe(BackboneOptions(name="resnet20", **options), 32)}
    assert rows["layer2.0"] == rows["layer3.0"] == first_of_a_stage
    assert rows["layer1.0"] == rows["layer2.1"] == others
    assert rows["conv1"] == "-"


@pytest.mark.parametrize("name", ["resnet18", "resnet152"])
def test_the_parameters_add_up(name: str) -> None:
    summary = summarise(BackboneOptions(name=name), 64)
    model = getattr(torchvision.models, name)
    whole = sum(p.numel() for p in model(weights=None).parameters() if p.shape[0] != 1000)
    assert sum(row.parameters or 0 for row in summary.rows) == summary.parameters == whole


def test_dilated_stages_keep_their_stride() -> None:
    rows = describe(BackboneOptions(name="resnet50", output_stride=8), 65)
    assert [(row.feature, row.stride, row.shape[1]) for row in rows if row.feature] == [
        ("C1", 2, 33),
        ("C2", 4, 17),
        ("C3", 8, 9),
        ("C4", 8, 9),
        ("C5", 8, 9),
    ]


def test_a_timm_model_has_a_row_per_feature() -> None:
    summary = summarise(BackboneOptions(name="convnext_tiny", freeze=1), 64)
    assert [(row.feature, row.shape, row.frozen) for row in summary.rows] == [
        ("C2", (96, 16, 16), True),
        ("C3", (192, 8, 8), False),
        ("C4", (384, 4, 4), False),
        ("C5", (768, 2, 2), False),
    ]
    assert sum(row.parameters or 0 for row in summary.rows) == summary.parameters
    assert summary.frozen_parameters == summary.rows[0].parameters


def test_a_timm_model_whose_parts_are_unknown() -> None:
    rows = describe(BackboneOptions(name="hrnet_w18_small"), 64)
    assert [row.feature for row in rows] == ["C1", "C2", "C3", "C4", "C5"]
    assert all(row.parameters is None for row in rows)


def test_random_weights_are_not_shown_as_frozen() -> None:
    assert not any(row.frozen for row in describe(BackboneOptions(name="resnet18", weights="none", freeze="all"), 64))


def test_a_size_that_the_network_does_not_take() -> None:
    with pytest.raises(BuildError, match="vit_tiny_patch16_224 does not take images of 100x100"):
        describe(BackboneOptions(name="vit_tiny_patch16_224"), 100)


def test_the_command_lists_what_there_is() -> None:
    lines = run()
    for entry in BACKBONES:
        line = next(line for line in lines if line.startswith(entry.name))
        assert entry.about["blocks"] in line
        assert entry.about["paper"] in line
    assert "23.5 M  64 256 512 1024 2048" in next(line for line in lines if line.startswith("resnet50"))
    assert "rehead backbones 'convnext*'" in " ".join(lines)


def test_the_command_lists_timm_models_by_wildcard() -> None:
    lines = run("convnextv2_*", columns=120)
    assert any("convnextv2_atto" in line for line in lines)
    assert lines[-1].endswith("of timm's models match 'convnextv2_*'")
    with pytest.raises(BuildError, match=r"no timm model matches 'nothing\*'"):
        run("nothing*")


@pytest.mark.parametrize("name", ["resnet152", "resnet110"])
@pytest.mark.parametrize("options", [["--shortcut", "A"], ["--shortcut", "C"], ["--plain"]])
def test_nothing_of_the_table_is_cut_off_at_80_columns(name: str, options: list[str]) -> None:
    assert "…" not in "".join(run(name, *options, "--freeze", "2"))


@pytest.mark.parametrize("columns", [80, 120])
def test_the_command_shows_one_block_by_block(columns: int) -> None:
    lines = run("resnet34", "--size", "224", "--freeze", "2", columns=columns)
    assert lines[0] == "resnet34, image 224x224"
    text = " ".join(lines)
    assert "…" not in text
    row = next(line for line in lines if line.startswith("layer2.0")).split()
    assert row == ["layer2.0", "128x28x28", "8", "230,144", "no", "83", "projection", "-", "-"]
    row = next(line for line in lines if line.startswith("layer1.2")).split()
    assert row == ["layer1.2", "C2", "64x56x56", "4", "73,984", "yes", "59", "identity"]
    assert "identity: the block adds its input back as it is." in text
    assert "projection - -: through a 1x1 convolution, where channels or size change." in text
    assert "A plain network: no block adds its input back." in " ".join(run("resnet20", "--plain"))
    assert "21.3 M parameters, 0.2 M of them frozen" in text
    assert "mean 0.485 0.456 0.406 and std 0.229 0.224 0.225" in text


def test_the_command_takes_all_and_refuses_nonsense() -> None:
    assert "11.2 M parameters, 11.2 M of them frozen" in " ".join(run("resnet18", "--freeze", "all"))
    assert run("resnet20", "--plain", "--output-stride", "32")[0] == "plain resnet20, image 224x224"
    assert run("resnet20", "--plain", "--shortcut", "b")[0] == "plain resnet20, image 224x224"
    assert run("resnet50", "--shortcut", "c", "--output-stride", "8")[0].startswith(
        "resnet50 with shortcuts C, output stride 8, image"
    )
    with pytest.raises(ConfigError, match="--plain and --shortcut A: a plain network has no shortcuts"):
        run("resnet18", "--plain", "--shortcut", "A")
    with pytest.raises(ConfigError, match="--freeze: "):
        run("resnet18", "--freeze", "some")
    with pytest.raises(ConfigError, match="--output-stride: "):
        run("resnet18", "--output-stride", "5")


def test_the_help_ends_with_an_example() -> None:
    assert (
        (backbones.__doc__ or "")
        .strip()
        .endswith("Example: rehead backbones resnet34 --size 224 --picture resnet34.png")
    )

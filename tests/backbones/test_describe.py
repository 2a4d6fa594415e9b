"""`rehead backbones` tells what a network is made of."""

from __future__ import annotations

import pytest
import torchvision
import typer
from typer.testing import CliRunner

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
    assert rows[0] == Row("conv1", "C1", (64, 112, 112), 2, 64 * 3 * 49 + 2 * 64, True, "-")
    assert rows[1] == Row("maxpool", "", (64, 56, 56), 4, 0, False, "-")
    by_name = {row.name: row for row in rows}
    # Two 3x3 convolutions from 128 to 128 channels with two norms, and the input added back as it is.
    assert by_name["layer2.3"] == Row("layer2.3", "C3", (128, 28, 28), 8, 2 * 9 * 128**2 + 4 * 128, False, "identity")
    assert {row.name for row in rows if row.shortcut == "projection (dashed)"} == {
        "layer2.0",
        "layer3.0",
        "layer4.0",
    }
    assert {row.name for row in rows if row.frozen} == {"conv1", "layer1.0", "layer1.1", "layer1.2"}


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


@pytest.mark.parametrize("columns", [80, 120])
def test_the_command_shows_one_block_by_block(columns: int) -> None:
    lines = run("resnet34", "--size", "224", "--freeze", "2", columns=columns)
    assert lines[0] == "resnet34, image 224x224"
    text = " ".join(lines)
    assert "…" not in text
    row = next(line for line in lines if line.startswith("layer2.0")).split()
    assert row == ["layer2.0", "128x28x28", "8", "230,144", "no", "projection", "(dashed)"]
    row = next(line for line in lines if line.startswith("layer1.2")).split()
    assert row == ["layer1.2", "C2", "64x56x56", "4", "73,984", "yes", "identity"]
    assert "identity: the input as it is. projection (dashed): the input through a 1x1 convolution" in text
    assert "21.3 M parameters, 0.2 M of them frozen" in text
    assert "mean 0.485 0.456 0.406 and std 0.229 0.224 0.225" in text


def test_the_command_takes_all_and_refuses_nonsense() -> None:
    assert "11.2 M parameters, 11.2 M of them frozen" in " ".join(run("resnet18", "--freeze", "all"))
    with pytest.raises(ConfigError, match="--freeze: "):
        run("resnet18", "--freeze", "some")
    with pytest.raises(ConfigError, match="--output-stride: "):
        run("resnet18", "--output-stride", "5")


def test_the_help_ends_with_an_example() -> None:
    assert (backbones.__doc__ or "").strip().endswith("Example: rehead backbones resnet34 --size 224")

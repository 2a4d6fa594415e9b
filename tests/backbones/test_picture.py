"""The picture of a network answers at a glance where x is added back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import Circle
from PIL import Image

from rehead.backbones.describe import summarise
from rehead.backbones.picture import draw_network, network_figure
from rehead.configs.schema import BackboneOptions
from rehead.errors import OutputError


class Drawn:
    """What stands in a picture: its words, how many additions, and how many shortcuts of each kind of line."""

    def __init__(self, name: str, size: int = 224, **options: Any) -> None:
        axes = network_figure(summarise(BackboneOptions(name=name, **options), size), "title").axes[0]
        self.words = [text.get_text() for text in axes.texts]
        self.additions = sum(isinstance(patch, Circle) for patch in axes.patches)
        shortcuts = [patch for patch in axes.patches if patch.get_gid()]
        self.dashed = sum(line.get_linestyle() == "--" for line in shortcuts)
        self.solid = len(shortcuts) - self.dashed


@pytest.mark.parametrize(
    ("name", "options", "additions", "dashed"),
    [
        ("resnet34", {}, 16, 3),
        ("resnet34", {"shortcut": "A"}, 16, 3),
        ("resnet34", {"shortcut": "C"}, 16, 3),
        # A bottleneck gives out four times its width, so the first stage changes channels too.
        ("resnet50", {}, 16, 4),
        ("resnet34", {"residual": False}, 0, 0),
    ],
)
def test_every_addition_is_drawn_and_dashed_where_the_shape_changes(
    name: str, options: dict[str, Any], additions: int, dashed: int
) -> None:
    drawn = Drawn(name, **options)
    assert drawn.additions == drawn.solid + drawn.dashed == additions
    assert drawn.dashed == dashed


def test_it_says_where_x_is_added_back_for_an_image_of_this_size() -> None:
    wanted = "x is added back 16 times: 3 at 64x56x56, 4 at 128x28x28, 6 at 256x14x14, 3 at 512x7x7"
    assert any(words.replace("\n", " ").startswith(wanted) for words in Drawn("resnet34").words)
    smaller = Drawn("resnet20", 32).words
    assert any("9 times: 3 at 16x32x32, 3 at 32x16x16, 3 at 64x8x8" in words.replace("\n", " ") for words in smaller)
    assert "A plain network: x is added back nowhere." in Drawn("resnet18", residual=False).words


@pytest.mark.parametrize(
    ("shortcut", "on_the_line"), [("A", ["zeros, /2"]), ("B", ["1x1, 128, /2"]), ("C", ["1x1, 128, /2", "1x1, 128"])]
)
def test_it_says_what_the_shortcut_does(shortcut: str, on_the_line: list[str]) -> None:
    words = Drawn("resnet18", shortcut=shortcut).words
    assert set(on_the_line) <= set(words)
    assert "64x56x56 to 128x28x28" in words
    assert ("1x1, 64" in words) == (shortcut == "C")


def test_it_shows_layers_features_and_what_they_see() -> None:
    words = Drawn("resnet18", output_stride=16).words
    for wanted in (
        "7x7, 64, /2",
        "64x112x112",
        "3x3, 128, /2",
        "3x3, 512, dilated 2",
        "C1",
        "C5",
        "sees 435 px",
        "stride 16",
    ):
        assert wanted in words, wanted
    assert "stride 32" not in words


def test_long_stages_are_cut_short() -> None:
    drawn = Drawn("resnet152")
    assert {"4 more", "32 more"} <= set(drawn.words)
    assert drawn.additions == 3 + 4 + 4 + 3
    assert any("50 times" in words for words in drawn.words)


def test_a_timm_model_has_a_box_per_feature() -> None:
    drawn = Drawn("convnext_tiny")
    assert drawn.additions == 0
    assert {"96x56x56", "768x7x7", "C2", "C5", "stages_0", "stages_3"} <= set(drawn.words)
    assert {"model.blocks.9", "model.blocks.11"} <= set(Drawn("vit_tiny_patch16_224").words)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "PNG"])
def test_the_ending_says_which_kind_of_file(ending: str, tmp_path: Path) -> None:
    file = tmp_path / "new" / f"net.{ending}"
    draw_network(summarise(BackboneOptions(name="resnet18"), 64), "resnet18", file)
    if ending.lower() == "png":
        assert Image.open(file).width >= 960
    else:
        assert {"svg": b"<svg", "pdf": b"%PDF"}[ending] in file.read_bytes()[:1000]


def test_other_endings_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"net\.bmp: its name should end in \.png, \.svg, \.pdf"):
        draw_network(summarise(BackboneOptions(name="resnet18"), 64), "", tmp_path / "net.bmp")
    assert not list(tmp_path.iterdir())


def test_the_command_draws(tmp_path: Path, rehead_command: Callable[..., Any]) -> None:
    for options in ([], ["--plain"], ["--shortcut", "A"]):
        outcome = rehead_command("backbones", "resnet18", *options, "--picture", tmp_path / "net.png", "--overwrite")
        assert outcome.code == 0, outcome
        assert "net.png" in outcome.err
        assert Image.open(tmp_path / "net.png").height > 500
    assert rehead_command("backbones", "resnet18", "--picture", tmp_path / "net.gif").code == 2
    outcome = rehead_command("backbones", "--picture", tmp_path / "net.png")
    assert outcome.code == 2
    assert "give its NAME" in outcome.err
    outcome = rehead_command("backbones", "resnet18", "--shortcut", "D")
    assert outcome.code == 2
    assert "--shortcut: " in outcome.err

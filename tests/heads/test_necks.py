"""Necks: levels, arithmetic, and what does not fit. That `fpn` is torchvision's is proved with the detectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, assert_equal_numbers, assert_every_parameter_learns, batch_of_noise, targets_for, total
from torch import Tensor

from rehead.configs.detection_heads import FasterRCNNOptions, FCOSOptions, RetinaNetOptions
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError
from rehead.heads.necks import FPN, PAFPN, SimplePyramid, build_neck
from rehead.models.model import build_model
from rehead.types import FeatureSpec

VIT = {"C4": FeatureSpec(16, 16), "C5": FeatureSpec(16, 16)}


def maps(specs: dict[str, FeatureSpec], size: tuple[int, int] = (64, 96)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(1, spec.channels, -(-size[0] // spec.stride), -(-size[1] // spec.stride), generator=generator)
        for name, spec in specs.items()
    }


def specs_of(*strides: int) -> dict[str, FeatureSpec]:
    return {f"stage{index}": FeatureSpec(8 * index + 8, stride) for index, stride in enumerate(strides)}


@pytest.mark.numeric
@pytest.mark.parametrize("extra", ["pool", "P5", "C5"])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_the_second_way_is_that_of_the_paper(extra: Any, norm: Any) -> None:
    """N of the finest is P; N of each next is relu(conv(relu(conv/2(N)) + P)) (1803.01534, section 3.1)."""
    torch.manual_seed(0)
    specs = specs_of(4, 8, 16)
    neck = PAFPN(specs, 16, 4, extra, norm).eval().double()
    features = {name: value.double() for name, value in maps(specs).items()}
    with torch.no_grad():
        found = neck(features)
        pyramid = list(neck.fpn(dict(features)).values())
        expected = [pyramid[0]]
        for step, own in enumerate(pyramid[1:]):
            down, fuse = neck.down[step], neck.fuse[step]
            halved = F.conv2d(expected[-1], down[0].weight, down[0].bias, stride=2, padding=1)
            halved = F.relu(down[1](halved) if norm else halved)
            fused = F.conv2d(halved + own, fuse[0].weight, fuse[0].bias, padding=1)
            expected.append(F.relu(fuse[1](fused) if norm else fused))
    assert list(found) == ["P2", "P3", "P4", *(["P5"] if extra == "pool" else ["P5", "P6"])]
    for value, other in zip(found.values(), expected, strict=False):
        assert_equal_numbers(value, other)
    beyond = list(found.values())[3:]
    with torch.no_grad():
        if extra == "pool":
            assert_equal_numbers(beyond[0], expected[-1][:, :, ::2, ::2])
        else:
            start = expected[-1] if extra == "P5" else features["stage2"]
            first = neck.extra.p6(start)
            assert_equal_numbers(beyond[0], first)
            assert_equal_numbers(beyond[1], neck.extra.p7(F.relu(first)))


@pytest.mark.parametrize(
    ("stride", "finest", "expected"),
    [
        (16, 4, {"P2": 4, "P3": 8, "P4": 16, "P5": 32, "P6": 64}),
        (16, 8, {"P3": 8, "P4": 16, "P5": 32, "P6": 64}),
        # At most four times as fine, as in the paper.
        (32, 4, {"P3": 8, "P4": 16, "P5": 32, "P6": 64, "P7": 128}),
        (8, 4, {"P2": 4, "P3": 8, "P4": 16, "P5": 32}),
        # 14 is twice 7, and no more.
        (14, 4, {"P3": 7, "P4": 14, "P5": 28, "P6": 56}),
    ],
    ids=str,
)
def test_one_map_becomes_a_pyramid(stride: int, finest: int, expected: dict[str, int]) -> None:
    specs = {"C4": FeatureSpec(16, stride)}
    neck = SimplePyramid(specs, 8, finest)
    assert {name: spec.stride for name, spec in neck.feature_specs.items()} == expected
    found = neck({"C4": torch.zeros(1, 16, 4, 8)})
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        name: (1, 8, -(-4 * stride // s), -(-8 * stride // s)) for name, s in expected.items()
    }


def test_the_last_map_alone_counts_and_every_level_is_normalised() -> None:
    torch.manual_seed(0)
    neck = SimplePyramid(VIT, 8)
    features = maps(VIT)
    before = neck(features)
    features["C4"] = features["C4"] + 1
    after = neck(features)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    for name in ("P2", "P3", "P4", "P5"):
        torch.testing.assert_close(before[name].mean(dim=1), torch.zeros_like(before[name][:, 0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("specs", "neck"), [(specs_of(4, 8, 16), FPN), (VIT, SimplePyramid)])
def test_the_backbone_chooses_unless_told(specs: dict[str, FeatureSpec], neck: type) -> None:
    assert type(build_neck(None, specs, 8)) is neck
    assert type(build_neck("pafpn", specs_of(4, 8), 8)) is PAFPN
    assert type(build_neck("simple_pyramid", specs_of(4, 8, 16), 8)) is SimplePyramid


@pytest.mark.parametrize("size", [(64, 96), (1, 50), (33, 47)])
@pytest.mark.parametrize("neck", ["fpn", "pafpn", "simple_pyramid"])
@pytest.mark.parametrize(
    "head",
    [
        FasterRCNNOptions(channels=16, representation=32, norm="batch", rpn_convs=2, box_convs=2),
        RetinaNetOptions(channels=16),
        FCOSOptions(channels=32, convs=1),
    ],
    ids=lambda head: head.name,
)
def test_every_detector_takes_every_neck(head: Any, neck: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build_model(TINY, head.model_copy(update={"neck": neck}), ["a", "b"]).train()
    batch = batch_of_noise(size)
    total(model(batch, targets_for(batch, 2, boxes=(0, 0, min(30, size[1]), size[0])))).backward()
    assert_every_parameter_learns(model)


def test_detection_on_a_vision_transformer_has_all_levels() -> None:
    model: Any = build_model(BackboneOptions(name="test_vit", weights="none"), "faster_rcnn", ["a"])
    assert list(model.head("main").neck.feature_specs) == ["P2", "P3", "P4", "P5", "P6"]


def test_what_does_not_fit_names_both_sides() -> None:
    with pytest.raises(BuildError, match=r"p6_input: C5.*C5 \(stride 16, 16 channels\); use p6_input=P5"):
        build_neck("simple_pyramid", VIT, 8, 8, "C5")
    with pytest.raises(BuildError, match=r"double from 4.*stage1 \(stride 16, 16 channels\); neck=simple_pyramid"):
        build_neck("pafpn", specs_of(4, 16), 8)

"""RetinaNet and FCOS: their pyramid, anchors and options. Their numbers are proved in test_parity_dense.py."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from helpers import TINY
from pydantic import ValidationError
from torch import nn

from rehead.configs.detection_heads import FCOSOptions, RetinaNetOptions
from rehead.errors import BuildError
from rehead.heads import build_head
from rehead.heads.necks import FPN
from rehead.heads.retinanet import octave_sizes
from rehead.models.model import build_model
from rehead.types import Classes, FeatureSpec

NAMES = ["a", "b", "c"]


def specs_of(*strides: int) -> dict[str, FeatureSpec]:
    return {f"stage{index}": FeatureSpec(16, stride) for index, stride in enumerate(strides)}


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ((2, 4, 8, 16, 32), {"P3": 8, "P4": 16, "P5": 32, "P6": 64, "P7": 128}),
        ((2, 4, 8, 8, 8), {"P3": 8, "P4": 16, "P5": 32}),
        ((16,), {"P4": 16, "P5": 32, "P6": 64}),
        # The networks of the CIFAR experiments end before stride 8.
        ((1, 2, 4), {"P2": 4, "P3": 8, "P4": 16}),
    ],
    ids=str,
)
def test_the_pyramid_starts_at_stride_8_or_where_the_backbone_ends(
    strides: tuple[int, ...], expected: dict[str, int]
) -> None:
    specs = specs_of(*strides)
    pyramid = FPN(specs, 8, finest=8, extra="P5")
    assert {name: spec.stride for name, spec in pyramid.feature_specs.items()} == expected
    maps = pyramid({name: torch.zeros(1, 16, 128 // spec.stride, 128 // spec.stride) for name, spec in specs.items()})
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        name: (1, 8, 128 // stride, 128 // stride) for name, stride in expected.items()
    }


@pytest.mark.parametrize(("extra", "says_something"), [("P5", False), ("C5", True)])
def test_levels_beyond_the_backbone_start_from_p5_or_c5_also_where_both_are_as_wide(
    extra: Any, says_something: bool
) -> None:
    pyramid = FPN(specs_of(8), 16, finest=8, extra=extra)
    for parameter in pyramid.fpn.inner_blocks.parameters():
        nn.init.zeros_(parameter)
    maps = pyramid({"stage0": torch.ones(1, 16, 8, 8)})
    assert not maps["P3"].any()
    assert bool(maps["P4"].any()) == says_something


@pytest.mark.parametrize("options", [RetinaNetOptions(), FCOSOptions()], ids=lambda options: options.name)
def test_a_gap_between_strides_names_both_sides(options: RetinaNetOptions | FCOSOptions) -> None:
    with pytest.raises(BuildError, match=r"double from 8.*stage0 \(stride 8, 16 channels\), stage1 \(stride 32"):
        build_head(options, Classes(tuple(NAMES)), specs_of(8, 32))


def test_anchors_follow_from_the_strides_or_are_ones_own() -> None:
    assert octave_sizes(8) == [32, 40, 50]
    single = build_head(RetinaNetOptions(channels=8, neck="fpn"), Classes(tuple(NAMES)), specs_of(16))
    assert single.torchvision_model.anchor_generator.sizes == ((64, 80, 101), (128, 161, 203), (256, 322, 406))
    own = build_model(
        TINY, RetinaNetOptions(channels=8, anchor_sizes=[[4], [8], [16], [32], [64]], aspect_ratios=[1]), NAMES
    )
    assert own.head("main").torchvision_model.anchor_generator.num_anchors_per_location() == [1] * 5
    with pytest.raises(BuildError, match="anchor_sizes has 2 lists but the pyramid has 5 levels: P3, P4, P5, P6, P7"):
        build_model(TINY, RetinaNetOptions(anchor_sizes=[[4], [8]]), NAMES)
    with pytest.raises(BuildError, match="every level needs the same number of sizes"):
        build_model(TINY, RetinaNetOptions(anchor_sizes=[[4], [8], [16], [32], [64, 80]]), NAMES)


@pytest.mark.parametrize(
    ("options", "norms"),
    [
        (RetinaNetOptions(channels=32, convs=2), 0),
        (RetinaNetOptions(channels=32, convs=2, norm="group"), 2),
        (FCOSOptions(channels=32, convs=2), 2),
    ],
    ids=["retinanet", "retinanet with norms", "fcos"],
)
def test_towers_are_as_deep_as_asked(options: RetinaNetOptions | FCOSOptions, norms: int) -> None:
    head = build_model(TINY, options, NAMES).head("main").get_submodule("head")
    for tower in ("classification_head.conv", "regression_head.conv"):
        modules = list(head.get_submodule(tower).modules())
        assert sum(isinstance(module, nn.Conv2d) for module in modules) == 2
        assert sum(isinstance(module, nn.GroupNorm) for module in modules) == norms


def test_rules_reach_torchvision() -> None:
    common = {"score_threshold": 0.3, "candidates": 11, "nms": 0.25, "detections": 7}
    one = RetinaNetOptions(channels=8, positive_iou=0.6, negative_iou=0.2, box_loss="giou", **common)
    other = FCOSOptions(channels=32, sampling_radius=2.5, **common)
    retinanet, fcos = (build_model(TINY, options, NAMES).head("main").torchvision_model for options in (one, other))
    for torchvision_model in (retinanet, fcos):
        assert (
            torchvision_model.score_thresh,
            torchvision_model.topk_candidates,
            torchvision_model.nms_thresh,
            torchvision_model.detections_per_img,
        ) == (
            0.3,
            11,
            0.25,
            7,
        )
    matcher = retinanet.proposal_matcher
    assert (matcher.high_threshold, matcher.low_threshold, fcos.center_sampling_radius) == (0.6, 0.2, 2.5)
    assert retinanet.head.regression_head._loss_type == "giou"


def test_every_tensor_has_one_name_and_a_copy_keeps_its_own_weights() -> None:
    model = build_model(TINY, RetinaNetOptions(channels=8), NAMES)
    names = [name for name in model.state_dict() if name.startswith("heads.main.")]
    assert {name.split(".")[2] for name in names} == {"neck", "head"}
    copied = deepcopy(model).head("main")
    assert copied.torchvision_model.head is copied.get_submodule("head")
    assert copied.torchvision_model.head is not model.head("main").get_submodule("head")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: RetinaNetOptions(channels=48, norm="group"), "a multiple of 32, found 48"),
        (lambda: FCOSOptions(channels=48), "multiple of 32"),
        (lambda: RetinaNetOptions(negative_iou=0.7), "negative_iou 0.7 must not exceed positive_iou 0.5"),
    ],
    ids=["channels for group norm", "channels for fcos", "thresholds"],
)
def test_options_that_cannot_be(build: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        build()

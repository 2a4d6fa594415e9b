"""Parts of torchvision's detectors that were replaced: the same answers, and samples drawn with the same chances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection import _utils as parts
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, box_iou, nms

from rehead.heads.matching import BoxCoder, Matcher, Sampler, nms_by_group, places
from rehead.heads.proposals import RegionProposals


def boxes_of(seed: int, count: int, size: float = 50.0) -> Tensor:
    corners = torch.rand((count, 2, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size
    return torch.cat([corners.min(1).values, corners.max(1).values], dim=1)


@given(st.lists(st.lists(st.booleans(), max_size=9), min_size=1, max_size=4))
def test_places_of_each_mask(masks: list[list[bool]]) -> None:
    found = places([torch.tensor(mask, dtype=torch.bool) for mask in masks])
    assert [one.tolist() for one in found] == [[i for i, true in enumerate(mask) if true] for mask in masks]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 60), st.booleans())
def test_the_matcher_is_torchvisions(seed: int, objects: int, boxes: int, low_quality: bool) -> None:
    # Rounded overlaps have ties.
    overlaps = (box_iou(boxes_of(seed, objects), boxes_of(seed + 1, boxes)) * 10).round() / 10
    matched = Matcher(0.7, 0.3, low_quality)(overlaps.clone())
    assert torch.equal(matched, parts.Matcher(0.7, 0.3, low_quality)(overlaps.clone()))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.lists(st.lists(st.sampled_from([-1, 0, 1, 3]), max_size=40), min_size=1, max_size=3))
def test_as_many_samples_of_each_kind_as_torchvision_draws(seed: int, kinds: list[list[int]]) -> None:
    torch.manual_seed(seed)
    labels = [torch.tensor(one, dtype=torch.float32) for one in kinds]
    ours, theirs = Sampler(10, 0.3)(labels), parts.BalancedPositiveNegativeSampler(10, 0.3)(labels)
    for own, expected, wanted in zip(ours, theirs, ("positive", "negative"), strict=True):
        assert [int(mask.sum()) for mask in own] == [int(mask.sum()) for mask in expected]
        for mask, label in zip(own, labels, strict=True):
            assert (label[mask.bool()] >= 1).all() if wanted == "positive" else (label[mask.bool()] == 0).all()


def test_every_candidate_has_the_same_chance() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([1.0] * 6 + [0.0] * 14)
    rounds = 3000
    counts = torch.zeros(20)
    for _ in range(rounds):
        (positive,), (negative,) = Sampler(10, 0.3)([labels])
        counts += positive + negative
    # 3 of 6 and 7 of 14: each half of the rounds, with a standard deviation of 27.
    assert (counts - rounds / 2).abs().max() < 5 * 27.4


def test_encoded_boxes_are_torchvisions() -> None:
    ours, theirs = BoxCoder((10.0, 10.0, 5.0, 5.0)), parts.BoxCoder((10.0, 10.0, 5.0, 5.0))
    for boxes, others in ((boxes_of(1, 20), boxes_of(2, 20)), (boxes_of(1, 20).float(), boxes_of(2, 20).float())):
        assert torch.equal(ours.encode_single(boxes, others), theirs.encode_single(boxes, others))


@pytest.mark.parametrize("count", [0, 1, 60])
def test_suppression_on_another_device_is_that_of_the_cpu(count: int) -> None:
    boxes, scores = boxes_of(3, count), torch.rand(count, generator=torch.Generator().manual_seed(4)).double()
    groups = torch.arange(count) % 3
    expected = batched_nms(boxes, scores, groups, 0.3)
    assert torch.equal(nms_by_group(boxes, scores, groups, 0.3), expected)
    # The way of a GPU, for which there is no kernel here.
    if count:
        apart = boxes + (groups.to(boxes.dtype) * (boxes.max() + 1))[:, None]
        assert torch.equal(nms(apart, scores, 0.3), expected)


def test_proposals_are_torchvisions() -> None:
    """Boxes without a size or outside of the image and low scores go; the best of each level stay."""
    arguments = {
        "fg_iou_thresh": 0.7,
        "bg_iou_thresh": 0.3,
        "batch_size_per_image": 256,
        "positive_fraction": 0.5,
        "pre_nms_top_n": {"training": 30, "testing": 20},
        "post_nms_top_n": {"training": 25, "testing": 15},
        "nms_thresh": 0.6,
        "score_thresh": 0.4,
    }
    ours = RegionProposals(None, RPNHead(4, 1), beta=1 / 9, **arguments)
    theirs = RegionProposalNetwork(None, RPNHead(4, 1), **arguments)
    proposals = torch.stack([boxes_of(seed, 90, 80.0) for seed in range(3)])
    proposals[0, :20, 2:] = proposals[0, :20, :2]
    proposals[2] = proposals[2, :, [0, 1, 0, 1]]
    scores = torch.randn((270, 1), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    shapes, levels = [(50, 60), (60, 60), (40, 40)], [60, 20, 10]
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        found = ours.filter_proposals(proposals, scores, shapes, levels)
        expected = theirs.filter_proposals(proposals, scores, shapes, levels)
        assert [len(one) for one in found[0]] == [len(one) for one in expected[0]]
        assert len(found[0][0]) > 5
        assert len(found[0][2]) == 0
        for one, other in zip((*found[0], *found[1]), (*expected[0], *expected[1]), strict=True):
            assert torch.equal(one, other)

"""Masks cross from a worker as bits, and arrive as they were."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rehead.data.collate import collate
from rehead.data.loader import _Read
from rehead.data.packed_masks import PackedMasks, by_shifts
from rehead.data.sample import Sample
from rehead.data.shared_memory import SharedMemory
from rehead.types import Frame, Target

SIDES = st.integers(1, 20)


@settings(deadline=None)
@given(
    masks=hnp.arrays(np.uint8, st.tuples(st.integers(0, 3), SIDES, SIDES), elements=st.sampled_from([0, 1, 255])),
    below=st.integers(0, 9),
    beside=st.integers(0, 9),
)
def test_packing_loses_nothing(masks: Any, below: int, beside: int) -> None:
    _, height, width = masks.shape
    packed = PackedMasks.of(masks, (height + below, width + beside))
    wanted = np.pad(masks > 0, ((0, 0), (0, below), (0, beside)))
    for one in (packed, packed.to(torch.device("cpu")), pickle.loads(pickle.dumps(packed))):
        assert one.pixels().dtype == torch.bool
        np.testing.assert_array_equal(one.pixels(), wanted)
    # What other devices do.
    np.testing.assert_array_equal(by_shifts(packed.bits)[..., :width], masks > 0)


def images(count: int, objects: int, height: int, width: int) -> list[tuple[Sample, Frame]]:
    """Samples with an ellipse for every object."""
    rng = np.random.default_rng(0)
    masks = np.zeros((objects, height, width), np.uint8)
    for mask in masks:
        middle, axes = (rng.integers(0, width), rng.integers(0, height)), rng.integers(5, height // 3, 2)
        cv2.ellipse(mask, [int(place) for place in middle], [int(axis) for axis in axes], 30, 0, 360, 1, -1)
    boxes, labels = np.tile(np.array([0, 0, width, height], np.float32), (objects, 1)), np.zeros(objects, np.int64)
    image = np.zeros((height, width, 3), np.uint8)
    sample = Sample("a", Path("a"), image=image, boxes=boxes, labels=labels, masks=masks)
    return [(sample, Frame((height, width), (height, width)))] * count


def test_sixteen_images_of_coco_have_45_megabytes_of_masks_on_their_way() -> None:
    here = SharedMemory(1)
    batch, targets = collate(images(16, 20, 800, 1333), divisor=32)
    pixels = batch.pixels.nbytes
    parcel = copy.copy(here).packed(_Read(batch, targets), 0)
    crossing = len(parcel.content) + sum(last - first for first, last in parcel.places)
    assert crossing - pixels <= 45e6 < 16 * 20 * 800 * 1333 / 7
    arrived = parcel.opened().truths
    assert all(isinstance(vars(one)["masks"], PackedMasks) for one in (*targets, *arrived))
    assert torch.equal(arrived[3].masks, targets[3].masks)
    assert arrived[3].masks.shape == (20, 800, 1344)


def test_what_an_evaluation_judges_against_crosses_as_bits_too() -> None:
    here = SharedMemory(1)
    items = images(2, 5, 200, 300)
    truths = [replace(sample, image=None) for sample, _ in items]
    batch = collate(items)[0]
    parcel = copy.copy(here).packed(_Read(batch, truths), 0)
    crossing = sum(last - first for first, last in parcel.places)
    assert crossing - batch.pixels.nbytes < 2 * 5 * 200 * 300 / 7
    for arrived, truth in zip(parcel.opened().truths, truths, strict=True):
        assert arrived.masks.dtype == np.uint8
        np.testing.assert_array_equal(arrived.masks, truth.masks)


def test_pixels_are_there_once_they_are_read_and_not_before() -> None:
    (target,) = collate(images(1, 2, 40, 50))[1]
    moved = target.to(torch.device("cpu"))
    masks = moved.masks
    assert masks is not None
    assert moved.masks is masks
    assert isinstance(vars(target)["masks"], PackedMasks)


@pytest.mark.parametrize("masks", [None, torch.ones((1, 4, 4), dtype=torch.bool)])
def test_a_target_may_have_plain_masks_or_none(masks: Any) -> None:
    target = Target("a", masks=masks)
    assert target.masks is masks
    assert Target("a").masks is None

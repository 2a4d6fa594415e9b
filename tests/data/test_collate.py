from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.data.collate import collate
from rehead.data.sample import Sample
from rehead.types import IGNORE, IGNORE_16, Frame


def item(height: int, width: int, channels: int = 3, dtype: Any = np.uint8, **more: Any) -> tuple[Sample, Frame]:
    pixels = np.random.default_rng(height * 100 + width).integers(1, 256, (height, width, channels)).astype(dtype)
    size = (height, width)
    return Sample(image_id=f"{height}x{width}", path=Path("a"), image=pixels, **more), Frame(size, size)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    divisor=st.sampled_from([1, 2, 32]),
    channels=st.sampled_from([1, 3, 5]),
)
def test_images_lie_at_the_top_left_and_the_rest_is_zero(
    sizes: list[tuple[int, int]], divisor: int, channels: int
) -> None:
    items = [item(*size, channels=channels) for size in sizes]
    batch, targets = collate(items, divisor)
    height, width = batch.pixels.shape[2:]
    assert batch.pixels.dtype == torch.uint8
    assert batch.pixels.shape[:2] == (len(sizes), channels)
    assert height % divisor == width % divisor == 0
    assert 0 <= height - max(h for h, _ in sizes) < divisor
    assert 0 <= width - max(w for _, w in sizes) < divisor
    for pixels, frame, target, (sample, _), (h, w) in zip(
        batch.pixels, batch.frames, targets, items, sizes, strict=True
    ):
        assert frame.size == (h, w)
        assert frame.padded == (height, width)
        assert target.image_id == sample.image_id
        np.testing.assert_array_equal(pixels[:, :h, :w].permute(1, 2, 0), sample.pixels)
        assert int(pixels[:, h:].sum()) == int(pixels[:, :, w:].sum()) == 0


def test_convolutions_find_the_memory_order_they_like() -> None:
    batch, _ = collate([item(8, 9), item(5, 4)], 4)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)


def test_one_floating_point_image_makes_the_batch_floating_point() -> None:
    batch, _ = collate([item(4, 4), item(4, 4, dtype=np.float32)])
    assert batch.pixels.dtype == torch.float32


def test_crowds_and_empty_boxes_are_not_for_training() -> None:
    boxes = np.array([[1, 1, 4, 4], [0, 0, 9, 9], [3, 3, 3, 8], [-5, 2, 2, 99], [50, 50, 60, 60]], np.float32)
    crowds = np.array([False, True, False, False, False])
    _, (target,) = collate([item(9, 9, boxes=boxes, labels=np.arange(5), iscrowd=crowds)], 32)
    assert target.boxes is not None
    assert target.labels is not None
    assert target.boxes.tolist() == [[1, 1, 4, 4], [0, 2, 2, 9]]
    assert target.labels.tolist() == [0, 3]
    assert target.boxes.dtype == torch.float32
    assert target.labels.dtype == torch.int64


@pytest.mark.parametrize("crowds", [None, np.zeros(0, bool)])
def test_an_image_without_objects_has_empty_boxes(crowds: Any) -> None:
    none = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64), "iscrowd": crowds}
    _, (target,) = collate([item(9, 9, **none)])
    assert target.boxes is not None
    assert target.labels is not None
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)


@pytest.mark.parametrize(("dtype", "ignored"), [(np.uint8, IGNORE), (np.int16, IGNORE_16)])
def test_semantic_maps_are_padded_with_what_does_not_count(dtype: type, ignored: int) -> None:
    semantic = np.arange(12, dtype=dtype).reshape(3, 4)
    _, (target, other) = collate([item(3, 4, semantic=semantic), item(6, 2)], 8)
    assert target.semantic is not None
    assert target.semantic.numpy().dtype == dtype
    assert target.semantic.shape == (8, 8)
    np.testing.assert_array_equal(target.semantic[:3, :4], semantic)
    assert (target.semantic[3:] == ignored).all()
    assert (target.semantic[:, 4:] == ignored).all()
    assert other.semantic is None


def test_what_a_task_lacks_is_none() -> None:
    _, (target,) = collate([item(3, 4, label=7)])
    assert target.label is not None
    assert target.label.dtype == torch.int64
    assert target.label.shape == ()
    assert int(target.label) == 7
    assert target.boxes is target.labels is target.semantic is None


def test_soft_labels_stay_soft() -> None:
    soft = np.array([0.25, 0.75], np.float64)
    _, (target, other) = collate([item(3, 4, label=soft), item(3, 4, label=np.int64(1))])
    assert target.label is not None
    assert target.label.dtype == torch.float32
    assert target.label.tolist() == [0.25, 0.75]
    assert other.label is not None
    assert other.label.dtype == torch.int64
    assert other.label.shape == ()


def test_keypoints_stay_with_their_boxes_and_count_where_they_are_labelled() -> None:
    boxes = np.array([[1, 1, 4, 4], [0, 0, 9, 9], [2, 2, 8, 30]], np.float32)
    points = np.array([[[1, 2, 2], [3, 3, 1]], [[0, 0, 0], [0, 0, 0]], [[3, 4, 2], [5, 20, 2]]], np.float32)
    crowds = np.array([False, True, False])
    _, (target,) = collate([item(9, 9, boxes=boxes, labels=np.arange(3), iscrowd=crowds, keypoints=points)], 32)
    assert target.keypoints is not None
    assert target.keypoints.dtype == torch.float32
    assert target.keypoints.tolist() == [[[1, 2, 1], [3, 3, 1]], [[3, 4, 1], [0, 0, 0]]]


def test_maps_of_more_classes_are_padded_with_their_own_largest_value() -> None:
    _, (target, _) = collate([item(3, 4, semantic=np.full((3, 4), 300, np.int16)), item(4, 4)])
    assert target.semantic is not None
    assert target.semantic.dtype == torch.int16
    assert (target.semantic[3] == 32767).all()

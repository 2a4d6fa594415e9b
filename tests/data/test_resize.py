from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as torchvision

from rehead.configs.resize import ResizeOptions
from rehead.configs.tasks import treatment_of
from rehead.data.sample import Sample
from rehead.data.transforms.resize import INTERPOLATIONS, Resize
from rehead.errors import ConfigError
from rehead.types import IGNORE

SIDES = st.integers(1, 3000) | st.sampled_from([1, 2, 3, 20000])
OPTIONS = st.one_of(
    st.builds(
        lambda shorter, more: ResizeOptions(shorter=shorter, longer=shorter + more),
        st.integers(1, 60),
        st.integers(0, 90),
    ),
    st.builds(lambda shorter: ResizeOptions(shorter=shorter), st.integers(1, 40)),
    st.builds(lambda height, width: ResizeOptions(height=height, width=width), st.integers(1, 90), st.integers(1, 90)),
)


def sample(height: int, width: int, channels: int = 3, **more: object) -> Sample:
    return Sample(image_id=1, path=Path("a.png"), image=np.zeros((height, width, channels), np.uint8), **more)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(height=SIDES, width=SIDES, shorter=st.integers(1, 900), more=st.integers(0, 900))
def test_sizes_are_those_of_torchvision(height: int, width: int, shorter: int, more: int) -> None:
    size = Resize(ResizeOptions(shorter=shorter, longer=shorter + more)).size_for((height, width))
    assert min(size) >= 1
    assert max(size) <= shorter + more
    # torchvision refuses limits that are not above the shorter side, and makes images of no height.
    assume(more > 0)
    theirs = torchvision._geometry._compute_resized_output_size(  # type: ignore[attr-defined]
        (height, width), [shorter], max_size=shorter + more
    )
    assert size == tuple(max(1, side) for side in theirs)


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 400), width=st.integers(1, 400), options=OPTIONS, data=st.data())
def test_boxes_come_back_from_the_resized_image_to_within_half_a_pixel(
    height: int, width: int, options: ResizeOptions, data: st.DataObject
) -> None:
    corners = st.tuples(*[st.floats(0, 1, width=32)] * 4)
    relative = np.array(data.draw(st.lists(corners, max_size=4)), np.float32).reshape(-1, 4)
    relative = np.concatenate(
        [np.minimum(relative[:, :2], relative[:, 2:]), np.maximum(relative[:, :2], relative[:, 2:])], 1
    )
    boxes = relative * np.array([width, height, width, height], np.float32)
    resized, frame = Resize(options)(sample(height, width, boxes=boxes))
    assert resized.pixels.shape == (*frame.size, 3)
    assert resized.boxes is not None
    assert (resized.boxes <= np.array([*frame.size[::-1]] * 2) + 1e-3).all()
    assert _close(frame.boxes_to_original(torch.from_numpy(resized.boxes)), boxes)


def _close(found: torch.Tensor, wanted: np.ndarray) -> bool:
    return bool((abs(found.numpy() - wanted) < 0.5).all())


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (1, 1), (3, 9000)])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_images_one_pixel_high_survive(size: tuple[int, int], task: str) -> None:
    boxes = np.array([[0, 0, size[1], size[0]]], np.float32)
    semantic = np.full(size, 3, np.uint8)
    resized, frame = Resize(treatment_of(task).resize)(sample(*size, boxes=boxes, semantic=semantic))
    assert resized.semantic is not None
    assert (
        resized.pixels.shape[:2]
        == resized.semantic.shape
        == frame.size
        == Resize(treatment_of(task).resize).size_for(size)
    )
    assert (resized.semantic == 3).all()
    assert _close(frame.boxes_to_original(torch.from_numpy(resized.boxes)), boxes)


def test_what_the_image_shows_stays_inside_its_box_and_its_mask() -> None:
    one = sample(60, 90, boxes=np.array([[20, 10, 50, 40]], np.float32), semantic=np.zeros((60, 90), np.uint8))
    one.pixels[10:40, 20:50] = 255
    assert one.semantic is not None
    one.semantic[10:40, 20:50] = 1
    for options in (ResizeOptions(shorter=40), ResizeOptions(shorter=180), ResizeOptions(height=90, width=45)):
        resized, _ = Resize(options)(one)
        white = resized.pixels[:, :, 0] > 127
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        bounds = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(resized.boxes, [bounds], atol=0.51)
        assert resized.semantic is not None
        assert (resized.semantic == white).mean() > 0.98


def test_semantic_maps_hold_only_values_they_held() -> None:
    semantic = np.array([[0, IGNORE], [7, 0]], np.uint8).repeat(9, 0).repeat(9, 1)
    resized, _ = Resize(ResizeOptions(shorter=31))(sample(18, 18, semantic=semantic))
    assert resized.semantic is not None
    assert set(np.unique(resized.semantic)) == {0, 7, IGNORE}


def test_semantic_maps_take_the_pixel_under_the_centre() -> None:
    semantic = np.arange(50, dtype=np.uint8)[None].repeat(50, 0)
    for side in (10, 17, 50, 80, 150):
        resized, _ = Resize(ResizeOptions(shorter=side))(sample(50, 50, semantic=semantic))
        assert resized.semantic is not None
        np.testing.assert_array_equal(resized.semantic[0], np.floor((np.arange(side) + 0.5) * 50 / side))


def test_shrinking_averages_and_skips_no_pixel() -> None:
    one = sample(120, 120)
    one.pixels[:, ::3] = 240
    resized, _ = Resize(ResizeOptions(shorter=20))(one)
    np.testing.assert_allclose(resized.pixels[:, 1:-1], 80, atol=1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(37, 51), (90, 150), (20, 160), (119, 60)])
def test_shrinking_gives_the_pixels_that_weights_were_trained_on(interpolation: str, size: tuple[int, int]) -> None:
    one = sample(120, 160)
    # Away from 0 and 255, where the two round between the directions at different places.
    one.image = np.random.default_rng(0).integers(80, 176, (120, 160, 3)).astype(np.uint8)
    resized, _ = Resize(ResizeOptions(height=size[0], width=size[1]), interpolation)(one)
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    theirs = np.asarray(Image.fromarray(one.image).resize(size[::-1], kind))
    np.testing.assert_allclose(resized.pixels.astype(int), theirs, atol=1)


def test_areas_stay_original() -> None:
    one = sample(10, 10, boxes=np.zeros((1, 4), np.float32), areas=np.array([50], np.float32))
    resized, _ = Resize(ResizeOptions(shorter=20))(one)
    assert resized.areas is not None
    assert resized.areas.tolist() == [50]


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (64, 64), (1, 500)])
def test_classification_cuts_out_the_central_square(size: tuple[int, int]) -> None:
    resize = Resize(ResizeOptions(shorter=64, crop=48))
    one = sample(*size)
    one.pixels[:] = np.linspace(0, 255, size[1])[None, :, None]
    resized, frame = resize(one)
    assert resized.pixels.shape == (48, 48, 3)
    assert frame.size == resize.size_for(size) == resize.fixed == (48, 48)
    assert frame.original == size
    assert abs(float(resized.pixels.mean()) - 127.5) < 2


def test_a_crop_never_cuts_objects() -> None:
    with pytest.raises(ConfigError, match="a crop cuts objects off"):
        Resize(ResizeOptions(shorter=8, crop=4))(sample(8, 8, boxes=np.zeros((0, 4), np.float32)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("interpolation", list(INTERPOLATIONS))
def test_any_number_of_channels(channels: int, dtype: type, interpolation: str) -> None:
    levels = np.arange(channels) * 20
    for options in (ResizeOptions(shorter=5), ResizeOptions(shorter=33), ResizeOptions(height=4, width=40)):
        one = sample(10, 12)
        one.image = np.broadcast_to(levels, (10, 12, channels)).astype(dtype)
        resized, frame = Resize(options, interpolation)(one)
        assert resized.pixels.dtype == dtype
        assert resized.pixels.shape == (*frame.size, channels)
        np.testing.assert_allclose(resized.pixels, np.broadcast_to(levels, (*frame.size, channels)), atol=1)


def test_floating_point_images_stay_on_their_scale() -> None:
    one = sample(8, 8)
    one.image = np.where(np.arange(8)[None, :, None] < 4, np.float32(0), np.float32(255)).repeat(8, 0).repeat(3, 2)
    resized, _ = Resize(ResizeOptions(shorter=37), "bicubic")(one)
    assert resized.pixels.min() == 0
    assert resized.pixels.max() == 255


def test_an_image_of_the_right_size_is_left_alone() -> None:
    one = sample(20, 30)
    assert Resize(ResizeOptions(shorter=20))(one)[0].image is one.image


def test_unknown_interpolation_has_near_matches() -> None:
    with pytest.raises(ConfigError, match="unknown interpolation 'bicubik'; did you mean 'bicubic'"):
        Resize(treatment_of("detection").resize, "bicubik")

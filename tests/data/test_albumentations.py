"""albumentations' transforms: everything of a sample stays together, whatever its kind."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rehead.configs.augment import TransformOptions
from rehead.configs.readers import FoldersSplit
from rehead.configs.resize import ResizeOptions
from rehead.configs.transforms import COMPOSITIONS, REFUSED, transforms
from rehead.data.sample import Sample
from rehead.data.transforms.albumentations import Transform
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext
from rehead.datasets.formats.folders import FoldersReader
from rehead.errors import ConfigError, DataError
from rehead.types import IGNORE
from rehead.visualize.draw import save

SIZE = (41, 60)
NEEDED: dict[str, dict[str, Any]] = {
    "AtLeastOneBBoxRandomCrop": {"height": 20, "width": 30},
    "CenterCrop": {"height": 20, "width": 30},
    "Crop": {"x_max": 50, "y_max": 40},
    "CropAndPad": {"px": [-4, 6]},
    "CropNonEmptyMaskIfExists": {"height": 20, "width": 30},
    "GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 5},
    "LongestMaxSize": {"max_size": 50},
    "OneOrOther": {"transforms": [{"name": "HorizontalFlip"}, {"name": "VerticalFlip"}]},
    "PadIfNeeded": {"min_height": 64, "min_width": 64},
    "RandomCrop": {"height": 20, "width": 30},
    "RandomResizedCrop": {"size": [30, 40]},
    "RandomSizedBBoxSafeCrop": {"height": 20, "width": 30},
    "RandomSizedCrop": {"min_max_height": [10, 30], "size": [20, 30]},
    "Resize": {"height": 30, "width": 40},
    "SmallestMaxSize": {"max_size": 30},
}
"""Arguments without which a transform cannot be built, or works on photographs only."""
RGB_ONLY = {"ToRGB"}
# Seconds at any size, and told apart from the others by nothing that is tested here.
SLOW = {"AdditiveNoise", "PiecewiseAffine", "Superpixels"}


def sample(channels: int = 3, dtype: Any = np.uint8, objects: bool = True) -> Sample:
    """A light rectangle on dark noise, with its box, mask, class map and the ends of its diagonal as keypoints."""
    image = np.random.default_rng(0).integers(0, 60, (*SIZE, channels))
    image[10:20, 15:40] += 150
    mask = np.zeros(SIZE, np.uint8)
    mask[10:20, 15:40] = 1
    one = Sample("a", Path("a.png"), image=image.astype(dtype), semantic=mask.copy())
    one.boxes, one.labels, one.masks = np.array([[15, 10, 40, 20]], np.float32), np.array([2]), mask[None]
    one.areas, one.iscrowd = np.array([250], np.float32), np.array([False])
    one.keypoints = np.array([[[16.5, 11.5, 2], [0, 0, 0], [38.5, 18.5, 1]]], np.float32)
    return one if objects else one.select(np.array([False]))


def transform(
    name: str, pairs: tuple[tuple[int, int], ...] = (), min_visible: float = 0.1, **arguments: Any
) -> Transform:
    context = AugmentContext("detection", Resize(ResizeOptions(height=41, width=60)), min_visible, pairs)
    if name in COMPOSITIONS and not arguments:
        arguments = {"transforms": [{"name": "HorizontalFlip"}, {"name": "Affine", "rotate": [20, 30]}]}
    problems: list[str] = []
    built = Transform(TransformOptions(name=name, **(NEEDED.get(name, {}) | arguments)), context, "here", problems)
    assert not problems
    return built


def changed(step: Transform, one: Sample, seed: int = 0) -> Sample:
    return step(one, [], np.random.default_rng(seed), force=True)


@pytest.mark.parametrize("name", [name for name in transforms() if name not in REFUSED and name not in SLOW])
def test_every_transform_keeps_everything_together(name: str) -> None:
    if name in RGB_ONLY:
        return
    step = transform(name)
    for seed in range(3):
        before = sample()
        after = changed(step, before, seed)
        assert all(np.array_equal(a, b) for a, b in zip(vars(before).values(), vars(sample()).values(), strict=True))
        again = changed(step, sample(), seed)
        assert np.array_equal(after.pixels, again.pixels)
        assert np.array_equal(after.boxes, again.boxes)  # type: ignore[arg-type]
        assert after.pixels.dtype == np.uint8
        assert after.pixels.shape[2] == 3
        height, width = after.pixels.shape[:2]
        assert after.semantic is not None
        assert after.masks is not None
        assert after.boxes is not None
        assert after.keypoints is not None
        assert after.semantic.shape == after.masks.shape[1:] == (height, width)
        assert set(np.unique(after.semantic)) <= {0, 1, IGNORE}
        assert set(np.unique(after.masks)) <= {0, 1}
        assert len(after.boxes) == len(after.masks) == len(after.keypoints)
        assert (after.boxes >= 0).all()
        assert (after.boxes <= [width, height, width, height]).all()
        if len(after.boxes) != 1 or name == "RandomGridShuffle":
            continue
        np.testing.assert_array_equal(after.masks[0] == 1, after.semantic == 1)
        y, x = np.nonzero(after.masks[0])
        seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert (seen[:2] >= after.boxes[0, :2] - 1.5).all()
        assert (seen[2:] <= after.boxes[0, 2:] + 1.5).all()
        # Keypoints lie on the object, but for those that masks with holes have lost.
        for point_x, point_y, visibility in after.keypoints[0] if "Masking" not in name else ():
            around = after.masks[
                0, max(0, int(point_y) - 1) : int(point_y) + 2, max(0, int(point_x) - 1) : int(point_x) + 2
            ]
            assert not visibility or around.any()


@pytest.mark.parametrize("name", ["Affine", "HorizontalFlip", "CoarseDropout", "RandomCrop", "GridDistortion", "OneOf"])
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (6, np.uint8), (6, np.float32)])
def test_any_channels_and_no_objects(name: str, channels: int, dtype: Any) -> None:
    for objects in (True, False):
        after = changed(transform(name), sample(channels, dtype, objects))
        assert after.pixels.dtype == dtype
        assert after.pixels.shape[2] == channels
        assert 100 < after.pixels.max() <= 255
        assert after.masks is not None
        assert after.masks.shape[1:] == after.pixels.shape[:2]
        assert objects or len(after.masks) == 0


@pytest.mark.parametrize("name", ["HorizontalFlip", "VerticalFlip", "Transpose", "RandomRotate90", "D4", "OneOf"])
def test_left_and_right_change_places_in_mirror_images_only(name: str) -> None:
    """Whatever mirrors the image: the mark of the left point is where the right one is looked for."""
    held = {"transforms": [{"name": "Transpose"}, {"name": "RandomRotate90"}]} if name == "OneOf" else {}
    step = transform(name, pairs=((0, 2),), **held)
    mirrored = []
    for seed in range(12):
        one = sample()
        one.pixels[:] = 0
        one.pixels[11, 16], one.pixels[18, 38] = 200, 100
        after = changed(step, one, seed)
        assert after.keypoints is not None
        left, middle, right = after.keypoints[0]
        assert middle.tolist() == [0, 0, 0]
        marks = [int(after.pixels[int(y), int(x), 0]) for x, y, _ in (left, right)]
        assert sorted(marks) == [100, 200]
        mirrored.append(marks == [100, 200])
        assert [left[2], right[2]] == ([1, 2] if mirrored[-1] else [2, 1])
    expected = {"RandomRotate90": {False}, "D4": {False, True}, "OneOf": {False, True}}
    assert set(mirrored) == expected.get(name, {True})


def test_keypoints_that_leave_the_image_are_not_labelled() -> None:
    after = changed(transform("Crop", x_min=30, y_min=0, x_max=60, y_max=41), sample())
    assert after.keypoints is not None
    assert after.keypoints[0].tolist() == [[0, 0, 0], [0, 0, 0], [8.5, 18.5, 1]]


@pytest.mark.parametrize(("share", "stays"), [(0.6, True), (0.35, False)])
def test_an_object_of_which_too_little_is_in_view_is_dropped(share: float, stays: bool) -> None:
    cut = 40 - round(25 * share)
    after = changed(transform("Crop", min_visible=0.5, x_min=cut, y_min=0, x_max=60, y_max=41), sample())
    assert after.boxes is not None
    np.testing.assert_allclose(
        after.boxes, np.array([[0, 10, 40 - cut, 20]] if stays else []).reshape(-1, 4), atol=1e-4
    )


def test_what_no_image_filled_is_ignored_and_belongs_to_no_object() -> None:
    shift = {"translate_px": {"x": [30, 30], "y": [0, 0]}}
    one = replace(sample(), semantic=np.ones(SIZE, np.uint8), masks=np.ones((1, *SIZE), np.uint8))
    after = changed(transform("Affine", **shift), one)
    assert after.semantic is not None
    assert after.masks is not None
    np.testing.assert_array_equal(after.semantic[:, :29], IGNORE)
    np.testing.assert_array_equal(after.masks[0, :, :29], 0)
    np.testing.assert_array_equal(after.semantic[:, 31:], 1)
    # A map of more classes has another value for it.
    wide = changed(transform("Affine", **shift), replace(one, semantic=np.full(SIZE, 300, np.int16)))
    assert wide.semantic is not None
    assert set(np.unique(wide.semantic)) == {300, 32767}
    asked = changed(transform("Affine", fill_mask=7, **shift), one)
    assert asked.semantic is not None
    assert set(np.unique(asked.semantic)) == {1, 7}


def test_reflected_objects_have_a_box_and_a_mask_each() -> None:
    after = changed(transform("PadIfNeeded", min_height=41, min_width=150, border_mode=4), sample())
    assert after.boxes is not None
    assert after.masks is not None
    assert len(after.boxes) == 3
    for box, mask in zip(after.boxes, after.masks, strict=True):
        x = np.flatnonzero(mask.any(axis=0))
        # albumentations' own boxes are a pixel off where it reflects.
        np.testing.assert_allclose([x[0], x[-1] + 1], box[[0, 2]], atol=1)


class TestWhatCannotBe:
    SETTING = AugmentContext("classification", Resize(ResizeOptions(height=20, width=20)))

    def reader(self, folder: Path, channels: int = 3) -> FoldersReader:
        (folder / "images/cat").mkdir(parents=True)
        if channels == 3:
            save(folder / "images/cat/a.png", np.zeros((20, 20, 3), np.uint8))
        else:
            np.save(folder / "images/cat/a.npy", np.zeros((20, 20, channels), np.uint8))
        return FoldersReader(FoldersSplit(images="images"), folder)

    def test_values_are_checked_when_it_is_built_all_at_once(self) -> None:
        steps = [
            TransformOptions(name="GaussianBlur", blur_limit="a"),
            TransformOptions(name="RandomCrop", height=3),
            TransformOptions(name="OneOf", transforms=[{"name": "HorizontalFlip", "p": 2}]),
            TransformOptions(name="Affine", scale=[0.5, 2]),
        ]
        with pytest.raises(ConfigError) as caught:
            Augment(steps, self.SETTING)
        found = caught.value.problems
        assert any(one.startswith("data.augment.0.blur_limit: ") and "found 'a'" in one for one in found)
        assert "data.augment.1.width: missing" in found
        assert "data.augment.2.transforms.0.p: Input should be less than or equal to 1, found 2" in found
        assert not any("augment.3" in one for one in found)

    def test_images_that_it_was_not_made_for_are_found_before_the_training(self, tmp_path: Path) -> None:
        steps = [TransformOptions(name="HorizontalFlip"), TransformOptions(name="ISONoise", p=0.01)]
        Augment(steps, self.SETTING).check(self.reader(tmp_path / "rgb"), 3)
        reader = self.reader(tmp_path / "many", channels=6)
        augment = Augment(steps, self.SETTING, channels=6)
        with pytest.raises(ConfigError, match=r"data\.augment\.1: ISONoise cannot change .*a\.npy \(20x20, 6 channels"):
            augment.check(reader, 6)

    def test_an_image_that_cannot_be_changed_is_named(self) -> None:
        with pytest.raises(DataError, match=r"here: RandomCrop cannot change a\.png \(60x41, 3 channels of uint8\)"):
            changed(transform("RandomCrop", height=100), sample())
        with pytest.raises(DataError, match="it would make it 3 channels of uint8"):
            changed(transform("ToRGB"), sample(channels=1))

    def test_what_the_library_advises_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "rehead"):
            transform("ShiftScaleRotate")
        assert "here: ShiftScaleRotate is a special case of Affine" in caplog.text


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_numbers_beyond_those_of_eight_bits_are_not_cut_off(channels: int) -> None:
    """Heights below the sea's, and what is brighter than data.scale says."""
    one = sample(channels, np.float32, objects=False)
    numbers = np.linspace(-60, 900, one.pixels.size, dtype=np.float32).reshape(one.pixels.shape)
    one = replace(one, image=numbers)
    step = transform("RandomBrightnessContrast", brightness_limit=[0, 0], contrast_limit=[0, 0], p=1)
    np.testing.assert_allclose(changed(step, one).pixels, numbers, atol=1e-2)
    brighter = transform("RandomBrightnessContrast", brightness_limit=[0.1, 0.1], contrast_limit=[0, 0], p=1)
    assert (changed(brighter, one).pixels >= numbers - 1e-2).all()

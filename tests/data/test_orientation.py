"""Which way up: one policy for every decoder. What a camera noted in EXIF is applied, as people see it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rehead.configs.readers import HuggingFaceSplit, InstanceMasksSplit, MasksSplit
from rehead.configs.schema import DataOptions
from rehead.data.image_io import image_size, read_image
from rehead.datasets.mask_values import read_colours, read_mask
from rehead.datasets.near_duplicates import DISTANCE, fingerprint, fingerprint_of
from rehead.datasets.open import open_reader

Array = NDArray[Any]

UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
"""What each value of the tag asks for (EXIF 2.32, 4.6.5.1)."""

BLOCKS = np.kron(np.array([[0, 1, 2], [3, 4, 5]], np.uint8), np.ones((16, 16), np.uint8))
PHOTO = np.stack([BLOCKS * 40, 255 - BLOCKS * 40, BLOCKS * 20 + 50], axis=-1)


def save(array: Array, path: Path, orientation: int, **options: Any) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images(orientation: int, suffix: str, channels: int, tmp_path: Path) -> None:
    stored = {1: PHOTO[:, :, 0], 3: PHOTO, 4: np.dstack([PHOTO, BLOCKS * 30])}[channels]
    if (suffix, channels) == ("jpg", 4):
        return
    options = {"lossless": True, "exact": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    path = save(stored, tmp_path / f"a.{suffix}", orientation, **options)
    expected = UPRIGHT[orientation](stored.reshape(*BLOCKS.shape, channels))
    assert image_size(path) == expected.shape[:2]
    found = read_image(path, channels)
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected).mean() < (3 if suffix == "jpg" else 1e-9)
    # Where the annotation has the size as stored, the image is as stored.
    if expected.shape[:2] != BLOCKS.shape:
        kept = read_image(path, channels, BLOCKS.shape)
        assert np.abs(kept.astype(int) - stored.reshape(kept.shape)).mean() < (3 if suffix == "jpg" else 1e-9)
    value = fingerprint_of(path)
    assert value is not None
    assert (value ^ fingerprint(read_image(path))).bit_count() <= DISTANCE


def test_arrays_have_no_camera(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PHOTO)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy"), PHOTO)
    assert image_size(tmp_path / "a.npy") == BLOCKS.shape


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_masks(orientation: int, suffix: str, tmp_path: Path) -> None:
    expected = UPRIGHT[orientation](BLOCKS)
    np.testing.assert_array_equal(read_mask(save(BLOCKS, tmp_path / f"a.{suffix}", orientation)), expected)
    wide = save(BLOCKS.astype(np.uint16) * 1000, tmp_path / f"wide.{suffix}", orientation)
    np.testing.assert_array_equal(read_mask(wide), expected.astype(int) * 1000)
    colours = save(PHOTO, tmp_path / f"colours.{suffix}", orientation)
    np.testing.assert_array_equal(read_colours(colours), UPRIGHT[orientation](PHOTO))
    exif = Image.Exif()
    exif[0x0112] = orientation
    indexed = Image.fromarray(BLOCKS)
    indexed.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    indexed.save(tmp_path / f"indexed.{suffix}", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / f"indexed.{suffix}"), expected)


@pytest.mark.parametrize("turned", ["image", "mask", "both"])
def test_an_image_and_its_mask_fit(turned: str, tmp_path: Path) -> None:
    """A mask drawn on the upright image, one drawn on the image as stored, and one that is turned like the image."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    upright = UPRIGHT[6](BLOCKS)
    save(PHOTO, tmp_path / "images/a.png", 6)
    stored = {"image": BLOCKS, "mask": upright, "both": BLOCKS}[turned]
    save(stored, tmp_path / "masks/a.png", 6 if turned == "both" else 1)
    names = [str(value) for value in range(6)]
    split = MasksSplit(images="images", masks="masks")
    data = DataOptions(format="masks", root=str(tmp_path), train=split, classes=names)
    sample = open_reader(data, "train", task="segmentation").read(0)
    assert sample.semantic is not None
    np.testing.assert_array_equal(sample.pixels[:, :, 0], sample.semantic * 40)
    numbered = InstanceMasksSplit(images="images", masks="masks")
    reader = open_reader(DataOptions(format="instance_masks", root=str(tmp_path), train=numbered), "train")
    reader.masks = True
    objects = reader.read(0)
    assert objects.masks is not None
    for number, mask in enumerate(objects.masks, start=1):
        np.testing.assert_array_equal(mask == 1, objects.pixels[:, :, 0] == number * 40)


@pytest.mark.parametrize("orientation", [1, 6])
def test_hugging_face(orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path / "cache"))
    path = save(PHOTO, tmp_path / "a.png", orientation)
    mask = save(BLOCKS, tmp_path / "m.png", orientation)
    features = datasets.Features({"image": datasets.Image(), "map": datasets.Image()})
    rows = {"image": [{"bytes": path.read_bytes(), "path": None}], "map": [{"bytes": mask.read_bytes(), "path": None}]}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "data"))
    split = HuggingFaceSplit(dataset="data", split="train")
    names = [str(value) for value in range(6)]
    data = DataOptions(format="huggingface", root=str(tmp_path), train=split, classes=names)
    sample = open_reader(data, "train", task="segmentation").read(0)
    np.testing.assert_array_equal(sample.pixels, UPRIGHT[orientation](PHOTO))
    np.testing.assert_array_equal(sample.semantic, UPRIGHT[orientation](BLOCKS))

"""Numbers beyond 8 bits: their range, and the mean and the standard deviation that a model is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image
from typer.testing import CliRunner

from rehead.cli import app
from rehead.configs.readers import MasksSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.numbers import Numbers
from rehead.datasets.audit.run import check_data
from rehead.datasets.near_duplicates import fingerprint, fingerprint_of
from rehead.datasets.open import open_reader
from rehead.errors import DataError

RNG = np.random.default_rng(0)
MASKS = ["data.format=masks", "data.classes=[a,b]"]


def write(root: Path, arrays: list[np.ndarray[Any, Any]]) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, array in enumerate(arrays):
        planar = {"planarconfig": "contig"} if array.ndim == 3 else {}
        tifffile.imwrite(root / f"images/{number}.tif", array, photometric="minisblack", **planar)
        Image.fromarray(np.eye(*array.shape[:2], dtype=np.uint8)).save(root / f"masks/{number}.png")
    return root


def measured(root: Path, *more: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["data", "stats", str(root), *MASKS, *more], catch_exceptions=False)
    found: dict[str, Any] = yaml.safe_load(result.stdout)
    return found


def test_mean_and_std_are_those_of_all_pixels(tmp_path: Path) -> None:
    arrays = [RNG.integers(0, high, (20 + high // 1000, 30, 5), dtype=np.uint16) for high in (3000, 10000)]
    found = measured(write(tmp_path, arrays))
    scale = found["data"]["scale"]
    assert 8000 < scale <= 10000
    every = np.concatenate([array.reshape(-1, 5) for array in arrays]) / scale
    assert found["model"]["backbone"]["in_channels"] == 5
    np.testing.assert_allclose(found["model"]["backbone"]["mean"], every.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(found["model"]["backbone"]["std"], every.std(axis=0), rtol=1e-3)
    given = measured(tmp_path, "data.scale=5000")
    assert given["data"]["scale"] == 5000
    np.testing.assert_allclose(given["model"]["backbone"]["mean"], every.mean(axis=0) * scale / 5000, rtol=1e-3)


def test_eight_bits_need_no_scale(tmp_path: Path) -> None:
    arrays = [RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8) for _ in range(2)]
    found = measured(write(tmp_path, arrays))
    assert "data" not in found
    every = np.concatenate([array.reshape(-1, 4) for array in arrays]) / 255
    np.testing.assert_allclose(found["model"]["backbone"]["mean"], every.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(found["model"]["backbone"]["std"], every.std(axis=0), rtol=1e-3)


def test_heights_with_a_sign_get_a_scale_and_are_read_with_it(tmp_path: Path) -> None:
    arrays = [RNG.integers(-50, 900, (20, 30), dtype=np.int16) for _ in range(3)]
    scale = measured(write(tmp_path, arrays))["data"]["scale"]
    assert 850 < scale <= 900
    split = MasksSplit(images="images", masks="masks")
    data = DataOptions(format="masks", root=str(tmp_path), classes=["a", "b"], train=split, scale=scale)
    pixels = open_reader(data, "train", task="segmentation").read(0, 1).pixels
    np.testing.assert_allclose(pixels[:, :, 0], arrays[0] * (255 / scale), rtol=1e-5)


@pytest.mark.parametrize(
    ("array", "scale", "proposed"),
    [
        (RNG.integers(0, 3000, (20, 30, 3), dtype=np.uint16), None, "3000"),
        (RNG.random((20, 30, 3), dtype=np.float32), None, "1"),
        (RNG.random((20, 30, 3), dtype=np.float32) * 4000, None, "4000"),
        (RNG.random((20, 30, 3), dtype=np.float32) * 4000, 4000, None),
        (RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16), None, None),
        (RNG.integers(0, 40, (20, 30, 3), dtype=np.uint8), None, None),
    ],
)
def test_the_check_finds_a_range_that_a_model_is_not_given(
    array: np.ndarray[Any, Any], scale: float | None, proposed: str | None, tmp_path: Path
) -> None:
    more = {} if scale is None else {"data.scale": scale}
    asked = {"data.format": "masks", "data.classes": ["a", "b"], **more}
    checked = check_data(write(tmp_path, [array, array[::-1]]), asked)
    found = [one.message for one in checked.findings if one.code == "number_range"]
    assert bool(found) == (proposed is not None)
    if proposed is not None:
        assert f"data.scale: {proposed} would fit" in found[0]
    assert [count for count, _ in checked.numbers] == ([] if array.dtype == np.uint8 else [2])
    for _, numbers in checked.numbers:
        assert numbers.least == pytest.approx(float(array.min()), rel=1e-4, abs=1e-3)
        assert numbers.most == pytest.approx(float(array.max()), rel=1e-4)


def test_a_proposal_has_two_digits() -> None:
    for top, proposed in ((9999, 10000), (2949, 3000), (0.98, 0.98), (0.991, 1.0), (4095, 4100), (0.0, 6.5)):
        assert Numbers(0, (0, 0, top), 6.5, 255).proposal == pytest.approx(proposed, rel=1e-9)


def test_several_kinds_have_no_scale_in_common(tmp_path: Path) -> None:
    write(tmp_path, [np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 4), np.uint16)])
    with pytest.raises(DataError, match=r"several kinds.*0\.tif \(255\), .*1\.tif \(65535\); give data\.scale"):
        measured(tmp_path)


@pytest.mark.parametrize("factor", [1.0, 1 / 3000, 20.0])
def test_images_of_many_bands_are_near_duplicates_or_not_whatever_their_range(factor: float, tmp_path: Path) -> None:
    for number in range(2):
        array = (RNG.random((40, 60, 6)).cumsum(axis=0) * 60 * factor).astype(np.float32)
        tifffile.imwrite(tmp_path / f"{number}.tif", array, photometric="minisblack", planarconfig="contig")
        assert fingerprint(array) == fingerprint(array * np.float32(4))
    found = [fingerprint_of(tmp_path / f"{number}.tif") for number in range(2)]
    assert None not in found
    assert found[0] != found[1]


def test_copies_and_splits_keep_the_scale(tmp_path: Path) -> None:
    root = write(tmp_path / "data", [RNG.integers(0, 3000, (20, 30, 3), dtype=np.uint16) for _ in range(4)])
    asked = [*MASKS, "data.scale=3000"]
    runner = CliRunner()
    arguments = ["data", "convert", str(root), str(tmp_path / "copy"), "--to", "masks", *asked]
    converted = runner.invoke(app, arguments, catch_exceptions=False)
    assert yaml.safe_load(converted.stdout)["data"]["scale"] == 3000
    split = runner.invoke(app, ["data", "split", str(root), "--val", "0.25", *asked], catch_exceptions=False)
    assert yaml.safe_load(split.stdout)["data"]["scale"] == 3000
    fixed = runner.invoke(app, ["data", "check", str(root), "--fix", str(tmp_path / "fixed"), *asked])
    assert '"scale": 3000.0' in fixed.stdout
    data = DataOptions(format="masks", root=str(root), classes=["a", "b"], scale=3000)
    one = open_reader(data.model_copy(update={"train": MasksSplit(images="images", masks="masks")}), "train")
    copied = yaml.safe_load(converted.stdout)["data"]
    other = data.model_copy(update={"root": copied["root"], "train": MasksSplit(**copied["train"])})
    np.testing.assert_array_equal(open_reader(other, "train").read(0).pixels, one.read(0).pixels)

"""TIFFs: the numbers in the file are the numbers in the batch, however they are stored, or an error says why not."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from rehead.configs.readers import MasksSplit
from rehead.configs.resize import ResizeOptions
from rehead.configs.schema import DataOptions
from rehead.data.collate import collate
from rehead.data.image_io import image_size, read_image
from rehead.data.transforms.resize import Resize
from rehead.datasets.mask_values import read_colours, read_mask
from rehead.datasets.open import open_reader
from rehead.errors import DataError

Array = NDArray[Any]

RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 256, (40, 56, 8), dtype=np.uint8)
ROUGH = BANDS // 64 * 64
"""Something to compress."""

STORED: dict[str, dict[str, Any]] = {
    "interleaved": {},
    "band by band": {"planarconfig": "separate"},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 32)},
    "tiles, band by band": {"tile": (16, 16), "planarconfig": "separate"},
    "LZW": {"compression": "lzw"},
    "deflate, predictor, tiles": {"compression": "deflate", "predictor": True, "tile": (16, 16)},
    "LZW, predictor, band by band": {"compression": "lzw", "predictor": True, "planarconfig": "separate"},
    "zstd": {"compression": "zstd"},
    "packbits": {"compression": "packbits"},
    "big TIFF": {"bigtiff": True},
    "big-endian": {"byteorder": ">"},
}


def write(path: Path, array: Array, **options: Any) -> Path:
    """(H, W, C), the bands where the options say."""
    if array.shape[2] == 1:
        options.pop("planarconfig", None)
        array = array[:, :, 0]
    elif options.setdefault("planarconfig", "contig") == "separate":
        array = np.ascontiguousarray(array.transpose(2, 0, 1))
    tifffile.imwrite(path, array, metadata=None, **options)
    return path


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64])
def test_numbers_come_back_however_they_are_stored(how: str, dtype: type, tmp_path: Path) -> None:
    array = ROUGH.astype(dtype)
    if np.dtype(dtype).kind != "u":
        array -= 100
    if dtype is np.uint16:
        array *= 257
    path = write(tmp_path / "a.tif", array, photometric="minisblack", **STORED[how])
    # 255 leaves numbers as they are; 16 bits are of 65535 unless something else is said.
    scale = 255.0 if dtype in (np.int16, np.uint32, np.int32) else None
    found = read_image(path, 8, scale=scale)
    assert found.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    np.testing.assert_array_equal(found, array / 257 if dtype is np.uint16 else array)
    assert image_size(path) == (40, 56)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("extra", ["unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_band_that_is_marked_as_alpha_multiplies_nothing(
    planar: str, extra: str, dtype: type, tmp_path: Path
) -> None:
    stored = BANDS[:, :, :4].astype(dtype) * (257 if dtype is np.uint16 else 1)
    path = write(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, extrasamples=[extra])
    np.testing.assert_allclose(read_image(path, 4), BANDS[:, :, :4])
    # The first three are red, green and blue, as the file says.
    np.testing.assert_allclose(read_image(path, 3), BANDS[:, :, :3])


def test_bands_without_names_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", BANDS[:, :, :5], photometric="minisblack")
    np.testing.assert_array_equal(read_image(path, 5), BANDS[:, :, :5])
    for channels in (1, 3, 4, 6):
        with pytest.raises(DataError, match=r"a\.tif: \d channels are wanted, found a TIFF of 1 band \+ 4 more"):
            read_image(path, channels)
    three = write(tmp_path / "b.tif", BANDS[:, :, :3], photometric="minisblack")
    np.testing.assert_array_equal(read_image(three, 3), BANDS[:, :, :3])


def test_grey_is_repeated_its_alpha_dropped_and_white_may_be_0(tmp_path: Path) -> None:
    grey = BANDS[:, :, :1]
    np.testing.assert_array_equal(
        read_image(write(tmp_path / "a.tif", grey, photometric="minisblack")), grey.repeat(3, 2)
    )
    white = write(tmp_path / "w.tif", 255 - grey, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(white, 1), grey)
    alpha = write(
        tmp_path / "l.tif",
        BANDS[:, :, :2],
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    np.testing.assert_array_equal(read_image(alpha, 1), grey)
    np.testing.assert_array_equal(read_image(alpha, 2), BANDS[:, :, :2])


def test_few_bits_and_twelve(tmp_path: Path) -> None:
    bit = RNG.random((40, 56)) < 0.5
    Image.fromarray(bit).save(tmp_path / "bit.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "bit.tif", 1)[:, :, 0], bit * 255)
    Image.fromarray(bit).save(tmp_path / "fax.tif", compression="group4")
    np.testing.assert_array_equal(read_image(tmp_path / "fax.tif", 1)[:, :, 0], bit * 255)
    twelve = RNG.integers(0, 4096, (40, 56), dtype=np.uint16)
    packed = np.unpackbits(twelve.byteswap().view(np.uint8).reshape(40, 56, 2), axis=2)[:, :, 4:].reshape(40, -1)
    raw = np.packbits(packed, axis=1).tobytes()
    tags = [(256, 4, 56), (257, 4, 40), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, 40)]
    tags = sorted([*tags, (277, 3, 1), (279, 4, len(raw))])
    entries = b"".join(
        t.to_bytes(2, "little") + k.to_bytes(2, "little") + b"\1\0\0\0" + v.to_bytes(4, "little") for t, k, v in tags
    )
    head = b"II*\0" + (8 + len(raw)).to_bytes(4, "little")
    (tmp_path / "12.tif").write_bytes(head + raw + len(tags).to_bytes(2, "little") + entries + bytes(4))
    found = read_image(tmp_path / "12.tif", 1)[:, :, 0]
    np.testing.assert_allclose(found, twelve * (255 / 4095), rtol=1e-6)


def test_colours_of_a_palette_and_of_ink(tmp_path: Path) -> None:
    picture = Image.fromarray(BANDS[:, :, :3]).quantize(16)
    picture.save(tmp_path / "p.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "p.tif"), np.asarray(picture.convert("RGB")))
    ink = Image.fromarray(BANDS[:, :, :3]).convert("CMYK")
    ink.save(tmp_path / "c.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif"), np.asarray(ink.convert("RGB")))


def test_a_scale_says_which_number_is_255(tmp_path: Path) -> None:
    reflectance = RNG.integers(0, 10000, (40, 56, 4), dtype=np.uint16)
    path = write(tmp_path / "a.tif", reflectance, photometric="minisblack")
    np.testing.assert_allclose(read_image(path, 4, scale=10000), reflectance / 10000 * 255, rtol=1e-6)
    heights = RNG.integers(-50, 900, (40, 56, 1), dtype=np.int16)
    path = write(tmp_path / "dem.tif", heights, photometric="minisblack")
    np.testing.assert_allclose(read_image(path, 1, scale=1000), heights * 0.255, rtol=1e-5)
    least, most = heights.min(), heights.max()
    with pytest.raises(DataError, match=rf"dem\.tif: pixels are int16, from {least} to {most}, .*set data\.scale"):
        read_image(path, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_an_error(value: float, tmp_path: Path) -> None:
    array = BANDS[:, :, :3].astype(np.float32)
    array[3, 4] = value
    path = write(tmp_path / "a.tif", array, photometric="rgb")
    with pytest.raises(DataError, match=r"a\.tif: 3 of 6720 numbers are NaN or infinite"):
        read_image(path)


def test_several_pages_are_no_image_but_overviews_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(BANDS[:, :, :3], photometric="rgb")
        file.write(BANDS[::2, ::2, :3], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(path), BANDS[:, :, :3])
    with tifffile.TiffWriter(path) as file:
        file.write(BANDS[:, :, :3], photometric="rgb")
        file.write(BANDS[:, :, :3], photometric="rgb")
    for ask in (read_image, image_size):
        with pytest.raises(DataError, match=r"a\.tif: 2 images in one file"):
            ask(path)


@pytest.mark.parametrize("how", ["LZW", "deflate, predictor, tiles"])
def test_damage_inside_a_compressed_file_is_an_error(how: str, tmp_path: Path) -> None:
    whole = write(tmp_path / "a.tif", BANDS[:, :, :3], photometric="rgb", **STORED[how]).read_bytes()
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        starts, counts = file.pages[0].dataoffsets, file.pages[0].databytecounts
    for start, count in list(zip(starts, counts, strict=True))[:3]:
        broken = bytearray(whole)
        middle = start + count // 2
        broken[middle : middle + 64] = bytes(64)
        (tmp_path / "a.tif").write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.tif: the image is damaged or cut short"):
            read_image(tmp_path / "a.tif")


def test_parts_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", BANDS[:, :, :3], photometric="rgb", compression="deflate", tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages[0].tags["TileByteCounts"]
        tag.overwrite((0, *tag.value[1:]))
    with pytest.raises(DataError, match=r"a\.tif: .*1 of its 12 parts \(strips or tiles\) are not there"):
        read_image(path)


def test_the_numbers_in_the_file_are_the_numbers_in_the_batch(tmp_path: Path) -> None:
    """Of a GeoTIFF with five bands and a mask of 16 bits, the whole way."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    array = RNG.integers(0, 10000, (32, 64, 5), dtype=np.uint16)
    options = {"photometric": "minisblack", "planarconfig": "separate", "compression": "lzw", "predictor": True}
    write(tmp_path / "images/a.tif", array, tile=(16, 16), **options)
    mask = RNG.integers(0, 3, (32, 64, 1), dtype=np.uint16)
    write(tmp_path / "masks/a.tif", mask, photometric="minisblack", compression="deflate")
    split = MasksSplit(images="images", masks="masks")
    data = DataOptions(format="masks", root=str(tmp_path), train=split, classes=["a", "b", "c"], scale=10000)
    reader = open_reader(data, "train", task="segmentation")
    sample = reader.read(0, 5)
    batch, targets = collate([Resize(ResizeOptions(height=32, width=64))(sample)], 32)
    np.testing.assert_allclose(batch.pixels[0].permute(1, 2, 0).numpy(), array * 0.0255, rtol=1e-6)
    assert targets[0].semantic is not None
    np.testing.assert_array_equal(targets[0].semantic.numpy(), mask[:, :, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("how", ["strips", "LZW, predictor, band by band", "tiles"])
def test_masks_hold_their_numbers(dtype: type, how: str, tmp_path: Path) -> None:
    mask = RNG.integers(0, 200, (40, 56, 1)).astype(dtype)
    path = write(tmp_path / "m.tif", mask, photometric="minisblack", **STORED[how])
    np.testing.assert_array_equal(read_mask(path), mask[:, :, 0])
    colours = write(tmp_path / "c.tif", BANDS[:, :, :3], photometric="rgb", **STORED[how])
    np.testing.assert_array_equal(read_colours(colours), BANDS[:, :, :3])


def test_fractions_are_no_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.tif", np.full((4, 6, 1), 0.5, np.float32), photometric="minisblack")
    with pytest.raises(DataError, match=r"m\.tif: the mask holds fractions"):
        read_mask(path)
    np.save(tmp_path / "m.npy", np.full((4, 6), 2, np.int64))
    assert (read_mask(tmp_path / "m.npy") == 2).all()


def test_who_has_no_tiffs_does_not_wait_for_their_library(tmp_path: Path) -> None:
    """It takes a quarter of a second to import."""
    Image.fromarray(BANDS[:, :, :3]).save(tmp_path / "a.png")
    asked = (
        "import sys; from pathlib import Path; from rehead.data.image_io import read_image; read_image(Path('a.png')); "
    )
    asked += "print({'tifffile', 'imagecodecs', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

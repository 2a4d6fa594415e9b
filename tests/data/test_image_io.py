from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rehead.data.image_io import image_size, read_image
from rehead.datasets.mask_values import read_mask
from rehead.errors import DataError

RED_LEFT = np.zeros((20, 30, 3), np.uint8)
RED_LEFT[:, :10] = (255, 0, 0)
NOISE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8), (5, 5), 0)


def save(path: Path, array: np.ndarray, orientation: int | None = None, **options: object) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        options["exif"] = exif
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_files_come_back_exactly_in_rgb_order(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a{suffix}", NOISE))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, NOISE)


def test_jpeg_and_webp_come_back_nearly_so(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.webp"):
        image = read_image(save(tmp_path / name, RED_LEFT, quality=95))
        assert abs(image.astype(int) - RED_LEFT).mean() < 6
        assert image[5, 3, 0] > 200 > 50 > image[5, 3, 2]


def test_grey_is_repeated_and_alpha_dropped(tmp_path: Path) -> None:
    grey = read_image(save(tmp_path / "grey.png", NOISE[:, :, 0]))
    np.testing.assert_array_equal(grey, NOISE[:, :, [0, 0, 0]])
    alpha = np.dstack([NOISE, np.full(NOISE.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "alpha.png", alpha)), NOISE)


def test_four_channels_are_rgba_and_one_is_grey(tmp_path: Path) -> None:
    alpha = np.dstack([NOISE, NOISE[:, :, 0]])
    np.testing.assert_array_equal(read_image(save(tmp_path / "alpha.png", alpha), channels=4), alpha)
    grey = read_image(save(tmp_path / "grey.png", NOISE[:, :, 0]), channels=1)
    np.testing.assert_array_equal(grey, NOISE[:, :, :1])


def test_sixteen_bits_become_float_on_the_same_scale(tmp_path: Path) -> None:
    deep = NOISE.astype(np.uint16) * 257
    deep[0, 0] = (1, 2, 3)
    cv2.imwrite(str(tmp_path / "deep.png"), cv2.cvtColor(deep, cv2.COLOR_RGB2BGR))
    image = read_image(tmp_path / "deep.png")
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, deep / 257, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 5, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_arrays_of_any_number_of_channels(tmp_path: Path, channels: int, dtype: type) -> None:
    array = (np.random.default_rng(0).random((4, 6, channels)) * 200).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    image = read_image(tmp_path / "a.npy", channels)
    assert image.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
    np.testing.assert_allclose(image, array / 257 if dtype is np.uint16 else array, rtol=1e-6)


def test_camera_orientation_is_applied(tmp_path: Path) -> None:
    turned = read_image(save(tmp_path / "a.png", RED_LEFT, orientation=6))
    assert turned.shape == (30, 20, 3)
    np.testing.assert_array_equal(turned, np.rot90(RED_LEFT, -1))


def test_camera_orientation_is_left_out_where_only_the_stored_one_fits_the_annotation(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RED_LEFT, orientation=6)
    np.testing.assert_array_equal(read_image(path, size=(20, 30)), RED_LEFT)
    assert read_image(path, size=(30, 20)).shape == (30, 20, 3)
    # Neither fits: what people see, and the caller finds the difference.
    assert read_image(path, size=(7, 7)).shape == (30, 20, 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tiff"])
@pytest.mark.parametrize("left", [0.5, 0.97])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path: Path, name: str, left: float) -> None:
    whole = save(tmp_path / name, NOISE).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(DataError, match=f"{name}: .*(cut short|known kind)"):
        read_image(tmp_path / name)


def test_a_jpeg_with_something_after_its_end_is_fine(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", NOISE)
    before = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0" * 40)
    np.testing.assert_array_equal(read_image(path), before)


def test_each_kind_of_unreadable_file_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "folder.jpg").mkdir()
    for name, message in (
        ("empty.jpg", "the file is empty"),
        ("text.jpg", "not an image of a known kind"),
        ("folder.jpg", "cannot be read"),
        ("absent.jpg", "no such file"),
        ("absent.npy", "no such file"),
    ):
        with pytest.raises(DataError, match=f"{name}: {message}"):
            read_image(tmp_path / name)


def test_an_array_that_holds_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: cannot be read as an array"):
        read_image(tmp_path / "a.npy")


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_a_wrong_number_of_channels_says_what_was_found_and_what_to_do(tmp_path: Path, channels: int) -> None:
    path = save(tmp_path / "a.png", NOISE)
    with pytest.raises(DataError, match=rf"{channels} channels are wanted, found .*40, 60, 3.*in_channels.*\.npy"):
        read_image(path, channels)


def test_a_sign_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 3), np.int16))
    with pytest.raises(DataError, match="pixels are int16, from 0 to 0, and nothing says"):
        read_image(tmp_path / "a.npy")


def test_a_path_need_not_be_ascii(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, "PNG")
    path = tmp_path / "Zürich – 東京.png"
    path.write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_image(path), NOISE)


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_damage_inside_a_compressed_file_is_an_error(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, NOISE)
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    if name == "a.webp":  # which has no checksums: its lengths alone can be compared
        del whole[middle : middle + 40]
    whole[middle : middle + 40] = bytes(40)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=rf"{name}: the image is damaged"):
        read_image(path)


def test_a_gif_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(NOISE).quantize(64), Image.fromarray(RED_LEFT).quantize(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.gif"), np.asarray(frames[0].convert("RGB")))


def test_one_limit_for_sizes_and_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        save(tmp_path / f"a{suffix}", NOISE) for suffix in (".png", ".jpg", ".tif", ".webp", ".bmp", ".gif", ".ppm")
    ]
    np.save(tmp_path / "a.npy", NOISE)
    files.append(tmp_path / "a.npy")
    monkeypatch.setenv("REHEAD_MAX_PIXELS", "2399")
    for path in files:
        for ask in (read_image, image_size, read_mask):
            with pytest.raises(DataError, match=rf"{path.name}: 60x40 pixels, more than 2399"):
                ask(path)
    monkeypatch.setenv("REHEAD_MAX_PIXELS", "2400")
    for path in files:
        assert read_image(path).shape == (40, 60, 3)
    monkeypatch.setenv("REHEAD_MAX_PIXELS", "many")
    with pytest.raises(DataError, match="REHEAD_MAX_PIXELS=many: should be a number"):
        read_image(files[0])


def test_images_larger_than_pillow_allows_are_read(tmp_path: Path) -> None:
    """Its own limit is 179 million pixels for an error, and half of that for a warning."""
    side = 13400
    path = tmp_path / "a.png"
    Image.new("1", (side, side)).save(path)
    assert image_size(path) == (side, side)
    assert read_mask(path).shape == (side, side)


def test_a_maximum_that_decoders_do_not_heed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 # ten bits\n4 2\n1023\n" + bytes(16))
    with pytest.raises(DataError, match=r"a\.pgm: its maximum is 1023"):
        read_image(tmp_path / "a.pgm", 1)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tiff"])
def test_an_image_that_memory_cannot_hold_is_not_called_damaged_or_unknown(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / f"a{suffix}", NOISE)

    def short(*arguments: object, **named: object) -> None:
        error = cv2.error("Failed to allocate 1200000000 bytes")
        error.code = cv2.Error.StsNoMem
        raise error

    def shorter(*arguments: object, **named: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cv2, "imdecode", short)
    monkeypatch.setattr(Image.Image, "convert", shorter)
    monkeypatch.setattr("rehead.data.tiff.read", shorter)
    with pytest.raises(DataError, match=r"a\.\w+: there is not enough memory for this image; cut it into tiles"):
        read_image(path)

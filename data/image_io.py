"""From an image file to an array, the same way in training, evaluation and prediction.

One function, `head_in`, says how large an image is and how it is turned, before a pixel is decoded: sizes and pixels
cannot disagree.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rehead.data import tiff
from rehead.errors import DataError
from rehead.reading import open_file, reading

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".npy"}
)
"""What counts as an image when a folder is listed, in lower case."""

EXIF_ORIENTATION = 0x0112
"""The tag that says how the camera was held; from 5 on, on its side."""

MOST_PIXELS = 2**28
"""Height times width of the largest image that is read, unless `$REHEAD_MAX_PIXELS` says otherwise."""

MOST_BYTES = 16
"""Of a file for each of these pixels: four channels of 32 bits, not compressed."""

# The limit is ours, and the same whoever decodes: Pillow's own would refuse sizes that OpenCV reads.
Image.MAX_IMAGE_PIXELS = None

Shrink = Callable[[tuple[int, int]], float]
"""From the (height, width) of an image to how many times smaller than that it is going to be used."""

REDUCED = {
    (1, 2): cv2.IMREAD_REDUCED_GRAYSCALE_2,
    (1, 4): cv2.IMREAD_REDUCED_GRAYSCALE_4,
    (1, 8): cv2.IMREAD_REDUCED_GRAYSCALE_8,
    (3, 2): cv2.IMREAD_REDUCED_COLOR_2,
    (3, 4): cv2.IMREAD_REDUCED_COLOR_4,
    (3, 8): cv2.IMREAD_REDUCED_COLOR_8,
}
"""By channels and reduction: how OpenCV is asked for it."""


class Decoded(NamedTuple):
    """An image, and what was left out of it.

    Attributes:
        image: as `read_image` gives it.
        reduction: 2, 4 or 8 where every pixel of it stands for as many of the file's in each direction, else 1.
            The first one begins where the file's first does; the last may reach beyond the file's last.
        full: (height, width) of the whole image, upright; None unless it was reduced.
        top: the number of full brightness in the file, such as 255 or 65535; None where its kind does not say.
    """

    image: NDArray[Any]
    reduction: int = 1
    full: tuple[int, int] | None = None
    top: int | None = 255


class Head(NamedTuple):
    """What a file says of its image before its pixels.

    Attributes:
        kind: Pillow's name of the format, such as JPEG; ARRAY for `.npy`.
        stored: (height, width) before it is turned.
        orientation: EXIF's, 1 for upright.
    """

    kind: str
    stored: tuple[int, int]
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) as people see it."""
        height, width = _turned(self.stored, self.orientation)
        return height, width


def read_image(
    path: Path, channels: int = 3, size: tuple[int, int] | None = None, scale: float | None = None
) -> NDArray[Any]:
    """Reads an image.

    The orientation that a camera noted in EXIF is applied, as people see the image and as most annotation
    tools do; unless `size` says that the annotation was made on the image as stored.

    Args:
        path: the file. `.npy` files hold (H, W, C), or (H, W) for one channel.
        channels: 3 gives RGB (grey is repeated, alpha dropped), 1 gives grey. Any other number must be what
            the file has: RGBA for 4, bands of a TIFF, and `.npy` for the rest.
        size: (height, width) that the annotation gives. It decides the orientation and is not checked.
        scale: the number in the file that becomes 255, whatever the file's kind.

    Returns:
        (H, W, C) uint8 for 8 bits. Else float32: without `scale`, 0..255 of the 0..65535 that 16 bits hold (and of
        what 10, 12 or 14 bits hold), and floating point as it is. With it, whatever the file holds is divided by it
        and times 255.

    Raises:
        DataError: when the file is missing, damaged, cut short, too large or of another kind; holds numbers that are
            not finite; or, without `scale`, whole numbers with a sign or of 32 bits. The message says which.
    """
    return decode_image(path, channels, size, scale=scale).image


def decode_image(
    path: Path,
    channels: int = 3,
    size: tuple[int, int] | None = None,
    shrink: Shrink | None = None,
    scale: float | None = None,
) -> Decoded:
    """Reads an image, and of a JPEG no more than is needed.

    A JPEG holds the frequencies of blocks of 8x8 pixels; leaving out the higher ones gives the image at a half, a
    quarter or an eighth of its size, for less than decoding and resizing all of it.

    Args:
        path: as in `read_image`.
        channels: as in `read_image`.
        size: as in `read_image`.
        shrink: how much smaller the image is going to be; it is not reduced by more. None reads it whole.
        scale: as in `read_image`.

    Raises:
        DataError: as `read_image`.
    """
    with decoding(path):
        return _decoded(path, channels, size, shrink, scale)


def _decoded(
    path: Path, channels: int, size: tuple[int, int] | None, shrink: Shrink | None, scale: float | None
) -> Decoded:
    if path.suffix.lower() == ".npy":
        array = np.array(_mapped_npy(path), order="C")
        pixels, top = _fitting(array, channels, path), tops(array.dtype)
        return Decoded(_numbers(pixels, top, scale, path), top=top)
    data = _content(path)
    with decoding(path):
        head = head_in(io.BytesIO(data), path)
    if head.kind == "TIFF":
        with decoding(path):
            stored = tiff.read(io.BytesIO(data))
            found = tiff.colours_of(stored, channels)
        if found is None:
            count = stored.pixels.shape[2]
            raise DataError(
                f"{path}: {channels} channels are wanted, found a TIFF of {stored.bands}, in an array of shape "
                f"{stored.pixels.shape}; set model.backbone.in_channels to {count}, and mean and std (`rehead data "
                "stats` measures them)"
            )
        image = _oriented(_numbers(found, stored.top, scale, path), head, size)
        return Decoded(image, top=stored.top)
    if head.kind == "JPEG" and shrink is not None and not _cut_short(data):
        reduced = _reduced(data, head, channels, size, shrink)
        if reduced is not None:
            return reduced._replace(image=_numbers(reduced.image, 255, scale, path))
    image = _fitting(_whole(data, head, channels, path), channels, path)
    top = tops(image.dtype)
    return Decoded(_oriented(_numbers(image, top, scale, path), head, size), top=top)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image in pixels, upright as `read_image` gives it, from the head of the file alone.

    Raises:
        DataError: when the file is missing, too large, or no image.
    """
    return head_of(path).upright


def channels_in(path: Path) -> int:
    """How many channels to read a file with, of which nothing else is known: 3, or all bands of a file with others.

    Raises:
        DataError: as `image_size`.
    """
    if path.suffix.lower() == ".npy":
        array = _mapped_npy(path)
        return array.shape[2] if array.ndim == 3 else 1
    if head_of(path).kind != "TIFF":
        return 3
    with decoding(path), open_file(path, MOST_BYTES * most_pixels()) as file:
        return tiff.channels_in(file)


def head_of(path: Path) -> Head:
    """What a file says of its image before its pixels.

    Raises:
        DataError: as `image_size`.
    """
    if path.suffix.lower() == ".npy":
        shape = _mapped_npy(path).shape
        return Head("ARRAY", (shape[0], shape[1]))
    with decoding(path), open_file(path, MOST_BYTES * most_pixels()) as file:
        return head_in(file, path)


def most_pixels() -> int:
    """The limit of height times width: `$REHEAD_MAX_PIXELS`, or `MOST_PIXELS`.

    Raises:
        DataError: for what is no number of pixels that OpenCV would read.
    """
    given = os.environ.get("REHEAD_MAX_PIXELS")
    if not given:
        return MOST_PIXELS
    if not given.isdecimal() or not 0 < int(given) <= 2**30:
        raise DataError(f"REHEAD_MAX_PIXELS={given}: should be a number of pixels, 1 to {2**30}")
    return int(given)


@contextmanager
def decoding(path: Path, what: str = "the image is damaged or cut short") -> Iterator[None]:
    """Says of what file it was that something could not be read.

    Args:
        path: of the file.
        what: is wrong with a file that a decoder raises something about.

    Raises:
        DataError: for whatever is raised inside.
    """
    with reading(path, what):
        try:
            yield
        except tiff.TiffError as error:
            raise DataError(f"{path}: {error}") from error
        except UnidentifiedImageError as error:
            raise DataError(f"{path}: not an image of a known kind") from error
        except MemoryError as error:
            raise DataError(
                f"{path}: there is not enough memory for this image; cut it into tiles, make it smaller, or read fewer "
                "at a time (data.workers, train.batch_size)"
            ) from error


def tops(dtype: np.dtype[Any]) -> int | None:
    """The number of full brightness: of those without a sign, as many bits as there are, up to 16; else None."""
    return {"|b1": 1, "|u1": 255}.get(dtype.str, 65535 if dtype.kind == "u" and dtype.itemsize == 2 else None)


def _fitting(image: NDArray[Any], channels: int, path: Path) -> NDArray[Any]:
    """(H, W, C) of as many channels as are wanted."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] != channels:
        raise DataError(
            f"{path}: {channels} channels are wanted, found an array of shape {image.shape}; "
            "set model.backbone.in_channels to the number of channels, and save what is neither grey, RGB "
            "nor RGBA as TIFF, or as .npy of shape (height, width, channels)"
        )
    if 0 in image.shape:
        raise DataError(f"{path}: the image is empty, of shape {image.shape}")
    return image


def _numbers(image: NDArray[Any], top: int | None, scale: float | None, path: Path) -> NDArray[Any]:
    """The numbers that `read_image` promises."""
    if image.dtype.kind not in "buif":
        raise DataError(f"{path}: pixels are {image.dtype}; they should be whole numbers or floating point")
    if scale is None and top is None and image.dtype.kind != "f":
        raise DataError(
            f"{path}: pixels are {image.dtype}, from {image.min()} to {image.max()}, and nothing says which number is "
            "full brightness; set data.scale to it (`rehead data stats` proposes one)"
        )
    full = scale or top or 255
    if image.dtype == np.uint8 and full == 255:
        return image
    pixels = image.astype(np.float32)
    if image.dtype.kind == "f" and not np.isfinite(pixels).all():
        count = int((~np.isfinite(pixels)).sum())
        raise DataError(
            f"{path}: {count} of {pixels.size} numbers are NaN or infinite (or too large for 32 bits), which nothing "
            "can be learned from; fill them in"
        )
    if image.dtype != np.uint8 and full == 65535:
        return pixels / np.float32(257)
    return pixels if full == 255 else pixels * np.float32(255) / np.float32(full)


def _content(path: Path) -> bytes:
    # Not cv2.imread: it gives the same None for a missing file as for a damaged one.
    with open_file(path, MOST_BYTES * most_pixels()) as file, decoding(path):
        data = file.read()
    if not data:
        raise DataError(f"{path}: the file is empty")
    return data


def head_in(stream: IO[bytes], path: Path) -> Head:
    """The head of anything but `.npy`; the path is for messages.

    Raises:
        DataError: for an image that is too large. Of a broken file decoders may raise anything.
    """
    begin = stream.read(4)
    if begin in tiff.MAGIC:
        stream.seek(0)
        stored, orientation = tiff.size_of(stream)
        head = Head("TIFF", stored, orientation)
    else:
        jpeg = begin[:2] == b"\xff\xd8"
        quick = _jpeg_head(stream) if jpeg else None
        head = quick or _pillow_head(stream, jpeg)
    height, width = head.stored
    if height < 1 or width < 1:
        raise DataError(f"{path}: the image is damaged: {width}x{height} pixels")
    if height * width > (limit := most_pixels()):
        raise DataError(
            f"{path}: {width}x{height} pixels, more than {limit}; cut it into tiles, or set REHEAD_MAX_PIXELS if there "
            "is enough memory"
        )
    return head if 1 <= head.orientation <= 8 else head._replace(orientation=1)


def _pillow_head(stream: IO[bytes], jpeg: bool) -> Head:
    stream.seek(0)
    with Image.open(stream) as image:
        # JPEGs with a second picture in them are MPO to it.
        kind = "JPEG" if jpeg else image.format or ""
        return Head(kind, (image.height, image.width), int(image.getexif().get(EXIF_ORIENTATION, 1)))


def _jpeg_head(stream: IO[bytes]) -> Head | None:
    """The size from the frame header; None where EXIF or XMP come first, which Pillow knows how to read.

    A tenth of the time that Pillow takes, which counts beside decoding a small image.
    """
    stream.seek(2)
    while True:
        marker = stream.read(4)
        if len(marker) < 4 or marker[0] != 0xFF:
            return None
        length = int.from_bytes(marker[2:], "big")
        if marker[1] in (0xE1, 0xFF) or length < 2:
            return None
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            frame = stream.read(5)
            if len(frame) < 5:
                return None
            return Head("JPEG", (int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")))
        stream.seek(length - 2, 1)


def _oriented(image: NDArray[Any], head: Head, size: tuple[int, int] | None) -> NDArray[Any]:
    """Turned as people see it, unless the annotation's size is that of the image as stored."""
    as_stored = size is not None and size != head.upright and size == head.stored
    return image if as_stored else _upright(image, head.orientation)


def _reduced(data: bytes, head: Head, channels: int, size: tuple[int, int] | None, shrink: Shrink) -> Decoded | None:
    """A JPEG at a reduced scale; None for what is damaged, or is needed whole."""
    as_stored = size is not None and size != head.upright and size == head.stored
    full = head.stored if as_stored else head.upright
    reduction = next((by for by in (8, 4, 2) if by <= shrink(full)), 1)
    if (channels, reduction) not in REDUCED:
        return None
    image = _imdecode(data, REDUCED[channels, reduction] | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or image.shape[:2] != tuple(-(-side // reduction) for side in head.stored):
        return None
    image = _rgb(image) if channels == 3 else image[:, :, None]
    return Decoded(_oriented(image, head, size), reduction, full)


def _rgb(image: NDArray[Any]) -> NDArray[Any]:
    """BGR to RGB, in place: fresh memory costs more than the exchange."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG may be: OpenCV 4 fills the rest of one that was; the end-of-image marker tells."""
    return not data.endswith(b"\xff\xd9")


def _whole(data: bytes, head: Head, channels: int, path: Path) -> NDArray[Any]:
    """Everything but arrays and TIFFs, as stored."""
    if head.kind == "GIF":
        # Not by OpenCV, which makes colours of grey.
        with decoding(path), Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert({1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "RGB")))
    if head.kind == "PPM":
        _refuse_other_maximum(data, path)
    flags = {
        3: cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION,
        1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION,
    }.get(channels, cv2.IMREAD_UNCHANGED)
    found = _imdecode(data, flags)
    problem = "" if found is not None else "the image is damaged: cannot be decoded"
    if head.kind == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        problem = f"the image is damaged or cut short: {len(data)} of {int.from_bytes(data[4:8], 'little') + 8} bytes"
    if found is None or (head.kind == "JPEG" and _cut_short(data)):
        with decoding(path), Image.open(io.BytesIO(data)) as image:
            image.load()
    if found is not None and found.shape[:2] != head.stored:
        by = f"{found.shape[1]}x{found.shape[0]}"
        problem = f"the image is damaged: its head says {head.stored[1]}x{head.stored[0]} pixels, and there are {by}"
    if problem or found is None:
        raise DataError(f"{path}: {problem}")
    if channels == 3:
        return _rgb(found)
    if found.ndim == 3 and found.shape[2] in (3, 4):
        code = cv2.COLOR_BGR2RGB if found.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        return cv2.cvtColor(found, code)
    return found


def _refuse_other_maximum(data: bytes, path: Path) -> None:
    """Of the maxima that PGM and PPM may have, OpenCV heeds some."""
    found = re.match(rb"P[2356](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)", data[:1000])
    if found and int(found.group(1)) not in (255, 65535):
        maximum = int(found.group(1))
        raise DataError(f"{path}: its maximum is {maximum}; save it with 255 or 65535, as PNG, or as TIFF")


def _imdecode(data: bytes, flags: int) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        return None


def _upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image as people see it, of one as stored."""
    if orientation == 1:
        return image
    if image.shape[2] <= 4:
        # Several times as fast as NumPy, and made for so many channels.
        return _TURNS[orientation](image).reshape(*_turned(image.shape[:2], orientation), -1)
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.flip(image, -1),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def _turned(size: tuple[int, ...], orientation: int) -> tuple[int, ...]:
    return size[::-1] if orientation >= 5 else size


def _mapped_npy(path: Path) -> NDArray[Any]:
    """An array of two or three dimensions, not yet read."""
    with open_file(path, MOST_BYTES * most_pixels()), decoding(path, "cannot be read as an array"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: cannot be read as an array: it is an archive of several (.npz)")
    if array.ndim not in (2, 3):
        raise DataError(f"{path}: an array of shape {array.shape}; it should be (height, width, channels)")
    if array.shape[0] * array.shape[1] > (limit := most_pixels()):
        raise DataError(f"{path}: {array.shape[1]}x{array.shape[0]} pixels, more than {limit}; cut it into tiles")
    return array

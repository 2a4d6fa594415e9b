"""From an image file to an array, the same way in training, evaluation and prediction."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rehead.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".npy"})
"""What counts as an image when a folder is listed, in lower case."""


EXIF_ORIENTATION = 0x0112
"""The tag that says how the camera was held; from 5 on, on its side."""

TIFF_WIDTH, TIFF_HEIGHT = 256, 257
"""The tags of a TIFF that hold the size as stored."""

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
    """

    image: NDArray[Any]
    reduction: int = 1
    full: tuple[int, int] | None = None


def read_image(path: Path, channels: int = 3, size: tuple[int, int] | None = None) -> NDArray[Any]:
    """Reads an image.

    The orientation that a camera noted in EXIF is applied, as people see the image and as most annotation
    tools do; unless `size` says that the annotation was made on the image as stored.

    Args:
        path: the file. `.npy` files hold (H, W, C), or (H, W) for one channel.
        channels: 3 gives RGB (grey is repeated, alpha dropped), 1 gives grey. Any other number must be what
            the file has: RGBA for 4, and `.npy` for the rest, since OpenCV reads no other TIFF whole.
        size: (height, width) that the annotation gives. It decides the orientation and is not checked.

    Returns:
        (H, W, C) uint8; float32 in 0..255 for 16-bit files; floating-point files as they are, in float32.

    Raises:
        DataError: when the file is missing, damaged, cut short or of another kind; the message says which.
    """
    return decode_image(path, channels, size).image


def decode_image(
    path: Path, channels: int = 3, size: tuple[int, int] | None = None, shrink: Shrink | None = None
) -> Decoded:
    """Reads an image, and of a JPEG no more than is needed.

    A JPEG holds the frequencies of blocks of 8x8 pixels; leaving out the higher ones gives the image at a half, a
    quarter or an eighth of its size, for less than decoding and resizing all of it.

    Args:
        path: as in `read_image`.
        channels: as in `read_image`.
        size: as in `read_image`.
        shrink: how much smaller the image is going to be; it is not reduced by more. None reads it whole.

    Raises:
        DataError: as `read_image`.
    """
    if path.suffix.lower() == ".npy":
        return Decoded(_checked(_load_npy(path), channels, path))
    data = _content(path)
    reduced = None if shrink is None else _reduced(data, channels, size, shrink)
    if reduced is not None:
        return reduced._replace(image=_checked(reduced.image, channels, path))
    return Decoded(_checked(_whole(data, channels, size, path), channels, path))


def _checked(image: NDArray[Any], channels: int, path: Path) -> NDArray[Any]:
    """(H, W, C) of the kinds that `read_image` promises."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] != channels:
        raise DataError(
            f"{path}: {channels} channels are wanted, found an array of shape {image.shape}; "
            "set model.backbone.in_channels to the number of channels, and save what is neither grey, RGB "
            "nor RGBA as .npy of shape (height, width, channels)"
        )
    if 0 in image.shape:
        raise DataError(f"{path}: the image is empty, of shape {image.shape}")
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return image.astype(np.float32) / np.float32(257)
    if image.dtype.kind == "f":
        return image.astype(np.float32)
    raise DataError(f"{path}: pixels are {image.dtype}; use 8 or 16 bits without sign, or floating point in 0..255")


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image in pixels, upright as `read_image` gives it, from the head of the file alone.

    Raises:
        DataError: when the file is missing, or no image.
    """
    if path.suffix.lower() == ".npy":
        shape = _load_npy(path).shape
        return shape[0], shape[1]
    try:
        with Image.open(path) as image:
            # Of a TIFF, Pillow gives the size as turned, but the orientation as well.
            tags = getattr(image, "tag_v2", {})
            width, height = tags.get(TIFF_WIDTH, image.size[0]), tags.get(TIFF_HEIGHT, image.size[1])
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image that can be read: {error}") from error
    return (width, height) if turned else (height, width)


def _content(path: Path) -> NDArray[np.uint8]:
    # Not cv2.imread: it gives the same None for a missing file as for a damaged one.
    try:
        return np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _reduced(data: NDArray[np.uint8], channels: int, size: tuple[int, int] | None, shrink: Shrink) -> Decoded | None:
    """A JPEG at a reduced scale; None for what is none, is damaged, or is needed whole."""
    if not _is_jpeg(data) or _cut_short(data):
        return None
    try:
        with Image.open(io.BytesIO(data.data)) as header:
            stored = (header.height, header.width)
            turned = header.getexif().get(EXIF_ORIENTATION, 1) >= 5
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    upright = stored[::-1] if turned else stored
    as_stored = size is not None and size != upright and size == stored
    full = stored if as_stored else upright
    reduction = next((by for by in (8, 4, 2) if by <= shrink(full)), 1)
    if (channels, reduction) not in REDUCED:
        return None
    flags = REDUCED[channels, reduction] | (cv2.IMREAD_IGNORE_ORIENTATION if as_stored else 0)
    image = _imdecode(data, flags)
    # Pillow and OpenCV may understand an orientation differently.
    if image is None or image.shape[:2] != tuple(-(-side // reduction) for side in full):
        return None
    return Decoded(_rgb(image) if channels == 3 else image, reduction, full)


def _rgb(image: NDArray[Any]) -> NDArray[Any]:
    """BGR to RGB, in place: fresh memory costs more than the exchange."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _is_jpeg(data: NDArray[np.uint8]) -> bool:
    return data[:2].tobytes() == b"\xff\xd8"


def _cut_short(data: NDArray[np.uint8]) -> bool:
    """Whether a JPEG may be: OpenCV 4 fills the rest of one that was; the end-of-image marker tells."""
    return data[-2:].tobytes() != b"\xff\xd9"


def _whole(data: NDArray[np.uint8], channels: int, size: tuple[int, int] | None, path: Path) -> NDArray[Any]:
    if channels == 3:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    elif channels == 1:
        flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    else:
        flags = cv2.IMREAD_UNCHANGED
    image = _imdecode(data, flags)
    if image is not None and flags == cv2.IMREAD_UNCHANGED:
        # Then OpenCV turns TIFFs, and nothing else.
        orientation, tiff = _orientation(data)
        image = image if tiff else _upright(image, orientation)
    if image is None or (_is_jpeg(data) and _cut_short(data)):
        problem = _problem(data)
        if image is None or problem:
            raise DataError(f"{path}: {problem or 'cannot be decoded'}")
    if size is not None and image.shape[:2] != size:
        # Not by IMREAD_IGNORE_ORIENTATION, which TIFFs do not heed.
        orientation, _ = _orientation(data)
        if orientation >= 5 and image.shape[1::-1] == size:
            image = _stored(image, orientation)
    if channels == 3:
        return _rgb(image)
    if image.ndim == 3 and image.shape[2] == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    return image


def _imdecode(data: NDArray[np.uint8], flags: int) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:
        return None


def _orientation(data: NDArray[np.uint8]) -> tuple[int, bool]:
    """The tag of a file, 1 where there is none; and whether it is a TIFF."""
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            return image.getexif().get(EXIF_ORIENTATION, 1), image.format == "TIFF"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1, False


def _upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """An image as people see it, of one as stored."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _stored(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The inverse of `_upright`, which differs for a quarter turn alone."""
    return _upright(image, {6: 8, 8: 6}.get(orientation, orientation))


def _problem(data: NDArray[np.uint8]) -> str:
    """What is wrong with a file, in words; empty when Pillow reads it whole."""
    if not data.size:
        return "the file is empty"
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            try:
                image.load()
            except (OSError, SyntaxError, ValueError) as error:
                return f"the image is damaged or cut short: {error}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "not an image of a known kind"
    return ""


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as an array: {error}") from error
    return array

"""From an image file to an array, the same way in training, evaluation and prediction."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

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
    image = _load_npy(path) if path.suffix.lower() == ".npy" else _decode(path, channels, size)
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


def _decode(path: Path, channels: int, size: tuple[int, int] | None) -> NDArray[Any]:
    # Not cv2.imread: it gives the same None for a missing file as for a damaged one.
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
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
    # OpenCV 4 fills the rest of a JPEG that was cut short; the end-of-image marker tells.
    cut_short = image is not None and data[:2].tobytes() == b"\xff\xd8" and data[-2:].tobytes() != b"\xff\xd9"
    if image is None or cut_short:
        problem = _problem(data)
        if image is None or problem:
            raise DataError(f"{path}: {problem or 'cannot be decoded'}")
    if size is not None and image.shape[:2] != size:
        # Not by IMREAD_IGNORE_ORIENTATION, which TIFFs do not heed.
        orientation, _ = _orientation(data)
        if orientation >= 5 and image.shape[1::-1] == size:
            image = _stored(image, orientation)
    if channels == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
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

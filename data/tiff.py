"""TIFFs: which numbers are in them, by their tags, whatever their bands, bits, tiles and compression.

Decoded by tifffile (https://github.com/cgohlke/tifffile), which gives the numbers as they are stored: OpenCV and Pillow
multiply bands by one that is marked as alpha, and scramble those that are stored one behind the other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from tifffile import TiffPage

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""What TIFFs and BigTIFFs begin with."""

ORIENTATION = 274

SMALLER, MASK = 1, 4
"""Bits of NewSubfileType: an overview of another page, and its transparency."""

WHITE_IS_0, GREY, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
"""Values of PhotometricInterpretation."""

COLOURS = {WHITE_IS_0: 1, GREY: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
"""How many of a pixel's values each of them is about; the others are ExtraSamples."""

ALPHA = (1, 2)
"""Values of ExtraSamples that are opacity, rather than another band."""


class TiffError(ValueError):
    """What a file is, that cannot be read."""


class Stored(NamedTuple):
    """What is in a TIFF.

    Attributes:
        pixels: (H, W, C) as stored, not turned; of a palette the colours.
        top: the value of full brightness where the file's bits say so: 255, 4095, 65535. None for numbers with a
            sign, those of 32 bits and more, and floating point.
        photometric: what the first values of a pixel mean.
        extra: of each further value, what it is (`ALPHA`).
    """

    pixels: NDArray[Any]
    top: int | None
    photometric: int
    extra: tuple[int, ...]

    @property
    def bands(self) -> str:
        """What a pixel holds, in words."""
        names = {RGB: "RGB", YCBCR: "RGB", PALETTE: "RGB", CMYK: "CMYK"}
        alpha = sum(one in ALPHA for one in self.extra)
        others = len(self.extra) - alpha
        parts = [names.get(self.photometric, "grey" if not others else "1 band")]
        parts += [f"{others} more" if others else "", "alpha" if alpha else ""]
        return " + ".join(part for part in parts if part)


def size_of(stream: IO[bytes]) -> tuple[tuple[int, int], int]:
    """(height, width) as stored, and the orientation, from the tags alone.

    Raises:
        TiffError: for what is not one image.
    """
    with _page(stream) as page:
        return (page.imagelength, page.imagewidth), _orientation(page)


def channels_in(stream: IO[bytes]) -> int:
    """What `colours_of` is best asked for: 3 for colours and grey, with or without alpha; else all bands.

    Raises:
        TiffError: for what is not one image.
    """
    with _page(stream) as page:
        extra = page.samplesperpixel - COLOURS.get(page.photometric, 3)
        opacity = sum(one in ALPHA for one in page.extrasamples)
        return 3 if extra <= min(opacity, 1) else page.samplesperpixel


def read(stream: IO[bytes], *, look_up: bool = True) -> Stored:
    """Everything in a TIFF of one image.

    Args:
        stream: of the file.
        look_up: whether a palette's colours are wanted, and not the numbers that stand for them.

    Raises:
        TiffError: saying what it is that cannot be read. Of a broken file tifffile may raise anything.
    """
    with _page(stream) as page:
        if page.photometric not in COLOURS:
            raise TiffError(f"its colours are {_name(page.photometric)}; save it as grey, RGB or bands")
        _refuse_absent(page, stream)
        found = page.asarray(squeeze=False, maxworkers=1)
        # Band, depth, row, column, value of a pixel: bands lie one behind the other, or pixel by pixel.
        pixels = np.ascontiguousarray(found[:, 0].transpose(1, 2, 0, 3).reshape(*found.shape[2:4], -1))
        colours = COLOURS[page.photometric]
        if pixels.shape[2] < colours:
            raise TiffError(f"{pixels.shape[2]} values in a pixel, of colours that are {_name(page.photometric)}")
        extra = tuple(int(one) for one in page.extrasamples)[: pixels.shape[2] - colours]
        extra += (0,) * (pixels.shape[2] - colours - len(extra))
        unsigned = pixels.dtype.kind in "bu" and page.bitspersample <= 16
        top = 2**page.bitspersample - 1 if unsigned else None
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8)
        if page.photometric == PALETTE and look_up:
            return Stored(_looked_up(pixels, page), 255, PALETTE, extra)
        if page.photometric == WHITE_IS_0:
            if top is None:
                raise TiffError(f"white is 0 in it, and its numbers are {pixels.dtype}; save it with black as 0")
            pixels[:, :, 0] = top - pixels[:, :, 0]
        return Stored(pixels, top, page.photometric, extra)


def indices(stream: IO[bytes]) -> NDArray[Any]:
    """(H, W) or (H, W, 3) of a mask: its numbers as they are stored (bool for one bit), or its colours.

    Raises:
        TiffError: as `read`.
    """
    stored = read(stream, look_up=False)
    colours = stored.pixels[:, :, : COLOURS[stored.photometric]]
    colours = colours.astype(bool) if stored.top == 1 else colours
    return colours[:, :, 0] if colours.shape[2] == 1 else colours


def colours_of(stored: Stored, channels: int) -> NDArray[Any] | None:
    """(H, W, channels) of what is stored; None where it has no such channels.

    All bands as they are where there are as many as wanted. Of red, green and blue further bands are left out; of grey
    alone, alpha is.
    """
    pixels, photometric = stored.pixels, stored.photometric
    if photometric == CMYK:
        if channels != 3 or pixels.shape[2] != 4 or pixels.dtype != np.uint8:
            return None
        return np.asarray(Image.fromarray(pixels, "CMYK").convert("RGB"))
    if pixels.shape[2] == channels:
        return pixels
    three = photometric in (RGB, YCBCR, PALETTE)
    if channels not in (1, 3) or not (three or all(one in ALPHA for one in stored.extra)):
        return None
    if not three:
        return np.repeat(pixels[:, :, :1], channels, axis=2)
    if channels == 3:
        return np.ascontiguousarray(pixels[:, :, :3])
    # ITU-R BT.601, as OpenCV and Pillow have it.
    grey = pixels[:, :, :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    whole = pixels.dtype.kind in "iu"
    found: NDArray[Any] = (np.rint(grey) if whole else grey).astype(pixels.dtype)[:, :, None]
    return found


@contextmanager
def _page(stream: IO[bytes]) -> Iterator[TiffPage]:
    """The one image of a file."""
    # Late: a quarter of a second, which only those who have TIFFs should wait for.
    import tifffile
    from tifffile import TiffPage

    # What it complains about and goes on is looked at below, or is of tags that nothing here reads.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(stream, _multifile=False, _useframes=False) as file:
        pages = [page for page in file.pages if isinstance(page, TiffPage) and not page.subfiletype & (SMALLER | MASK)]
        if len(pages) != 1:
            raise TiffError(f"{len(pages)} images in one file (pages); save each of its own, or its bands in one page")
        page = pages[0]
        if page.imagedepth != 1:
            raise TiffError(f"a volume, {page.imagedepth} deep; save its slices as images")
        yield page


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None else 1


def _refuse_absent(page: TiffPage, stream: IO[bytes]) -> None:
    """Strips and tiles that are not there would be filled with zeros, or with anything."""
    end = stream.seek(0, 2)
    wanted = math.prod(page.chunked)
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    absent = max(0, wanted - len(parts))
    if not page.is_contiguous:
        absent += sum(not (offset and count) for offset, count in parts)
    beyond = sum(offset + count > end for offset, count in parts)
    if beyond or absent:
        what = "reach beyond the end of the file" if beyond else "are not there"
        raise TiffError(
            f"the image is damaged or cut short: {beyond or absent} of its {wanted} parts (strips or tiles) {what}"
        )


def _looked_up(pixels: NDArray[Any], page: TiffPage) -> NDArray[np.uint8]:
    """(H, W, 3 and more) colours of a palette, which has 16 bits, or 8 where a writer has misunderstood it."""
    colours = page.colormap
    if colours is None or pixels.dtype.kind != "u" or int(pixels[:, :, 0].max(initial=0)) >= colours.shape[1]:
        raise TiffError("its palette lacks colours that it uses")
    eight = (colours if colours.max() < 256 else colours >> 8).astype(np.uint8)
    return np.concatenate([eight.T[pixels[:, :, 0]], pixels[:, :, 1:].astype(np.uint8)], axis=2)


def _name(photometric: int) -> str:
    import tifffile

    try:
        return tifffile.PHOTOMETRIC(photometric).name
    except ValueError:
        return str(photometric)

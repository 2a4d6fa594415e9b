"""What the values of a class map's file mean: numbers or colours, and the class of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rehead.data.image_io import EXIF_ORIENTATION, decoding, head_of
from rehead.data.tiff import indices
from rehead.datasets.parsing import unknown_classes
from rehead.errors import DataError, listed
from rehead.reading import open_file
from rehead.types import IGNORE_16, Classes, ignore_of, map_type

Colour = tuple[int, int, int]
NUMBERED = frozenset({"1", "L", "P", "I", "I;16", "I;16B"})
"""Pillow's modes that hold one number per pixel."""


class MaskValues:
    """From the values of mask files to classes.

    Without `values`, value v is class v, in the order of the names, unless it is to be ignored (an ignored
    value below K still takes a name: its class just never occurs). With them, names that are not among the
    classes do not count.

    Args:
        names: of the classes; at most 32767. All of `values`, in their order, unless given.
        ignored: values that do not count; they become `ignore_of` the map.
        values: by name, the number, or the (red, green, blue) of every pixel of the class.
        source: the folder of the masks, for messages.

    Attributes:
        labels: from a number, or a packed colour, to its class or what does not count.
        colours: whether values are colours.
        white: the value that the 1 of a mask of one bit stands for: 255 where that is a class's and 1 is none, since
            programs that make PNGs small write masks of 0 and 255 so.

    Raises:
        DataError: for no names, too many, or names without a value.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        ignored: Sequence[int],
        values: Mapping[str, int | Colour] | None,
        source: Path,
    ) -> None:
        if not names and not values:
            raise DataError("data.classes: masks hold only numbers; list the names of values 0, 1, 2, ... in order")
        names = list(names or values or ())
        if len(names) > IGNORE_16:
            raise DataError(f"data.classes: {len(names)} classes; a mask has room for {IGNORE_16} at most")
        kind = np.dtype(map_type(len(names)))
        self._ignored = ignore_of(np.empty(0, kind))
        if values is None:
            values = {name: value for value, name in enumerate(names)}
        unknown_classes(names, list(values), source)
        label_of = {name: label for label, name in enumerate(names)}
        labels = {value: label_of.get(name, self._ignored) for name, value in values.items()}
        self.colours = any(isinstance(value, tuple) for value in labels)
        if self.colours:
            colours = tuple(v for name in names if isinstance(v := values[name], tuple))
            self.classes = Classes(tuple(names), colours=colours)
            self.labels = {_packed(value): label for value, label in labels.items() if isinstance(value, tuple)}
        else:
            numbers = {value: label for value, label in labels.items() if isinstance(value, int)}
            self.classes = Classes(tuple(names), tuple(v for name in names if isinstance(v := values[name], int)))
            self.labels = numbers | dict.fromkeys(ignored, self._ignored)
        self.white = 255 if 255 in self.labels and 1 not in self.labels else 1
        self._sorted = np.array(sorted(self.labels), np.int64)
        self._label_at = np.array([self.labels[value] for value in self._sorted.tolist()], kind)
        self._known = np.zeros(256, bool)
        self._lookup = np.full(256, self._ignored, kind)
        small = (self._sorted >= 0) & (self._sorted < 256)
        self._known[self._sorted[small]] = True
        self._lookup[self._sorted[small]] = self._label_at[small]

    def read(self, path: Path) -> NDArray[Any]:
        """A mask as (H, W) in 0..K-1 or what does not count, of `map_type`.

        Raises:
            DataError: naming the file and the values that are no class.
        """
        if self.colours:
            mask: NDArray[np.integer] = pack(read_colours(path))
        else:
            mask = self.numbers(path)
            if mask.dtype == np.uint8:
                if not self._known[mask].all():
                    raise self._unknown(path, mask)
                known: NDArray[Any] = self._lookup[mask]
                return known
        place = np.searchsorted(self._sorted, mask).clip(max=len(self._sorted) - 1)
        if not (self._sorted[place] == mask).all():
            raise self._unknown(path, mask)
        found: NDArray[Any] = self._label_at[place]
        return found

    @property
    def ignored(self) -> list[int]:
        """The values (or packed colours) of the files that do not count, rising."""
        return sorted(value for value, label in self.labels.items() if label == self._ignored)

    def distinct(self, path: Path) -> list[int]:
        """The values of a mask file, rising; a colour is 65536 red + 256 green + blue.

        Raises:
            DataError: naming the file, if it cannot be read.
        """
        mask = pack(read_colours(path)) if self.colours else self.numbers(path)
        small = mask.dtype == np.uint8
        values: list[int] = (np.flatnonzero(np.bincount(mask.ravel())) if small else np.unique(mask)).tolist()
        return values

    def numbers(self, path: Path) -> NDArray[np.integer]:
        """(H, W) the values of a mask file, the 1 of one bit as what it stands for.

        Raises:
            DataError: as `read_mask`.
        """
        mask = read_mask(path)
        return mask.astype(np.uint8) * np.uint8(self.white) if mask.dtype == bool else mask

    def present(self, values: Sequence[int], path: Path) -> frozenset[int]:
        """The classes of the values of a mask.

        Raises:
            DataError: naming the file and the values that are no class.
        """
        if not set(values) <= self.labels.keys():
            raise self._unknown(path, np.array(values))
        return frozenset(self.labels[value] for value in values) - {self._ignored}

    def _unknown(self, path: Path, mask: NDArray[np.integer]) -> DataError:
        unknown: list[object] = [value for value in np.unique(mask).tolist() if value not in self.labels]
        if self.colours:
            unknown = [[value >> 16, value >> 8 & 255, value & 255] for value in unknown if isinstance(value, int)]
        word = ("colour" if self.colours else "value") + ("" if len(unknown) == 1 else "s")
        lossy = " JPEG does not keep values: save masks as PNG." if path.suffix.lower() in {".jpg", ".jpeg"} else ""
        if self.colours:
            return DataError(
                f"{path}: {word} {listed(unknown)}, which data.values does not list.{lossy} Give them a name there; "
                "names that are not in data.classes do not count"
            )
        by_order = list(self.classes.ids) == list(range(len(self.classes)))
        meant = f"values 0 to {len(self.classes) - 1}" if by_order else f"values {listed(self.classes.ids)}"
        binary = ""
        if unknown == [255] and len(self.classes) == 2:
            names = self.classes.names
            binary = f" For masks of 0 and 255 set data.values: {{{names[0]}: 0, {names[1]}: 255}}."
        return DataError(
            f"{path}: {word} {listed(unknown)}, but there are only {len(self.classes)} classes "
            f"({meant}).{lossy}{binary} Values that do not count "
            "belong in data.ignore_index, the others need names in data.classes (or data.values)"
        )


def _packed(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def pack(pixels: NDArray[np.uint8]) -> NDArray[np.integer]:
    """(H, W) one number for each colour: `red << 16 | green << 8 | blue`."""
    wide = pixels.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def read_mask(path: Path) -> NDArray[Any]:
    """(H, W) numbers as the file holds them; bool for one bit.

    Raises:
        DataError: naming the file, if it is in colour or cannot be read.
    """
    image = opened_mask(path)
    if image.mode not in NUMBERED:
        raise DataError(
            f"{path}: the mask is in colour ({image.mode}); it must hold one number per pixel, the value "
            "of its class (grey or palette PNG), or data.values must say which colour is which class, such as "
            "data.values: {sky: [128, 128, 128], road: [128, 64, 128]}"
        )
    return np.asarray(image)


def read_colours(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) red, green and blue; a palette is looked up, alpha dropped.

    Raises:
        DataError: naming the file, if it cannot be read.
    """
    return np.asarray(opened_mask(path).convert("RGB"))


def opened_mask(path: Path) -> Image.Image:
    """A whole mask: not by OpenCV, which turns a palette into its colours.

    Raises:
        DataError: naming the file, if it cannot be read, is too large, or holds fractions.
    """
    head = head_of(path)
    with decoding(path, "the mask cannot be read"):
        if head.kind == "ARRAY":
            return _picture(np.load(path, allow_pickle=False), path)
        with open_file(path) as file:
            if head.kind == "TIFF":
                image = _picture(indices(file), path)
                # `exif_transpose` asks the picture itself.
                image.getexif()[EXIF_ORIENTATION] = head.orientation
            else:
                image = Image.open(file)
                image.load()
            # As people see it, like the images.
            return ImageOps.exif_transpose(image)


def _picture(array: NDArray[Any], path: Path) -> Image.Image:
    """Numbers, or red, green and blue, as Pillow has them."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.int32)
        if not (whole == array).all():
            raise DataError(f"{path}: the mask holds fractions; its numbers are to be those of classes")
        array = whole
    if array.ndim == 2 and array.dtype.kind in "iu" and array.dtype not in (np.uint8, np.uint16):
        if array.size and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
            raise DataError(f"{path}: the mask holds {array.min()} to {array.max()}, which can be no classes")
        array = array.astype(np.int32)
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8)):
        raise DataError(f"{path}: the mask is an array of shape {array.shape} of {array.dtype}")
    return Image.fromarray(array)

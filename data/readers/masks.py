"""Semantic segmentation: an image and a mask of the same name, whose values are classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rehead.configs.readers import MasksSplit
from rehead.data.pixels import read_image
from rehead.data.readers.base import Reader, existing, image_names, listed
from rehead.data.sample import Sample
from rehead.errors import DataError
from rehead.types import IGNORE_16, Classes, ignore_of, map_type


class MasksReader(Reader):
    """Images and masks in two folders, matched by name without suffix, at any depth.

    A mask's value v is class v, in the order of the names, unless it is to be ignored (an ignored value
    below K still takes a name: its class just never occurs). Masks are read unchanged: a palette gives
    indices, not colours. Masks without an image are left alone.

    Args:
        split: the folders `images` and `masks`.
        root: what their paths are relative to.
        classes: the names of values 0, 1, 2, ...; at most 32767.
        ignore_index: values that do not count; they become `ignore_of` the map.

    Raises:
        DataError: for no names, no images, images without masks, or two files of one name.
    """

    def __init__(
        self, split: MasksSplit, root: Path, classes: Sequence[str] | None = None, ignore_index: Sequence[int] = ()
    ) -> None:
        self.folder = existing(root, split.images, "images", folder=True)
        self.mask_folder = existing(root, split.masks, "masks", folder=True)
        if not classes:
            raise DataError("data.classes: masks hold only numbers; list the names of values 0, 1, 2, ... in order")
        if len(classes) > IGNORE_16:
            raise DataError(f"data.classes: {len(classes)} classes; a mask has room for {IGNORE_16} at most")
        self.classes = Classes(tuple(classes))
        pairs = matched(self.folder, self.mask_folder, partial=split.partial)
        self._stems = np.array([PurePosixPath(image).with_suffix("").as_posix() for image, _ in pairs])
        self._images = np.array([image for image, _ in pairs])
        self._masks = np.array([mask for _, mask in pairs])
        self._type = np.dtype(map_type(len(classes)))
        ignored = ignore_of(np.empty(0, self._type))
        self._labels = {value: value for value in range(len(classes))} | dict.fromkeys(ignore_index, ignored)
        known = [(value, label) for value, label in self._labels.items() if 0 <= value < 256]
        self._known = np.zeros(256, bool)
        self._lookup = np.full(256, ignored, self._type)
        for value, label in known:
            self._known[value] = True
            self._lookup[value] = label

    def __len__(self) -> int:
        return len(self._stems)

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            image_id=str(self._stems[index]),
            path=self.folder / str(self._images[index]),
            mask_path=self.mask_folder / str(self._masks[index]),
        )

    def read(self, index: int, channels: int = 3) -> Sample:
        """The image and its semantic map, whose size says which way up the image is."""
        sample = self[index]
        semantic = self.semantic(index)
        image = read_image(sample.path, channels, size=(semantic.shape[0], semantic.shape[1]))
        return self._with_map(replace(sample, image=image), index, semantic)

    def complete(self, index: int, sample: Sample) -> Sample:
        """The sample with its semantic map."""
        return self._with_map(sample, index, self.semantic(index))

    def _with_map(self, sample: Sample, index: int, semantic: NDArray[Any]) -> Sample:
        height, width = sample.pixels.shape[:2]
        if (height, width) != semantic.shape:
            raise DataError(
                f"{self.mask_folder / str(self._masks[index])}: the mask is {semantic.shape[1]}x{semantic.shape[0]} "
                f"but its image {sample.path} is {width}x{height} (width x height)"
            )
        return replace(sample, semantic=semantic)

    def semantic(self, index: int) -> NDArray[Any]:
        """The mask alone, as (H, W) in 0..K-1 or what does not count, in the image's original size."""
        path = self.mask_folder / str(self._masks[index])
        mask = read_mask(path)
        if mask.dtype == np.uint8:
            if not self._known[mask].all():
                self._complain(path, np.unique(mask))
            known: NDArray[Any] = self._lookup[mask]
            return known
        values, inverse = np.unique(mask, return_inverse=True)
        self._complain(path, values)
        labels = np.array([self._labels[int(value)] for value in values], self._type)
        found: NDArray[Any] = labels[inverse.reshape(mask.shape)]
        return found

    def _complain(self, path: Path, values: NDArray[np.integer]) -> None:
        unknown = [int(value) for value in values if int(value) not in self._labels]
        if not unknown:
            return
        lossy = " JPEG does not keep values: save masks as PNG." if path.suffix.lower() in {".jpg", ".jpeg"} else ""
        raise DataError(
            f"{path}: {'value' if len(unknown) == 1 else 'values'} {listed(unknown)}, but there are only "
            f"{len(self.classes)} classes (values 0 to {len(self.classes) - 1}).{lossy} Values that do not count "
            "belong in data.ignore_index, the others need names in data.classes"
        )


def matched(folder: Path, mask_folder: Path, *, partial: bool = False) -> list[tuple[str, str]]:
    """Relative names of the images and of their masks, in order.

    A mask's name without suffix is its image's, or that with `_mask` behind it.

    Args:
        folder: of the images.
        mask_folder: of the masks.
        partial: leave out images without a mask, as long as one has one.

    Raises:
        DataError: for no images, images without a mask, or two files of one name.
    """
    images = _by_stem(folder)
    if not images:
        raise DataError(f"{folder}: no images")
    by_stem = _by_stem(mask_folder)
    masks = {stem.removesuffix("_mask") if stem not in images else stem: name for stem, name in by_stem.items()}
    unmatched = [name for stem, name in images.items() if stem not in masks]
    if unmatched and not (partial and len(unmatched) < len(images)):
        raise DataError(
            f"{mask_folder}: no mask for {len(unmatched)} of {len(images)} images: {listed(unmatched)}; "
            "a mask has its image's name (or that and _mask), with any image suffix"
        )
    return [(name, masks[stem]) for stem, name in images.items() if stem in masks]


def _by_stem(folder: Path) -> dict[str, str]:
    """Relative names by relative name without suffix."""
    found: dict[str, str] = {}
    for name in image_names(folder):
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if stem in found:
            raise DataError(f"{folder}: {found[stem]} and {name} have the same name; one of them must go")
        found[stem] = name
    return found


def read_mask(path: Path) -> NDArray[np.integer]:
    """(H, W) numbers as the file holds them.

    Raises:
        DataError: naming the file, if it is in colour or cannot be read.
    """
    # Not OpenCV, which turns a palette into its colours.
    try:
        with Image.open(path) as image:
            if image.mode not in {"1", "L", "P", "I", "I;16", "I;16B"}:
                raise DataError(
                    f"{path}: the mask is in colour ({image.mode}); it must hold one number per pixel, the value "
                    "of its class (grey or palette PNG)"
                )
            mask = np.asarray(image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the mask cannot be read: {error}") from error
    return mask.astype(np.uint8) if mask.dtype == bool else mask

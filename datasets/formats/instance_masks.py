"""Detection and instance segmentation: an image and a mask of the same name, whose values number the objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from rehead.configs.readers import InstanceMasksSplit
from rehead.data.instance_masks import encode, to_json
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Builder, Columns
from rehead.datasets.cache import cached
from rehead.datasets.formats.masks import matched
from rehead.datasets.mask_values import read_mask
from rehead.datasets.parsing import Report, existing, reason, refuse, watched
from rehead.errors import DataError
from rehead.types import Classes

MANY = 4096
"""Values of a mask beyond which they are a picture's."""


class InstanceMasksReader(AnnotationReader):
    """Images and masks in two folders, matched by name without suffix, at any depth (Penn-Fudan's form).

    Every value of a mask but 0 is one object; all are of one class. Boxes are the smallest around the
    masks, so every mask is read once, and its run-length codes are what the cache keeps.

    Args:
        split: the folders `images` and `masks`, and the `part` of them.
        root: what their paths are relative to.
        classes: the one class's name; `object` unless given.
        report: what is done about masks that cannot be used, and images without one.

    Raises:
        DataError: for more than one class, no images, images without masks, or masks that cannot be read.
    """

    def __init__(
        self,
        split: InstanceMasksSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        report: Report = refuse,
        images_match: Literal["exact", "stem", "loose"] = "exact",
        **_: object,
    ) -> None:
        folder = existing(root, split.images, "images", folder=True)
        mask_folder = existing(root, split.masks, "masks", folder=True)
        if classes is not None and len(classes) != 1:
            raise DataError(
                f"data.classes: {len(classes)} classes, but instance masks number objects of one class; name one"
            )
        pairs = matched(folder, mask_folder, report=report, how=images_match)
        first, last = (round(edge * len(pairs)) for edge in split.part)
        pairs = pairs[first:last]
        if not pairs:
            raise DataError(f"part: {list(split.part)} leaves none of the images of {folder}")
        one = Classes(tuple(classes or ("object",)), (1,))
        columns = cached(
            f"instance_masks {folder.absolute()} {mask_folder.absolute()} {split.part} {one.names} {images_match}",
            [mask_folder / mask for _, mask in pairs],
            lambda: parse(mask_folder, pairs, one, report),
            report,
        )
        super().__init__(columns, folder, mask_folder)


def parse(mask_folder: Path, pairs: Sequence[tuple[str, str]], classes: Classes, report: Report = refuse) -> Columns:
    """The columns of numbered masks, the objects in the order of their numbers.

    Raises:
        DataError: for a mask that cannot be read.
    """
    builder = Builder(mask_folder, report)
    for image, name in watched(pairs):
        try:
            mask = read_mask(mask_folder / name)
            mask = mask.astype(np.uint8) if mask.dtype == bool else mask
        except DataError as error:
            report("unreadable_mask", mask_folder / name, reason(error, mask_folder / name))
            continue
        numbers = np.unique(mask).tolist()
        if len(numbers) > MANY:
            said = f"{len(numbers)} different values, which can number no objects"
            report("unreadable_mask", mask_folder / name, said)
            continue
        builder.image(image, image.rpartition(".")[0], (mask.shape[0], mask.shape[1]))
        for number in numbers:
            if number == 0:
                continue
            inside = mask == number
            rows, columns = np.nonzero(inside)
            code = {"size": list(mask.shape), **to_json(encode(inside[None])[0])}
            builder.object(
                0,
                (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1),
                f"{name} {number}",
                area=len(rows),
                segmentation=msgspec.json.encode(code),
            )
    return builder.columns(classes)

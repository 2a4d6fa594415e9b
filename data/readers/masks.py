"""Semantic segmentation: an image and a mask of the same name, whose values are classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from rehead.configs.readers import MasksSplit
from rehead.data.pixels import SUFFIXES
from rehead.data.readers.base import Report, existing, files_by_stem, refuse
from rehead.data.readers.column_reader import ColumnReader
from rehead.data.readers.columns import Columns, Texts
from rehead.data.readers.mask_values import Colour, MaskValues
from rehead.data.readers.passed_over import passed_over, say_passed_over
from rehead.errors import DataError

logger = logging.getLogger("rehead")


class MasksReader(ColumnReader):
    """Images and masks in two folders, matched by name without suffix, at any depth.

    Masks are read unchanged: a palette gives indices, unless `values` are colours. Masks without an image
    are left alone. Listing the folders is all there is to it: nothing for the store to keep.

    Args:
        split: the folders `images` and `masks`.
        root: what their paths are relative to.
        classes: the names of values 0, 1, 2, ..., or those chosen from `values`; at most 32767.
        ignore_index: values that do not count; they become `ignore_of` the map.
        values: the value or the colour of every name.
        report: what is done about images without a mask.

    Raises:
        DataError: for no names, no images, images without masks, or two files of one name.
    """

    def __init__(
        self,
        split: MasksSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        ignore_index: Sequence[int] = (),
        values: Mapping[str, int | Colour] | None = None,
        report: Report = refuse,
        **_: object,
    ) -> None:
        folder = existing(root, split.images, "images", folder=True)
        mask_folder = existing(root, split.masks, "masks", folder=True)
        meant = MaskValues(classes, ignore_index, values, mask_folder)
        pairs = matched(folder, mask_folder, partial=split.partial, report=report)
        columns = Columns(
            classes=None,
            names=Texts.of(image for image, _ in pairs),
            ids=Texts.of(PurePosixPath(image).with_suffix("").as_posix() for image, _ in pairs),
            masks=Texts.of(mask for _, mask in pairs),
        )
        super().__init__(columns, folder, mask_folder, values=meant, mask_folder=mask_folder)


def matched(
    folder: Path, mask_folder: Path, *, partial: bool = False, report: Report = refuse
) -> list[tuple[str, str]]:
    """Relative names of the images and of their masks, in order.

    A mask's name without suffix is its image's, or that with `_mask` behind it.

    Args:
        folder: of the images.
        mask_folder: of the masks.
        partial: leave out images without a mask, as long as one has one.
        report: what is done about images without a mask, and two files of one name.

    Raises:
        DataError: for no images, images without a mask, or two files of one name.
    """
    images = files_by_stem(folder, SUFFIXES, report)
    if report is refuse:
        say_passed_over(folder, passed_over(folder))
        say_passed_over(mask_folder, passed_over(mask_folder))
    if not images:
        raise DataError(f"{folder}: no images")
    by_stem = files_by_stem(mask_folder, SUFFIXES, report)
    masks: dict[str, str] = {}
    for stem, name in by_stem.items():
        own = stem if stem in images else stem.removesuffix("_mask")
        if own in masks:
            report("duplicate_image", mask_folder, f"{masks[own]} and {name} are both masks of {own}; one must go")
            continue
        masks[own] = name
    unmatched = [name for stem, name in images.items() if stem not in masks]
    if report is refuse:
        alone = [name for own, name in masks.items() if own not in images]
        say_passed_over(mask_folder, alone, "masks are not read, since no image has their name")
        if partial and unmatched:
            logger.info("%s: %d of %d images have no mask and are left out", folder, len(unmatched), len(images))
    if unmatched and not (partial and len(unmatched) < len(images)):
        for name in unmatched:
            report(
                "missing_mask",
                folder / name,
                f"no mask in {mask_folder}, as for {len(unmatched)} of {len(images)} images; a mask has its image's "
                "name (or that and _mask), with any image suffix",
            )
    return [(name, masks[stem]) for stem, name in images.items() if stem in masks]

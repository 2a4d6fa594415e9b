"""Semantic segmentation: an image and a mask of the same name, whose values are classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from rehead.configs.readers import MasksSplit
from rehead.data.pixels import SUFFIXES
from rehead.data.readers.base import Report, existing, files_by_stem, refuse
from rehead.data.readers.column_reader import ColumnReader
from rehead.data.readers.columns import Columns, Texts
from rehead.data.readers.mask_values import Colour, MaskValues
from rehead.data.readers.missing import alike, say_matched
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
        images_match: Literal["exact", "stem", "loose"] = "exact",
        **_: object,
    ) -> None:
        folder = existing(root, split.images, "images", folder=True)
        mask_folder = existing(root, split.masks, "masks", folder=True)
        meant = MaskValues(classes, ignore_index, values, mask_folder)
        endings = (split.image_ending, split.mask_ending)
        pairs = matched(folder, mask_folder, partial=split.partial, report=report, endings=endings, how=images_match)
        columns = Columns(
            classes=None,
            names=Texts.of(image for image, _ in pairs),
            ids=Texts.of(PurePosixPath(image).with_suffix("").as_posix() for image, _ in pairs),
            masks=Texts.of(mask for _, mask in pairs),
        )
        super().__init__(columns, folder, mask_folder, values=meant, mask_folder=mask_folder)


def matched(
    folder: Path,
    mask_folder: Path,
    *,
    partial: bool = False,
    report: Report = refuse,
    endings: tuple[str, str] = ("", ""),
    how: Literal["exact", "stem", "loose"] = "exact",
) -> list[tuple[str, str]]:
    """Relative names of the images and of their masks, in order.

    A mask's name without suffix is its image's, or that with `_mask` behind it.

    Args:
        folder: of the images.
        mask_folder: of the masks.
        partial: leave out images without a mask, as long as one has one.
        report: what is done about images without a mask, and two files of one name.
        endings: of the names of images and of masks, where they differ in that. An image may lack its; what lacks
            the other is no mask.
        how: images without a mask find theirs: `data.images_match`.

    Raises:
        DataError: for no images, images without a mask, or two files of one name.
    """
    of_image, of_mask = endings
    images: dict[str, str] = {}
    for stem, name in files_by_stem(folder, SUFFIXES, report).items():
        _add(images, stem.removesuffix(of_image), name, folder, "images", report)
    if report is refuse:
        say_passed_over(folder, passed_over(folder))
        say_passed_over(mask_folder, passed_over(mask_folder))
    if not images:
        raise DataError(f"{folder}: no images")
    masks: dict[str, str] = {}
    for stem, name in files_by_stem(mask_folder, SUFFIXES, report).items():
        if stem.endswith(of_mask):
            own = stem.removesuffix(of_mask)
            own = own if own in images else own.removesuffix("_mask")
            _add(masks, own, name, mask_folder, "masks", report)
    absent, free = [stem for stem in images if stem not in masks], [own for own in masks if own not in images]
    if how != "exact":
        found = alike(absent, free, how)
        masks |= {stem: masks.pop(own) for stem, own in found.items()}
        if report is refuse:
            say_matched(folder, found, len(images), how)
    unmatched = [name for stem, name in images.items() if stem not in masks]
    loose = alike(absent, free, "loose") if unmatched and how == "exact" else {}
    cure = f"; data.images_match=loose finds those of {len(loose)}" if loose else ""
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
                f"name (or that and _mask){_described(endings)}, with any image suffix{cure}",
            )
    return [(name, masks[stem]) for stem, name in images.items() if stem in masks]


def _described(endings: tuple[str, str]) -> str:
    return f", {endings[1] or 'nothing'} in place of {endings[0] or 'nothing'} at its end" if any(endings) else ""


def _add(found: dict[str, str], key: str, name: str, folder: Path, what: str, report: Report) -> None:
    """Notes a file under the name that it shares with its other half, unless one is there already."""
    if key in found:
        report("duplicate_image", folder, f"{found[key]} and {name} are both {what} of {key}; one must go")
        return
    found[key] = name

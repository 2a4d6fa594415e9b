"""Semantic segmentation: an image and a mask of the same name, whose values are classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rehead.configs.readers import MasksSplit
from rehead.data.image_io import SUFFIXES
from rehead.data.instance_masks import code_of, decode, outline_of
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Columns, Texts
from rehead.datasets.content import Content, ImageRecord, Notes, ObjectRecord
from rehead.datasets.file_names import files_by_stem
from rehead.datasets.mask_values import Colour, MaskValues
from rehead.datasets.missing import alike, say_matched
from rehead.datasets.parsing import Report, existing, refuse
from rehead.datasets.passed_over import passed_over, say_passed_over
from rehead.errors import DataError
from rehead.types import Classes, ignore_of
from rehead.visualize.draw import colour_of

logger = logging.getLogger("rehead")


class MasksReader(AnnotationReader):
    """Images and masks in two folders, matched by name without suffix, at any depth.

    Masks are read unchanged: a palette gives indices, unless `values` are colours. Masks without an image
    are left alone. Listing the folders is all there is to it: nothing for the cache to keep.

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


BACKGROUND = "background"


def write_masks(content: Content, folder: Path, notes: Notes) -> dict[str, Any]:
    """Class maps of numbers keep the user's values, those that do not count too; of colours they become numbers.

    Objects are painted by class, the larger ones first, so that none lies hidden under a larger one; their classes
    are numbered from 1 after the background. Crowds do not count, but where another object lies over them.

    Raises:
        DataError: for objects that have boxes only.
    """
    classes = content.classes
    if not content.maps:
        if BACKGROUND in classes.names:
            raise DataError(f"{content.source}: has a class called {BACKGROUND}, which would be that of all the rest")
        classes = Classes((BACKGROUND, *classes.names), tuple(range(len(classes) + 1)))
        if classes.ids[1:] != content.classes.ids:
            notes["{} classes get other numbers, 1, 2, 3, ... after the background"] += len(content.classes)
    values = np.array(classes.ids)
    meant = [reader.values for reader, _ in content.splits.values() if reader.values is not None]
    # Of colours, and of objects, what does not count gets a value that is free, in 8 bits if there is one.
    free = next(value for value in (*range(255, -1, -1), *range(256, 65536)) if value not in classes.ids)
    ignored = sorted({value for one in meant for value in ([free] if one.colours and one.ignored else one.ignored)})
    if not content.maps:
        ignored = [free]
    kind = np.uint8 if max(*classes.ids, *ignored) < 256 else np.uint16
    if kind is np.uint16:
        notes["the palette: values above 255 are written as grey of 16 bits"] += 1
    palette = _palette(classes) if kind is np.uint8 else None
    for split in content.splits:
        for picture in content.pictures(split, stems=True):
            content.put(picture, folder / "images" / split)
            if picture.values is not None:
                written = picture.values.astype(np.int64)
            elif picture.semantic is not None:
                semantic = picture.semantic.astype(np.int64)
                written = np.where(
                    semantic == ignore_of(picture.semantic), free, values[semantic.clip(0, len(values) - 1)]
                )
            else:
                written = _painted(picture, free, notes)
            image = Image.fromarray(written.astype(kind))
            if palette is not None:
                image.putpalette(palette)
            path = folder / "masks" / split / f"{picture.stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    options: dict[str, Any] = {
        split: {"images": f"images/{split}", "masks": f"masks/{split}"} for split in content.splits
    }
    options["values"] = dict(zip(classes.names, classes.ids, strict=True))
    return {**options, **({"ignore_index": ignored} if ignored else {})}


def _palette(classes: Classes) -> list[int]:
    """The user's colours, or those of the pictures that rehead draws, the background black; white for no class."""
    bare = int(classes.names[0] == BACKGROUND)
    colours = np.full((256, 3), 255, np.uint8)
    for label, value in enumerate(classes.ids):
        drawn = colour_of(label - bare) if label >= bare else (0, 0, 0)
        colours[value] = classes.colours[label] if classes.colours else drawn
    flat: list[int] = colours.ravel().tolist()
    return flat


def _size_of(thing: ObjectRecord) -> float:
    return thing.box_area if thing.area is None else thing.area


def _painted(picture: ImageRecord, free: int, notes: Notes) -> NDArray[np.int64]:
    """(H, W) 0 for background, label + 1 for objects."""
    painted = np.zeros(picture.size, np.int64)
    for thing in sorted(picture.things, key=lambda thing: (not thing.crowd, -_size_of(thing))):
        if not thing.segmentation:
            raise DataError(
                f"{picture.path}: an object has a box only, and no outline to paint; masks are made of outlines"
            )
        try:
            mask = decode([code_of(outline_of(thing.segmentation), picture.size)], picture.size)[0] != 0
        except ValueError as error:
            raise DataError(f"{picture.path}: a segmentation cannot be read: {error}") from error
        under = painted[mask]
        notes["{} objects lie partly over others, which are hidden there (the smaller one is in front)"] += bool(
            ((under != 0) & (under != free)).any() and not thing.crowd
        )
        painted[mask] = free if thing.crowd else thing.label + 1
        notes["{} crowds are written as what does not count"] += thing.crowd
        notes["{} objects are painted into one map per image, which does not tell them apart"] += not thing.crowd
    return painted

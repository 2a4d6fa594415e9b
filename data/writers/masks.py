"""Writes class maps: an image and an indexed PNG of the same name, in two folders per split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rehead.data.draw import colour_of
from rehead.data.instance_masks import code_of, decode, outline_of
from rehead.data.writers.content import Content, Notes, Picture, Thing
from rehead.errors import DataError
from rehead.types import Classes, ignore_of

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


def _size_of(thing: Thing) -> float:
    return thing.box_area if thing.area is None else thing.area


def _painted(picture: Picture, free: int, notes: Notes) -> NDArray[np.int64]:
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

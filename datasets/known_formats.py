"""Formats that are known and not read: named, with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from rehead.datasets.file_names import image_names
from rehead.datasets.formats.yolo import label_file, listed_images
from rehead.datasets.tree import LOOKED_AT, Found, Tree
from rehead.reading import contents

SLANT = 1e-3
"""Shares of an image's side by which the corners of a box may be off, as they are rounded."""

KNOWN: tuple[tuple[str, str, tuple[bytes, ...], str], ...] = (
    (".xml", "CVAT's XML", (b"<annotations>", b"<image "), "export it from CVAT as COCO 1.0"),
    (".xml", "CVAT's XML of a video", (b"<annotations>", b"<track "), "export it from CVAT as COCO 1.0, with images"),
    (".json", "labelme's JSON", (b'"shapes"', b'"imagePath"'), "convert it to COCO, as labelme's labelme2coco.py does"),
    (".json", "Label Studio's JSON", (b'"result"', b'"from_name"'), "export it from Label Studio as COCO or YOLO"),
    (".json", "Supervisely's JSON", (b'"objects"', b'"classTitle"'), "export it from Supervisely as COCO"),
    (".txt", "DOTA's oriented boxes (OBB)", (b"imagesource:", b"gsd:"), "convert it to COCO with upright boxes"),
)
"""Formats that are not read: suffix, name, words that their files hold, and the way out."""


def known_formats(tree: Tree) -> list[str]:
    """What there is in formats that are known and not read, with the file and the way out."""
    found: dict[str, str] = {}
    for suffix, name, words, cure in KNOWN:
        for folder, names in tree.ending(suffix):
            for file in names[:LOOKED_AT]:
                content = tree.text(folder, file)
                if name not in found and all(content.find(word) >= 0 for word in words):
                    found[name] = f"{name} in {(PurePosixPath(folder) / file).as_posix()} is not read: {cure}"
    return list(found.values())


def oriented_boxes(tree: Tree, found: Found) -> str:
    """What to say of labels that are all boxes at an angle, which look like polygons; empty for others."""
    slanted = ""
    for label, row in rows_of_labels(tree, found):
        try:
            corners = np.array(row[1:], float).reshape(4, 2)
        except ValueError:
            return ""
        first, second, third, fourth = corners
        if len(row) != 9 or np.abs(first + third - second - fourth).max() > SLANT:
            return ""
        if np.abs(second - first).min() > SLANT:
            slanted = slanted or str(label)
    return slanted and (
        f"YOLO's oriented boxes (OBB: four corners for each object, at an angle) in {slanted} and others are not read "
        "as such: say data.format=yolo to read them as outlines of four points in upright boxes, or export them upright"
    )


def rows_of_labels(tree: Tree, found: Found) -> Iterator[tuple[Path, list[str]]]:
    """The words of the lines in the first label files, and the file."""
    for options in found.splits.values():
        source = tree.root / options["images"]
        if source.is_file():
            images = [tree.root / name for name in listed_images(source, tree.root.absolute())]
        else:
            images = [source / name for name in image_names(source)]
        for image in images[:LOOKED_AT]:
            label = label_file(image.absolute())
            if label.is_file():
                for line in contents(label).decode(errors="replace").splitlines():
                    if row := line.split():
                        yield label, row

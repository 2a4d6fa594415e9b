"""Writes YOLO: a text file per image, `data.yaml`, and a folder per split."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.data.instance_masks import code_of, decode, outline_of, wrong_segmentation
from rehead.data.pixels import image_size
from rehead.data.writers.content import Content, Notes, Picture, Thing
from rehead.data.writers.outlines import joined, outlines
from rehead.errors import DataError
from rehead.yaml_text import yaml_text

DIGITS = 10
"""Decimals of a share: a millionth of a pixel where an image has ten thousand."""


def write_yolo(content: Content, folder: Path, notes: Notes) -> dict[str, Any]:
    """Objects with an outline are written as a polygon, others as a box; with keypoints, as a box and its points.

    Classes are numbered 0, 1, 2, ..., since YOLO's own tools take no other numbers.

    Raises:
        DataError: for annotations of an image as it is stored where EXIF turns it: YOLO counts upright.
    """
    classes = content.classes
    points = len(classes.keypoints)
    about: dict[str, Any] = {split: f"images/{split}" for split in content.splits}
    if "val" not in about and "train" in about:
        notes["no val: YOLO's tools want one; see rehead data split"] += 1
    about["names"] = dict(enumerate(classes.names))
    if points:
        flipped = list(range(points))
        for a, b in classes.flip_pairs:
            flipped[a], flipped[b] = b, a
        about |= {"kpt_shape": [points, 3], "flip_idx": flipped}
        if any(not name.isdecimal() for name in classes.keypoints):
            notes["the names of the keypoints, which YOLO has no place for"] += 1
    if classes.ids != tuple(range(len(classes))):
        notes["{} classes get other numbers, 0, 1, 2, ..., as YOLO's own tools want them"] += sum(
            number != label for label, number in enumerate(classes.ids)
        )
    (folder / "data.yaml").write_text(yaml_text(about), encoding="utf-8")
    for split in content.splits:
        for picture in content.pictures(split, stems=True):
            if "images" in PurePosixPath(picture.name).parts[:-1]:
                raise DataError(
                    f"{picture.path}: its folders, {picture.name}, contain one called images, from which YOLO "
                    "would look for the labels; rename it"
                )
            if not picture.unsized and image_size(picture.path) != picture.size:
                height, width = picture.size
                raise DataError(
                    f"{picture.path}: is annotated as {width}x{height} (width x height), which is not the size of the "
                    "image as people see it, and YOLO goes by that; apply its EXIF rotation, or correct the annotation"
                )
            content.put(picture, folder / "images" / split)
            notes["{} images have an id that is not their name, which YOLO has no place for"] += (
                str(picture.image_id) != picture.stem
            )
            lines = [_line(thing, picture, points, notes) for thing in picture.things]
            path = folder / "labels" / split / f"{picture.stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines if line), encoding="utf-8")
    return {split: {"images": f"images/{split}"} for split in content.splits}


def _line(thing: Thing, picture: Picture, points: int, notes: Notes) -> str:
    """One object; empty for what cannot be written."""
    if thing.crowd:
        # As an object it would be learned as one.
        notes["{} crowds (or difficult objects) are left out: YOLO would take each for an object"] += 1
        return ""
    height, width = picture.size
    size = np.array([width, height], np.float64)
    box = np.array(thing.box, np.float64)
    polygon = _polygon(thing, picture, notes) if thing.segmentation and not points else None
    if polygon is not None:
        if (polygon < 0).any() or (polygon > size).any():
            notes["{} outlines reach outside their image and are cut at its edge"] += 1
            polygon = polygon.clip(0, size)
        notes["{} boxes that are not those of their outline are left out"] += bool(
            np.abs(np.concatenate([polygon.min(axis=0), polygon.max(axis=0)]) - box).max() > 0.02
        )
        return _words(thing.label, polygon / size)
    notes["{} outlines of objects with keypoints are left out"] += bool(points and thing.segmentation)
    notes["{} areas that are not the box's are left out: YOLO has none"] += thing.has_area_of_its_own
    inside = box.clip(0, np.tile(size, 2))
    if not np.array_equal(inside, box):
        notes["{} boxes reach outside their image and are cut at its edge"] += 1
    shares = np.concatenate([(inside[:2] + inside[2:]) / 2 / size, (inside[2:] - inside[:2]) / size])
    if not points:
        return _words(thing.label, shares)
    assert thing.keypoints is not None
    places = thing.keypoints.astype(np.float64)
    notes["{} objects have keypoints outside their image, which are put on its edge"] += bool(
        ((places[:, :2] < 0) | (places[:, :2] > size)).any()
    )
    return _words(thing.label, shares, np.column_stack([places[:, :2].clip(0, size) / size, places[:, 2]]))


def _polygon(thing: Thing, picture: Picture, notes: Notes) -> NDArray[np.float64] | None:
    """The outline as one polygon; None where there is none."""
    try:
        segmentation = outline_of(thing.segmentation)
        problem = wrong_segmentation(segmentation, picture.size) if segmentation else ""
    except ValueError as error:
        problem = str(error)
    if problem:
        raise DataError(f"{picture.path}: a segmentation cannot be read: {problem}")
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        parts = [np.array(part, np.float64).reshape(-1, 2) for part in segmentation if len(part) >= 6]
        notes["{} objects of several parts are joined to one polygon by lines of no width"] += len(parts) > 1
        return joined(parts) if parts else None
    try:
        parts = outlines(decode([code_of(segmentation, picture.size)], picture.size)[0])
    except ValueError as error:
        raise DataError(f"{picture.path}: a segmentation cannot be read: {error}") from error
    notes["{} run-length codes become outlines along the edges of their pixels"] += 1
    return joined(parts, holes=True) if parts else None


def _words(label: int, *numbers: NDArray[np.float64]) -> str:
    values = [value for array in numbers for value in array.ravel().tolist()]
    return " ".join([str(label), *(f"{value:.{DIGITS}f}".rstrip("0").rstrip(".") for value in values)])

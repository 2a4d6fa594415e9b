"""Detection, instance segmentation and keypoints: YOLO (https://docs.ultralytics.com/datasets/detect)."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rehead.configs.readers import YoloSplit
from rehead.data.image_io import image_size
from rehead.data.instance_masks import code_of, decode, outline_of, wrong_segmentation
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Builder, Columns
from rehead.datasets.cache import cached
from rehead.datasets.content import Content, ImageRecord, Notes, ObjectRecord
from rehead.datasets.file_names import image_names
from rehead.datasets.missing import How, alike, say_matched
from rehead.datasets.outlines import joined, outlines
from rehead.datasets.parsing import (
    Report,
    UnknownClassError,
    UnusableError,
    checked_classes,
    code_for,
    existing,
    reason,
    refuse,
    watched,
    with_unnamed,
)
from rehead.datasets.passed_over import passed_over, say_passed_over
from rehead.datasets.text_files import file_named, lines_of, text_of, wrong_name, yaml_of
from rehead.errors import ConfigError, DataError, listed, quoted
from rehead.reading import is_file, is_folder, is_there, names_in
from rehead.types import Classes
from rehead.yaml_text import yaml_text

logger = logging.getLogger("rehead")


MOST_POINTS = 10_000
"""Of an object, as nobody has them."""


class YoloReader(AnnotationReader):
    """A text file per image, a line per object: the class's number, then a box or a polygon.

    A box is `x y width height` of its centre, a polygon `x y x y ...`, both as shares of the image's width and
    height, upright (EXIF). Where the YAML file has a `kpt_shape`, the points of a pose follow the box. An image
    without a label file, or with an empty one, has no objects.

    Args:
        split: `images`, a folder or a text file of paths; `labels`, the folder of the label files; `names`, the
            YAML file that names the classes; `missing_labels`, what is done about images without a label file.
        root: what their paths are relative to.
        classes: names that select and order the classes of the YAML file; where there is no such file, the names of
            classes 0, 1, 2, ...
        report: what is done about lines that cannot be used.
        optional: those of the classes that the YAML file need not list; see `open_reader`.

    Raises:
        DataError: naming the file and the line, for what is no label, and classes without a name.
    """

    shares = True

    def __init__(
        self,
        split: YoloSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        report: Report = refuse,
        optional: Collection[str] | None = (),
        images_match: Literal["exact", "stem", "loose"] = "exact",
        **_: object,
    ) -> None:
        root = root.absolute()
        is_list = split.images.endswith(".txt")
        source = existing(root, split.images, "images", folder=not is_list)
        if split.labels is not None:
            existing(root, split.labels, "labels", folder=True)
        folder = root if is_list else source
        images = listed_images(source, root) if is_list else image_names(source)
        if report is refuse and not is_list:
            say_passed_over(source, passed_over(source))
        if not images:
            raise DataError(f"{source}: no images")
        labels = _label_files(folder, images, root, split, report) if is_list else _beside(folder, images, root, split)
        found = {} if images_match == "exact" else similar_labels(labels, images_match)
        if report is refuse and images_match != "exact":
            say_matched(source, {str(path): str(label) for path, label in found.items()}, len(images), images_match)
        labels = [found.get(path, path) for path in labels]
        if not any(map(is_there, labels)):
            loose = len(similar_labels(labels, "loose"))
            cure = f"; data.images_match=loose finds those of {loose}" if loose else "; set labels to their folder"
            raise DataError(f"{source}: no image has a label file, such as {labels[0]}{cure}")
        file = root / split.names
        named = class_names(file) if is_there(file) else None
        if named is None and classes is None:
            raise DataError(f"{file}: no such file to name the classes, and no data.classes")
        known = named or Classes(tuple(classes or ()))
        lacking = [not is_there(path) for path in labels]
        count = sum(lacking)
        if split.missing_labels == "error" or report is not refuse:
            for name, path, lacks in zip(images, labels, lacking, strict=True):
                if lacks:
                    said = f"no label file {path}, as for {count} of {len(images)} images"
                    report("missing_label_file", folder / name, f"{said}; an empty one says that there is no object")
        if split.missing_labels == "skip" and count:
            logger.warning("%s: %d of %d images have no label file and are left out", source, count, len(images))
            images = [name for name, lacks in zip(images, lacking, strict=True) if not lacks]
            labels = [path for path, lacks in zip(labels, lacking, strict=True) if not lacks]
            lacking = [False] * len(images)
        columns = cached(
            f"yolo {source.absolute()} {split.labels} {known} {split.missing_labels} {images_match}",
            [*filter(is_file, (folder / name for name in images)), *filter(is_file, labels)],
            lambda: parse(folder, images, labels, known, report),
            report,
        )
        super().__init__(columns, folder, source, classes, optional=optional)
        without = {name for name, lacks in zip(images, lacking, strict=True) if lacks}
        self.unlabelled = np.array([columns.names[row] in without for row in range(len(columns))], bool)


def class_names(path: Path) -> Classes:
    """The classes of a `data.yaml`: `names` as a list, or by number; for poses with their `kpt_shape` and `flip_idx`.

    Raises:
        DataError: naming the file, if it has none.
    """
    content = yaml_of(path)
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(isinstance(number, int) for number in names):
        raise DataError(f"{path}: no names; it should list the classes, such as names: [cat, dog] or names: {{0: cat}}")
    classes = checked_classes([str(names[number]) for number in sorted(names)], sorted(names), path)
    shape = content.get("kpt_shape")
    if shape is None:
        return classes
    try:
        if not 0 < int(shape[0]) <= MOST_POINTS:
            raise ValueError(f"an object has 1 to {MOST_POINTS} points")
        flipped = [int(place) for place in content.get("flip_idx") or ()]
        pairs = tuple((here, there) for here, there in enumerate(flipped) if here < there)
        return Classes(classes.names, classes.ids, tuple(str(n) for n in range(int(shape[0]))), pairs)
    except (TypeError, ValueError, LookupError, ConfigError) as error:
        raise DataError(
            f"{path}: kpt_shape {quoted(shape)} with flip_idx {quoted(content.get('flip_idx'))}: {error}"
        ) from error


def listed_images(path: Path, root: Path) -> list[str]:
    """Images of a text file: paths from its own folder (where they begin with ./), from the root, or absolute."""
    found = []
    for line in lines_of(path):
        if (problem := wrong_name(line)) or not PurePosixPath(line).name:
            raise DataError(f"{path}: {line[:60]!r} {problem or 'names no file'}")
        start = path.parent if line.startswith(("./", ".\\")) else root
        image = Path(os.path.abspath(start / file_named(start, line)))
        found.append(image.relative_to(root).as_posix() if image.is_relative_to(root) else image.as_posix())
    return found


def _beside(folder: Path, images: Sequence[str], root: Path, split: YoloSplit) -> list[Path]:
    """The label files of a folder's images."""
    if split.labels is None:
        return [label_file(folder / name) for name in images]
    return [(root / split.labels / name).with_suffix(".txt") for name in images]


def _label_files(folder: Path, images: Sequence[str], root: Path, split: YoloSplit, report: Report) -> list[Path]:
    """Those of listed images."""
    if split.labels is None:
        return [label_file(folder / name) for name in images]
    # A list's paths start from the root, and those of label files from their folder: as much of the path's end as
    # there is.
    labels = root / split.labels
    found = [_nested(labels, PurePosixPath(name).with_suffix(".txt")) for name in images]
    lost: set[Path] = set()
    users: dict[Path, list[str]] = defaultdict(list)
    for path, name in zip(found, images, strict=True):
        users[path].append(name)
    for path, names in users.items():
        if len(set(names)) > 1:
            report("contested_file", path, f"would be the labels of {len(names)} images, {listed(names)}")
            lost.add(path)
    # Nobody's, where reading goes on.
    return [
        path if path not in lost else (labels / name).with_suffix(".txt")
        for path, name in zip(found, images, strict=True)
    ]


def _nested(labels: Path, name: PurePosixPath) -> Path:
    ends = (labels / PurePosixPath(*name.parts[first:]) for first in range(len(name.parts)))
    return next(filter(is_file, ends), labels / name.name)


def label_file(image: Path) -> Path:
    """Where YOLO looks for the labels of an image."""
    # The last folder called images, as YOLO has it; else beside the image.
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def similar_labels(labels: Sequence[Path], how: How) -> dict[Path, Path]:
    """By label files that are not there, those of their folder that are like them; see `alike`."""
    taken = set(labels)
    absent = {str(path.with_suffix("")): path for path in labels if not is_there(path)}
    folders = dict.fromkeys(path.parent for path in absent.values())
    there = [folder / name for folder in folders if is_folder(folder) for name in names_in(folder)]
    free = [str(path.with_suffix("")) for path in there if path.suffix == ".txt" and path not in taken]
    return {absent[name]: Path(f"{file}.txt") for name, file in alike(list(absent), free, how).items()}


def parse(
    folder: Path, images: Sequence[str], labels: Sequence[Path], classes: Classes, report: Report = refuse
) -> Columns:
    """The columns of label files.

    Raises:
        DataError: as `YoloReader`.
    """
    builder = Builder(folder, report)
    known = classes
    for name, path in watched(list(zip(images, labels, strict=True))):
        try:
            size = image_size(folder / name)
        except DataError as error:
            code = "unreadable_image" if is_there(folder / name) else "missing_image"
            report(code, folder / name, reason(error, folder / name))
            continue
        builder.image(name, PurePosixPath(name).with_suffix("").as_posix(), size)
        if not is_there(path):
            continue
        try:
            text = text_of(path)
        except DataError as error:
            report("broken_annotation", path, reason(error, path))
            continue
        for number, line in enumerate(re.split(r"\r\n?|\n", text), start=1):
            if line.strip():
                what = f"{path.name} line {number}"
                try:
                    try:
                        _add(builder, line, size, classes, what)
                    except UnknownClassError as error:
                        report(code_for(error), path, f"line {number}: {error}")
                        known = with_unnamed(known, [error.number])
                        _add(builder, line, size, known, what)
                except ValueError as error:
                    report(code_for(error), path, f"line {number}: {error}")
    return builder.columns(known, len(known) - len(classes))


def _add(builder: Builder, line: str, size: tuple[int, int], classes: Classes, name: str) -> None:
    """One object: a box; a box and the points of a pose; or a polygon."""
    words = line.split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{line.strip()[:60]!r} is not a class number and coordinates") from None
    if numbers[0] not in classes.label_of:
        said = f"class {words[0]}, but the classes are {listed(list(classes.ids))}"
        if numbers[0].is_integer() and numbers[0] >= 0:
            raise UnknownClassError(int(numbers[0]), said)
        raise UnusableError("unknown_category", said)
    label = classes.label_of[int(numbers[0])]
    values = np.array(numbers[1:], np.float64)
    height, width = size
    count = len(classes.keypoints)
    if count or len(values) == 4:
        if len(values) not in {4 + 2 * count, 4 + 3 * count}:
            raise ValueError(f"{len(values)} numbers after the class; a box has 4, its {count} points 2 or 3 each")
        x, y, w, h = _shares(values[:4]) * [width, height, width, height]
        if w < 0 or h < 0:
            raise UnusableError("negative_box", f"a box of {words[3]} by {words[4]}")
        points = values[4:]
        if count:
            points = points.reshape(count, -1)
            # Without a third number, a point at the origin is one that is not there.
            seen = points[:, 2] if points.shape[1] == 3 else 2.0 * points.any(axis=1)
            points = np.column_stack([_shares(points[:, :2]) * [width, height], seen])
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        builder.object(label, box, name, keypoints=points.ravel().tolist())
    elif len(values) >= 6 and len(values) % 2 == 0:
        points = _shares(values).reshape(-1, 2) * [width, height]
        (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
        segmentation = msgspec.json.encode([points.ravel().round(3).tolist()])
        builder.object(label, (x1, y1, x2, y2), name, area=polygon_area(points), segmentation=segmentation)
    else:
        raise ValueError(
            f"{len(values)} coordinates; a box has 4 (x y width height of its centre), a polygon an even number "
            "of 6 or more"
        )


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # Not between 0 and 1 exactly: rounding takes boxes at the edge a little over it.
    if not (np.abs(values - 0.5) <= 0.51).all():
        shown = listed(values.ravel().tolist())
        raise ValueError(f"coordinates {shown}; they are shares of the image's width and height, 0 to 1")
    return values


def polygon_area(points: NDArray[np.float64]) -> float:
    """Square pixels inside a polygon of (M, 2) points (the shoelace formula)."""
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


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


def _line(thing: ObjectRecord, picture: ImageRecord, points: int, notes: Notes) -> str:
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


def _polygon(thing: ObjectRecord, picture: ImageRecord, notes: Notes) -> NDArray[np.float64] | None:
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

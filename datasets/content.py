"""What is written: the images of every split and all that is known of them, whatever format they came in."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.data.image_io import image_size
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.parsing import checked_classes, named_classes
from rehead.datasets.subset import Subset
from rehead.errors import DataError, OutputError
from rehead.progress import Progress
from rehead.reading import is_file
from rehead.types import Classes

NO_UTF8 = re.compile("[\ud800-\udfff]")
"""Bytes of a file's name that are not UTF-8."""

NO_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Those, what ends a line, and what XML has no place for."""

Notes = Counter[str]
"""What a format cannot hold, in words, and how often."""


@dataclass
class ObjectRecord:
    """One object.

    Attributes:
        label: 0..K-1 in the content's classes.
        box: xyxy in pixels, the shortest decimals that give the same float32.
        area: in square pixels; None where an outline says it and the file does not.
        crowd: not trained on, and neither right nor wrong to predict.
        number: the annotation's id, where it has one that is a number.
        segmentation: JSON as COCO has it; empty for none.
        keypoints: (P, 3) float32, where the classes have any.
    """

    label: int
    box: tuple[float, float, float, float]
    area: float | None
    crowd: bool
    number: int | None
    segmentation: bytes
    keypoints: NDArray[np.float32] | None

    @property
    def box_area(self) -> float:
        """Square pixels of the box."""
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)

    @property
    def has_area_of_its_own(self) -> bool:
        """Whether its area is another one than its box has."""
        return self.area is not None and abs(self.area - self.box_area) > 1e-3 * max(self.box_area, 1.0)


@dataclass
class ImageRecord:
    """One image.

    Attributes:
        path: of the file.
        name: under which it is to be written, relative, with `/` between parts; unique in its split.
        image_id: in the user's files.
        size: (height, width) of the annotation or, where it has none, of the image as people see it.
        things: its objects.
        semantic: its class map in 0..K-1 and what does not count, where that is what is annotated.
        values: (H, W) what the file of the class map holds, where that are numbers and not colours.
        unsized: whether the annotation does not say the size.
        label: 0..K-1, the class of the image, where that is what is annotated.
    """

    path: Path
    name: str
    image_id: int | str
    size: tuple[int, int]
    things: list[ObjectRecord]
    semantic: NDArray[Any] | None = None
    values: NDArray[Any] | None = None
    unsized: bool = False
    label: int | None = None

    @property
    def stem(self) -> str:
        """The name without suffix."""
        return PurePosixPath(self.name).with_suffix("").as_posix()


class Content:
    """The splits of a data set, for a writer.

    The classes are those of all splits; ids are the user's.

    Args:
        splits: readers by name. Of objects, class maps or classes of images, as a format or `from_train` gives them.
        link: whether images become hard links.

    Raises:
        DataError: for data of another kind, and splits that do not agree on their classes.
    """

    def __init__(self, splits: Mapping[str, Reader], *, link: bool = False) -> None:
        self.link = link
        self.splits: dict[str, tuple[AnnotationReader, Sequence[int]]] = {}
        for name, reader in splits.items():
            whole, rows = (reader.whole, reader.rows.tolist()) if isinstance(reader, Subset) else (reader, None)
            if not isinstance(whole, AnnotationReader):
                raise DataError(f"{name}: several sources of data are joined; convert each alone")
            self.splits[name] = whole, range(len(whole)) if rows is None else rows
        if not self.splits:
            raise DataError("no split to convert")
        readers = [reader for reader, _ in self.splits.values()]
        self.source = readers[0].annotations
        self.maps = readers[0].values is not None
        self.labels = readers[0].columns.image_labels is not None
        self.classes = _all_classes({name: reader for name, (reader, _) in self.splits.items()})
        self._label = {name: label for label, name in enumerate(self.classes.names)}

    def pictures(self, split: str, *, stems: bool = False, taken: set[str] | None = None) -> Iterator[ImageRecord]:
        """The images of a split in their order, with a bar for those who wait.

        Args:
            split: its name.
            stems: whether two images must not be told apart by their suffix alone.
            taken: names that must not be given again, in lower case; those given here are added.
        """
        reader, rows = self.splits[split]
        taken = set() if taken is None else taken
        label_of = np.array([self._label[name] for name in reader.classes.names], np.int64)
        with Progress(f"writing {split}", len(rows)) as bar:
            for row in rows:
                yield self._picture(reader, row, label_of, stems, taken)
                bar.advance()

    def _picture(
        self, reader: AnnotationReader, row: int, label_of: NDArray[np.int64], stems: bool, taken: set[str]
    ) -> ImageRecord:
        sample = reader[row]
        name = _free(reader.columns.names[row], stems, taken)
        semantic = reader.semantic(row) if reader.values is not None else None
        if semantic is not None:
            size = (semantic.shape[0], semantic.shape[1])
        else:
            size = sample.size or image_size(sample.path)
        return ImageRecord(
            sample.path,
            name,
            sample.image_id,
            size,
            [] if semantic is not None or self.labels else _things(reader, row, label_of),
            semantic,
            _values_of(reader, sample),
            unsized=sample.size is None,
            label=int(label_of[sample.label]) if isinstance(sample.label, int) else None,
        )

    def put(self, picture: ImageRecord, folder: Path) -> None:
        """Writes an image file under its name into a folder.

        Raises:
            DataError: if it is not there.
            OutputError: where files cannot be linked.
        """
        target = folder / picture.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not is_file(picture.path):
            raise DataError(f"{picture.path}: no such file")
        if not self.link:
            shutil.copyfile(picture.path, target)
            return
        try:
            os.link(picture.path.resolve(), target)
        except OSError as error:
            raise OutputError(
                f"{picture.path}: cannot be linked to {folder} ({error.strerror}); use --images copy"
            ) from error


def refuse_names(content: Content, form: str, forbidden: re.Pattern[str]) -> None:
    """Refuses names that would be another line, or could not be read again.

    Args:
        content: to be written.
        form: what the format is called.
        forbidden: letters that it has no place for.

    Raises:
        DataError: naming the first class or image.
    """
    names = [("class", name) for name in content.classes.names]
    names += [("image", reader.columns.names[row]) for reader, rows in content.splits.values() for row in rows]
    for what, name in names:
        if forbidden.search(name):
            raise DataError(
                f"{content.source}: {what} '{name}' holds control characters or bytes that are no text, for which "
                f"{form} has no place; rename it"
            )


def _values_of(reader: AnnotationReader, sample: Sample) -> NDArray[Any] | None:
    if reader.values is None or reader.values.colours or sample.mask_path is None:
        return None
    return reader.values.numbers(sample.mask_path)


def _all_classes(splits: Mapping[str, AnnotationReader]) -> Classes:
    """Those of all splits.

    Raises:
        DataError: naming the splits that give a class two ids, or two classes one.
    """
    readers = list(splits.values())
    first = readers[0].classes
    if all(reader.classes == first for reader in readers):
        return first
    names = list(dict.fromkeys(name for reader in readers for name in reader.classes.names))
    if not readers[0].columns.listed:
        return named_classes(names)
    id_of: dict[str, int] = {}
    seen: dict[str | int, str] = {}
    name_of: dict[int, str] = {}
    for split, reader in splits.items():
        where = reader.annotations
        for name, number in zip(reader.classes.names, reader.classes.ids, strict=True):
            if id_of.setdefault(name, number) != number:
                raise DataError(f"{where}: class '{name}' has id {number} in {split}, {id_of[name]} in {seen[name]}")
            if name_of.setdefault(number, name) != name:
                other = f"'{name_of[number]}' in {seen[number]}"
                raise DataError(f"{where}: id {number} is class '{name}' in {split}, {other}; give each its own")
            seen.setdefault(name, split)
            seen.setdefault(number, split)
        if reader.classes.keypoints != first.keypoints:
            raise DataError(f"{reader.annotations}: its keypoints are not those of {readers[0].annotations}")
    plain = checked_classes(names, [id_of[name] for name in names], readers[0].annotations)
    return Classes(plain.names, plain.ids, first.keypoints, first.flip_pairs)


def decimals(values: NDArray[np.float32]) -> list[float]:
    """The shortest decimals that give the same float32: 73.35, not 73.3499984741211."""
    return [float(str(value)) for value in values.ravel()]


def _things(reader: AnnotationReader, row: int, label_of: NDArray[np.int64]) -> list[ObjectRecord]:
    columns = reader.columns
    sample = reader[row]
    assert sample.boxes is not None
    assert sample.labels is not None
    labels = label_of[sample.labels].tolist()
    boxes = decimals(sample.boxes)
    rows = reader.rows_of(row)
    areas = decimals(columns.areas[rows]) if columns.areas is not None else None
    places = range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist()
    found = []
    for number, place in enumerate(places):
        x1, y1, x2, y2 = boxes[4 * number : 4 * number + 4]
        found.append(
            ObjectRecord(
                labels[number],
                (x1, y1, x2, y2),
                (x2 - x1) * (y2 - y1) if areas is None else None if math.isnan(areas[number]) else areas[number],
                bool(sample.iscrowd[number]) if sample.iscrowd is not None else False,
                int(columns.objects[place]) if isinstance(columns.objects, np.ndarray) else None,
                columns.segmentations.raw(place) if columns.segmentations is not None else b"",
                sample.keypoints[number] if sample.keypoints is not None else None,
            )
        )
    return found


def _free(name: str, stems: bool, taken: set[str]) -> str:
    """A relative name that is not taken, the image's own if possible; hidden files would not be found again."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or any(part.endswith(":") for part in path.parts):
        path = PurePosixPath(path.name)
    path = PurePosixPath(*(f"_{part}" if part.startswith(".") else part for part in path.parts))
    tried, count = path, 1
    while (key := (tried.with_suffix("") if stems else tried).as_posix().casefold()) in taken:
        count += 1
        tried = path.with_name(f"{path.stem}_{count}{path.suffix}")
    taken.add(key)
    return tried.as_posix()


def lines(notes: Notes) -> list[str]:
    """A line for every note that there is a case of; `{}` in it becomes the number of cases."""
    return [note.format(count) for note, count in notes.items() if count]

"""Annotations as columns: a few arrays for a whole split, however many objects it has. numpy only."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.datasets.parsing import Report, named_classes, refuse
from rehead.datasets.text_files import wrong_name
from rehead.errors import quoted
from rehead.types import Classes

Box = tuple[float, float, float, float]

LARGEST = 1e9
"""Pixels: no coordinate is as far away, and no side as long."""


class Texts:
    """Many texts in one buffer: a list of a million would be copied into every forked worker.

    Args:
        buffer: all texts, one behind the other, as the file system encodes names (UTF-8).
        ends: (N + 1,) where each begins, and where the last one ends.
    """

    def __init__(self, buffer: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.buffer = buffer
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str | bytes]) -> Texts:
        """The column of some texts."""
        encoded = [text if isinstance(text, bytes) else os.fsencode(text) for text in texts]
        ends = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=ends[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def raw(self, index: int) -> bytes:
        """The bytes of one text."""
        return self.buffer[self.ends[index] : self.ends[index + 1]].tobytes()

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self.raw(range(len(self))[index]))


Ids = NDArray[np.int64] | Texts


def ids_of(values: Sequence[int | str]) -> Ids:
    """A column of ids that are all numbers or all text."""
    return np.array(values, np.int64) if all(isinstance(v, int) for v in values) else Texts.of(map(str, values))


def id_at(ids: Ids, index: int) -> int | str:
    """One id, as the user's file has it."""
    return ids[index] if isinstance(ids, Texts) else int(ids[index])


@dataclass(frozen=True)
class Columns:
    """All annotations of a split: I images and their N objects, those of an image one behind the other.

    What a format lacks is None. Labels count the classes of the file, whichever of them are asked for.

    Attributes:
        classes: those of the file; None where masks hold numbers only.
        names: of the image files, relative to the folder of the images.
        ids: of the images, in the user's files.
        sizes: (I, 2) int32 height and width in pixels; 0 where the annotation does not say.
        starts: (I + 1,) int64, from which object to which an image's go.
        boxes: (N, 4) float32 xyxy in pixels.
        labels: (N,) int32.
        areas: (N,) float32 square pixels; not a number where the file has an outline and no area, which then is the
            mask's.
        crowds: (N,) bool: not trained on, and neither right nor wrong to predict.
        objects: (N,) what messages call an object, such as its id.
        segmentations: (N,) JSON as COCO has it: polygons or a run-length code; empty for none.
        keypoints: (N, P, 3) float32 x, y and COCO's visibility (0 not labelled, 1 hidden, 2 visible).
        masks: (I,) names of the files of the class maps, relative to their folder.
        image_labels: (I,) int64 class of the whole image.
        listed: whether the format lists its classes, rather than naming one wherever it occurs.
        unnamed: how many of the classes, the last ones, only have an id: none but where a check went on.
        reopen: how another process opens the same columns from the cache, a function and its arguments; it does not
            cross, and a changed copy (`dataclasses.replace`) has none.
    """

    classes: Classes | None
    names: Texts
    ids: Ids
    sizes: NDArray[np.int32] | None = None
    starts: NDArray[np.int64] | None = None
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int32] | None = None
    areas: NDArray[np.float32] | None = None
    crowds: NDArray[np.bool_] | None = None
    objects: Ids | None = None
    segmentations: Texts | None = None
    keypoints: NDArray[np.float32] | None = None
    masks: Texts | None = None
    image_labels: NDArray[np.int64] | None = None
    listed: bool = True
    unnamed: int = 0
    reopen: tuple[Callable[..., Columns], tuple[Any, ...]] | None = field(
        default=None, init=False, compare=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.names)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name; a column of texts gives two."""
        found: dict[str, NDArray[Any]] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Texts):
                found |= {f"{one.name}.buffer": value.buffer, f"{one.name}.ends": value.ends}
            elif isinstance(value, np.ndarray):
                found[one.name] = value
        return found

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], **others: Any) -> Columns:
        """The inverse of `arrays`; `others` are the attributes that are no arrays."""
        columns: dict[str, Any] = dict(others)
        for name, array in arrays.items():
            column, _, part = name.partition(".")
            if not part:
                columns[column] = array
            elif part == "buffer":
                columns[column] = Texts(array, arrays[f"{column}.ends"])
        return cls(**columns)

    def __reduce__(self) -> Any:
        """A worker maps the file of the cache itself: the arrays are not copied to it."""
        if self.reopen is not None:
            return self.reopen
        others: dict[str, Any] = {"classes": self.classes, "listed": self.listed, "unnamed": self.unnamed}
        return partial(Columns.from_arrays, **others), (self.arrays(),)


class Builder:
    """Columns from images and objects in their order, for formats that are read image by image.

    Args:
        source: what the annotations are read from, for messages.
        report: what is done about images that occur twice.
    """

    def __init__(self, source: Path, report: Report = refuse) -> None:
        self.source = source
        self.report = report
        self.names: list[str] = []
        self.ids: list[int | str] = []
        self.sizes: list[tuple[int, int]] = []
        self.counts: list[int] = []
        self.boxes: list[Box] = []
        self.labels: list[int | str] = []
        self.areas: list[float] = []
        self.crowds: list[bool] = []
        self.objects: list[str] = []
        self.segmentations: list[bytes] = []
        self.keypoints: list[Sequence[float]] = []
        self.left_out = False

    def image(self, name: str, image_id: int | str, size: tuple[float, float] | None = None) -> None:
        """Adds an image; the objects that follow are on it. One whose name no file can have is left out with them.

        Args:
            name: of the file, relative to the folder of the images.
            image_id: unique.
            size: (height, width) in pixels, if known; 0 says nothing.
        """
        problem = wrong_name(name)
        self.left_out = bool(problem)
        if problem:
            self.report("broken_annotation", self.source, f"an image's name {name[:60]!r} {problem}")
            return
        height, width = size or (0, 0)
        if not all(0 <= side < LARGEST and side == int(side) for side in (height, width)):
            self.report("broken_annotation", self.source, f"{name}: its size is {width:g}x{height:g}")
            height = width = 0
        self.names.append(name)
        self.ids.append(image_id)
        self.sizes.append((int(height), int(width)))
        self.counts.append(0)

    def object(
        self,
        label: int | str,
        box: Box,
        name: str,
        *,
        area: float | None = None,
        crowd: bool = False,
        segmentation: bytes = b"",
        keypoints: Sequence[float] = (),
    ) -> None:
        """Adds an object of the last image.

        Args:
            label: the index of its class, or its name.
            box: xyxy in pixels.
            name: what messages call it.
            area: in square pixels; the box's unless given.
            crowd: not trained on, and neither right nor wrong to predict.
            segmentation: JSON as COCO has it.
            keypoints: x, y and visibility of every point of the classes.
        """
        if self.left_out:
            return
        numbers = (*box, *keypoints, 0.0 if area is None else area**0.5 if area >= 0 else math.nan)
        if not all(abs(number) < LARGEST for number in numbers):
            self.report("negative_box", self.source, f"{name}: a number that no image is large enough for")
            return
        self.counts[-1] += 1
        self.boxes.append(box)
        self.labels.append(label)
        self.areas.append((box[2] - box[0]) * (box[3] - box[1]) if area is None else area)
        self.crowds.append(crowd)
        self.objects.append(name)
        self.segmentations.append(segmentation)
        self.keypoints.append(keypoints)

    def columns(self, classes: Classes | None = None, unnamed: int = 0) -> Columns:
        """What was added.

        Args:
            classes: of the indices in `label`; for names, those that occurred are the classes, sorted.
            unnamed: as in `Columns`.

        Raises:
            DataError: for two images of one id.
        """
        for image_id, count in Counter(self.ids).items():
            if count > 1:
                self.report("duplicate_image", self.source, f"image {quoted(image_id)} occurs more than once")
        listed = classes is not None
        labels = self.labels
        if classes is None and labels:
            classes = named_classes(map(str, labels))
            label_of = {name: label for label, name in enumerate(classes.names)}
            labels = [label_of[str(name)] for name in labels]
        return Columns(
            classes=classes,
            names=Texts.of(self.names),
            ids=ids_of(self.ids),
            sizes=np.array(self.sizes, np.int32).reshape(-1, 2),
            starts=np.cumsum([0, *self.counts], dtype=np.int64),
            boxes=np.array(self.boxes, np.float32).reshape(-1, 4),
            labels=np.array(labels, np.int32),
            areas=np.array(self.areas, np.float32),
            crowds=np.array(self.crowds, np.bool_),
            objects=Texts.of(self.objects),
            # Without any object, none lacks its outline.
            segmentations=Texts.of(self.segmentations) if any(self.segmentations) or not labels else None,
            keypoints=np.array(self.keypoints, np.float32).reshape(len(labels), len(classes.keypoints), 3)
            if classes is not None and classes.keypoints
            else None,
            listed=listed,
            unnamed=unnamed,
        )

"""The reader of every format: columns, the folder of the images, and the classes that were asked for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.configs.schema import SourceOptions
from rehead.data.image_io import Shrink
from rehead.data.instance_masks import NO_SEGMENTATION, RLE, code_of, outline_of
from rehead.data.reader import Reader, with_pixels
from rehead.data.sample import Sample
from rehead.datasets.annotations import Columns, id_at
from rehead.datasets.mask_values import MaskValues
from rehead.datasets.parsing import ClassesDifferError, checked_classes, inline, named_classes
from rehead.errors import DataError, did_you_mean, hinted, listed, shortened
from rehead.types import UNUSED, Classes

logger = logging.getLogger("rehead")


class AnnotationReader(Reader):
    """Images in the order of the columns.

    With `presence`, an image's label is 1 for every class that it has an object of, crowds too, and 0 for the
    others. Crossing to a worker takes the columns' place in the cache along, not their content.

    Args:
        columns: of the split, with all classes of the file.
        folder: that the names of the images start from.
        annotations: the file or folder that they were read from, for messages.
        classes: names that select and order the classes; objects of others are left out.
        values: what the values of class maps mean, for formats that have them.
        mask_folder: that the names of the class maps start from.
        optional: those of `classes` that the file need not list; see `open_reader`.

    Attributes:
        sound: whether all outlines of the chosen classes were looked at, so that reading need not.
        first_pixel: what the files call the first column and row, which messages do too.
        shares: whether the files have coordinates as shares of the image's sides.
        max_objects: of an image, no more than so many are given: every second, third, ... of them. All unless set.
        root: of the data set, for messages.
        source: where the splits of the data set are.
        key: of the split in the configuration, such as `data.train`, for messages.
        unlabelled: (I,) the images that nobody has annotated, for formats with a file per image that may be missing.

    Raises:
        DataError: naming the classes that are not there.
    """

    unlabelled: NDArray[np.bool_] | None = None
    first_pixel: int = 0
    shares: bool = False
    max_objects: int | None = None
    root: Path | None = None
    source: SourceOptions | None = None
    key: str = "data.train"
    sound: bool = False

    def __init__(
        self,
        columns: Columns,
        folder: Path,
        annotations: Path,
        classes: Sequence[str] | None = None,
        *,
        values: MaskValues | None = None,
        mask_folder: Path | None = None,
        optional: Collection[str] | None = (),
    ) -> None:
        if not len(columns):
            raise DataError(f"{annotations}: no images")
        self.columns = columns
        self.folder = folder
        self.annotations = annotations
        self.values = values
        self.mask_folder = mask_folder if mask_folder is not None else folder
        self.classes = values.classes if values is not None else _chosen(columns, classes, annotations, optional)
        self._label_of: NDArray[np.int64] | None = None
        if values is None and columns.classes is not None and self.classes.names != columns.classes.names:
            own = {name: label for label, name in enumerate(self.classes.names)}
            self._label_of = np.array([own.get(name, -1) for name in columns.classes.names], np.int64)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        columns = self.columns
        height, width = (0, 0) if columns.sizes is None else columns.sizes[index].tolist()
        sample = Sample(
            image_id=id_at(columns.ids, index),
            path=self.folder / columns.names[index],
            size=(height, width) if height and width else None,
        )
        if columns.masks is not None:
            sample.mask_path = self.mask_folder / columns.masks[index]
        if columns.image_labels is not None:
            label = int(columns.image_labels[index])
            label = label if self._label_of is None else int(self._label_of[label])
            # An image of a class that was not asked for has none.
            sample.label = label if label >= 0 else None
        if columns.starts is not None:
            assert columns.boxes is not None
            assert columns.labels is not None
            rows = self.rows_of(index)
            labels = columns.labels[rows].astype(np.int64)
            labels = labels if self._label_of is None else self._label_of[labels]
            if self.presence:
                sample.label = np.zeros(len(self.classes), np.float32)
                sample.label[labels] = 1
            if not self.boxes:
                return sample
            if self.max_objects is not None:
                rows = self._kept(index)
                labels = columns.labels[rows].astype(np.int64)
                labels = labels if self._label_of is None else self._label_of[labels]
            # Copies, since what the cache maps cannot be written to.
            sample.boxes = columns.boxes[rows].copy()
            sample.labels = labels
            sample.iscrowd = None if columns.crowds is None else columns.crowds[rows].copy()
            if columns.areas is not None:
                sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
                areas = columns.areas[rows]
                sample.areas = np.where(np.isnan(areas), sides[:, 0] * sides[:, 1], areas)
            sample.keypoints = None if columns.keypoints is None else columns.keypoints[rows].copy()
        return sample

    def unmeasured(self, index: int) -> NDArray[np.bool_]:
        """Which objects have an outline and no area in the file."""
        areas = self.columns.areas
        rows = self._kept(range(len(self))[index])
        found: NDArray[np.bool_] = np.isnan(areas[rows]) if areas is not None else np.zeros(0, bool)
        return found

    def rows_of(self, index: int) -> slice | NDArray[np.int64]:
        """Where in the columns the image's objects of the chosen classes are."""
        columns = self.columns
        assert columns.starts is not None
        assert columns.labels is not None
        rows = slice(int(columns.starts[index]), int(columns.starts[index + 1]))
        if self._label_of is None:
            return rows
        return rows.start + np.flatnonzero(self._label_of[columns.labels[rows]] >= 0)

    def _kept(self, index: int) -> slice | NDArray[np.int64]:
        """Those of them that are given."""
        rows = self.rows_of(index)
        count = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        if self.max_objects is None or count <= self.max_objects:
            return rows
        places = np.arange(self.max_objects) * count // self.max_objects
        kept: NDArray[np.int64] = rows.start + places if isinstance(rows, slice) else rows[places]
        return kept

    def counts(self) -> NDArray[np.int64]:
        """(I,) how many objects of the chosen classes each image has."""
        assert self.columns.starts is not None
        sums = np.concatenate([[0], np.cumsum(self.asked())])
        return np.diff(sums[self.columns.starts])

    def unnamed(self) -> dict[str, NDArray[np.intp]]:
        """The objects of classes that have an id and no name, by what they are called.

        Nothing where only some of the other classes were asked for. None is among the reader's classes, so `asked`
        leaves them out.
        """
        columns = self.columns
        if columns.classes is None or columns.labels is None:
            return {}
        named = len(columns.classes) - columns.unnamed
        if set(columns.classes.names[:named]) > set(self.classes.names):
            return {}
        names = list(enumerate(columns.classes.names))[named:]
        return {name: np.flatnonzero(columns.labels == label) for label, name in names}

    def asked(self) -> NDArray[np.bool_]:
        """(N,) which objects of the columns are of the chosen classes."""
        assert self.columns.labels is not None
        if self._label_of is None:
            return np.ones(len(self.columns.labels), bool)
        chosen: NDArray[np.bool_] = self._label_of[self.columns.labels] >= 0
        return chosen

    def read(self, index: int, channels: int = 3, shrink: Shrink | None = None) -> Sample:
        """The annotation with its pixels; where there is a class map, its size says which way up the image is."""
        if self.values is None:
            return super().read(index, channels, shrink)
        semantic = self.semantic(index)
        sample = with_pixels(self[index], channels, (semantic.shape[0], semantic.shape[1]), shrink, self.scale)
        return self._with_map(sample, semantic)

    def complete(self, index: int, sample: Sample) -> Sample:
        """The sample with its class map or, if asked for, its instance masks."""
        if self.values is None:
            return super().complete(index, sample)
        return self._with_map(replace(sample, mask_path=self[index].mask_path), self.semantic(index))

    def _with_map(self, sample: Sample, semantic: NDArray[Any]) -> Sample:
        height, width = sample.full_size
        if (height, width) != semantic.shape:
            raise DataError(
                f"{sample.mask_path}: the mask is {semantic.shape[1]}x{semantic.shape[0]} "
                f"but its image {sample.path} is {width}x{height} (width x height)"
            )
        return replace(sample, semantic=semantic)

    def semantic(self, index: int) -> NDArray[Any]:
        """The class map alone, as (H, W) in 0..K-1 or what does not count, in the image's original size.

        Raises:
            DataError: where the format has none, or the file cannot be read.
        """
        if self.values is None or self.columns.masks is None:
            raise DataError(f"{self.annotations}: these data have no class maps")
        return self.values.read(self.mask_folder / self.columns.masks[range(len(self))[index]])

    def segmentations(self, index: int, size: tuple[int, int]) -> list[RLE]:
        """The objects' masks, from polygons or either kind of run-length code."""
        columns = self.columns
        if columns.segmentations is None or columns.starts is None:
            return super().segmentations(index, size)
        index = range(len(self))[index]
        found = []
        rows = self._kept(index)
        for row in range(rows.start, rows.stop) if isinstance(rows, slice) else rows.tolist():
            text = columns.segmentations.raw(row)
            try:
                if not text:
                    raise ValueError(NO_SEGMENTATION)
                found.append(code_of(outline_of(text), size, sound=self.sound))
            except ValueError as error:
                assert columns.objects is not None
                name = id_at(columns.objects, row)
                raise DataError(f"{self.annotations}: annotation {name}: {error}") from error
        return found


def _chosen(
    columns: Columns, wanted: Sequence[str] | None, annotations: Path, optional: Collection[str] | None
) -> Classes:
    known = columns.classes
    if wanted is None:
        if known is None:
            raise DataError(f"{annotations}: names no class; list the classes in data.classes")
        count = len(known) - columns.unnamed
        return replace(known, names=known.names[:count], ids=known.ids[:count]) if columns.unnamed else known
    if known is None:
        return Classes(tuple(wanted))
    there, asked = set(known.names), set(wanted)
    if not columns.listed:
        # A small split may lack a class, and then nothing in its files says that there is one.
        absent = [name for name in wanted if name not in there and not name.startswith(UNUSED)]
        unasked = [name for name in known.names if name not in asked]
        if absent and (len(absent) == len(wanted) or any(did_you_mean(name, unasked) for name in absent)):
            message = (
                f"data.classes: {annotations} has no class {hinted(absent, unasked)} (it has {listed(known.names)})"
            )
            raise ClassesDifferError(message, annotations, wanted, known.names)
        named = named_classes(wanted)
        return checked_classes(wanted, [named.ids[named.names.index(name)] for name in wanted], annotations)
    absent = [name for name in wanted if name not in there and not name.startswith(UNUSED)]
    if optional is None:
        others = [name for name in known.names if name not in asked]
        optional = () if others or len(absent) == len(wanted) else absent
    lacking = [name for name in absent if name not in optional]
    if lacking:
        rest = [name for name in wanted if name in there or name.startswith(UNUSED)]
        cure = f"; to do without, in training too: data.classes={shortened(inline(rest), 2000)}" if rest else ""
        said = hinted(lacking, known.names)
        message = f"data.classes: {annotations} has no class {said} (it has {listed(known.names)}){cure}"
        raise ClassesDifferError(message, annotations, wanted, known.names)
    if absent:
        logger.warning("%s lists no class %s: nothing in it is one", annotations, listed([f"'{n}'" for n in absent]))
    id_of = dict(zip(known.names, known.ids, strict=True))
    # Ids below 0 for classes that nothing is an example of.
    ids = [id_of.get(name, -1 - label) for label, name in enumerate(wanted)]
    chosen = checked_classes(wanted, ids, annotations)
    return replace(chosen, keypoints=known.keypoints, flip_pairs=known.flip_pairs)

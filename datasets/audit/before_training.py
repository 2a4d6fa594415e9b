"""The cheap part of the check, which training does itself: of images the heads are read, and the first is decoded."""

from __future__ import annotations

import logging
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rehead.configs.tasks import TASKS
from rehead.data.instance_masks import NO_SEGMENTATION, no_outline, outline_of, smaller_than_a_pixel, wrong_segmentation
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import id_at
from rehead.datasets.audit.boxes import image_of
from rehead.datasets.audit.changes import FILE
from rehead.datasets.audit.numbers import numbers_of, some_numbers
from rehead.datasets.audit.sizes import FIND, refuse_sizes
from rehead.datasets.joined import JoinedReader
from rehead.datasets.subset import Subset
from rehead.datasets.whereabouts import whereabouts
from rehead.errors import DataError, listed
from rehead.reading import contents, is_there

logger = logging.getLogger("rehead")


def refuse_broken(reader: Reader, where: str, tasks: Collection[str], *, learn: bool, channels: int = 3) -> None:
    """Finds now what would stop a run later.

    Args:
        reader: of a split.
        where: its key in the configuration, such as `data.train`, for messages.
        tasks: of the heads.
        learn: whether there must be something to learn from.
        channels: of the model's input.

    Raises:
        DataError: naming the first file: if images or masks are not there, are no images by their heads, or differ in
            size; if outlines give no mask; if the first image cannot be read; or if there is nothing to learn from.
    """
    kinds = ("are not there", "cannot be read", "are no files", "are empty files")
    images: dict[str, list[Path]] = {kind: [] for kind in kinds}
    masks: dict[str, list[Path]] = {kind: [] for kind in kinds}
    boxes = classes = False
    bare = 0
    samples: list[Sample] = []
    for index in range(len(reader)):
        sample = reader[index]
        # Of a large split, not everything at once.
        samples.append(Sample(sample.image_id, sample.path, sample.size, mask_path=sample.mask_path))
        bare += sample.labels is not None and not len(sample.labels)
        _look(sample.path, images)
        if sample.mask_path is not None:
            _look(sample.mask_path, masks)
        boxes = boxes or _has_box(sample)
        # A label that is a number is always a class.
        classes = classes or bool(
            sample.label.any() if isinstance(sample.label, np.ndarray) else sample.label is not None
        )
    for what, found in (("images", images), ("masks", masks)):
        for problem, paths in found.items():
            if paths:
                places = _whereabouts(reader) if what == "images" and problem == "are not there" else ""
                raise DataError(
                    f"{where}: {len(paths)} of {len(reader)} {what} {problem}, the first is {paths[0]}{places}; {FIND}"
                )
    sizes = refuse_sizes(samples, where)
    _refuse_outlines(reader, where, sizes)
    _refuse_first(reader, where, channels)
    _say_background(reader, where, bare)
    specs = [TASKS[task] for task in tasks]
    if learn and not boxes and any(spec.objects for spec in specs):
        raise DataError(f"{where}: none of the {len(reader)} images has a box to learn from")
    if learn and not classes and any(spec.annotation == "labels" for spec in specs):
        raise DataError(f"{where}: none of the {len(reader)} images has a class to learn from")


def limit_objects(reader: Reader, where: str, most: int) -> None:
    """Of images with more objects than that, only so many are given from now on; says how many and which images.

    Args:
        reader: of a split that is trained on.
        where: its key in the configuration, such as `data.train`, for messages.
        most: objects of one image.
    """
    for own, rows in _readers_of_splits(reader):
        if own.columns.starts is None:
            continue
        own.max_objects = most
        counts = own.counts() if rows is None else own.counts()[rows]
        over = np.flatnonzero(counts > most)
        if len(over):
            first = int(over[0]) if rows is None else int(rows[over[0]])
            logger.warning(
                "%s: %d images have more than %d objects, the first is %s with %d; of each no more than %d are trained "
                "on (data.max_objects), and the others count as background",
                *(where, len(over), most, own[first].path, counts[over[0]], most),
            )


def _whereabouts(reader: Reader) -> str:
    """Where images that are not there could be."""
    lacking = (own for own in _columns_of(reader) if any(not is_there(own[row].path) for row in range(len(own))))
    return "".join(f"; {whereabouts(own)}" for own in lacking)


def _say_background(reader: Reader, where: str, bare: int) -> None:
    """Says how many images have no object, and whether anybody has said so."""
    if not bare:
        return
    unlabelled = sum(_count_unlabelled(own) for own in _readers_of_splits(reader))
    reasons = [f"{unlabelled} have no label file (missing_labels: skip leaves them out)"] if unlabelled else []
    rest = bare - unlabelled
    reasons += [f"{rest} have no object in their annotation"] if rest else []
    logger.log(
        logging.WARNING if unlabelled else logging.INFO,
        "%s: %d of %d images count as background: %s",
        *(where, bare, len(reader), ", ".join(reasons)),
    )


def _readers_of_splits(reader: Reader) -> Iterator[tuple[AnnotationReader, NDArray[np.int64] | None]]:
    """The readers of formats in a reader, each with the rows that are used; None for all."""
    if isinstance(reader, AnnotationReader):
        yield reader, None
    elif isinstance(reader, Subset) and isinstance(reader.whole, AnnotationReader):
        yield reader.whole, reader.rows
    elif isinstance(reader, JoinedReader):
        for part in reader.parts:
            yield from _readers_of_splits(part)


def _count_unlabelled(own: tuple[AnnotationReader, NDArray[np.int64] | None]) -> int:
    reader, rows = own
    if reader.unlabelled is None:
        return 0
    return int(reader.unlabelled.sum() if rows is None else reader.unlabelled[rows].sum())


def say_if_repaired(reader: Reader, where: str) -> None:
    """Says of data that are a repaired copy how they differ from what they were: metrics are of the copy.

    Args:
        reader: of a split.
        where: its key in the configuration, for the message.
    """
    for own in _columns_of(reader):
        # The images of a copy lie at most two folders below it.
        inside = own.folder.absolute()
        file = next((path for one in (inside, *inside.parents[:2]) if (path := one / FILE).is_file()), None)
        if file is None:
            continue
        try:
            left = msgspec.json.decode(contents(file))["left_out"]
            said = f"{int(left['images'])} images and {int(left['objects'])} objects of the original are not in it"
        except (DataError, msgspec.DecodeError, KeyError, TypeError, ValueError):
            continue  # not ours
        logger.warning("%s: a repaired copy: %s (%s); metrics are of what is left", where, said, file)


def say_other_classes(reader: Reader, where: str, whose: str) -> None:
    """Says how much is of classes that a model does not tell apart, and so neither right nor wrong.

    Args:
        reader: of a split.
        where: its key in the configuration, for the message.
        whose: the classes are that it was opened with, such as the checkpoint's path.
    """
    for own, rows in _readers_of_splits(reader):
        columns = own.columns
        labels = columns.labels if columns.image_labels is None else columns.image_labels
        if columns.classes is None or labels is None or own.values is not None:
            continue
        used = np.arange(len(columns)) if rows is None else rows
        labels = labels[used if columns.image_labels is not None else np.isin(image_of(own), used)]
        counts = np.bincount(labels, minlength=len(columns.classes)).tolist()
        pairs = zip(columns.classes.names, counts, strict=True)
        others = {name: count for name, count in pairs if count and name not in own.classes.names}
        if others:
            said = listed([f"'{name}' ({count})" for name, count in sorted(others.items(), key=lambda one: -one[1])])
            logger.warning(
                "%s: %d of %d %s are of classes that %s does not tell apart, and count nowhere: %s",
                *(where, sum(others.values()), sum(counts)),
                *("images" if columns.image_labels is not None else "objects", whose, said),
            )


def _refuse_first(reader: Reader, where: str, channels: int) -> None:
    """Reads the first image, of which much is true for all: its kind, its channels, the range of its numbers."""
    try:
        pixels = reader.read(0, channels).pixels
    except DataError as error:
        raise DataError(f"{where}: the first image cannot be used: {error}; {FIND}") from error
    if pixels.dtype == np.uint8:
        return
    found = numbers_of([some_numbers(pixels)], 255)
    if found is not None and not found.fits:
        logger.warning(
            "%s: the numbers of the first image, %s, are read as %s; `rehead data stats` proposes a data.scale",
            *(where, reader[0].path, found),
        )


def _look(path: Path, problems: dict[str, list[Path]]) -> None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            problems["are no files"].append(path)
        elif status.st_size == 0:
            problems["are empty files"].append(path)
    except PermissionError:
        problems["cannot be read"].append(path)
    except (OSError, ValueError):
        problems["are not there"].append(path)


def _has_box(sample: Sample) -> bool:
    """Whether there is one that training uses: neither a crowd nor without area."""
    if sample.boxes is None or not len(sample.boxes):
        return False
    usable = (sample.boxes[:, 2:] > sample.boxes[:, :2]).all(axis=1)
    return bool((usable if sample.iscrowd is None else usable & ~sample.iscrowd).any())


def _columns_of(reader: Reader) -> Iterator[AnnotationReader]:
    """The readers of formats in a reader, whole."""
    if isinstance(reader, AnnotationReader):
        yield reader
    elif isinstance(reader, Subset):
        yield from _columns_of(reader.whole)
    elif isinstance(reader, JoinedReader):
        for part in reader.parts:
            yield from _columns_of(part)


def _refuse_outlines(reader: Reader, where: str, sizes: Mapping[Path, tuple[int, int]]) -> None:
    """Looks at every outline where masks are wanted: a few microseconds for each."""
    for own in _columns_of(reader):
        columns = own.columns
        if not own.masks or columns.boxes is None or columns.objects is None:
            continue
        images = image_of(own)
        broken = []
        tiny = 0
        for row in np.flatnonzero(own.asked()).tolist():
            raw = b"" if columns.segmentations is None else columns.segmentations.raw(row)
            problem = NO_SEGMENTATION
            if raw:
                height, width = (0, 0) if columns.sizes is None else columns.sizes[images[row]].tolist()
                path = own.folder / columns.names[int(images[row])]
                size = (height, width) if height and width else sizes.get(path)
                try:
                    outline = outline_of(raw)
                    problem = wrong_segmentation(outline, size) or no_outline(outline, size)
                    tiny += not problem and size is not None and smaller_than_a_pixel(outline, size)
                except ValueError as error:
                    problem = str(error)
            if problem:
                broken.append((row, problem))
        if broken:
            row, problem = broken[0]
            raise DataError(
                f"{where}: {own.annotations}: {len(broken)} of {len(columns.boxes)} objects have no outline that can "
                f"be used, the first is annotation {id_at(columns.objects, row)} of "
                f"{own.folder / columns.names[int(images[row])]}: {problem}; {FIND}"
            )
        own.sound = columns.sizes is not None and bool((columns.sizes > 0).all())
        if tiny:
            logger.warning(
                "%s: %s: %d of %d objects have an outline in which no pixel is; they are not trained on",
                *(where, own.annotations, tiny, len(columns.boxes)),
            )

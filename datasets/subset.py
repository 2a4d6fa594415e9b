"""A validation split sampled from the training images."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.configs.readers import FromTrainSplit
from rehead.data.image_io import Shrink
from rehead.data.instance_masks import RLE
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.near_duplicates import fingerprint_of, near_duplicates
from rehead.datasets.remembered import remembered
from rehead.datasets.text_files import lines_of
from rehead.errors import DataError, did_you_mean, listed

logger = logging.getLogger("rehead")


def _of_whole(name: str) -> Any:
    """What is asked of a part is asked of the whole."""

    def get(part: Subset) -> Any:
        return getattr(part.whole, name)

    def put(part: Subset, value: Any) -> None:
        setattr(part.whole, name, value)

    return property(get, put)


class Subset(Reader):
    """Some images of another reader.

    Args:
        whole: the reader of all of them.
        rows: which ones, in order.
    """

    def __init__(self, whole: Reader, rows: NDArray[np.int64]) -> None:
        self.whole = whole
        self.rows = rows
        self.classes = whole.classes

    masks, boxes, presence, scale = (_of_whole(name) for name in ("masks", "boxes", "presence", "scale"))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[int(self.rows[index])]

    def read(self, index: int, channels: int = 3, shrink: Shrink | None = None) -> Sample:
        """The annotation with its pixels."""
        return self.whole.read(int(self.rows[index]), channels, shrink)

    def complete(self, index: int, sample: Sample) -> Sample:
        """The sample with what its annotation holds per pixel."""
        return self.whole.complete(int(self.rows[index]), sample)

    def segmentations(self, index: int, size: tuple[int, int]) -> list[RLE]:
        """The objects' masks, in the order of the boxes."""
        return self.whole.segmentations(int(self.rows[index]), size)

    def unmeasured(self, index: int) -> NDArray[np.bool_]:
        """Which objects have no area of their own."""
        return self.whole.unmeasured(int(self.rows[index]))


def unused_classes(reader: Reader) -> frozenset[str]:
    """The classes that annotations of objects list, and that no object is an example of."""
    whole = reader.whole if isinstance(reader, Subset) else reader
    if not isinstance(whole, AnnotationReader) or whole.columns.classes is None or whole.columns.labels is None:
        return frozenset()
    known = whole.columns.classes.names
    return frozenset(known) - {known[label] for label in np.unique(whole.columns.labels).tolist()}


def part(whole: Reader, shares: Mapping[str, FromTrainSplit], split: str, root: Path) -> NDArray[np.int64]:
    """The rows of one split of a reader.

    Args:
        whole: all images.
        shares: by split, its share or the text file of its images; what they leave is `train`.
        split: one of them, or `train`.
        root: what the text files are relative to.

    Returns:
        Rows in rising order. A function of the images, their classes and the seed.

    Raises:
        DataError: where there are too few different images, and for a text file that is not there, or does not name
            images of this reader.
    """
    names = ["train", *shares]
    files = {name: share.from_train for name, share in shares.items() if isinstance(share.from_train, str)}
    if files:
        return _listed(whole, {name: root / file for name, file in files.items()}, split)
    seeds = tuple(share.seed for share in shares.values())
    fractions = tuple(share.from_train for share in shares.values() if not isinstance(share.from_train, str))
    paths = [whole[index].path for index in range(len(whole))]
    present = present_classes(whole)
    shared = [share * len(paths) for share in (1 - sum(fractions), *fractions)]
    groups = _groups(paths, min(shared))
    if len(set(groups)) < len(names):
        raise DataError(f"{paths[0].parent}: {len(set(groups))} different images cannot be split in {len(names)} parts")
    if split == names[1]:
        together = [count for count in Counter(groups).values() if count > 1]
        if together:
            logger.info(
                "%s: %d groups of near-duplicate images (%d images) are kept on one side each",
                *(split, len(together), sum(together)),
            )
    drawn = stratified(groups, present, (1 - sum(fractions), *fractions), seeds)
    return np.flatnonzero(drawn == names.index(split))


def name_of(reader: Reader, index: int) -> str:
    """What an image is called in the text file of a split: its path inside the folder of the images."""
    return reader.columns.names[index] if isinstance(reader, AnnotationReader) else reader[index].path.name


def _listed(whole: Reader, files: Mapping[str, Path], split: str) -> NDArray[np.int64]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row in range(len(whole)):
        rows[name_of(whole, row)].append(row)
    taken: dict[int, str] = {}
    for name, file in files.items():
        wanted = [line if line in rows else line.replace("\\", "/") for line in lines_of(file)]
        unknown = [line for line in wanted if line not in rows]
        if unknown or not wanted:
            what = f"names {len(unknown)} images that training has not, first: {listed(unknown)}"
            hint = did_you_mean(unknown[0], list(rows)) if unknown else ""
            raise DataError(f"{name}: {file} {what if unknown else 'names no image'}{hint}")
        for row in (row for line in wanted for row in rows[line]):
            if taken.setdefault(row, name) != name:
                raise DataError(f"{name}: {file} names {name_of(whole, row)}, which is in {files[taken[row]]} too")
    if len(taken) == len(whole):
        raise DataError(f"{', '.join(map(str, files.values()))}: name every image, and leave none to train on")
    return np.array([row for row in range(len(whole)) if taken.get(row, "train") == split], np.int64)


def stratified(
    groups: Sequence[int], present: Sequence[frozenset[int]], fractions: Sequence[float], seed: int | Sequence[int]
) -> NDArray[np.int64]:
    """Assigns images to parts, each class in the same proportions as far as whole images allow.

    Iterative stratification for several labels per image (Sechidis et al., "On the stratification of
    multi-label data", 2011): the class with the fewest images left is dealt out first, each image to the part
    that lacks the most of it.

    Args:
        groups: by image, the number of its group; a group stays together.
        present: by image, its classes.
        fractions: by part; they add up to 1.
        seed: of the order and of ties.

    Returns:
        (I,) the part of each image.
    """
    rng = np.random.default_rng(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for image, group in enumerate(groups):
        members[group].append(image)
    waiting = rng.permutation(list(members)).tolist()
    classes = {group: Counter(c for image in members[group] for c in present[image]) for group in waiting}
    total = Counter(c for own in classes.values() for c in own.elements())
    lacking = [{c: share * count for c, count in total.items()} for share in fractions]
    room = [share * len(groups) for share in fractions]
    part_of: dict[int, int] = {}
    holders: dict[int, list[int]] = defaultdict(list)
    for group in waiting:
        for c in classes[group]:
            holders[c].append(group)
    left = {c: len(own) for c, own in holders.items()}

    def assign(group: int, wanted: int | None) -> None:
        need = [(lack[wanted] if wanted is not None else 0.0, space) for lack, space in zip(lacking, room, strict=True)]
        chosen = max(range(len(fractions)), key=lambda number: need[number])
        part_of[group] = chosen
        room[chosen] -= len(members[group])
        for c, count in classes[group].items():
            lacking[chosen][c] -= count
            left[c] -= 1

    while waiting_classes := [c for c, count in left.items() if count > 0]:
        rarest = min(waiting_classes, key=lambda c: (left[c], c))
        for group in holders[rarest]:
            if group not in part_of:
                assign(group, rarest)
    for group in waiting:
        if group not in part_of:
            assign(group, None)
    _fill(part_of, members, len(fractions))
    return np.array([part_of[group] for group in groups], np.int64)


def _fill(part_of: dict[int, int], members: Mapping[int, Sequence[int]], parts: int) -> None:
    """Gives an empty part the smallest group of the part with the most."""
    for number in range(parts):
        if number not in part_of.values():
            largest = Counter(part_of.values()).most_common(1)[0][0]
            group = min((g for g, own in part_of.items() if own == largest), key=lambda g: len(members[g]))
            part_of[group] = number


def _groups(paths: Sequence[Path], largest: float) -> list[int]:
    """By image, the first image of the same thing. An image that cannot be read is like no other.

    Each is near to another, so the frames of a film may all be in one chain. One of more than `largest` images
    cannot be put anywhere as a whole: of its images only those with the same hash stay together.
    """
    found = remembered("fingerprint 2", int | None, paths, fingerprint_of, "looking for near-duplicate images")  # type: ignore[arg-type]
    rows = [row for row, value in enumerate(found) if value is not None]
    hashes = [value for value in found if value is not None]
    groups = list(range(len(paths)))
    for near in near_duplicates(hashes):
        pieces = [near]
        if len(near) > largest:
            logger.warning(
                "%s and %d more images up to %s are near-duplicates one of the next, as the frames of a film are: too "
                "many for one side of a split, so neighbours are parted; split such images by hand",
                *(paths[rows[near[0]]], len(near) - 1, paths[rows[near[-1]]]),
            )
            pieces = [[near[row] for row in same] for same in near_duplicates([hashes[row] for row in near], 0)]
        for piece in pieces:
            for row in piece:
                groups[rows[row]] = rows[piece[0]]
    return groups


def present_classes(reader: Reader) -> list[frozenset[int]]:
    """By image, its classes; class maps are read for it."""
    if isinstance(reader, AnnotationReader) and reader.values is not None:
        values = reader.values
        masks = [mask for index in range(len(reader)) if (mask := reader[index].mask_path) is not None]
        what = f"values 2 {'colours' if values.colours else 'numbers'} {values.white}"
        found = remembered(what, list[int], masks, values.distinct, "looking for the classes of every mask")
        return [values.present(own, mask) for own, mask in zip(found, masks, strict=True)]
    return [_classes_of(reader[index]) for index in range(len(reader))]


def _classes_of(sample: Sample) -> frozenset[int]:
    """Those of the objects, and that or those of the image."""
    found = set() if sample.labels is None else set(sample.labels.tolist())
    if isinstance(sample.label, np.ndarray):
        found |= set(np.flatnonzero(sample.label).tolist())
    elif sample.label is not None:
        found.add(sample.label)
    return frozenset(found)

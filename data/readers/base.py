"""What every reader has in common: annotations first and cheaply, pixels when asked."""

from __future__ import annotations

import math
import os
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rehead.data.instance_masks import RLE, decode, pixels_of
from rehead.data.pixels import SUFFIXES, Shrink, decode_image
from rehead.data.sample import Sample
from rehead.errors import ConfigError, DataError, did_you_mean, hinted, listed, shortened
from rehead.progress import Progress
from rehead.reading import is_file, is_folder, is_there, names_in, walk
from rehead.types import UNUSED, Classes
from rehead.yaml_text import yaml_text

Item = TypeVar("Item")

Report = Callable[[str, Path, str], None]
"""What parsing does about something that it cannot use: called with a code, the file, and what is wrong in it. If it
returns, parsing goes on without that."""


WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What splits are called in the names of files and folders."""


def refuse(code: str, file: Path, message: str) -> None:
    """Stops at the first problem, as training does. `rehead data check` notes them all instead.

    Raises:
        DataError: always.
    """
    raise DataError(f"{file}: {shortened(message, 2000)}")


class UnusableError(ValueError):
    """What is wrong with one annotation, with the code under which the check counts it."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class UnknownClassError(UnusableError):
    """An object whose class has a number that no name belongs to."""

    def __init__(self, number: int, message: str) -> None:
        self.number = number
        super().__init__("unknown_category", message)


NO_NAME = "(no name)"
"""How what a class without a name is called ends."""


def with_unnamed(classes: Classes, numbers: Iterable[int]) -> Classes:
    """The same classes, and behind them those of some ids that have no name, called by their id.

    Only what is checked or repaired has such classes: in training they are errors.
    """
    new = [number for number in sorted(set(numbers)) if number not in classes.ids]
    names = [f"class {number} {NO_NAME}" for number in new]
    return replace(classes, names=(*classes.names, *names), ids=(*classes.ids, *new))


def code_for(error: ValueError) -> str:
    """The code of what is wrong with an annotation."""
    return error.code if isinstance(error, UnusableError) else "broken_annotation"


def reason(error: DataError, file: Path) -> str:
    """What an error says of a file, without the file."""
    return str(error).removeprefix(f"{file}: ")


class Reader(ABC):
    """A split of a data set. Those of a format are `ColumnReader`s.

    A reader crosses to worker processes: it keeps no Python object per annotation, since forked processes
    copy every object that they touch.

    Attributes:
        classes: in the order of the labels.
        masks: whether `read` gives instance masks too, which cost time and memory.
        boxes: whether a reader of objects gives their boxes and labels.
        presence: whether a reader of objects gives which classes occur, as the label of the image.
        scale: the number in image files that becomes 255; see `rehead.data.pixels.read_image`.
    """

    classes: Classes
    masks: bool = False
    boxes: bool = True
    presence: bool = False
    scale: float | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    def of(self, head: str) -> Reader:
        """The reader whose annotations a head learns from and is judged by: this one, unless several are joined."""
        return self

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The annotation alone: no file is opened."""

    def read(self, index: int, channels: int = 3, shrink: Shrink | None = None) -> Sample:
        """The annotation with its pixels.

        Args:
            index: of the image.
            channels: of the image.
            shrink: how much smaller the image is going to be, for decoding less of it; the sample then needs to be
                `aligned`.

        Raises:
            DataError: when the image cannot be read, or is not of the size that its annotation says.
        """
        sample = self[index]
        sample = with_pixels(sample, channels, sample.size, shrink, self.scale)
        if sample.size is not None and sample.full_size != sample.size:
            raise DataError(
                f"{sample.path}: the image is {_by(sample.full_size)} but its annotation says {_by(sample.size)} "
                "(width x height); resize images and boxes together, or correct the annotation"
            )
        return self.complete(index, sample)

    def complete(self, index: int, sample: Sample) -> Sample:
        """The sample with what its annotation holds per pixel: instance masks if asked for, here.

        Objects whose outline is so small that no pixel is inside are left out then.

        Args:
            index: of the image.
            sample: with its pixels; the masks must have the size of the whole image.

        Raises:
            DataError: when a mask cannot be read, or is not of the image's size.
        """
        if not self.masks:
            return sample
        size = sample.full_size
        codes = self.segmentations(index, size)
        # Outlines between the middles of pixels, of which COCO has a few: no mask to learn.
        there = np.array([pixels_of(code) > 0 for code in codes], bool)
        return replace(sample.select(there), masks=decode([codes[row] for row in np.flatnonzero(there)], size))

    def segmentations(self, index: int, size: tuple[int, int]) -> list[RLE]:
        """The objects' masks, in the order of the boxes.

        Args:
            index: of the image.
            size: (height, width) of the image, in pixels.

        Returns:
            COCO's compressed run-length codes.

        Raises:
            DataError: where the format or the annotation has none.
        """
        raise DataError(
            f"{self[index].path}: this data format has no instance masks; use coco, yolo, via or instance_masks"
        )

    def unmeasured(self, index: int) -> NDArray[np.bool_]:
        """(N,) which of an image's objects have an outline, and no area that the annotation says; (0,) for none.

        Args:
            index: of the image.
        """
        return np.zeros(0, bool)


def with_pixels(
    sample: Sample, channels: int, size: tuple[int, int] | None, shrink: Shrink | None, scale: float | None
) -> Sample:
    """An annotation with its pixels; the arguments are those of `rehead.data.pixels.decode_image`."""
    found = decode_image(sample.path, channels, size, shrink, scale)
    return replace(sample, image=found.image, reduction=found.reduction, full=found.full)


class MissingPathError(DataError):
    """A path of a split that is not there. The message starts with the option's name, such as `images`."""


def existing(root: Path, value: str, key: str, *, folder: bool) -> Path:
    """The full path of an option of a split.

    Args:
        root: what relative paths start from.
        value: what the configuration says.
        key: the option's name inside the split, for the message.
        folder: whether it should be a folder or a file.

    Raises:
        MissingPathError: with the full path and the near matches beside it.
    """
    path = root / value
    if is_folder(path) if folder else is_file(path):
        return path
    kind = "folder" if folder else "file"
    if is_there(path):
        raise MissingPathError(f"{key}: {path.absolute()} is not a {kind}")
    # Name the first part that is missing, and look for its near matches where it should be.
    missing = path.absolute()
    while not is_folder(missing.parent):
        missing = missing.parent
    beside = names_in(missing.parent)
    hint = did_you_mean(missing.name, beside) or f"; {missing.parent} holds {listed(beside)}"
    raise MissingPathError(f"{key}: no {kind} {path.absolute()}{hint}")


def image_names(folder: Path) -> list[str]:
    """Relative names of the images at any depth, sorted, with `/` between parts; hidden ones are skipped."""
    return file_names(folder, SUFFIXES)


def file_names(folder: Path, suffixes: Collection[str]) -> list[str]:
    """The same for files with any of some suffixes, given in lower case."""
    return [name for name in all_files(folder) if os.path.splitext(name)[1].lower() in suffixes]


def all_files(folder: Path) -> list[str]:
    """The same for every file."""
    return walk(folder).names()


def split_of(name: str) -> str | None:
    """The split that a path names: the last of its parts that does."""
    for part in reversed(PurePosixPath(name).parts):
        for word in re.findall(r"[a-z]+", part.lower()):
            for split, words in WORDS.items():
                if word in words:
                    return split
    return None


def files_by_stem(folder: Path, suffixes: Collection[str], report: Report = refuse) -> dict[str, str]:
    """Relative names of files at any depth, by relative name without suffix, sorted.

    Raises:
        DataError: for two files of one name.
    """
    found: dict[str, str] = {}
    for name in file_names(folder, suffixes):
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if stem in found:
            report("duplicate_image", folder, f"{found[stem]} and {name} have the same name; one of them must go")
            continue
        found[stem] = name
    return found


def named_classes(names: Iterable[str]) -> Classes:
    """Classes that no file lists: sorted by name, or by number, which then is the id too."""
    unique = set(names)
    if all(name.isdecimal() and str(int(name)) == name for name in unique):
        ordered = sorted(unique, key=int)
        return Classes(tuple(ordered), tuple(map(int, ordered)))
    return Classes(tuple(sorted(unique)))


def checked_classes(names: Sequence[str], ids: Sequence[int], source: Path) -> Classes:
    """`Classes` of a user's file.

    Raises:
        DataError: naming the file, when a name or an id occurs twice.
    """
    try:
        return Classes(tuple(names), tuple(ids))
    except ConfigError as error:
        raise DataError(f"{source}: {'; '.join(error.problems)}") from error


class ClassesDifferError(DataError):
    """Annotations that lack classes that were asked for.

    Args:
        message: what is said where the classes could be named otherwise.
        source: the annotations.
        wanted: the classes that were asked for.
        known: those that the annotations have.
    """

    def __init__(self, message: str, source: Path, wanted: Sequence[str], known: Sequence[str]) -> None:
        super().__init__(message)
        self.source, self.wanted, self.known = source, list(wanted), list(known)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.source, self.wanted, self.known)


def unknown_classes(wanted: Sequence[str], known: Sequence[str], source: Path) -> None:
    """Checks that every wanted class is known, but for those that nothing is an example of.

    Raises:
        ClassesDifferError: naming `data.classes`, the classes that are not there, and their near matches.
    """
    there = set(known)
    absent = [name for name in wanted if name not in there and not name.startswith(UNUSED)]
    if absent:
        message = f"data.classes: {source} has no class {hinted(absent, known)} (it has {listed(known)})"
        raise ClassesDifferError(message, source, wanted, known)


def inline(value: Any) -> str:
    """A value as the command line takes it."""
    text = yaml_text(value, default_flow_style=True, width=10_000)
    return shlex.quote(text.strip())


def watched(items: Collection[Item]) -> Iterator[Item]:
    """The annotations' files one after the other, with a bar for those who wait."""
    with Progress("reading annotations", len(items)) as bar:
        for item in items:
            yield item
            bar.advance()


def finite(text: str) -> float | None:
    """The number that a text is; None if it is none, or infinite."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"

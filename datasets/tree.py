"""A folder of somebody's files, looked through once, and what it was detected as."""

from __future__ import annotations

import codecs
import mmap
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rehead.configs.load import settles
from rehead.configs.readers import READERS
from rehead.data.image_io import SUFFIXES
from rehead.datasets.file_names import WORDS, split_of
from rehead.datasets.missing import compared
from rehead.datasets.parsing import inline
from rehead.datasets.text_files import file_named, utf8_of
from rehead.errors import DataError, listed
from rehead.reading import is_file, open_file, walk

MASK_WORDS = ("mask", "annot", "label", "segm", "gt", "ground")
"""Parts of the names of folders that hold masks."""

LOOKED_AT = 20
"""Files and names that are looked at, where one could mislead."""


@dataclass
class Found:
    """What a folder was detected as.

    Attributes:
        format: by its name in the configuration.
        splits: by name, the options.
        saw: what it was detected by, in words.
        file: that made it this format, where `saw` names only its folder.
        more: other keys of the source, such as `values`.
        wrong: by name, the splits that a file says are somewhere where they are not: what to do about it.
        unread: by name, why files that could hold annotations cannot be read.
        tasks: that it serves; all that its format does unless given.
    """

    format: str
    splits: dict[str, dict[str, Any]]
    saw: str
    more: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    file: str = ""

    @property
    def told(self) -> str:
        """What it was detected by, with the file."""
        return f"{self.saw} (as {self.file})" if self.file else self.saw

    @property
    def serves(self) -> tuple[str, ...]:
        """The tasks that could learn from it."""
        return self.tasks or tuple(READERS.get(self.format).about["task"].split(", "))


@dataclass
class Tree:
    """The files of a folder, by the relative name of the folder that they are in (`.` for itself).

    Attributes:
        root: the folder.
        files: their names.
        said: what somebody has said of the splits, which need not be looked for then.
        unread: by name, why a file that could hold annotations cannot be read.
    """

    root: Path
    files: dict[str, list[str]]
    said: Mapping[str, Any] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, said: Mapping[str, Any] | None = None) -> Tree:
        """Looks through a folder; hidden ones are skipped. A link to a folder that is inside stands for its files."""
        walked = walk(root)
        # The folders below are there once. What leads up is no place for files.
        links = {link: first for link, first in walked.again.items() if not is_inside(link, first)}
        files = walked.files | {link: walked.files[first] for link, first in links.items() if first in walked.files}
        return cls(root, files, said or {})

    def ending(self, *suffixes: str) -> Iterator[tuple[str, list[str]]]:
        """Folders with files of some suffixes, and the files' names."""
        for folder, names in self.files.items():
            found = [name for name in names if os.path.splitext(name)[1].lower() in suffixes]
            if found:
                yield folder, found

    def text(self, folder: str, name: str) -> mmap.mmap | bytes:
        """What is in a file, to be searched; of one that cannot be read nothing, which is noted."""
        path = self.root / folder / name
        try:
            return searchable(path)
        except (DataError, OSError, ValueError) as error:
            self.cannot_read(path, error)
            return b""

    def cannot_read(self, path: Path, error: Exception) -> None:
        """Notes a file."""
        self.unread[path.relative_to(self.root).as_posix()] = str(error).removeprefix(f"{path}: ")

    def images(self) -> dict[str, list[str]]:
        """Folders with images, and their names."""
        return dict(self.ending(*SUFFIXES))

    def holding(self, names: Sequence[str], split: str | None, what: str) -> str | None:
        """The folder from which the most of some relative paths lead to files.

        Of several, the one that is called as the split, and rather none of masks.

        Raises:
            DataError: where several are left.
        """
        counts = {
            folder: sum(is_file(here / file_named(here, name)) for name in dict.fromkeys(names))
            for folder in self.files
            if (here := self.root / folder)
        }
        ranks = {
            folder: (count, split_of(folder) == split, not holds_masks(folder))
            for folder, count in counts.items()
            if count
        }
        return self.best(ranks, split, f"the images of {what}")

    def with_some(self, names: Collection[str], split: str | None, near: str, what: str) -> str:
        """The folder with images that is most likely meant where none has images of these names.

        Args:
            names: of the images.
            split: that they are of.
            near: the folder of the annotations.
            what: names them.

        Raises:
            DataError: if no folder has an image.
        """
        keys = {compared(PurePosixPath(name.replace("\\", "/")).name) for name in names}
        ranks = {
            folder: (
                sum(compared(name) in keys for name in own),
                split_of(folder) == split,
                not holds_masks(folder),
                folder == near,
                len(own),
            )
            for folder, own in self.images().items()
        }
        if not ranks:
            raise DataError(
                f"{self.root}: {what} is of images, but there is no image in any of {len(self.files)} folders"
            )
        return max(ranks, key=lambda folder: ranks[folder])

    def best(self, ranks: Mapping[str, tuple[object, ...]], split: str | None, what: str) -> str | None:
        """The folder of the highest rank for a split; None where there is none.

        Raises:
            DataError: where several have it.
        """
        highest = max(ranks.values(), default=None)
        found = [folder for folder, rank in ranks.items() if rank == highest]
        if len(found) > 1 and not settles(self.said, split or "train"):
            raise DataError(
                f"{self.root}: {what} could be in {listed(found)}; say which one, such as "
                f"data.{split or 'train'}.images={found[0]}"
            )
        return found[0] if found else None


def ways(found: Sequence[Found]) -> str:
    """What there is to choose from, as it would be written."""
    return "; ".join(
        f"{one.saw} (data.format={one.format} "
        + " ".join(f"data.{split}={inline(options)}" for split, options in one.splits.items())
        + ")"
        for one in found
    )


def one_per_split(tree: Tree, names: Collection[str], key: str) -> dict[str, str]:
    """One path for each split; a single one that names none is for training.

    Args:
        tree: whose files they are.
        names: the paths.
        key: the option that they are; where somebody has said it, any will do.

    Raises:
        DataError: for two of one split, and several of which none says which it is.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name) or ("train" if len(names) == 1 else None)
        if split is None:
            continue
        if split in found and settles(tree.said, split, key):
            continue
        if split in found:
            raise DataError(
                f"{found[split]} and {name} both look like {split}; say which one (data.{split}.{key}={name}), or set "
                "root to one data set"
            )
        found[split] = name
    if names and not found and not any(settles(tree.said, split, key) for split in WORDS):
        raise DataError(f"{listed(list(names))}: none of them says which split it is; write the splits out")
    return found


def is_inside(name: str, folder: str) -> bool:
    """Whether a relative path is inside another."""
    return folder == "." or name.startswith(f"{folder}/")


def holds_masks(folder: str) -> bool:
    """Whether a folder is called as those of masks are."""
    return any(word in folder.lower() for word in MASK_WORDS)


def searchable(path: Path) -> mmap.mmap | bytes:
    """The bytes of a text, in an encoding in which ASCII is ASCII; mapped, since only some are looked at."""
    with open_file(path) as file:
        begin = file.read(4)
        if not begin:
            return b""
        if 0 in begin or begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            try:
                return utf8_of(path)
            except DataError:
                return b""
        # Closed with its last use: a search holds on to it.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

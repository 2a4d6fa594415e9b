"""Which files a folder holds, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from rehead.data.image_io import SUFFIXES
from rehead.datasets.parsing import Report, refuse
from rehead.reading import walk

WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What splits are called in the names of files and folders."""


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

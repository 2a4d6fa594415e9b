"""Classification: one folder of images per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rehead.configs.readers import SplitOptions
from rehead.data.pixels import SUFFIXES
from rehead.data.readers.base import SHOWN, Reader, existing, image_names, listed
from rehead.data.sample import Sample
from rehead.errors import DataError, did_you_mean
from rehead.types import Classes


class FoldersReader(Reader):
    """Images at any depth inside a folder named after their class; hidden files and folders are skipped.

    Args:
        split: `images` is the folder that holds the class folders.
        root: what its path is relative to.
        classes: folder names in the order of the labels; sorted by name unless given. A listed class may
            have an empty folder, since a small validation split may lack a class.
        ignore_index: has no meaning here.

    Raises:
        DataError: for no class folders, folders and classes that differ, a class without images (unless
            listed), or no images at all.
    """

    def __init__(
        self, split: SplitOptions, root: Path, classes: Sequence[str] | None = None, ignore_index: Sequence[int] = ()
    ) -> None:
        self.folder = existing(root, split.images, "images", folder=True)
        folders = sorted(
            entry.name for entry in self.folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
        if not folders:
            raise DataError(f"{self.folder}: holds no folders; there should be one per class, with its images inside")
        if classes is not None:
            _check_listed(classes, folders, self.folder)
        self.classes = Classes(tuple(classes if classes is not None else folders))
        images = [image_names(self.folder / name) for name in self.classes.names]
        empty = [name for name, found in zip(self.classes.names, images, strict=True) if not found]
        if empty and (classes is None or len(empty) == len(images)):
            raise DataError(
                f"{self.folder}: no images in {listed(empty)} (images end in {', '.join(sorted(SUFFIXES))}); "
                "remove folders that are no class, or list the classes in data.classes"
            )
        # Bytes in one array: a list of a million names would be copied into every forked worker.
        names = [f"{name}/{image}" for name, found in zip(self.classes.names, images, strict=True) for image in found]
        self._names = np.array([os.fsencode(name) for name in names])
        self._labels = np.repeat(np.arange(len(images)), [len(found) for found in images])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = os.fsdecode(self._names[index])
        return Sample(image_id=name, path=self.folder / name, label=int(self._labels[index]))


def _check_listed(classes: Sequence[str], folders: Sequence[str], folder: Path) -> None:
    problems = [f"class '{name}' has no folder{did_you_mean(name, folders)}" for name in classes if name not in folders]
    problems += [
        f"folder '{name}' is not among the classes{did_you_mean(name, classes)}"
        for name in folders
        if name not in classes
    ]
    if problems:
        more = f"; and {len(problems) - SHOWN} more such" if len(problems) > SHOWN else ""
        shown = "; ".join(problems[:SHOWN])
        raise DataError(f"{folder} and the classes (data.classes, or the model's) differ: {shown}{more}")

"""Classification: one folder of images per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from rehead.configs.readers import FoldersSplit
from rehead.data.image_io import SUFFIXES
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Columns, Texts
from rehead.datasets.content import Content, Notes
from rehead.datasets.file_names import image_names
from rehead.datasets.parsing import ClassesDifferError, Report, existing, reason, refuse
from rehead.datasets.passed_over import passed_over, say_passed_over
from rehead.errors import DataError, hinted, listed
from rehead.reading import folders_in, is_readable, names_in
from rehead.types import Classes


class FoldersReader(AnnotationReader):
    """Images at any depth inside a folder named after their class; hidden files and folders are skipped.

    Args:
        split: `images` is the folder that holds the class folders.
        root: what its path is relative to.
        classes: folder names in the order of the labels; sorted by name unless given. A listed class may
            have an empty folder, since a small validation split may lack a class.
        report: what is done about empty folders.

    Raises:
        DataError: for no class folders, folders and classes that differ, a class without images (unless
            listed), or no images at all.
    """

    def __init__(
        self,
        split: FoldersSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        report: Report = refuse,
        **_: object,
    ) -> None:
        folder = existing(root, split.images, "images", folder=True)
        super().__init__(parse(folder, classes, report), folder, folder)


def parse(folder: Path, classes: Sequence[str] | None, report: Report = refuse) -> Columns:
    """The columns of a folder of folders. Listing it is all there is to it: nothing for the cache to keep.

    Raises:
        DataError: as `FoldersReader`.
    """
    folders = folders_in(folder)
    if not folders:
        raise DataError(f"{folder}: holds no folders; there should be one per class, with its images inside")
    if classes is not None:
        _check_listed(classes, folders, folder)
    names = list(classes if classes is not None else folders)
    unread: list[str] = []
    images = [_images(folder / name, unread, report) for name in names]
    empty = [name for name, found in zip(names, images, strict=True) if not found and name not in unread]
    if empty and (classes is None or len(empty) == len(images)):
        report(
            "empty_folder",
            folder,
            f"no images in {listed(empty)} (images end in {', '.join(sorted(SUFFIXES))}); "
            "remove folders that are no class, or list the classes in data.classes",
        )
    if report is refuse:
        say_passed_over(folder, stray_files(folder, names))
    files = Texts.of(f"{name}/{image}" for name, found in zip(names, images, strict=True) for image in found)
    labels = np.repeat(np.arange(len(images)), [len(found) for found in images])
    return Columns(classes=Classes(tuple(names)), names=files, ids=files, image_labels=labels)


def _images(folder: Path, unread: list[str], report: Report) -> list[str]:
    """The images of one class; of a folder that cannot be read none, which is reported and noted."""
    try:
        return image_names(folder)
    except DataError as error:
        unread.append(folder.name)
        report("unreadable_folder", folder, reason(error, folder))
        return []


def stray_files(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Everything in the folders of some classes that is not read, and images beside those folders; and why."""
    inside = {
        f"{name}/{file}": why
        for name in names
        if is_readable(folder / name)
        for file, why in passed_over(folder / name, everything=True).items()
    }
    beside = [name for name in names_in(folder) if Path(name).suffix.lower() in SUFFIXES and (folder / name).is_file()]
    return {**inside, **dict.fromkeys(beside, "in no folder of a class")}


def _check_listed(classes: Sequence[str], folders: Sequence[str], folder: Path) -> None:
    absent, extra = set(classes) - set(folders), set(folders) - set(classes)
    problems = [f"no folder of class {hinted([name for name in classes if name in absent], folders)}"] if absent else []
    if extra:
        problems.append(f"not among the classes: folder {hinted([name for name in folders if name in extra], classes)}")
    if problems:
        message = f"{folder} and the classes (data.classes, or the model's) differ: {'; '.join(problems)}"
        raise ClassesDifferError(message, folder, classes, folders)


def write_folders(content: Content, folder: Path, notes: Notes) -> dict[str, Any]:
    """Images keep their names inside the folder of their class.

    Every split has a folder for every class of which there is an image anywhere.

    Returns:
        The options, with the classes where some split has no image of one, or they are not in the order of their names.

    Raises:
        DataError: for a class whose name cannot be that of a folder.
    """
    names = content.classes.names
    odd = [name for name in names if PurePosixPath(name).name != name or name.startswith(".")]
    if odd:
        raise DataError(f"{content.source}: class {odd[0]!r} cannot be the name of a folder; rename it")
    used: dict[str, set[str]] = {}
    for split in content.splits:
        used[split] = set()
        for picture in content.pictures(split):
            if picture.label is None:
                notes["{} images are of no class that was asked for and are left out"] += 1
                continue
            name = names[picture.label]
            used[split].add(name)
            if len(PurePosixPath(picture.name).parts) == 1 or PurePosixPath(picture.name).parts[0] != name:
                picture.name = f"{name}/{picture.name}"
            content.put(picture, folder / split)
    kept = [name for name in names if any(name in own for own in used.values())]
    notes["{} classes have no image in any split and are left out"] += len(names) - len(kept)
    for split in used:
        for name in kept:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {split: {"images": split} for split in used}
    lacking = any(len(own) < len(kept) for own in used.values())
    return {**options, "classes": kept} if lacking or kept != sorted(kept) else options

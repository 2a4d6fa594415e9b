"""Writes classes of images: a folder per split, with a folder per class inside."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from rehead.data.writers.content import Content, Notes
from rehead.errors import DataError


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

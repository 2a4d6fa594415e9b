"""Images that are not there: what they could be called, and where they could be."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

from rehead.data.image_io import SUFFIXES
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Texts
from rehead.datasets.file_names import image_names
from rehead.reading import is_there

logger = logging.getLogger("rehead")

How = Literal["stem", "loose"]

_SUFFIX = "|".join(suffix[1:] for suffix in SUFFIXES)


def _without_suffix(name: str) -> str:
    return name[: -len(suffix)] if (suffix := PurePosixPath(name).suffix).lower() in SUFFIXES else name


SUFFIX = "the suffix"
DIFFERENCES: dict[str, Callable[[str], str]] = {
    "URL encoding": unquote,
    SUFFIX: _without_suffix,
    "case": str.lower,
    "Roboflow's .rf.<hash>": lambda name: re.sub(r"\.rf\.[0-9a-z]{8,}$", "", name, flags=re.IGNORECASE),
    "a suffix inside the name (_png.jpg)": lambda name: re.sub(rf"[_.](?:{_SUFFIX})$", "", name, flags=re.IGNORECASE),
    "zero padding": lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", name),
}
"""In what tools change the names of images, and the name without it, in the order in which they are taken off."""


def compared(name: str, how: How = "loose", leave: str = "") -> str:
    """What is compared of the name of an image without its folder."""
    if how == "stem":
        return _without_suffix(name)
    for what, step in DIFFERENCES.items():
        if what != leave:
            name = step(name)
    return name


def _difference(name: str, file: str) -> str:
    """In what two names differ whose loose keys are the same."""
    # Without its suffix off, the rest cannot be told from it.
    others = (what for what in DIFFERENCES if what != SUFFIX)
    return " and ".join(what for what in others if compared(name, leave=what) != compared(file, leave=what)) or SUFFIX


def similar_files(folder: Path, names: Collection[str], how: How) -> dict[str, str]:
    """Files that images which are not there must be.

    Args:
        folder: of the images.
        names: of all images, as the annotations have them, relative to the folder.
        how: `stem` for the same name with another suffix; `loose` for one that is the same but for `DIFFERENCES`.

    Returns:
        By the name of an image that is not there, the only file that is like it: in the same folder, or anywhere for a
        name without a folder. Neither is it the file of another image, nor are two of them like the same file.
    """
    absent = [name for name in dict.fromkeys(names) if not is_there(folder / name)]
    taken = set(names)
    return alike(absent, [file for file in image_names(folder) if file not in taken], how)


def alike(absent: Collection[str], files: Collection[str], how: How) -> dict[str, str]:
    """Names and the files that they must mean.

    Args:
        absent: names of files that are not there.
        files: those that are there, and are nobody's.
        how: as for `similar_files`.

    Returns:
        By name, the only file that is like it, in the same folder, or anywhere for a name without a folder; no two
        names are like the same file.
    """
    like: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in map(PurePosixPath, files):
        like[compared(file.name, how)].append(file)
    found = {}
    for name in absent:
        path = PurePosixPath(name.replace("\\", "/"))
        fitting = [file for file in like[compared(path.name, how)] if path.parent in (PurePosixPath(), file.parent)]
        if len(fitting) == 1:
            found[name] = fitting[0].as_posix()
    claims = Counter(found.values())
    return {name: file for name, file in found.items() if claims[file] == 1}


def match_names(reader: AnnotationReader, how: How) -> None:
    """Gives images that are not there the files that are like them; says how many.

    Args:
        reader: of a split, whose names are changed.
        how: as for `similar_files`.
    """
    names = [reader.columns.names[row] for row in range(len(reader))]
    found = similar_files(reader.folder, names, how)
    if found:
        say_matched(reader.annotations, found, len(names), how)
        reader.columns = replace(reader.columns, names=Texts.of(found.get(name, name) for name in names))


def say_matched(source: Path, found: Mapping[str, str], count: int, how: How) -> None:
    """Says how many of some images were matched by what their names have in common."""
    if found:
        name, file = next(iter(found.items()))
        logger.info(
            "%s: %d of %d images are matched by images_match: %s, the first is %s, which is %s",
            *(source, len(found), count, how, name, file),
        )

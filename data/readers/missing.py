"""Images that are not there: what they could be called, and where they could be."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote

from rehead.configs.readers import FromTrainSplit
from rehead.data.pixels import SUFFIXES
from rehead.data.readers.base import image_names, split_of
from rehead.data.readers.column_reader import ColumnReader
from rehead.data.readers.columns import Texts
from rehead.errors import ReheadError, listed
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


def match_names(reader: ColumnReader, how: How) -> None:
    """Gives images that are not there the files that are like them; says how many.

    Args:
        reader: of a split, whose names are changed.
        how: as for `similar_files`.
    """
    names = [reader.columns.names[row] for row in range(len(reader))]
    found = similar_files(reader.folder, names, how)
    if found:
        say_matched(reader.annotations, found, len(names), how)
        reader.columns = replace(reader.columns, names=Texts.of(found.get(name, name) for name in names), kept=None)


def say_matched(source: Path, found: Mapping[str, str], count: int, how: How) -> None:
    """Says how many of some images were matched by what their names have in common."""
    if found:
        name, file = next(iter(found.items()))
        logger.info(
            "%s: %d of %d images are matched by images_match: %s, the first is %s, which is %s",
            *(source, len(found), count, how, name, file),
        )


def _listed_by_all(reader: ColumnReader) -> set[str]:
    """The paths of the images that any split of the data set lists, as far as its annotations can be read."""
    from rehead.data.readers import SPLITS, open_whole

    readers = [reader]
    for split in SPLITS if reader.source is not None else ():
        options = getattr(reader.source, split)
        if options is None or isinstance(options, FromTrainSplit) or f".{split}" == reader.key[-len(split) - 1 :]:
            continue
        assert reader.source is not None
        with suppress(ReheadError):
            one = open_whole(reader.source, split, None, "data", "", lambda *_: None, None)
            readers += [one] if isinstance(one, ColumnReader) else []
    return {os.path.abspath(one.folder / one.columns.names[row]) for one in readers for row in range(len(one))}


def whereabouts(reader: ColumnReader) -> str:
    """Where images that are not there were looked for, where they could be, and what to say then.

    Args:
        reader: of a split that names them.
    """
    folder = reader.folder
    where = reader.key.rpartition(".")[0]
    names = list(dict.fromkeys(reader.columns.names[row] for row in range(len(reader))))
    absent = [name for name in names if not is_there(folder / name)]
    there = image_names(folder)
    looked = f"looked in {folder.absolute()}, which has {len(there) or 'no'} images"
    for how in ("stem", "loose"):
        found = similar_files(folder, names, how)
        if found:
            name, file = next(iter(found.items()))
            kind = _difference(PurePosixPath(name).name, PurePosixPath(file).name)
            return (
                f"{looked}; {len(found)} of them have a file of the same name up to {kind} ({name} as {file}): "
                f"{where}.images_match={how}"
            )
    return f"{looked}{_elsewhere(reader, absent, set(names))}"


def _elsewhere(reader: ColumnReader, absent: Sequence[str], names: Collection[str]) -> str:
    """Which other folder below the root has images of these names, or at least images that nobody names."""
    folder, root = reader.folder, reader.root
    if root is None:
        return ""
    files = [file for file in image_names(root) if not (root / file).is_relative_to(folder) or folder == root]
    for what, how in (("are in", None), ("have names like those in", "loose")):
        by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in map(PurePosixPath, files):
            by_name[compared(file.name) if how else file.name].append(file)
        counts: Counter[str] = Counter()
        for name in absent:
            path = PurePosixPath(name.replace("\\", "/"))
            for file in by_name[compared(path.name) if how else path.name]:
                if path.parts[:-1] == file.parts[:-1][len(file.parts) - len(path.parts) :]:
                    counts[PurePosixPath(*file.parts[: len(file.parts) - len(path.parts)]).as_posix()] += 1
        if counts:
            best, count = counts.most_common(1)[0]
            more = f" {reader.key.rpartition('.')[0]}.images_match=loose" if how else ""
            return f"; {count} of them {what} {root / best}: {reader.key}.images={best}{more}"
    split = reader.key.rpartition(".")[2]
    known = _listed_by_all(reader)
    free = (file for file in files if PurePosixPath(file).name not in names)
    folders = (PurePosixPath(one).parent.as_posix() for one in free if os.path.abspath(root / one) not in known)
    # Those of another split are in its annotation.
    spare = Counter(one for one in folders if split_of(one) in (None, split))
    others = [f"{one} ({count} images)" for one, count in spare.most_common()]
    return f"; images that no annotation lists are in {listed(others)}" if others else ""

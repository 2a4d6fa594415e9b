"""Where images that are not there could be."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import PurePosixPath

from rehead.configs.readers import FromTrainSplit
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.file_names import image_names, split_of
from rehead.datasets.missing import _difference, compared, similar_files
from rehead.errors import ReheadError, listed
from rehead.reading import is_there


def _listed_by_all(reader: AnnotationReader) -> set[str]:
    """The paths of the images that any split of the data set lists, as far as its annotations can be read."""
    from rehead.configs.readers import SPLITS
    from rehead.datasets.open import open_whole

    readers = [reader]
    for split in SPLITS if reader.source is not None else ():
        options = getattr(reader.source, split)
        if options is None or isinstance(options, FromTrainSplit) or f".{split}" == reader.key[-len(split) - 1 :]:
            continue
        assert reader.source is not None
        with suppress(ReheadError):
            one = open_whole(reader.source, split, None, "data", "", lambda *_: None, None)
            readers += [one] if isinstance(one, AnnotationReader) else []
    return {os.path.abspath(one.folder / one.columns.names[row]) for one in readers for row in range(len(one))}


def whereabouts(reader: AnnotationReader) -> str:
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


def _elsewhere(reader: AnnotationReader, absent: Sequence[str], names: Collection[str]) -> str:
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

"""Which image file a record of an annotation is of."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from rehead.datasets.file_names import image_names
from rehead.datasets.parsing import Report


class Match(NamedTuple):
    """What `matching_files` says of one record.

    Attributes:
        file: the relative name of its image; None where there is none, or none of its own.
        contested: the file that it shares with other records, so that nobody can tell whose it is.
        by: another record that it is contested by.
    """

    file: str | None
    contested: str = ""
    by: str = ""


def matching_files(folder: Path, records: Sequence[Sequence[str]]) -> list[Match]:
    """The images of records, which know them by the names that some tool gave them.

    A name is, in this order: the path inside the folder; the same without suffix; the end of the file's real path. A
    name without a folder may also be that of a file at any depth, if only one has it. The absolute path of another
    machine fits a file whose path inside the folder it ends with, as long as nothing that tells the absolute paths of
    the records from one another is left over. So cam2/0001.jpg is never cam1/0001.jpg.

    Two records are given the same file only if they call it by the same path. Else it goes to the one whose name fits
    better; of two that fit equally well, to none.

    Args:
        folder: of the images.
        records: of each, the names that it goes by, the surest first.

    Returns:
        One for each record.
    """
    find = _finder(folder, [_path_of(name) for own in records for name in own])
    claims: list[tuple[str, tuple[int, int]] | None] = []
    for own in records:
        found = ((find(name), number) for number, name in enumerate(own))
        claims.append(next(((one[0], (number, one[1])) for one, number in found if one is not None), None))
    best: dict[str, tuple[int, int]] = {}
    holders: dict[str, dict[tuple[str, ...], None]] = defaultdict(dict)
    for own, claim in zip(records, claims, strict=True):
        if claim is not None and claim[1] <= best.get(claim[0], claim[1]):
            if claim[1] < best.get(claim[0], claim[1]):
                holders[claim[0]].clear()
            best[claim[0]] = claim[1]
            holders[claim[0]][_identity(own)] = None
    matches = []
    for own, claim in zip(records, claims, strict=True):
        if claim is None:
            matches.append(Match(None))
            continue
        file, rank = claim
        others = [names[0] for names in holders[file] if names != _identity(own)]
        if rank == best[file] and (not others or rank == (0, 0)):
            matches.append(Match(file))
        else:
            matches.append(Match(None, file, others[0]))
    return matches


def _identity(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(_path_of(name)) for name in names)


def _path_of(name: str) -> PurePosixPath:
    return PurePosixPath(posixpath.normpath(name.replace("\\", "/")))


def _is_absolute(path: PurePosixPath) -> bool:
    return path.is_absolute() or (path.parts[:1] != () and path.parts[0].endswith(":"))


def _finder(folder: Path, paths: Sequence[PurePosixPath]) -> Callable[[str], tuple[str, int] | None]:
    """From a name to the file that it fits and how well, 0 being the best."""
    names = image_names(folder)
    there = set(names)
    stems: dict[str, list[str]] = defaultdict(list)
    bases: dict[str, set[str]] = defaultdict(set)
    for name in names:
        path = PurePosixPath(name)
        stems[path.with_suffix("").as_posix()].append(name)
        for key in {path.name, path.stem}:
            bases[key].add(name)
    above = folder.absolute().parts
    foreign = [path.parent.parts for path in paths if _is_absolute(path)]
    shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*foreign, strict=False))))

    def ends_with(parts: Sequence[str], end: Sequence[str]) -> bool:
        return len(end) <= len(parts) and tuple(parts[len(parts) - len(end) :]) == tuple(end)

    def fits(path: PurePosixPath, name: str) -> bool:
        file = PurePosixPath(name)
        if path.name != file.name:
            file = file.with_suffix("")
        if not _is_absolute(path):
            own = [part for part in path.parts if part != ".."]
            return len(own) == 1 or ends_with((*above, *file.parts), own)
        return ends_with(path.parts, file.parts) and ends_with(file.parts, path.parts[shared:])

    def find(name: str) -> tuple[str, int] | None:
        path = _path_of(name)
        if str(path) in there:
            return str(path), 0
        if len(stems.get(str(path), ())) == 1:
            return stems[str(path)][0], 1
        fitting = [one for one in sorted(bases.get(path.name, ())) if fits(path, one)]
        if not fitting and (plain := unquote(name)) != name:
            # As in an address: a%20b.jpg.
            return find(plain)
        return (fitting[0], 2) if len(fitting) == 1 else None

    return find


def refuse_contested(match: Match, record: str, source: Path, folder: Path, report: Report) -> None:
    """Says of a record that the image that it fits may be another's.

    Args:
        match: the record's, which is contested.
        record: what it calls its image.
        source: the file that it stands in.
        folder: of the images.
        report: what is done about it.
    """
    report(
        "contested_file",
        source,
        f"{record} and {match.by} both fit {match.contested} in {folder}, which can be the image of one of them only; "
        "call images by their path inside the folder",
    )

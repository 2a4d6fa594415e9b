"""What was found out about single files, kept beside the annotation store, so that a second start is quick."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from rehead.datasets.cache import SETTLED_NS
from rehead.errors import OutputError
from rehead.files import atomic_path, cache_folder
from rehead.progress import Progress

Answer = TypeVar("Answer")
Known = dict[str, tuple[int, int, Answer]]
"""By path: its size, its time of change in nanoseconds, and the answer."""

_of_this_run: dict[Path, Known[object]] = {}
"""By file of the cache: the splits of a data set ask the same again, and young files are not kept on disk."""


def remembered(
    what: str, kind: type[Answer], paths: Sequence[Path], ask: Callable[[Path], Answer], title: str
) -> list[Answer]:
    """The answers to one question about files, asked only of those that are new or changed.

    Args:
        what: the question, and all that its answer depends on besides the file.
        kind: of an answer; JSON must be able to hold it.
        paths: of the files. One that is not there has to have an answer too, which is not kept.
        ask: gives the answer for a file; called from several threads.
        title: of the bar, for those who wait.
    """
    if not paths:
        return []
    paths = [path.absolute() for path in paths]
    name = f"{what} {os.path.commonpath([path.parent for path in paths])}"
    file = cache_folder() / "files" / hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    known: Known[Answer] = _of_this_run.get(file) or _kept(file, kind)  # type: ignore[assignment]
    stamps = [_stamp(path) for path in paths]
    names = [os.fsencode(path).decode(errors="backslashreplace") for path in paths]
    new = [
        place for place, (key, stamp) in enumerate(zip(names, stamps, strict=True)) if known.get(key, ())[:2] != stamp
    ]
    answers: dict[int, Answer] = {}
    if new:
        now = time.time_ns()
        with Progress(title, len(new)) as bar, ThreadPoolExecutor(os.cpu_count()) as threads:
            for place, answer in zip(new, threads.map(ask, [paths[place] for place in new]), strict=True):
                answers[place] = answer
                if (stamp := stamps[place]) is not None:
                    known[names[place]] = (*stamp, answer)
                bar.advance()
        _keep(file, {key: entry for key, entry in known.items() if now - entry[1] > SETTLED_NS})
    _of_this_run[file] = known  # type: ignore[assignment]
    return [answers[place] if place in answers else known[key][2] for place, key in enumerate(names)]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _kept(file: Path, kind: type[Answer]) -> Known[Answer]:
    """What the disk knows: nothing, if there is no such file or a broken one."""
    try:
        known: Known[Answer] = msgspec.json.decode(file.read_bytes(), type=dict[str, tuple[int, int, kind]])  # type: ignore[valid-type]
    except (OSError, msgspec.DecodeError):
        return {}
    return known


def _keep(file: Path, known: Known[Answer]) -> None:
    try:
        with atomic_path(file) as temporary:
            temporary.write_bytes(msgspec.json.encode(known))
    except OutputError:
        # The annotation store has said so, or will.
        return

"""The annotation store: columns on disk, parsed once, mapped into memory by every process that reads them.

One file per data set, `magic, length of the header, header, arrays`. It is read in place, so opening costs
the same for ten annotations as for a million, and all workers and ranks share the same pages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from rehead.datasets.annotations import Columns
from rehead.datasets.parsing import Report, refuse
from rehead.errors import DataError, OutputError
from rehead.files import atomic_path, cache_folder, json_text
from rehead.types import Classes

logger = logging.getLogger("rehead")

VERSION = 3
"""Of what parsing gives: another number, and everything is parsed anew."""

MAGIC = b"rehead columns\n\0"
ALIGNMENT = 64
SETTLED_NS = 2_000_000_000
"""Files changed less than this before they were parsed are not kept: a change within the same tick of the file
system's clock (up to two seconds) would go unseen, as git has it (https://git-scm.com/docs/racy-git)."""

_complained = False


def cached(name: str, sources: Iterable[Path], parse: Callable[[], Columns], report: Report = refuse) -> Columns:
    """Columns from the cache if their sources are unchanged; else parsed, and kept for the next time.

    Args:
        name: what tells these columns from others: the format, the paths and the options that parsing depends on.
        sources: the files whose size and time of change say whether the columns still hold.
        parse: gives the columns.
        report: what parsing does about annotations that it cannot use. Columns that lack some are not kept, nor taken
            from the cache.

    Raises:
        DataError: for a source that is not there.
    """
    if report is not refuse:
        return parse()
    stamp, newest = _stamp(sources)
    path = cache_folder() / "annotations" / f"{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()}"
    found = _opened(path, stamp)
    if found is not None:
        return found
    settled = time.time_ns() - newest > SETTLED_NS
    columns = parse()
    if not settled or not _keep(columns, path, stamp):
        return columns
    # Mapped, not as parsed: from here on the memory belongs to the file, not to this process.
    return _opened(path, stamp) or columns


def reopen(path: Path, stamp: str) -> Columns:
    """The columns that another process of this run has open.

    Raises:
        DataError: if they are no longer there.
    """
    found = _opened(path, stamp)
    if found is None:
        raise DataError(f"{path}: the stored annotations were changed or removed while they were in use; start again")
    return found


def _stamp(sources: Iterable[Path]) -> tuple[str, int]:
    """A digest of paths, sizes and times, and the newest time in nanoseconds."""
    digest = hashlib.sha256(f"{VERSION} {sys.byteorder}".encode())
    newest = 0
    for source in sources:
        try:
            status = source.stat()
        except OSError as error:
            raise DataError(f"{source}: cannot be read: {error.strerror or error}") from error
        newest = max(newest, status.st_mtime_ns)
        digest.update(b"%s\0%d %d\0" % (os.fsencode(source), status.st_size, status.st_mtime_ns))
    return digest.hexdigest(), newest


def _keep(columns: Columns, path: Path, stamp: str) -> bool:
    """Writes a file of the cache; whether that could be done."""
    arrays = {name: np.ascontiguousarray(array) for name, array in columns.arrays().items()}
    starts = {}
    end = 0
    for name, array in arrays.items():
        starts[name] = -(-end // ALIGNMENT) * ALIGNMENT
        end = starts[name] + array.nbytes
    places = {name: [array.dtype.str, array.shape, starts[name]] for name, array in arrays.items()}
    classes = None if columns.classes is None else columns.classes.to_json()
    about = {"stamp": stamp, "classes": classes, "listed": columns.listed, "arrays": places, "bytes": end}
    header = json_text(about).encode()
    header += b" " * (-(len(MAGIC) + 8 + len(header)) % ALIGNMENT)
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(MAGIC + len(header).to_bytes(8, "little") + header)
            base = file.tell()
            for name, array in arrays.items():
                file.seek(base + starts[name])
                file.write(array.tobytes())
            file.truncate(base + end)
    except OutputError as error:
        global _complained
        if not _complained:
            _complained = True
            logger.warning(
                "annotations are parsed anew each time, since they cannot be kept: %s; set REHEAD_CACHE to a folder "
                "that can be written",
                error,
            )
        return False
    return True


def _opened(path: Path, stamp: str) -> Columns | None:
    """The columns of a file of the cache; None if there is none, or an older or a broken one."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(MAGIC) + 8)
            length = int.from_bytes(begin[len(MAGIC) :], "little")
            if not begin.startswith(MAGIC) or length > 2**24:
                return None
            about = json.loads(file.read(length))
            if about["stamp"] != stamp:
                return None
            base = file.tell()
            if os.fstat(file.fileno()).st_size != base + about["bytes"]:
                return None
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.info("%s: not usable, annotations are parsed anew: %s", path, error)
        return None
    arrays = {
        name: np.frombuffer(pages, dtype, int(np.prod(shape)), base + start).reshape(shape)
        for name, (dtype, shape, start) in about["arrays"].items()
    }
    classes = None if about["classes"] is None else Classes.from_json(about["classes"])
    columns = Columns.from_arrays(arrays, classes=classes, listed=about["listed"])
    object.__setattr__(columns, "reopen", (reopen, (path, stamp)))
    return columns

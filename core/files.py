"""Writing without ever leaving half a file behind."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rehead.errors import OutputError

PARTIAL = ".partial-"
"""How the names of files begin that are not whole yet."""


def cache_folder() -> Path:
    """`$REHEAD_CACHE`, or `rehead` in the user's cache folder."""
    if given := os.environ.get("REHEAD_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/rehead"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "rehead" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rehead"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    The content is flushed to disk before the rename, so after a power cut the name holds the old
    content or the new, whole. On an error the temporary file is removed and `path` stays as it was.

    Yields:
        The temporary path, with the same suffix.

    Raises:
        OutputError: if the disk is full, or the place cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{PARTIAL}{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            # mkstemp makes files private; give the result what a plain open() would have given.
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def check_free(path: Path) -> None:
    """Checks, before the work begins, that a folder can be written without overwriting anything.

    Raises:
        OutputError: for a file, and a folder that is not empty.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        kind = "a folder that is not empty" if path.is_dir() else "a file"
        raise OutputError(f"{path}: is {kind}; nothing is overwritten, so name a new folder")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without an error.

    Yields:
        The temporary folder.

    Raises:
        OutputError: if `path` is a file or a folder that is not empty, or the place cannot be written.
    """
    check_free(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Removes what a killed process left half-written in a folder and below."""
    with writing(folder):
        for path in folder.rglob(f"{PARTIAL}*"):
            path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says which path could not be written, and why.

    Raises:
        OutputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    r"""Writes a text file, whole or not at all. What is no text, in names of files, becomes `\udcff`, as in JSON."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))

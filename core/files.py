"""Writing without ever leaving half a file behind."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rehead.errors import OutputError, listed

DEEPEST = 64
"""Dicts and lists inside each other that a JSON text may have: whatever works on them calls itself for each."""
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


def check_output(
    path: Path,
    option: str = "--out",
    *,
    folder: bool = False,
    inputs: Iterable[Path] = (),
    overwrite: bool | None = None,
) -> None:
    """Checks, before the work begins, that writing to a place costs nobody anything. Every command's output comes here.

    What is read is never written over or into, whatever `overwrite` says: not the same file by another name, not a
    place inside a folder that is read, where the output would be read next time, and not a folder that holds what is
    read.

    Args:
        path: the place.
        option: that names it, for the message.
        folder: whether it is to be a folder, else a file.
        inputs: what the command reads.
        overwrite: whether what is there may be replaced; None where there is no such option.

    Raises:
        OutputError: for such a place, for one that holds something, and for what is no name of a file.
    """
    try:
        there, here = path.exists(), _places(path)
        is_folder = path.is_dir()
        for one in inputs:
            read = _places(one) if one.exists() else {}
            if read and next(iter(read)) in here:
                what = "is" if there and os.path.samefile(path, one) else "is inside"
                raise OutputError(f"{option}: {path} {what} {one}, which is read; name a place outside of it")
            if folder and there and next(iter(here)) in read:
                raise OutputError(f"{option}: {path} holds {one}, which is read; name a folder of its own")
        if is_folder and not folder:
            raise OutputError(f"{option}: {path} is a folder; name a file")
        if not there or (folder and is_folder and not any(path.iterdir())):
            return
        kind = "a folder that is not empty" if is_folder else "a file"
        if overwrite is None or (folder and not is_folder):
            raise OutputError(f"{option}: {path} is {kind}; nothing is overwritten, so name a new folder")
        if not overwrite:
            said = f"is {kind}" if folder else "is there already"
            raise OutputError(f"{option}: {path} {said}; --overwrite replaces it, or name another place")
    except (OSError, ValueError, RuntimeError) as error:  # a name too long; a NUL in it; links that go in a circle
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OutputError(f"{option}: {str(path)[:200]!r} cannot be written: {reason}") from error


def _places(path: Path) -> dict[tuple[int, int], Path]:
    """A path and the folders that it is in, by what identifies each for the system; those that are there."""
    found = {}
    resolved = path.resolve()
    for place in (resolved, *resolved.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            status = place.stat()
            found[status.st_dev, status.st_ino] = place
    return found


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without an error.

    Yields:
        The temporary folder.

    Raises:
        OutputError: if `path` is a file or a folder that is not empty, or the place cannot be written.
    """
    check_output(path, folder=True)
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


def json_text(
    value: Any,
    *,
    indent: int | None = None,
    ensure_ascii: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """A value as JSON text that every reader takes: Python's own writer would put NaN into it, which is none.

    Everything that the package writes as JSON text comes from here.

    Args:
        value: of dicts, lists, texts, numbers, booleans and None.
        indent: spaces per level; None writes one line.
        ensure_ascii: escape all other letters.
        default: makes such a value of another kind of object.

    Raises:
        OutputError: naming the numbers that are not finite.
    """
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, default=default, allow_nan=False)
    except ValueError as error:
        raise OutputError(f"not written, since JSON has no such numbers: {listed(not_finite(value))}") from error


def not_finite(value: Any, where: str = "") -> Iterator[str]:
    """The places in a value of dicts and lists where a number is NaN or infinite, as `key.3.other is nan`."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield f"{where or 'the value'} is {value}"
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield from not_finite(inside, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for number, inside in enumerate(value):
            yield from not_finite(inside, f"{where}.{number}" if where else str(number))


def measured(value: Any) -> Any:
    """The same value of dicts and lists, with None for every number that is NaN or infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: measured(inside) for key, inside in value.items()}
    return [measured(inside) for inside in value] if isinstance(value, list | tuple) else value


def parsed_json(text: str | bytes) -> Any:
    """What a JSON text says, that somebody else may have written.

    Raises:
        ValueError: for what is no JSON, nested more than `DEEPEST`, or holds numbers that are NaN or infinite.
    """
    try:
        value = json.loads(text, parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    inside, depth = [value], 0
    while inside := [one for each in inside for one in _parts(each)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
    return value


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refused(text)


def _refused(text: str) -> float:
    raise ValueError(f"the number {text[:20]} is not finite")

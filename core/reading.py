"""Reading somebody else's files and folders: named errors, no waiting for a pipe, no walking in circles."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rehead.errors import DataError, shortened

logger = logging.getLogger("rehead")

SHOWN = 5
"""How many names a message lists before it stops."""

MOST_BYTES = 2**32
"""Of a file that is read whole, unless one says otherwise."""

SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
"""What is no file, by the type in its mode."""

_said: set[str] = set()


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Says of what file it was that something could not be read.

    Parsers and decoders raise what they please of a broken file (IndexError, struct.error, ValueError for a date of the
    40th, ...), so that a list of exceptions would never be complete.

    Args:
        path: of the file.
        what: is wrong with a file that they raise something about, such as `broken JSON`.

    Raises:
        DataError: for whatever is raised inside.
    """
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except RecursionError as error:
        raise DataError(f"{path}: {what}: it is nested too deeply") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory to read it") from error
    except Exception as error:
        # Only what the system says has one; of what it says of another file, that file's name is left out.
        reason = getattr(error, "strerror", None)
        said = shortened(str(error) or type(error).__name__)
        raise DataError(f"{path}: cannot be read: {reason}" if reason else f"{path}: {what}: {said}") from error


def open_file(path: Path, most: int = MOST_BYTES) -> BinaryIO:
    """Opens a file for reading its bytes, and nothing but a file: a pipe would keep everybody waiting.

    Args:
        path: of the file.
        most: bytes that it has; a hole of a terabyte takes no place on a disk.

    Raises:
        DataError: naming it, and why it cannot be opened.
    """
    with reading(path, "no name of a file"):
        # To open a pipe is to wait for somebody who writes to it, unless one says not to.
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
        status = os.fstat(file.fileno())
        kind = stat.S_IFMT(status.st_mode)
        if kind != stat.S_IFREG or status.st_size > most:
            file.close()
            what = f"{SPECIAL.get(kind, 'no file')}, not a file"
            raise DataError(f"{path}: is {what if kind != stat.S_IFREG else f'larger than {most} bytes'}")
        return file


def contents(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        DataError: as `open_file`, or if it cannot be read.
    """
    with open_file(path) as file, reading(path, "cannot be read"):
        return file.read()


def is_file(path: Path) -> bool:
    """Whether there is such a file; none has a name that cannot be one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """The same for a folder."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def folder_named(name: str) -> Path:
    """A folder as people write it, with `~` for their own."""
    # That of pathlib raises something for a stranger's.
    return Path(os.path.expanduser(name))


def is_there(path: Path) -> bool:
    """Whether there is something of this name, be it a folder, a pipe, or what may not be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        return error.errno in (errno.EPERM, errno.EACCES)
    return True


@dataclass
class Walked:
    """What is in a folder, at any depth. Names are relative, with `/` between parts; hidden ones are skipped.

    Attributes:
        root: the folder.
        files: by folder (`.` for the root), the names of its files, sorted; links that lead nowhere too, which are
            errors where they are read.
        unread: by folder, why it cannot be looked into.
        special: by name, what it is that is neither a file nor a folder.
        again: by the name of a link, the folder that it leads to, which is there under its own name.
    """

    root: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    special: dict[str, str] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The relative names of all files, sorted."""
        return sorted(_join(folder, name) for folder, names in self.files.items() for name in names)


def walk(root: Path) -> Walked:
    """Looks through a folder of somebody's, each real folder in it once, however links lead around.

    Folders of its own come before those that links lead to, so that what is inside has its own name. What cannot be
    looked into, and what is neither a file nor a folder, is named in a warning, once.

    Args:
        root: the folder.

    Raises:
        DataError: if the folder itself cannot be read.
    """
    walked = Walked(root)
    seen: dict[tuple[int, int], str] = {}
    folders: deque[str] = deque(["."])
    links: deque[str] = deque()
    while folders or links:
        name = (folders or links).popleft()
        path = root if name == "." else root / name
        try:
            status = path.stat()
            # Windows gives no number to some; links that lead in circles are its own errors there.
            key = (status.st_dev, status.st_ino)
            if key in seen and status.st_ino:
                walked.again[name] = seen[key]
                continue
            seen[key] = name
            walked.files[name], inside, linked = _entries(path, name, walked)
        except OSError as error:
            if name == ".":
                raise DataError(f"{root}: cannot be read: {error.strerror or error}") from error
            walked.unread[name] = error.strerror or str(error)
            continue
        folders += inside
        links += linked
    walked.files = dict(sorted(walked.files.items(), key=lambda item: [] if item[0] == "." else item[0].split("/")))
    walked.unread, walked.special = dict(sorted(walked.unread.items())), dict(sorted(walked.special.items()))
    _say(walked)
    return walked


def folders_in(root: Path) -> list[str]:
    """The names of the folders right in a folder, sorted; hidden ones are skipped.

    Raises:
        DataError: if it cannot be read.
    """
    return sorted(entry for entry in names_in(root) if (root / entry).is_dir())


def names_in(root: Path) -> list[str]:
    """The names of everything right in a folder, sorted; hidden ones are skipped.

    Raises:
        DataError: if it cannot be read.
    """
    with reading(root, "cannot be read"), os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def is_readable(folder: Path) -> bool:
    """Whether a folder can be looked into."""
    try:
        names_in(folder)
    except DataError:
        return False
    return True


def _entries(path: Path, name: str, walked: Walked) -> tuple[list[str], list[str], list[str]]:
    """Of one folder the names of the files, and the paths of the folders and of the links to some."""
    files: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    with os.scandir(path) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        own = _join(name, entry.name)
        try:
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(own)
            elif entry.is_file() or (kind := stat.S_IFMT(entry.stat().st_mode)) == stat.S_IFREG:
                files.append(entry.name)
            else:
                walked.special[own] = SPECIAL.get(kind, "neither a file nor a folder")
        except OSError:
            # A link to nothing, or to itself.
            files.append(entry.name)
    return files, folders, links


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _say(walked: Walked) -> None:
    """Warns of what was not looked into or passed over; of the same folder once, for it is walked more than once."""
    for found, what in (
        (walked.unread, "folders cannot be read, so nothing in them counts"),
        (walked.special, "are no files and are not read"),
    ):
        if found:
            said = f"{walked.root}: {len(found)} {what}: {_some(found)}"
            if said not in _said:
                _said.add(said)
                logger.warning("%s", said)


def _some(found: Mapping[str, str]) -> str:
    """The first few names, and why."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(f"{name} ({why})" for name, why in list(found.items())[:SHOWN]) + more

"""One run to a folder: a lock that says who has it, and that a killed process cannot leave behind."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from rehead.errors import OutputError
from rehead.files import writing
from rehead.terminal import say

NAME = ".lock"
"""Of the file in a run's folder."""

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems say that have no locks, as some network file systems are mounted."""


@dataclass(frozen=True)
class Owner:
    """Who has a lock.

    Attributes:
        host: its name.
        pid: of the process.
        boot: of the host's kernel, since it last started: containers have names of their own and share it. Empty
            where there is none.
        since: when it began.
    """

    host: str
    pid: int
    boot: str
    since: str

    def is_here(self) -> bool:
        """Whether it is, or was, on this machine."""
        return self.host == socket.gethostname() or (bool(self.boot) and self.boot == _boot())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for one run, and makes it where it is not there.

    The operating system holds the lock, and takes it back from a process that dies. What the file says is for people,
    and for other machines: not every network file system shares its locks with them, so a lock that another machine
    left is not taken over.

    Raises:
        OutputError: while another process has the folder, or where it cannot be written.
    """
    made = not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    lock = FileLock(path, fallback_to_soft=False)
    ours = False
    try:
        _acquire(lock, path)
        ours = True
        with writing(path):
            path.write_text(json.dumps(asdict(_me())), encoding="utf-8")
        yield
    finally:
        if ours:
            with suppress(OSError):
                path.unlink()
        lock.release()
        if made:
            with suppress(OSError):  # it holds a run
                folder.rmdir()


def _acquire(lock: FileLock, path: Path) -> None:
    """Takes the lock, also from a dead process of this machine.

    Raises:
        OutputError: if another process has it, or may have it on another machine.
    """
    left = _owner(path)
    with writing(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            holder = _owner(path) or "another process"
            raise OutputError(
                f"{path.parent}: {holder} is writing a run here, and two would mix their files. Wait for it, stop it, "
                "or choose another folder by out=..."
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            say(
                f"warning: {path.parent} is on a file system without locks ({error.strerror}): nothing keeps a second "
                "run on another machine out of this folder"
            )
            if left is not None and left.is_here() and _is_alive(left.pid):
                raise OutputError(
                    f"{path.parent}: {left} is writing a run here; choose another folder by out=..."
                ) from error
    if left is None:
        return
    if not left.is_here():
        lock.release()
        raise OutputError(
            f"{path.parent}: {left} was writing a run here, and whether it still is cannot be seen from this machine. "
            f"If it is gone, remove {path} and start again"
        )
    say(f"{path.parent}: {left} was writing a run here and is gone; its lock is taken over")


def _owner(path: Path) -> Owner | None:
    """What a lock's file says; None where there is none, and where it was cut short."""
    try:
        return Owner(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _me() -> Owner:
    return Owner(socket.gethostname(), os.getpid(), _boot(), datetime.now().astimezone().isoformat(timespec="seconds"))


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _is_alive(pid: int) -> bool:
    """Whether a process of this number runs here; asked where there is no lock, which Windows always has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

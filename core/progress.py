"""How long work shows itself: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

WIDE = 100_000
"""Columns of what is no terminal."""

console = Console(stderr=True, soft_wrap=True)
"""Where progress and messages go: standard error, so that standard output holds results alone."""


class _Piped(Console):
    """Lines of any length: a path that is broken in two is no path for what reads it."""

    def __init__(self) -> None:
        super().__init__(width=WIDE)

    def print(self, *objects: Any, **options: Any) -> None:
        """As a console prints, without the spaces that fill a table's lines."""
        with self.capture() as captured:
            super().print(*objects, **options)
        text = "\n".join(line.rstrip() for line in captured.get().split("\n"))
        # Names of files need not be text.
        self.file.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def results() -> Console:
    """Where results go, standard output: as wide as the terminal, and where there is none, nothing is wrapped."""
    console = Console()
    return console if console.is_terminal else _Piped()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


class Progress:
    """A named piece of work of known length.

    Args:
        title: what is being done.
        total: how many steps it has.
        done: how many were done before (a resumed run).
        quiet: show nothing (every rank but the first).
    """

    every_seconds = 15.0
    """Where there is no terminal, a line this often."""

    def __init__(self, title: str, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self.title, self.total, self.done, self.started_at = title, total, done, done
        self._start = self._last = time.monotonic()
        self._quiet = quiet
        self._bar: RichProgress | None = None
        if not quiet and console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, note: str = "", steps: int = 1) -> None:
        """Counts steps done; `note` says how it goes, such as the loss."""
        self.done += steps
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=note)
        elif not self._quiet:
            now = time.monotonic()
            if now - self._last >= self.every_seconds:
                self._last = now
                rate = (now - self._start) / max(self.done - self.started_at, 1)
                eta = _clock(rate * (self.total - self.done))
                say(f"{self.title} {self.done}/{self.total}  elapsed {_clock(now - self._start)}  ETA {eta}  {note}")


def say(message: str) -> None:
    """One line for the person who is watching, above a running bar; the first of several processes speaks for all."""
    if os.environ.get("RANK", "0") != "0":
        return
    console.print(message, markup=False, highlight=False)
    sys.stderr.flush()

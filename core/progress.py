"""How long work shows itself: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rehead.terminal import Bar, console, say


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
        self._bar = Bar(title, total, done) if not quiet and console.can_move else None

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
            self._bar.update(self.done, note)
        elif not self._quiet:
            now = time.monotonic()
            if now - self._last >= self.every_seconds:
                self._last = now
                rate = (now - self._start) / max(self.done - self.started_at, 1)
                eta = _clock(rate * (self.total - self.done))
                say(f"{self.title} {self.done}/{self.total}  elapsed {_clock(now - self._start)}  ETA {eta}  {note}")

"""Leaving a run in good order when it is asked to: Ctrl-C, or the SIGTERM of a cluster whose time is up."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

ONE = 1.0
"""Seconds in which signals are one: whoever signals a group of processes is echoed by a launcher in it, as `uv run`."""


class StopNow(BaseException):
    """Raised inside `StopSignals.at_once`; like KeyboardInterrupt, no `except Exception` swallows it."""


class StopSignals:
    """Notes SIGINT and SIGTERM instead of dying of them, so that a step is ended and saved.

    The first signal is noted; a second one goes to the handlers from before, for whoever does not want to wait.
    Outside the main thread, where Python allows no handlers, nothing is noted and nothing changes.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._at_once = False
        self._noted_at = 0.0

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._note) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises `StopNow` where it finds the work: what is interrupted here can be done again."""
        self._at_once = True
        try:
            if self.received is not None:
                raise StopNow
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if time.monotonic() - self._noted_at > ONE:
                self._restore()
                signal.raise_signal(number)
            return
        self.received, self._noted_at = signal.Signals(number), time.monotonic()
        if self._at_once:
            raise StopNow

    def _restore(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

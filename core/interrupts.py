"""Ctrl-C without a traceback, at any moment; and processes that are not to hear it. Imports next to nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

CODE = 128 + signal.SIGINT
"""The exit code, as shells have it."""

STOPS = (signal.SIGINT, signal.SIGTERM)
"""What reaches every process of a run, from a terminal or a cluster."""


def run_quietly(command: Callable[[], None]) -> None:
    """Runs a command, which Ctrl-C ends with exit code 130 and nothing else.

    Where Ctrl-C is ignored, as in what a shell runs in the background, it stays so.

    Args:
        command: its imports included.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(CODE)
    finally:
        if ours:
            # From here on Python only tidies up.
            signal.signal(signal.SIGINT, _leave)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends the process in an import, which may swallow an exception or turn it into another; else raises one."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    """What is raised where nothing can catch it, such as in a destructor, is printed; KeyboardInterrupt ends all."""
    if issubclass(found.exc_type, KeyboardInterrupt):
        _leave()
    sys.__unraisablehook__(found)


def _leave(*signal: Any) -> None:
    os._exit(CODE)


@contextmanager
def stops_wait() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM wait; a process that is started here begins without hearing them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {one: signal.signal(one, lambda number, frame: received.append(number)) for one in STOPS}
    # Handlers are lost in a process that is not forked, and masks are not.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one, handler in before.items():
            signal.signal(one, handler)
        for number in dict.fromkeys(received):
            signal.raise_signal(number)


def hear_no_stops() -> None:
    """For a process that works for another one: that one decides when both end."""
    for one in STOPS:
        signal.signal(one, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

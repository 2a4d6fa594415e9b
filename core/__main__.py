"""Where the command begins, by its name or as `python -m rehead` for launchers such as torchrun."""

import os
import sys

from rehead.interrupts import run_quietly


def main() -> None:
    """Runs the command `rehead`."""
    _use_utf8()
    run_quietly(_run)


def _run() -> None:
    from rehead.cli import main as run

    run()


def _use_utf8() -> None:
    """Starts again in Python's UTF-8 mode where the locale (such as LC_ALL=C) has no letters beyond ASCII.

    Names of files are UTF-8 in annotations and configurations: without it, those that have other letters would not be
    found, and classes that are named after folders would be garbled.
    """
    if sys.getfilesystemencoding().lower() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()

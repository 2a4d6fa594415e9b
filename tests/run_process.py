"""The command in a real process, which can be killed; forked from one that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["rehead.tasks.train", "rehead.heads.faster_rcnn", "rehead.data.transforms.augment", "rehead.evaluation.coco"]
)


def start(
    log: Path, *arguments: object, die_at_rename: int | None = None, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Starts `rehead ARGUMENTS` as the head of a process group.

    Args:
        log: where its standard error goes, added to what is there.
        arguments: of the command.
        die_at_rename: it kills itself where a file takes its place: an even number 2k before the k-th, counted
            from 0, an odd one after it.
        environment: variables, such as those by which a launcher tells each process its rank.
    """
    # Not a daemon: those may have no children, and a loader's workers are some.
    process = CONTEXT.Process(
        target=_main, args=(str(log), [str(one) for one in arguments], die_at_rename, environment or {})
    )
    process.start()
    return process


def run(log: Path, *arguments: object, die_at_rename: int | None = None) -> int:
    """`start`, to the end: the exit code, or minus the signal that ended it."""
    process = start(log, *arguments, die_at_rename=die_at_rename)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _main(log: str, arguments: list[str], die_at_rename: int | None, environment: Mapping[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 2)
    if die_at_rename is not None:
        _die_at(die_at_rename)
    from rehead.cli import main

    sys.argv = ["rehead", *arguments]
    main()


def _die_at(moment: int) -> None:
    replace, renames = Path.replace, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal renames
        if moment == 2 * renames:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(self, target)
        if moment == 2 * renames + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        renames += 1
        return target

    Path.replace = counted  # type: ignore[method-assign, assignment]

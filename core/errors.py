"""Errors a user can act on. The command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class ReheadError(Exception):
    """Something the user can put right: the message names what was found and what to do.

    Given several texts, each is a line of the message.

    Attributes:
        exit_code: of the command line.
    """

    exit_code = 2

    @property
    def lines(self) -> list[str]:
        """The message as it is shown: whatever is inside a line stays on it."""
        return [str(line) for line in self.args]

    def __str__(self) -> str:
        return "\n".join(self.lines)


class ConfigError(ReheadError):
    """One or more things wrong with a configuration, reported together.

    Args:
        problems: one line each, `where: what`.
        source: the file or command the configuration came from.
    """

    def __init__(self, problems: Sequence[str], source: str = "configuration") -> None:
        self.problems = list(problems)
        self.source = source
        super().__init__(f"{source}:", *(f"  - {problem}" for problem in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems, self.source)


class DataError(ReheadError):
    """A data set, an image or an annotation that cannot be used; the message names the file."""


class WeightsError(ReheadError):
    """Weights or a checkpoint that cannot be found, read or fitted to the model."""


class BuildError(ReheadError):
    """Parts that do not fit together, such as a head on a backbone; the message names both sides."""


class OutputError(ReheadError):
    """Something that cannot be written: a full disk, a folder without permission."""


class TrainingError(ReheadError):
    """A training run that had to stop; its last good checkpoint is kept."""


class OtherProcessError(ReheadError):
    """Another process of the same run had to stop, and says why; this one has nothing to add but where it ended."""


class RunStoppedError(ReheadError):
    """A run that was asked to stop by a signal, and saved before it did.

    Args:
        message: where it stands, and how to go on.
        signal: its number; the exit code is 128 more, as shells have it.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def one_line(error: BaseException) -> str:
    """What another library's error says, without its lines."""
    return " ".join(str(error).split())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of the known words, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(f"'{match}'" for match in close) + "?"

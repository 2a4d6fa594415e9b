"""Errors a user can act on. The command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

LONG = 300
"""Characters of somebody's text that a message shows."""

MOST_PROBLEMS = 50
"""Problems of one configuration that are shown."""

MOST_OF_ONE = 2000
"""Characters of each."""

LISTED = 10
"""Names that a message shows of many."""


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
        lines = [f"  - {shortened(problem, MOST_OF_ONE)}" for problem in self.problems[:MOST_PROBLEMS]]
        if len(self.problems) > MOST_PROBLEMS:
            lines.append(f"  - and {len(self.problems) - MOST_PROBLEMS} more")
        super().__init__(f"{source}:", *lines)

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
    if len(word) > LONG:
        return ""
    # Of thousands of long words, comparing would take minutes.
    close = difflib.get_close_matches(word, [name for name in known if len(name) <= LONG], n=3, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(f"'{match}'" for match in close) + "?"


def shortened(text: str, most: int = LONG) -> str:
    """A text of somebody's for a message: no longer than `most` characters, which says so where it is."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def listed(names: Iterable[object], joint: str = ", ") -> str:
    """The first ten of many names, for a message: however many there are and however long, it can be read.

    Args:
        names: anything; `str` of each is shown.
        joint: what stands between them.
    """
    every = list(names)
    if not every:
        return "nothing"
    more = f"{joint.rstrip(', ')} and {len(every) - LISTED:,} more" if len(every) > LISTED else ""
    return joint.join(shortened(str(name)) for name in every[:LISTED]) + more


def hinted(absent: Sequence[str], known: Iterable[str]) -> str:
    """Names that are not there, each with the near ones that are: ten of them, as `listed`."""
    # Near ones are looked for only where they are shown: among thousands of names, one takes a second.
    near = list(known)
    more = f" and {len(absent) - LISTED:,} more" if len(absent) > LISTED else ""
    return ", ".join(f"'{shortened(name)}'{did_you_mean(name, near)}" for name in absent[:LISTED]) + more


class _Quoted(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 8
        self.maxstring = self.maxother = 100

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out numbers of thousands of digits.
        return repr(x) if x.bit_length() < 300 else f"a number of {x.bit_length()} bits"

    def repr_str(self, x: str, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring]!r}... ({len(x)} characters)"


def quoted(value: Any) -> str:
    """A value of somebody's for a message, as Python writes it, its long, wide and deep parts shortened."""
    return _Quoted().repr(value)

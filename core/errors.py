"""Errors a user can act on. The command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

PROBLEMS = 50
"""Lines that one message has at most: whoever writes a file may put a hundred thousand wrong keys into it."""
LISTED = 10
"""Names that a message shows of many."""
LETTERS = 200
"""Of one name, that a message shows."""


class ReheadError(Exception):
    """Something the user can put right: the message names what was found and what to do.

    Attributes:
        exit_code: of the command line.
    """

    exit_code = 2


class ConfigError(ReheadError):
    """One or more things wrong with a configuration, reported together.

    Args:
        problems: one line each, `where: what`.
        source: the file or command the configuration came from.
    """

    def __init__(self, problems: Sequence[str], source: str = "configuration") -> None:
        self.problems = list(problems)
        self.source = source
        lines = "\n".join(f"  - {shortened(problem, 4000)}" for problem in self.problems[:PROBLEMS])
        if len(self.problems) > PROBLEMS:
            lines += f"\n  - and {len(self.problems) - PROBLEMS:,} more"
        super().__init__(f"{source}:\n{lines}")


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
    return joint.join(shortened(name) for name in every[:LISTED]) + more


def shortened(value: object, letters: int = LETTERS) -> str:
    """The beginning of a text, for a message."""
    text = str(value)
    return text if len(text) <= letters else f"{text[:letters]}... ({len(text):,} letters)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest of the known words, or an empty string."""
    if len(word) > LETTERS:
        return ""
    # Comparing takes the product of the lengths.
    close = difflib.get_close_matches(word, [one for one in known if len(one) <= LETTERS], n=3, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(f"'{match}'" for match in close) + "?"


def hinted(absent: Sequence[str], known: Iterable[str]) -> str:
    """Names that are not there, each with the near ones that are: ten of them, as `listed`."""
    # Near ones are looked for only where they are shown: among thousands of names, one takes a second.
    near = list(known)
    more = f" and {len(absent) - LISTED:,} more" if len(absent) > LISTED else ""
    return ", ".join(f"'{shortened(name)}'{did_you_mean(name, near)}" for name in absent[:LISTED]) + more

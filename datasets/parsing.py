"""What every reader has in common: annotations first and cheaply, pixels when asked."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rehead.errors import ConfigError, DataError, did_you_mean, hinted, listed, shortened
from rehead.progress import Progress
from rehead.reading import is_file, is_folder, is_there, names_in
from rehead.types import UNUSED, Classes
from rehead.yaml_text import yaml_text

Item = TypeVar("Item")

Report = Callable[[str, Path, str], None]
"""What parsing does about something that it cannot use: called with a code, the file, and what is wrong in it. If it
returns, parsing goes on without that."""


def refuse(code: str, file: Path, message: str) -> None:
    """Stops at the first problem, as training does. `rehead data check` notes them all instead.

    Raises:
        DataError: always.
    """
    raise DataError(f"{file}: {shortened(message, 2000)}")


class UnusableError(ValueError):
    """What is wrong with one annotation, with the code under which the check counts it."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class UnknownClassError(UnusableError):
    """An object whose class has a number that no name belongs to."""

    def __init__(self, number: int, message: str) -> None:
        self.number = number
        super().__init__("unknown_category", message)


NO_NAME = "(no name)"
"""How what a class without a name is called ends."""


def with_unnamed(classes: Classes, numbers: Iterable[int]) -> Classes:
    """The same classes, and behind them those of some ids that have no name, called by their id.

    Only what is checked or repaired has such classes: in training they are errors.
    """
    new = [number for number in sorted(set(numbers)) if number not in classes.ids]
    names = [f"class {number} {NO_NAME}" for number in new]
    return replace(classes, names=(*classes.names, *names), ids=(*classes.ids, *new))


def code_for(error: ValueError) -> str:
    """The code of what is wrong with an annotation."""
    return error.code if isinstance(error, UnusableError) else "broken_annotation"


def reason(error: DataError, file: Path) -> str:
    """What an error says of a file, without the file."""
    return str(error).removeprefix(f"{file}: ")


class MissingPathError(DataError):
    """A path of a split that is not there. The message starts with the option's name, such as `images`."""


def existing(root: Path, value: str, key: str, *, folder: bool) -> Path:
    """The full path of an option of a split.

    Args:
        root: what relative paths start from.
        value: what the configuration says.
        key: the option's name inside the split, for the message.
        folder: whether it should be a folder or a file.

    Raises:
        MissingPathError: with the full path and the near matches beside it.
    """
    path = root / value
    if is_folder(path) if folder else is_file(path):
        return path
    kind = "folder" if folder else "file"
    if is_there(path):
        raise MissingPathError(f"{key}: {path.absolute()} is not a {kind}")
    # Name the first part that is missing, and look for its near matches where it should be.
    missing = path.absolute()
    while not is_folder(missing.parent):
        missing = missing.parent
    beside = names_in(missing.parent)
    hint = did_you_mean(missing.name, beside) or f"; {missing.parent} holds {listed(beside)}"
    raise MissingPathError(f"{key}: no {kind} {path.absolute()}{hint}")


def named_classes(names: Iterable[str]) -> Classes:
    """Classes that no file lists: sorted by name, or by number, which then is the id too."""
    unique = set(names)
    if all(name.isdecimal() and str(int(name)) == name for name in unique):
        ordered = sorted(unique, key=int)
        return Classes(tuple(ordered), tuple(map(int, ordered)))
    return Classes(tuple(sorted(unique)))


def checked_classes(names: Sequence[str], ids: Sequence[int], source: Path) -> Classes:
    """`Classes` of a user's file.

    Raises:
        DataError: naming the file, when a name or an id occurs twice.
    """
    try:
        return Classes(tuple(names), tuple(ids))
    except ConfigError as error:
        raise DataError(f"{source}: {'; '.join(error.problems)}") from error


class ClassesDifferError(DataError):
    """Annotations that lack classes that were asked for.

    Args:
        message: what is said where the classes could be named otherwise.
        source: the annotations.
        wanted: the classes that were asked for.
        known: those that the annotations have.
    """

    def __init__(self, message: str, source: Path, wanted: Sequence[str], known: Sequence[str]) -> None:
        super().__init__(message)
        self.source, self.wanted, self.known = source, list(wanted), list(known)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.source, self.wanted, self.known)


def unknown_classes(wanted: Sequence[str], known: Sequence[str], source: Path) -> None:
    """Checks that every wanted class is known, but for those that nothing is an example of.

    Raises:
        ClassesDifferError: naming `data.classes`, the classes that are not there, and their near matches.
    """
    there = set(known)
    absent = [name for name in wanted if name not in there and not name.startswith(UNUSED)]
    if absent:
        message = f"data.classes: {source} has no class {hinted(absent, known)} (it has {listed(known)})"
        raise ClassesDifferError(message, source, wanted, known)


def inline(value: Any) -> str:
    """A value as the command line takes it."""
    text = yaml_text(value, default_flow_style=True, width=10_000)
    return shlex.quote(text.strip())


def watched(items: Collection[Item]) -> Iterator[Item]:
    """The annotations' files one after the other, with a bar for those who wait."""
    with Progress("reading annotations", len(items)) as bar:
        for item in items:
            yield item
            bar.advance()


def finite(text: str) -> float | None:
    """The number that a text is; None if it is none, or infinite."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

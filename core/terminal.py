r"""The one place that prints, so that no name, message or stranger's file can forge what a terminal shows.

Whatever is printed, a letter that leaves no mark (control characters, newlines inside a text, zero-width and
bidirectional ones, bytes that are no text) is shown as Python writes it: `\x1b`, `\n`, `\u202e`. Markup of rich in a
name stays text. Lines, colours and tables come from here alone: nothing else in the package imports rich or prints.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn, TextIO

from rich import box
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

WIDE = 100_000
"""Columns of what is no terminal: a path that is broken in two is no path for what reads it."""

LONG = 10
"""Letters from which on a word may be broken in a narrow column."""

# Python calls them printable, and they leave no mark: fillers, joiners and selectors of variants.
UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def visible(text: str, keep: str = "") -> str:
    r"""A text in which every letter leaves a mark: others as Python writes them, such as `\x1b` and `\u202e`.

    Args:
        text: any.
        keep: letters that stay as they are.
    """
    if text.isprintable() and not UNSEEN.search(text):
        return text
    return "".join(
        letter
        if letter in keep or (letter.isprintable() and not UNSEEN.match(letter))
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


Line = str | tuple[str, str]
"""A text, or a text and its style, such as `bold red`."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its title.
        right: whether it is justified to the right, as numbers are.
        whole: whether its cells are never broken or cut, such as names that are to be typed.
        width: in letters; as wide as its cells unless given.
        ratio: its share of the room that is left on a terminal.
    """

    heading: str = ""
    right: bool = False
    whole: bool = False
    width: int | None = None
    ratio: int | None = None


class Table:
    """Rows of text.

    Args:
        columns: or their headings alone.
        title: above it, at the left.
        caption: lines below it.
        lines: between all columns and around them; else one below the headings.
        headings: whether they are shown.
        tight: as narrow as can be.
        expand: as wide as the terminal; elsewhere as wide as its cells.
    """

    def __init__(
        self,
        *columns: Column | str,
        title: Line = "",
        caption: Sequence[str] = (),
        lines: bool = False,
        headings: bool = True,
        tight: bool = False,
        expand: bool = False,
    ) -> None:
        self.columns = [Column(one) if isinstance(one, str) else one for one in columns]
        self.title, self.caption, self.expand = title, caption, expand
        self.options: dict[str, Any] = {"show_header": headings}
        self.options |= {} if lines else {"box": box.SIMPLE_HEAD}
        self.padding = 2 if tight else 3
        self.options |= {"show_edge": False, "pad_edge": False, "collapse_padding": True} if tight else {}
        self.rows: list[tuple[str | Sequence[Line], ...]] = []
        self.sections: set[int] = set()

    def row(self, *cells: str | Sequence[Line]) -> None:
        """Adds a row; a cell is a text, or several lines."""
        self.rows.append(cells)

    def least_width(self) -> int:
        """Letters of a terminal below which words would be broken, but for paths and other long ones."""
        needed = 0
        for column, cells in zip(self.columns, zip(*self.rows, strict=True), strict=True) if self.rows else ():
            texts = [one if isinstance(one, str) else one[0] for cell in cells for one in _lines(cell)]
            texts = [visible(text) for text in (column.heading, *texts)]
            whole = [column.width or 0, *(len(text) for text in texts)]
            words = [min(len(word), LONG) for text in texts for word in text.split()]
            needed += self.padding + max(whole if column.whole else [0, *words])
        return needed

    def section(self) -> None:
        """Draws a line between the rows before and after."""
        self.sections.add(len(self.rows))


def _lines(cell: str | Sequence[Line]) -> Sequence[Line]:
    return [cell] if isinstance(cell, str) else cell


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        _reader_is_gone(self.file)


class Output:
    """Standard output or standard error.

    Args:
        stderr: rather than standard output.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self.rich: Console = _Console(stderr=stderr)
        if not self.rich.is_terminal:
            self.rich.width = WIDE

    @property
    def is_terminal(self) -> bool:
        """Whether somebody is watching."""
        return self.rich.is_terminal

    @property
    def can_move(self) -> bool:
        """Whether a line can be written anew, as a progress bar needs it."""
        return self.rich.is_terminal and not self.rich.is_dumb_terminal

    def print(self, *things: Line | Table, style: str = "") -> None:
        """Prints every text as one line of its own, however long, and tables as wide as the terminal.

        Args:
            things: texts and tables; without any, an empty line.
            style: of texts without one.
        """
        for thing in things or ("",):
            if not isinstance(thing, Table):
                self.rich.print(self._text((thing, style) if isinstance(thing, str) else thing), soft_wrap=True)
                continue
            # Titles and captions as lines of their own: rich would break them at the table's edge.
            if thing.title:
                self.print(thing.title)
            if thing.least_width() <= self.rich.width:
                self._show(self._laid_out(thing))
            else:
                self.print(*_stacked(thing))
            for line in thing.caption:
                self.print(line)

    def columns(self, words: Sequence[str]) -> None:
        """Prints words side by side on a terminal, and one a line elsewhere."""
        if self.is_terminal:
            self._show(Columns(map(self._text, words), padding=(0, 2), column_first=True))
        else:
            self.print(*words)

    def data(self, text: str) -> None:
        """Prints YAML or JSON for other programs: exactly, since these formats escape by themselves."""
        file = self.rich.file
        text = text if text.endswith("\n") else text + "\n"
        with _open(file):
            try:
                file.write(text)
            except UnicodeEncodeError:
                # These formats are UTF-8, whatever the terminal is.
                file.buffer.write(text.encode())  # type: ignore[attr-defined]
            file.flush()

    def _show(self, thing: RenderableType) -> None:
        if self.is_terminal:
            self.rich.print(thing)
            return
        with self.rich.capture() as captured:
            self.rich.print(thing)
        # Without the spaces that fill a table's lines.
        self.data("\n".join(line.rstrip() for line in captured.get().removesuffix("\n").split("\n")))

    def _text(self, line: Line) -> Text:
        text, style = (line, "") if isinstance(line, str) else line
        encoding = self.rich.encoding
        return Text(visible(text).encode(encoding, "backslashreplace").decode(encoding), style=style)

    def _laid_out(self, table: Table) -> RichTable:
        made = RichTable(expand=table.expand and self.is_terminal, **table.options)
        for column in table.columns:
            justify: Literal["left", "right"] = "right" if column.right else "left"
            made.add_column(
                self._text(column.heading),
                justify=justify,
                no_wrap=column.whole,
                overflow="ignore" if column.whole else "fold",
                width=column.width,
                ratio=column.ratio,
            )
        for number, row in enumerate(table.rows):
            if number in table.sections:
                made.add_section()
            made.add_row(*(Text("\n").join(map(self._text, _lines(cell))) for cell in row))
        return made


def _stacked(table: Table) -> Iterator[Line]:
    """For a terminal that is too narrow for a table without breaking its words: its cells below one another."""
    for row in table.rows:
        for number, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            before = f"{'  ' if number else ''}{column.heading}{': ' if column.heading else ''}"
            for text, style in ((one, "") if isinstance(one, str) else one for one in _lines(cell)):
                yield before + text, style
                before = "    "


console = Output(stderr=True)
"""Where progress and messages go: standard error, so that standard output holds results alone."""


def results() -> Output:
    """Where results go, standard output: as wide as the terminal, and where there is none, nothing is wrapped."""
    return Output()


def say(*lines: str) -> None:
    """Lines for the person who is watching, above a running bar; the first of several processes speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        console.print(*lines)


class Bar:
    """A progress bar on standard error, for a terminal.

    Args:
        title: before it.
        total: of its steps.
        done: of them at the beginning.
    """

    def __init__(self, title: str, total: int, done: int) -> None:
        from rich import progress

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}", markup=False),
            console=console.rich,
            transient=True,
            # Rich's own streams would print what they are given as it is; ours are there already.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(visible(title), total=total, completed=done, note="")
        self.start, self.stop = self._progress.start, self._progress.stop

    def update(self, done: int, note: str) -> None:
        """Shows how many steps are done, and how it goes."""
        self._progress.update(self._task, completed=done, note=visible(note))


class _Guarded:
    """A stream for everything that prints without asking: other libraries, warnings of their own, tracebacks."""

    def __init__(self, stream: TextIO) -> None:
        # Where rich looks for the stream itself: what it prints is escaped already, and coloured.
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        with _open(self.rich_proxied_file):
            self.rich_proxied_file.write(visible(text, keep="\n\r\t"))
        return len(text)

    def flush(self) -> None:
        with _open(self.rich_proxied_file):
            self.rich_proxied_file.flush()

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


class _Logged(logging.Handler):
    """What is logged, by rehead or others, becomes lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            message = f"warning: {message}"
        if record.name.partition(".")[0] == "rehead":
            say(message)
        else:
            console.print(message)
        if record.exc_info:
            traceback.print_exception(*record.exc_info)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    console.print(f"warning: {message} ({category.__name__}, {filename}:{lineno})")


def _fallen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace, file=_Guarded(sys.stderr))


@contextmanager
def guarded() -> Iterator[None]:
    """Takes over all that this process prints: streams, warnings, what is logged, and tracebacks."""
    before = sys.stdout, sys.stderr, warnings.showwarning
    sys.stdout, sys.stderr = _Guarded(sys.stdout), _Guarded(sys.stderr)
    warnings.showwarning = _warned
    sys.excepthook = _fallen
    ours, handler = logging.getLogger("rehead"), _Logged()
    ours.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        sys.stdout.flush()
        logging.getLogger().removeHandler(handler)
        sys.stdout, sys.stderr, warnings.showwarning = before


@contextmanager
def _open(file: Any) -> Iterator[None]:
    """Where a stream is written to, whose reader may have had enough."""
    try:
        yield
    except BrokenPipeError:
        _reader_is_gone(file)


def _reader_is_gone(file: Any) -> NoReturn:
    """Ends as other programs do whose reader has had enough, such as `head`: without a word.

    Raises:
        SystemExit: always.
    """
    # Python flushes once more at its end, into nothing.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, file.fileno())
    raise SystemExit(128 + signal.SIGPIPE)

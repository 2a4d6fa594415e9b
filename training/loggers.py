"""Where the metrics of a run go: its files, and whatever else wants them.

The files hold nothing that depends on the clock, so that a resumed run's files equal an uninterrupted one's.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from rehead.files import json_text, parsed_json, write_text, writing

Value = float | int | str | None
Row = Mapping[str, Value]
Callback = Callable[[Row], None]
"""Called with every row of metrics: those of training have `lr` and losses, those of an evaluation its metrics."""


class Logger(Protocol):
    """What takes the rows of a run's metrics, on its first process."""

    def write(self, row: Row) -> None:
        """Takes a row; `step` and `epoch` are among its columns."""

    def sync(self) -> None:
        """Called before every checkpoint: rows before it must not be lost when it is there."""


class CallbackLogger:
    """Hands rows to a function, each as a copy: nothing that it does to one changes the run."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def write(self, row: Row) -> None:
        """Calls the function."""
        self.callback(dict(row))

    def sync(self) -> None:
        """Nothing waits."""


class FileLogger:
    """Writes `metrics.jsonl` and `metrics.csv` in a run's folder.

    Args:
        folder: the run's.
        keep: the rows that were there at the last checkpoint; what a run wrote between it and its end is dropped.
    """

    def __init__(self, folder: Path, keep: int = 0) -> None:
        self.json_path, self.csv_path = folder / "metrics.jsonl", folder / "metrics.csv"
        self.rows: list[dict[str, Value]] = []
        self.columns: list[str] = []
        if self.json_path.exists():
            for line in self.json_path.read_text(encoding="utf-8", errors="replace").splitlines():
                # A kill may leave half a line at the end; everything before a checkpoint is whole.
                try:
                    row = parsed_json(line)
                except ValueError:
                    break
                if not _is_row(row) or len(self.rows) == keep:
                    break
                self._add(row)
        self._rewrite()

    def write(self, row: Row) -> None:
        """Adds a row; `step` is one of its columns."""
        known = len(self.columns)
        self._add(dict(row))
        if len(self.columns) > known:
            self._rewrite()
            return
        with writing(self.json_path), self.json_path.open("a", encoding="utf-8") as lines:
            lines.write(json_text(self.rows[-1]) + "\n")
        with writing(self.csv_path), self.csv_path.open("a", encoding="utf-8", newline="") as table:
            csv.DictWriter(table, self.columns, lineterminator="\n").writerow(self.rows[-1])

    def sync(self) -> None:
        """Flushes both files to disk: a checkpoint must not outlive the rows before it in a power cut."""
        for path in (self.json_path, self.csv_path):
            with writing(path), path.open("rb") as file:
                os.fsync(file.fileno())

    def _add(self, row: dict[str, Value]) -> None:
        self.rows.append(row)
        self.columns += [column for column in row if column not in self.columns]

    def _rewrite(self) -> None:
        write_text(self.json_path, "".join(json_text(row) + "\n" for row in self.rows))
        table = io.StringIO()
        writer = csv.DictWriter(table, self.columns, lineterminator="\n")
        if self.columns:
            writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.csv_path, table.getvalue())


def _is_row(row: object) -> bool:
    """Whether a line holds what `write` writes."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    return all(value is None or isinstance(value, float | int | str) for value in row.values())

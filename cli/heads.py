"""`rehead heads`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from rehead.configs.heads import HEADS


def heads() -> None:
    """List the heads: their task, the features they want, and their paper.

    Example: rehead heads
    """
    # A name that is cut off cannot be typed.
    table = Table(Column("head", no_wrap=True), "task", "wants", "paper")
    for entry in HEADS:
        table.add_row(entry.name, entry.about["task"], entry.about["wants"], entry.about["paper"])
    Console().print(table)

"""`rehead heads`."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from rehead.progress import results


def heads() -> None:
    """List the heads by task, with the features they want and their paper.

    Example: rehead heads
    """
    from rehead.configs.heads import HEADS

    console = results()
    width = max(len(entry.name) for entry in HEADS)
    # By task, so that neither a task nor a name, which are typed, is cut off in a narrow window.
    for task in dict.fromkeys(entry.about["task"] for entry in HEADS):
        table = Table(
            Column("head", no_wrap=True, width=width),
            Column("wants", ratio=1),
            Column("paper", ratio=1),
            title=f"task: {task}",
            title_justify="left",
            box=SIMPLE_HEAD,
            expand=console.is_terminal,
        )
        for entry in HEADS:
            if entry.about["task"] == task:
                table.add_row(entry.name, entry.about["wants"], entry.about["paper"])
        console.print(table)

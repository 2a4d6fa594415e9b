"""`rehead heads`."""

from __future__ import annotations

from rehead.terminal import Column, Table, results


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
            Column("head", whole=True, width=width),
            Column("wants", ratio=1),
            Column("paper", ratio=1),
            title=f"task: {task}",
            expand=True,
        )
        for entry in HEADS:
            if entry.about["task"] == task:
                table.row(entry.name, entry.about["wants"], entry.about["paper"])
        console.print(table)

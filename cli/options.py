"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugins",
        metavar="MODULE",
        help="A module that the checkpoint may have imported, which runs its code; repeat for several.",
    ),
]

"""The command `rehead`: one file per command, which parses, calls and prints. Heavy imports come late."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import typer

from rehead.cli.backbones import backbones
from rehead.cli.configs import configs
from rehead.cli.data import data
from rehead.cli.demo import demo
from rehead.cli.doctor import doctor
from rehead.cli.evaluate import evaluate
from rehead.cli.export_weights import export_weights
from rehead.cli.heads import heads
from rehead.cli.import_ import import_
from rehead.cli.init import init
from rehead.cli.predict import predict
from rehead.cli.show import show
from rehead.cli.swap import swap
from rehead.cli.train import train
from rehead.errors import OtherProcessError, ReheadError, RunStoppedError
from rehead.terminal import console, guarded

app = typer.Typer(
    name="rehead",
    help="Keep the pre-trained residual backbone, change the head: classify, detect, segment.\n\nExample: rehead demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: tuple[Callable[..., None], ...] = (
    demo,
    init,
    train,
    evaluate,
    predict,
    swap,
    show,
    import_,
    export_weights,
    backbones,
    heads,
    configs,
    doctor,
)
for command in COMMANDS:
    # `import` is a word of Python, so its function has a stroke behind it.
    app.command(command.__name__.rstrip("_").replace("_", "-"))(command)
app.add_typer(data)


UsageError: type[Exception] = typer.BadParameter.mro()[2]
"""Typer's own errors, whichever click it brings."""


def main() -> None:
    """Runs the command; what the user can put right is one message and exit code 2, without a traceback."""
    # albumentations asks the network for its newest version when it is imported, unless told not to.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    with guarded():
        sys.exit(_run())


def _run() -> int:
    """The command's exit code."""
    try:
        return app(standalone_mode=False) or 0
    except UsageError as error:
        return _misused(error)
    except ReheadError as error:
        if os.environ.get("RANK", "0") != "0" and isinstance(error, OtherProcessError | RunStoppedError):
            # The process that has more to say gets the time to, before the launcher ends it too.
            time.sleep(1)
            return error.exit_code
        first, *others = error.lines
        console.print(f"error: {first}", *others, style="red")
        return error.exit_code


def _misused(error: Any) -> int:
    """Says how a command is written; without any argument, its help was shown already."""
    if type(error).__name__ != "NoArgsIsHelpError":
        context = getattr(error, "ctx", None)
        if context is not None:
            console.print(*context.get_usage().splitlines(), style="yellow")
        console.print(f"error: {error.format_message()}", style="red")
        if context is not None:
            console.print(f"`{context.command_path} --help` says more")
    return int(error.exit_code)

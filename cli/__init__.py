"""The command `rehead`: one file per command, which parses, calls and prints. Heavy imports come late."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

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
from rehead.progress import console, say

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


class _Lines(logging.Handler):
    """What rehead's rooms log goes to standard error as plain lines."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage() if record.levelno < logging.WARNING else f"warning: {record.getMessage()}")


def main() -> None:
    """Runs the command; what the user can put right is one message and exit code 2, without a traceback."""
    # albumentations asks the network for its newest version when it is imported, unless told not to.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    log = logging.getLogger("rehead")
    log.setLevel(logging.INFO)
    log.addHandler(_Lines())
    try:
        app()
    except ReheadError as error:
        if os.environ.get("RANK", "0") != "0" and isinstance(error, OtherProcessError | RunStoppedError):
            # The process that has more to say gets the time to, before the launcher ends it too.
            time.sleep(1)
            sys.exit(error.exit_code)
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)

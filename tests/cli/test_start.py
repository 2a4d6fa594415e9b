"""The command starts at once: nothing heavy is imported before it is needed."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

COMMANDS = [
    "demo",
    "init",
    "train",
    "evaluate",
    "predict",
    "swap",
    "show",
    "backbones",
    "heads",
    "configs",
    "doctor",
    "data",
]


def cpu_seconds(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


HELP = """
import sys
from rehead.cli import main
sys.argv = ["rehead", *{arguments}]
try:
    main()
except SystemExit as stop:
    assert not stop.code
assert not [name for name in ("torch", "torchvision", "timm", "albumentations", "cv2") if name in sys.modules]
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["heads"], ["configs"], ["data", "show", "--help"]]
)
def test_help_and_listings_import_nothing_heavy(arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-c", HELP.format(arguments=arguments)], check=True, capture_output=True)


def test_help_takes_under_a_quarter_of_the_time_of_importing_torch() -> None:
    # CPU seconds, the better of two: other work on the machine does not count.
    helped = min(cpu_seconds(HELP.format(arguments=["--help"])) for _ in range(2))
    assert helped < min(cpu_seconds("import torch") for _ in range(2)) / 4


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, rehead_command) -> None:
    outcome = rehead_command(command, "--help")
    assert outcome.code == 0
    assert f"Example: rehead {command}" in outcome.out


def test_help_lists_every_command(rehead_command) -> None:
    outcome = rehead_command("--help")
    assert all(command in outcome.out for command in COMMANDS)

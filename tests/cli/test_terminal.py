"""What a terminal is shown: every letter leaves a mark, and no name can forge a line, a colour or a title."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from checked_data import content, noise, save, write_coco
from conftest import REPOSITORY
from helpers import TINY
from PIL import Image

import rehead
from rehead import terminal
from rehead.configs.detection_heads import RetinaNetOptions
from rehead.errors import ConfigError, DataError
from rehead.progress import Progress
from rehead.terminal import Column, Output, Table, console, guarded, visible
from rehead.yaml_text import yaml_text

HOSTILE = "\x1b]0;owned\x07\x1b[2K[red]a[bold]\rb\nerror: forged\u202ec\u200bd\x9be"
"""A window's title, a line cleared, markup, a line of its own, letters right to left, of no width, and C1."""

SHOWN = r"\x1b]0;owned\x07\x1b[2K[red]a[bold]\rb\nerror: forged\u202ec\u200bd\x9be"

OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[\d?[AK]|\r")
"""Colours, and what moves a progress bar; the title's and C1's sequences are never ours."""


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="surrogateescape", newline="")

    def isatty(self) -> bool:
        return True

    def taken(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        text = buffer.getvalue().decode("utf-8", "surrogateescape")
        buffer.seek(0)
        buffer.truncate()
        return text


def harmless(text: str) -> None:
    """Whether nothing but our own colours is left of what does not show."""
    assert "\x1b[2K[red]" not in text
    left = OURS.sub("", text)
    assert visible(left, keep="\n") == left
    assert not [line for line in left.splitlines() if line.strip().startswith("error: forged")], left


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs `rehead ...` on a terminal, and gives its exit code and all that it shows."""
    from rehead.cli import main

    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(console, "rich", Output(stderr=True).rich)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rehead", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, stream.taken()

    return run


def test_what_leaves_no_mark_is_shown_as_python_writes_it() -> None:
    assert visible(HOSTILE) == SHOWN
    for text in ("street.jpg", "été 街道 улица 😀 שלום", "C:\\images", "[red]", ""):
        assert visible(text) == text
    for letter in "\t\x00\x7f\x85\xa0\xad\u061c\u115f\u2028\u2066\u2800\u3164\ufe0f\ufeff\U000e0041\udcff":
        assert visible(f"a{letter}b") == f"a{letter.encode('unicode_escape').decode()}b"
        assert visible(visible(letter)) == visible(letter)


def test_texts_are_lines_and_tables_keep_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    out = terminal.results()
    table = Table("name", Column("lines", right=True), title=(HOSTILE, "red"), caption=[HOSTILE, "end"])
    table.row(HOSTILE, ["one", (HOSTILE, "dim")])
    out.print(HOSTILE, table, style="red")
    out.columns([HOSTILE, "[/bold]"])
    written = capsys.readouterr().out
    assert visible(written, keep="\n─") == written
    assert written.count(SHOWN) == 6
    assert "[/bold]\n" in written
    assert not any(line != line.rstrip() for line in written.splitlines())


def test_a_table_in_a_narrow_terminal_breaks_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "40")
    table = Table(Column("name", whole=True), "what it is", "where it is from")
    table.row("torchvision_deeplabv3", "atrous convolutions", ["Chen et al.", ("2017", "dim")])
    terminal.results().print(table)
    lines = [OURS.sub("", line).rstrip() for line in stream.taken().splitlines()]
    assert "name: torchvision_deeplabv3" in lines
    assert "  what it is: atrous convolutions" in lines
    assert lines[-2:] == ["  where it is from: Chen et al.", "    2017"]


def test_a_terminal_that_cannot_move_is_given_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(Progress, "every_seconds", 0.0)
    for term, bar in (("dumb", False), ("xterm", True)):
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(console, "rich", Output(stderr=True).rich)
        with Progress(HOSTILE, 2) as progress:
            progress.advance(note=HOSTILE)
        text = stream.taken()
        harmless(text)
        assert (SHOWN in text, "\x1b[" in text) == (True, bar)


def test_what_an_encoding_cannot_write_is_shown_as_python_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.results().print("été", Table("街"))
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    written = stream.buffer.getvalue().decode("ascii").split()
    assert {r"\xe9t\xe9", r"\u8857"} <= set(written)
    terminal.results().data("names: [été]")
    assert stream.buffer.getvalue().endswith("names: [été]\n".encode())


def test_other_libraries_warnings_logs_and_tracebacks_are_guarded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with guarded():
        print(f"printed {HOSTILE}")
        sys.stderr.write(f"written {HOSTILE}\n")
        warnings.warn(f"warned {HOSTILE}", stacklevel=1)
        logging.getLogger("another.library").warning("logged %s", HOSTILE)
        logging.getLogger("rehead").info("said %s", HOSTILE)
    try:
        raise RuntimeError(f"raised {HOSTILE}")
    except RuntimeError:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    captured = capsys.readouterr()
    written = captured.out + captured.err
    # Other libraries have lines and bars of their own.
    assert visible(written, keep="\n\r") == written
    escaped = SHOWN.replace(r"\n", "\n").replace(r"\r", "\r")
    for word in ("printed", "written", "RuntimeError: raised"):
        assert f"{word} {escaped}" in written
    for word in ("warning: warned", "warning: logged", "said"):
        assert f"{word} {SHOWN}" in written


def test_an_error_shows_its_own_lines_and_no_others() -> None:
    error = ConfigError([f"data.root: no folder {HOSTILE}", "second"], HOSTILE)
    assert error.lines == [f"{HOSTILE}:", f"  - data.root: no folder {HOSTILE}", "  - second"]
    assert DataError("one", "two").lines == ["one", "two"]
    assert str(DataError("one", "two")) == "one\ntwo"


def test_yaml_hides_nothing_and_reads_back_the_same() -> None:
    for value in ({"names": [HOSTILE, "été"]}, {"b": "街", "a": 1}, {"key\u2028": "\u202e"}):
        text = yaml_text(value)
        assert visible(text, keep="\n") == text
        assert yaml.safe_load(text) == value
    assert yaml_text({"names": ["été"]}) == "names:\n- été\n"


def hostile_data(root: Path) -> Path:
    """Files, classes and a folder with hostile names."""
    write_coco(root)
    for split in ("train", "val"):
        whole = content(split)
        for category in whole["categories"]:
            category["name"] = f"{category['name']}{HOSTILE}"
        first = whole["images"][0]
        name = f"{HOSTILE}{first['file_name']}"
        (root / split / first["file_name"]).rename(root / split / name)
        first["file_name"] = name
        whole["annotations"][0]["bbox"][0] = -50
        whole["annotations"].append({**whole["annotations"][1], "id": HOSTILE, "category_id": HOSTILE})
        save(root, split, whole)
        Image.fromarray(noise(77)).save(root / split / f"extra{HOSTILE}.png")
    return root


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint whose classes and lineage have hostile names."""
    torch.manual_seed(0)
    head = RetinaNetOptions(channels=16, convs=1, score_threshold=0.0, detections=5)
    model = rehead.build_model(TINY, head, [f"cat{HOSTILE}", f"dog{HOSTILE}"])
    model.lineage[0]["weights"] = f"weights {HOSTILE}"
    path = tmp_path / f"stranger{HOSTILE}.safetensors"
    model.save(path)
    return path


def test_every_command_shows_hostile_names_as_text(
    tmp_path: Path, trained: Path, screen: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = hostile_data(tmp_path / f"data{HOSTILE}")
    monkeypatch.chdir(tmp_path)
    splits = [f"data.{split}={{images: {split}, annotations: {split}.json}}" for split in ("train", "val")]
    data = ["data.format=coco", f"data.root={json.dumps(str(root))}", *splits, "data.workers=0"]
    nowhere = tmp_path / f"nowhere{HOSTILE}"
    file = tmp_path / "file"
    file.touch()
    runs: list[tuple[set[int], tuple[object, ...]]] = [
        ({2}, ("demo", "--out", file / HOSTILE)),
        ({0, 2}, ("init", root, "--out", f"mine{HOSTILE}.yaml")),
        ({2}, ("init", nowhere)),
        ({2}, ("train", "raccoon_retinanet_r18", *data, f"out={json.dumps(str(nowhere))}")),
        ({2}, ("train", HOSTILE)),
        ({2}, ("train", "raccoon_retinanet_r18", f"{HOSTILE}=1", HOSTILE)),
        ({2}, ("train", f"--{HOSTILE}")),
        ({2}, ("train", "--resume", nowhere)),
        ({0, 2}, ("evaluate", trained, *data)),
        ({2}, ("evaluate", nowhere)),
        ({0}, ("predict", trained, *sorted((root / "val").iterdir()), "--out", f"out{HOSTILE}")),
        ({2}, ("predict", trained, nowhere, "--out", "nothing")),
        ({0}, ("swap", trained, "--head", "fcos", "--classes", HOSTILE, "--out", f"new{HOSTILE}.safetensors")),
        ({2}, ("swap", trained, "--head", HOSTILE, "--classes", "a", "--out", HOSTILE)),
        ({0}, ("show", trained)),
        ({2}, ("import", HOSTILE, file, "--as", HOSTILE, "--out", f"{HOSTILE}.safetensors")),
        ({0, 2}, ("export-weights", trained, "--out", f"weights{HOSTILE}.pth")),
        ({2}, ("backbones", HOSTILE)),
        ({2}, ("backbones", f"*{HOSTILE}")),
        ({0}, ("heads",)),
        ({0}, ("configs",)),
        ({2}, ("configs", HOSTILE)),
        ({0, 1}, ("doctor",)),
        ({2}, ("doctor", HOSTILE)),
        ({1}, ("data", "check", root, "--examples", "9")),
        ({2}, ("data", "check", nowhere)),
        ({0, 1, 2}, ("data", "stats", root)),
        ({0, 2}, ("data", "split", root, "--out", f"lists{HOSTILE}")),
        ({0, 2}, ("data", "convert", root, f"converted{HOSTILE}", "--to", "voc")),
        ({2}, ("data", "show", HOSTILE, "--out", f"{HOSTILE}.png")),
    ]
    commands = {one.name for one in _commands()}
    assert {" ".join(map(str, arguments[: 1 + (arguments[0] == "data")])) for _, arguments in runs} == commands
    for codes, arguments in runs:
        code, text = screen(*arguments)
        assert code in codes, (arguments[:2], text)
        harmless(text)
        if HOSTILE in str(arguments):
            assert SHOWN.partition("[")[0] in text or r"\x1b" in text, (arguments, text)


class _Command:
    def __init__(self, name: str) -> None:
        self.name = name


def _commands() -> list[_Command]:
    from rehead.cli import app, data

    own = [_Command(one.name or "") for one in app.registered_commands]
    return own + [
        _Command(f"data {one.name or getattr(one.callback, '__name__', '')}") for one in data.registered_commands
    ]


SPEAKERS = {"print", "Console", "echo", "secho", "pprint", "print_exc", "print_exception", "basicConfig"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


def spoken(source: str) -> list[str]:
    """What a file prints with, but for `terminal`'s own."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            found += [f"import {one}" for one in modules if one.partition(".")[0] in ("rich", "tqdm", "click")]
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in SPEAKERS:
                found.append(function.id)
            # Of an `Output`, and of a pen that draws, `print` and `text` are methods.
            elif isinstance(function, ast.Attribute) and function.attr in SPEAKERS - {"print"}:
                found.append(ast.unparse(function))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {f"sys.{one}" for one in STREAMS}:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "os.write":
            found.append("os.write")
    return found


def test_nothing_prints_but_the_terminal() -> None:
    for source, name in (
        ("print('a')", "print"),
        ("from rich.table import Table", "import rich.table"),
        ("typer.echo('a')", "typer.echo"),
        ("sys.stdout.write('a')", "sys.stdout"),
        ("import sys\nprint('a', file=sys.stderr)", "sys.stderr"),
    ):
        assert name in spoken(source)
    rooms = ["core", "configs", "backbones", "heads", "data", "evaluation", "training", "tasks", "cli"]
    files = [path for room in rooms for path in sorted((REPOSITORY / room).rglob("*.py"))]
    assert len(files) > 100
    found = {str(path.relative_to(REPOSITORY)): spoken(path.read_text(encoding="utf-8")) for path in files}
    assert {path for path, own in found.items() if own} == {"core/terminal.py"}


def test_a_reader_that_has_had_enough_gets_no_traceback() -> None:
    head = shutil.which("head")
    if head is None:
        pytest.skip("there is no `head` here")
    # More than a pipe holds, so that it breaks while rehead still writes.
    script = "import sys; from rehead.cli import main; sys.argv = ['rehead', *sys.argv[1:]]; main()"
    for arguments in (["configs", "coco_faster_rcnn_r50_fpn"], ["heads"]):
        read, write = os.pipe()
        os.close(read)
        ended = subprocess.run(
            [sys.executable, "-c", script, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(write)
        assert (ended.returncode, ended.stderr) == (141, "")

"""Ctrl-C ends any command at any moment without a traceback; and names of files need no locale."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers import TINY

import rehead

PATIENCE = 60


def interrupted(arguments: list[object], after: float, folder: Path) -> tuple[int, str]:
    """Exit code and standard error of a command that gets Ctrl-C, with all its processes, after so many seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rehead", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
    time.sleep(after)
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def test_in_an_import_it_ends_at_once(tmp_path: Path) -> None:
    """An import may swallow an exception, or turn it into another; and takes most of the time of a command."""
    (tmp_path / "slow.py").write_text(
        "import time\nprint('here', flush=True)\ntry:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
    )
    text = "from rehead.interrupts import run_quietly\nrun_quietly(lambda: __import__('slow'))"
    assert_ends_quietly(text, tmp_path)


def test_anywhere_else_what_is_half_done_is_tidied_up(tmp_path: Path) -> None:
    text = """
import time
from contextlib import suppress
from pathlib import Path
from rehead.files import atomic_path
from rehead.interrupts import run_quietly

def work():
    with atomic_path(Path("a.txt")) as temporary:
        print("here", flush=True)
        time.sleep(60)

run_quietly(work)
"""
    assert_ends_quietly(text, tmp_path)
    assert not list(tmp_path.iterdir())


def test_in_a_destructor_where_nothing_can_catch_it(tmp_path: Path) -> None:
    text = """
import time
from rehead.interrupts import run_quietly

class Slow:
    def __del__(self):
        print("here", flush=True)
        time.sleep(60)

def work():
    Slow()
    time.sleep(60)

run_quietly(work)
"""
    assert_ends_quietly(text, tmp_path)


def test_while_python_tidies_up(tmp_path: Path) -> None:
    text = """
import atexit, time
from rehead.interrupts import run_quietly
atexit.register(lambda: (print("here", flush=True), time.sleep(60)))
run_quietly(lambda: None)
"""
    assert_ends_quietly(text, tmp_path)


def test_processes_that_begin_do_not_hear_it_and_their_parent_hears_it_afterwards(tmp_path: Path) -> None:
    text = """
import os, signal, time
from rehead.interrupts import run_quietly, stops_wait

def work():
    with stops_wait():
        child = os.fork()
        if child == 0:
            time.sleep(0.5)
            os._exit(7)
        print("here", flush=True)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
    time.sleep(60)

run_quietly(work)
"""
    assert_ends_quietly(text, tmp_path)


def test_where_it_is_ignored_it_stays_so(tmp_path: Path) -> None:
    """As in what a shell runs in the background."""
    text = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom rehead.interrupts import run_quietly\n"
        "run_quietly(lambda: (print('here', flush=True), time.sleep(1)))"
    )
    assert_ends_quietly(text, tmp_path, code=0)


def assert_ends_quietly(text: str, folder: Path, code: int = 130) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (code, "")


@pytest.mark.parametrize(
    "command",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("train", "check")),
        *(pytest.param(one, marks=pytest.mark.matrix) for one in ("evaluate", "predict", "init", "swap", "doctor")),
        pytest.param("backbones", marks=pytest.mark.matrix),
    ],
)
def test_real_commands_at_random_moments(command: str, synthetic: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rehead.build_model(TINY, "fcos", ["circle", "square", "triangle", "star", "heart", "ring"]).save(
        tmp_path / "model.safetensors"
    )
    data = [
        "data.format=coco",
        f"data.root={synthetic}/scenes",
        "data.train={images: train, annotations: annotations/train.json}",
        "data.val={images: val, annotations: annotations/val.json}",
        "data.workers=2",
        "device=cpu",
    ]
    arguments: list[object] = {
        "train": [
            *("train", "coco_fcos_r50_fpn", *data, "model.backbone={name: resnet18, weights: none, width: 8}"),
            *("data.resize={shorter: 64}", "train.max_steps=10000", "train.global_batch_size=4", "out=run"),
        ],
        "evaluate": ["evaluate", "model.safetensors", *data, "--json", "metrics.json"],
        "predict": ["predict", "model.safetensors", synthetic / "scenes/val", "--out", "predicted"],
        "check": ["data", "check", synthetic / "scenes", "--html", "check.html"],
        "init": ["init", synthetic / "scenes", "--out", "scenes.yaml"],
        "swap": ["swap", "model.safetensors", "--head", "linear", "--classes", "a", "--out", "new.safetensors"],
        "doctor": ["doctor"],
        "backbones": ["backbones", "resnet18"],
    }[command]
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for _ in range(4):
        # From when Python itself has started: until then it is Python that prints a traceback.
        after = rng.uniform(1, 9)
        code, said = interrupted([*arguments, *(["--overwrite"] if command != "doctor" else [])], after, tmp_path)
        assert code in (0, 1 if command == "doctor" else 0, 130), (seed, after, said)
        assert "Traceback" not in said, (seed, after, said)
        assert "KeyboardInterrupt" not in said, (seed, after, said)
        assert command != "train" or code == 130, (seed, after, said)


@pytest.mark.skipif(sys.platform != "linux", reason="locales of Linux")
def test_names_of_files_need_no_locale(synthetic: Path, tmp_path: Path) -> None:
    """LC_ALL=C, with all that Python does about it switched off."""
    folder = tmp_path / "Überall/Fähre"
    folder.mkdir(parents=True)
    (folder / "ö.png").write_bytes(next((synthetic / "shapes/train").rglob("*.png")).read_bytes())
    (tmp_path / "config.yaml").write_text(
        "data: {format: folders, root: Überall, train: {images: .}}\n", encoding="utf-8"
    )
    outcome = subprocess.run(
        [sys.executable, "-m", "rehead", "data", "check", "config.yaml"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "COLUMNS": "200"},
        timeout=PATIENCE,
    )
    said = (outcome.stdout + outcome.stderr).decode()
    assert "Traceback" not in said
    assert "images: 1 in train" in said
    assert "Fähre" in said

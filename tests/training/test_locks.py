"""One run to a folder at a time."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rehead import locks
from rehead.errors import OutputError
from rehead.locks import locked
from rehead.tasks.train import train

HOLDER = """
import sys, time
from pathlib import Path
from rehead.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class Holder:
    """Another process that has a folder."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def settings(synthetic: Path, out: Path, **given: Any) -> list[str]:
    options = {
        "data.root": f"{synthetic}/scenes",
        "data.train": "{images: train, masks: train_masks}",
        "data.val": "{images: val, masks: val_masks}",
        "data.classes": "[background, circle, square, triangle, star, heart, ring]",
        "data.resize": "{height: 32, width: 32}",
        "data.workers": 0,
        "model.backbone": "{name: resnet18, weights: none, width: 8}",
        "model.head": "{name: unet, decoder_channels: [16, 8, 8, 8, 8]}",
        "train.max_steps": 1,
        "train.batch_size": 2,
        "device": "cpu",
        "out": out,
        **given,
    }
    return ["camvid_unet_r18", *(f"{key}={value}" for key, value in options.items())]


def test_a_run_beside_another_is_refused_with_who_has_the_folder(
    synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    """Whether it trains, goes on or begins anew; and nothing of the living run is touched."""
    folder = tmp_path / "run"
    assert rehead_command("train", *settings(synthetic, folder)).code == 0
    assert not (folder / locks.NAME).exists()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with Holder(folder) as holder:
        for arguments in (
            settings(synthetic, folder),
            ["--resume", folder],
            [*settings(synthetic, folder), "--overwrite"],
        ):
            outcome = rehead_command("train", *arguments)
            assert outcome.code == 2
            assert f"process {holder.process.pid} on {socket.gethostname()}" in outcome.err
            assert "is writing a run here" in outcome.err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before


def test_the_lock_of_a_killed_process_is_taken_over_and_said(
    synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    folder = tmp_path / "run"
    holder = Holder(folder)
    holder.kill()
    assert (folder / locks.NAME).exists()
    outcome = rehead_command("train", *settings(synthetic, folder))
    assert outcome.code == 0, outcome.err
    assert f"process {holder.process.pid} on {socket.gethostname()}" in outcome.err
    assert "is gone; its lock is taken over" in outcome.err
    assert not (folder / locks.NAME).exists()


def test_a_training_has_its_folder_to_its_end(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rehead_command: Any
) -> None:
    """From before its data are read, so that the second of two that begin together is refused too."""
    folder = tmp_path / "run"
    found = []

    def opened(*given: Any) -> Any:
        found.append(json.loads((folder / locks.NAME).read_text()))
        with pytest.raises(OutputError, match=f"process {os.getpid()} on"), locked(folder):
            pass
        raise OutputError("that is all")

    monkeypatch.setattr("rehead.tasks.train._open", opened)
    assert rehead_command("train", *settings(synthetic, folder)).code == 2
    assert [(one["host"], one["pid"]) for one in found] == [(socket.gethostname(), os.getpid())]
    # What was refused before it began leaves nothing.
    assert not folder.exists()


def test_a_lock_that_another_machine_left_is_not_taken_over(tmp_path: Path) -> None:
    """Its process may live, where a network file system keeps locks to each machine."""
    (tmp_path / locks.NAME).write_text(
        json.dumps({"host": "node-17", "pid": 4711, "boot": "another", "since": "2026-01-01T12:00:00+00:00"})
    )
    refused = pytest.raises(OutputError, match=r"process 4711 on node-17.*cannot be seen.*If it is gone, remove .*lock")
    with refused, locked(tmp_path):
        pass
    assert (tmp_path / locks.NAME).exists()
    (tmp_path / locks.NAME).unlink()
    with locked(tmp_path):
        pass


def test_a_lock_of_another_container_on_this_machine_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not locks._boot():
        pytest.skip("this system does not number its starts")
    (tmp_path / locks.NAME).write_text(
        json.dumps({"host": "0a1b2c3d4e5f", "pid": 1, "boot": locks._boot(), "since": "2026-01-01T12:00:00+00:00"})
    )
    with locked(tmp_path):
        assert "process 1 on 0a1b2c3d4e5f" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "a"}', "\x00" * 100])
def test_a_lock_file_that_says_nothing_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / locks.NAME).write_text(content)
    with locked(tmp_path):
        pass


def test_where_there_are_no_locks_the_file_alone_decides_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Any, *given: Any, **named: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with locked(tmp_path):
        assert "a file system without locks (No locks available)" in capsys.readouterr().err
        with pytest.raises(OutputError, match=f"process {os.getpid()} on"), locked(tmp_path):
            pass
    assert not (tmp_path / locks.NAME).exists()


def test_a_worker_does_not_keep_the_lock_of_a_process_that_was_killed(tmp_path: Path) -> None:
    """Workers that read images are forked with every open file of their parent."""
    text = HOLDER.replace(
        'print("held", flush=True)',
        'import os\n    if os.fork() == 0:\n        print("forked", flush=True)\n'
        "        time.sleep(60)\n        os._exit(0)\n"
        '    print("held", flush=True)',
    )
    process = subprocess.Popen(
        [sys.executable, "-c", text, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {"held\n", "forked\n"}
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_trainings_at_the_same_time(synthetic: Path, tmp_path: Path) -> None:
    """Real processes: one of them trains, the other names it."""
    command = [
        sys.executable,
        "-m",
        "rehead",
        "train",
        *settings(synthetic, tmp_path / "run", **{"train.max_steps": 40}),
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], said
    trained, refused = codes.index(0), codes.index(2)
    assert f"process {processes[trained].pid} on" in " ".join(said[refused].split())
    train(tmp_path / "run/config.yaml", resume=True)

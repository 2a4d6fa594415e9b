"""A run that is killed, stopped or out of disk, in real processes, and resumed: the same to the bit."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from run_process import run, start

from rehead.training.checkpoints import read_tensors
from rehead.training.resume import read_resume

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 4, 3


def settings(synthetic: Path, out: Path) -> list[str]:
    """Everything random at once: sampled proposals, augmentation, drop-outs of the order; and an average, a best."""
    return [
        "coco_faster_rcnn_r50_fpn",
        f"data.root={synthetic}/scenes",
        "data.train={images: train, annotations: annotations/train.json}",
        "data.val={images: val, annotations: annotations/val.json}",
        "data.resize={shorter: 64, longer: 96}",
        "data.augment=strong",
        "data.workers=1",
        "model.backbone={name: resnet18, weights: none, width: 8}",
        "model.head={name: faster_rcnn, channels: 16, representation: 32}",
        "train.schedule={name: cosine, warmup_steps: 2}",
        "train.ema={decay: 0.9}",
        f"train.epochs={EPOCHS}",
        "train.global_batch_size=4",
        "train.log_every=2",
        "train.checkpoint_every=2",
        "train.pictures=2",
        "device=cpu",
        f"out={out}",
    ]


@pytest.fixture(scope="module")
def whole(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder / "log", "train", *settings(synthetic, folder / "run")) == 0, (folder / "log").read_text()
    return folder / "run"


def assert_same(one: Path, other: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        tensors, others = read_tensors(one / name), read_tensors(other / name)
        assert tensors.keys() == others.keys()
        assert [key for key in tensors if not torch.equal(tensors[key], others[key])] == []
    states = [dict(_leaves(read_resume(folder / "resume.pt"))) for folder in (one, other)]
    # It says where the run is, in its configuration.
    for state in states:
        del state["metadata"]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        found = states[1][key]
        assert torch.equal(value, found) if isinstance(value, torch.Tensor) else value == found, key
    texts = [{path.name: path.read_text() for path in folder.glob("metrics.*")} for folder in (one, other)]
    assert texts[0] == texts[1]
    pictures = [{path.name: path.read_bytes() for path in (folder / "pictures").iterdir()} for folder in (one, other)]
    assert len(pictures[0]) == 2
    assert pictures[0] == pictures[1]


def in_session(leader: int | None) -> list[str]:
    """The processes of a session that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, own in value.items():
            yield from _leaves(own, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for place, own in enumerate(value):
            yield from _leaves(own, f"{name}.{place}")
    else:
        yield name, value


def test_killed_at_random_moments_with_other_numbers_of_workers(synthetic: Path, tmp_path: Path, whole: Path) -> None:
    """SIGKILL four times in one run, once before its first checkpoint."""
    folder, log = tmp_path / "run", tmp_path / "log"
    rng = random.Random()
    moments = []
    process = start(log, "train", *settings(synthetic, folder))
    until(lambda: (folder / "config.yaml").exists(), process, log)
    process.kill()
    process.join()
    assert not (folder / "resume.pt").exists()
    for workers in (0, 2, 1):
        process = start(log, "train", "--resume", folder, f"data.workers={workers}")
        before = stamp(folder)
        until(lambda before=before: stamp(folder) != before, process, log)
        moments.append(rng.uniform(0, 0.6))
        time.sleep(moments[-1])
        process.kill()
        process.join()
        # Its workers, which are in its session, do not wait for ever for work.
        deadline = time.monotonic() + 60
        while left := in_session(process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
    code = run(log, "train", "--resume", folder, "data.workers=0")
    assert code == 0, log.read_text()
    assert "starts again at step 0" in log.read_text()
    assert log.read_text().count("going on with") >= 2, (moments, log.read_text())
    assert_same(whole, folder)
    # And once more: nothing left to do.
    assert run(log, "train", "--resume", folder) == 0
    assert f"this run ended at step {EPOCHS * STEPS}, there is nothing left to do" in log.read_text()
    assert_same(whole, folder)


def test_killed_before_and_after_files_take_their_places(synthetic: Path, tmp_path: Path, whole: Path) -> None:
    """At the first rename, after it, at the second, and so on, until a process gets to the end."""
    folder, log = tmp_path / "run", tmp_path / "log"
    arguments: tuple[object, ...] = tuple(settings(synthetic, folder))
    for moment in range(200):
        code = run(log, "train", *arguments, die_at_rename=moment)
        assert code in (0, -signal.SIGKILL), log.read_text()
        if code == 0:
            break
        if (folder / "config.yaml").exists():
            arguments = ("--resume", folder, "data.workers=0")
    assert moment > 8
    assert_same(whole, folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def test_the_signal_of_a_cluster_reaches_every_process_and_the_run_ends_in_good_order(
    synthetic: Path, tmp_path: Path, whole: Path
) -> None:
    """The command as it is typed, with workers, in a process group that gets SIGTERM."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "rehead", "train", *settings(synthetic, folder), "data.workers=2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "stopped by SIGTERM and saved at step" in said
    assert f"rehead train --resume {folder}" in " ".join(said.split())
    assert "Traceback" not in said
    assert run(tmp_path / "log", "train", "--resume", folder, "data.workers=0") == 0
    assert_same(whole, folder)


def test_a_disk_that_is_full_leaves_the_last_checkpoint(synthetic: Path, tmp_path: Path, whole: Path) -> None:
    """The system refuses to write on, in the middle of a file."""
    folder, log = tmp_path / "run", tmp_path / "log"
    process = start(log, "train", *settings(synthetic, folder))
    until(lambda: (folder / "resume.pt").exists(), process, log)
    assert process.pid is not None
    room = (folder / "resume.pt").stat().st_size // 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
    process.join()
    assert process.exitcode == 2, log.read_text()
    said = " ".join(log.read_text().split())
    assert "cannot write" in said
    assert f"make room and go on with: rehead train --resume {folder}" in said
    assert "Traceback" not in said
    assert not list(folder.glob(".*"))
    assert read_resume(folder / "resume.pt")["state"]["step"] < EPOCHS * STEPS
    assert run(log, "train", "--resume", folder) == 0
    assert_same(whole, folder)


def stamp(folder: Path) -> int | None:
    """Changes whenever a step is committed."""
    try:
        return (folder / "resume.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def until(condition, process, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)

"""Real processes on gloo that train as one: torchrun starts them, as a user would."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from filelock import FileLock
from helpers import TINY, randomise_norms
from safetensors.torch import save_file

from rehead.backbones import build_backbone
from rehead.demo.synthetic import write_scenes
from rehead.errors import TrainingError
from rehead.tasks.evaluate import evaluate
from rehead.tasks.train import train
from rehead.training.checkpoints import read_tensors
from rehead.training.resume import read_resume

pytestmark = pytest.mark.slow

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
"""torchrun, at a free port."""

SEGMENTATION: dict[str, Any] = {
    "task": "segmentation",
    "data": {
        "format": "masks",
        "train": {"images": "train", "masks": "train_masks"},
        "val": {"images": "val", "masks": "val_masks"},
        # Without the background, how many pixels count differs from image to image.
        "classes": ["circle", "square", "triangle", "star", "heart", "ring"],
        "values": {"circle": 1, "square": 2, "triangle": 3, "star": 4, "heart": 5, "ring": 6},
        "ignore_index": 0,
        "resize": {"height": 32, "width": 32},
        "augment": "none",
        "workers": 0,
    },
    "model": {
        "backbone": {"name": "resnet18", "width": 8, "norm": "frozen"},
        "head": {"name": "unet", "decoder_channels": [16, 8, 8, 8, 8], "decoder_norm": "identity"},
    },
    "train": {
        "epochs": 2,
        "batch_size": 2,
        "log_every": 4,
        "pictures": 2,
        "precision": "fp32",
        "optimizer": {"lr": 0.05},
        "schedule": {"name": "constant"},
    },
    "device": "cpu",
}

DETECTION: dict[str, Any] = {
    **SEGMENTATION,
    "task": "detection",
    "data": {
        "format": "coco",
        "train": {"images": "train", "annotations": "annotations/train.json"},
        "val": {"images": "val", "annotations": "annotations/val.json"},
        "resize": {"height": 64, "width": 64},
        "augment": "none",
        "workers": 0,
    },
    "model": {**SEGMENTATION["model"], "head": {"name": "fcos", "channels": 64, "convs": 1}},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic scenes, 12 to train on and 7 to judge by, which two processes share unevenly; and a backbone's file."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 12, size=32, seed=0)
    write_scenes(root, "val", 7, size=32, seed=0)
    some = json.loads((root / "annotations/train.json").read_text())
    some["annotations"] = [one for one in some["annotations"] if one["image_id"] <= 2]
    (root / "annotations/few.json").write_text(json.dumps(some))
    # Random weights are never frozen; those of a file are.
    torch.manual_seed(0)
    backbone = build_backbone(TINY)
    randomise_norms(backbone)
    save_file(backbone.state_dict(), root / "backbone.safetensors")
    return root


def written(root: Path, scenes: Path, name: str, config: dict[str, Any], **train: Any) -> Path:
    """A configuration file of a run into `root / name`."""
    config = copy.deepcopy(config)
    config["data"]["root"] = str(scenes)
    config["model"]["backbone"]["weights"] = str(scenes / "backbone.safetensors")
    config["train"].update(train)
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**config, "out": str(root / name)}))
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    """Two processes of Python."""
    return subprocess.Popen(
        [*TWO, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "500"},
    )


def finished(process: subprocess.Popen[str]) -> str:
    """What they said in all."""
    said, _ = process.communicate(timeout=200)
    return said


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def furthest(one: Path, other: Path) -> float:
    """The largest difference between the tensors that two runs left."""
    tensors, others = read_tensors(one / "last.safetensors"), read_tensors(other / "last.safetensors")
    assert tensors.keys() == others.keys()
    return max(float((tensors[name].double() - others[name].double()).abs().max()) for name in tensors)


@pytest.fixture(scope="module")
def together(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The runs of `two_processes.py`, and of one process with the same images to a step; what each rank found."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if session is None:
        root = tmp_path_factory.mktemp("runs")
        run_all(root, scenes)
    else:
        # Once for all processes of `-n`, whichever needs it first.
        root = tmp_path_factory.getbasetemp().parent / f"runs-{session}"
        with FileLock(f"{root}.lock"):
            if not (root / "found-1.json").exists():
                root.mkdir(exist_ok=True)
                run_all(root, scenes)
    return root, [json.loads((root / f"found-{rank}.json").read_text()) for rank in (0, 1)]


def run_all(root: Path, scenes: Path) -> None:
    """Trains."""
    written(root, scenes, "segmentation", SEGMENTATION)
    written(root, scenes, "fcos", DETECTION)
    written(root, scenes, "accumulated", SEGMENTATION, batch_size=1, accumulate=2, checkpoint_every=1)
    written(root, scenes, "sharded", SEGMENTATION, sharding="fsdp2", batch_size=1, accumulate=2, checkpoint_every=1)
    few = copy.deepcopy(DETECTION)
    few["data"]["train"]["annotations"] = "annotations/few.json"
    written(root, scenes, "empty", few, batch_size=1, max_steps=6, optimizer={"lr": 0.001})
    process = start(Path(__file__).with_name("two_processes.py"), root)
    for name, config in (("segmentation", SEGMENTATION), ("fcos", DETECTION)):
        train(written(root, scenes, f"{name}-alone", config, batch_size=4))
    said = finished(process)
    assert process.returncode == 0, said


def test_two_processes_train_like_one_with_the_same_images_to_a_step(together: Any) -> None:
    """Sums are added in another order, so equal within 1e-5 (3e-6 was seen); judged alike to the last digit."""
    root, _ = together
    for name in ("segmentation", "fcos"):
        assert furthest(root / name, root / f"{name}-alone") < 1e-5
        for row, alone in zip(rows(root / name), rows(root / f"{name}-alone"), strict=True):
            if "loss" in row:
                assert row["loss"] == pytest.approx(alone["loss"], rel=1e-4)
            else:
                assert row == alone


def test_a_step_of_several_passes_is_a_step_of_one_where_each_pass_counts_as_much(together: Any) -> None:
    """One image to a pass: the mean of the images' means, which is not the mean over all pixels."""
    root, _ = together
    assert 1e-5 < furthest(root / "accumulated", root / "segmentation") < 0.05
    assert [row["step"] for row in rows(root / "accumulated")] == [row["step"] for row in rows(root / "segmentation")]


def test_a_stated_number_of_images_to_a_step_is_shared_out(together: Any) -> None:
    """The same run as with the passes written out: 4 images over two processes, one image to a pass."""
    root, found = together
    code, said = found[0]["stated"]
    assert code == 0, said
    assert "4 images to a step, as train.global_batch_size says (1 to a pass, 2 passes, 2 processes)" in said
    assert furthest(root / "stated", root / "accumulated") == 0
    assert rows(root / "stated") == rows(root / "accumulated")


def test_a_number_of_images_that_the_processes_cannot_share_is_refused(together: Any) -> None:
    root, found = together
    code, said = found[0]["uneven"]
    assert code == 2
    assert "train.global_batch_size: 5 images cannot be shared equally by 2 processes; start 1, 5 processes" in said
    assert not (root / "uneven").exists()


@pytest.mark.parametrize("name", ["accumulated", "sharded"])
def test_a_run_ended_between_two_passes_and_resumed_equals_one_that_was_not(together: Any, name: str) -> None:
    root, found = together
    assert found[0][f"{name} committed"] == 2
    assert furthest(root / name, root / f"{name}-ended") == 0
    assert rows(root / name) == rows(root / f"{name}-ended")


def test_sharded_training_leaves_whole_checkpoints_of_the_same_numbers(together: Any) -> None:
    root, _ = together
    assert furthest(root / "sharded", root / "accumulated") < 1e-5
    whole = read_resume(root / "sharded/resume.pt")["model"]
    assert {name: value.shape for name, value in whole.items()} == {
        name: value.shape for name, value in read_resume(root / "accumulated/resume.pt")["model"].items()
    }


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn", "retinanet", "fcos"])
def test_a_rank_without_a_box_does_not_hang(together: Any, head: str) -> None:
    root, _ = together
    assert read_resume(root / f"empty-{head}/resume.pt")["state"]["step"] == 6


def test_stages_that_no_head_reads_are_waited_for_by_nobody(together: Any) -> None:
    root, _ = together
    assert read_resume(root / "unread/resume.pt")["state"]["step"] == 6


def test_heads_that_have_targets_on_other_ranks_only_wait_for_nobody(together: Any) -> None:
    _, found = together
    assert found[0]["missing"] == found[1]["missing"]
    assert all(found[0]["missing"].values())


def test_rank_0_alone_draws_and_speaks(together: Any) -> None:
    root, found = together
    assert sorted(path.name for path in (root / "segmentation/pictures").iterdir()) == [
        "001_00001.png",
        "002_00003.png",
    ]
    for name, words in {
        "again": "already holds a run",
        "sync": "norm: sync works between GPUs",
        "auto": "there is none here; give a number",
    }.items():
        (code, said), (other, nothing) = found[0][name], found[1][name]
        assert code == other == 2
        assert words in said
        assert nothing == ""


def test_the_images_of_an_evaluation_are_shared(together: Any) -> None:
    root, found = together
    (code, said), (other, nothing) = (one["evaluated"] for one in found)
    assert code == other == 0
    assert "mIoU" in said
    assert nothing == ""
    assert not (root / "metrics-1.json").exists()
    alone = evaluate(root / "segmentation/best.safetensors")
    assert json.loads((root / "metrics-0.json").read_text()) == alone


def test_a_loss_that_is_no_number_on_one_rank_ends_all_of_them(together: Any) -> None:
    _, found = together
    assert [one["poison"][0] for one in found] == [2, 2]
    assert "the loss of another process is not finite" in found[0]["poison"][1]
    assert "the loss is not finite at step 1" in found[1]["poison"][1]


def test_a_run_goes_on_with_as_many_processes_only(together: Any) -> None:
    root, _ = together
    with pytest.raises(TrainingError, match="2 processes before, 1 now"):
        train(root / "accumulated/config.yaml", {"train.epochs": 3}, resume=True)


def test_a_dead_rank_ends_the_run_which_then_goes_on(scenes: Path, tmp_path: Path) -> None:
    config = written(tmp_path, scenes, "run", SEGMENTATION, epochs=10_000, checkpoint_every=1, evaluate_every=10_000)
    folder = tmp_path / "run"
    process = start("-m", "rehead", "train", config)
    await_true((folder / "resume.pt").exists, process)
    ranks = {one.environ()["RANK"]: one for one in psutil.Process(process.pid).children()}
    ranks["1"].kill()
    killed_at = time.monotonic()
    said = finished(process)
    assert time.monotonic() - killed_at < 60
    assert process.returncode != 0
    assert "another of the 2 processes of this run is gone" in said
    assert f"rehead train --resume {folder}" in said
    step = read_resume(folder / "resume.pt")["state"]["step"]

    # Asked to stop, both leave at the same step, which is saved.
    (folder / "resume.pt").rename(tmp_path / "kept.pt")
    (folder / "resume.pt").symlink_to(tmp_path / "kept.pt")  # a checkpoint of its own takes the place of the link
    process = start("-m", "rehead", "train", "--resume", folder)
    await_true(lambda: not (folder / "resume.pt").is_symlink(), process)
    process.send_signal(signal.SIGTERM)
    said = finished(process)
    stopped = read_resume(folder / "resume.pt")["state"]["step"]
    assert stopped > step > 0
    assert said.count("stopped by SIGTERM") == 1
    assert f"saved at step {stopped} of" in said


def await_true(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until it has happened."""
    for _ in range(1200):
        if happened():
            return
        assert process.poll() is None, finished(process)
        time.sleep(0.1)
    pytest.fail("two minutes have passed")

"""Nothing grows over epochs: a run may have hundreds, each with its evaluation, pictures and checkpoint."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from rehead.data.loader import Loader
from rehead.tasks.train import TrainingJob, train


def config(synthetic: Path, out: Path, *, epochs: int, workers: int) -> dict[str, Any]:
    scenes = synthetic / "scenes"
    split = {
        name: {"images": str(scenes / name), "annotations": f"annotations/{name}.json"} for name in ("train", "val")
    }
    return {
        "task": "detection",
        "data": {
            "format": "coco",
            "root": str(scenes),
            **split,
            "resize": {"height": 64, "width": 64},
            "workers": workers,
        },
        "model": {
            "backbone": {"name": "resnet18", "width": 8, "weights": "none"},
            "head": {"name": "retinanet", "channels": 16, "convs": 1},
        },
        "train": {"epochs": epochs, "batch_size": 6, "pictures": 2, "optimizer": {"lr": 0.001}},
        "device": "cpu",
        "out": str(out),
    }


def test_workers_start_once_for_training_and_once_for_evaluation_and_end_with_the_run(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = multiprocessing.active_children()
    loaders: list[Any] = []
    start = Loader._started

    def started(loader: Loader[Any]) -> Any:
        loaders.append(loader)
        return start(loader)

    monkeypatch.setattr(Loader, "_started", started)
    train(config(synthetic, tmp_path / "run", epochs=3, workers=1))
    assert len(loaders) == len(set(loaders)) == 2
    loaders.clear()
    assert multiprocessing.active_children() == before


@pytest.mark.slow
def test_memory_does_not_grow_over_epochs(synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured after every evaluation; the first third fills caches and the allocator's pools."""
    torch.set_num_threads(1)  # on tensors as small as these, threads cost more than they save
    sizes: list[int] = []
    evaluate = TrainingJob.evaluate

    def measured(job: TrainingJob) -> tuple[float, dict[str, float | None]]:
        metrics = evaluate(job)
        sizes.append(psutil.Process().memory_info().rss)
        return metrics

    monkeypatch.setattr(TrainingJob, "evaluate", measured)
    train(config(synthetic, tmp_path / "run", epochs=45, workers=0))
    settled = sizes[len(sizes) // 3 :]
    # A batch's pixels alone are 74 kB and its graph megabytes: keeping any of it for 30 epochs would be more.
    assert settled[-1] - settled[0] < 4 * 2**20, [size >> 20 for size in sizes]

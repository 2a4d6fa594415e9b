"""Running out of memory away from a training step: an error that says what helps there, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rehead.models.model import Model

FULL = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.fixture
def without_memory_for_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Model.forward

    def forward(self: Model, *arguments: Any) -> Any:
        if not self.training:
            raise RuntimeError(FULL)
        return genuine(self, *arguments)

    monkeypatch.setattr(Model, "forward", forward)


@pytest.mark.usefixtures("without_memory_for_predictions")
def test_evaluation_in_training_and_alone_and_prediction_say_what_helps(
    synthetic: Path, tmp_path: Path, rehead_command
) -> None:
    run = tmp_path / "run"
    head = {"name": "fcos", "channels": 32, "convs": 1}
    split = {"images": "train", "annotations": "annotations/train.json"}
    config = {
        "task": "detection",
        "data": {
            "format": "coco",
            "root": str(synthetic / "scenes"),
            "train": split,
            "val": split,
            "resize": {"shorter": 64},
            "workers": 0,
        },
        "model": {"backbone": {"name": "resnet18", "weights": "none", "width": 8}, "head": head},
        "train": {"batch_size": 4, "max_steps": 1},
        "device": "cpu",
        "out": str(run),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    trained = rehead_command("train", tmp_path / "config.yaml")
    assert trained.code == 2
    for words in ("in an evaluation of 4 images", "batch_size=2", "heads.main.detections", FULL, "model.init="):
        assert words in trained.err
    assert torch.load(run / "resume.pt")["state"]["step"] == 1

    evaluated = rehead_command("evaluate", run / "last.safetensors")
    assert evaluated.code == 2
    assert "in an evaluation of 4 images" in evaluated.err
    assert "What was trained" not in evaluated.err

    image = next((synthetic / "scenes/train").iterdir())
    predicted = rehead_command("predict", run / "last.safetensors", image, "--out", tmp_path / "out")
    assert predicted.code == 2
    assert f"out of memory with {image} (64 x 64 pixels)" in predicted.err

"""Evaluation, prediction and whole runs on a GPU: the CPU's answers, and nothing is read before it has arrived."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY
from pretend_gpu.pretend_device import CUDA, pretend_gpu
from pretend_gpu.runs import OneProcess

import rehead
from rehead.errors import TrainingError
from rehead.tasks import batch_size
from rehead.tasks import train as train_module
from rehead.tasks.predict import predict
from rehead.training.checkpoints import read_tensors

HEADS: dict[str, dict[str, Any]] = {
    "classification": {"name": "linear"},
    "detection": {"name": "faster_rcnn", "channels": 8, "representation": 16, "score_threshold": 0.0},
    "instance_segmentation": {
        **{"name": "mask_rcnn", "channels": 8, "representation": 16, "mask_convs": 1, "mask_channels": 8},
        **{"score_threshold": 0.0, "detections": 10},
    },
    "segmentation": {"name": "unet", "decoder_channels": [16, 16, 8, 8, 8]},
}


def settings(synthetic: Path, out: Path, task: str, device: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "format": "coco",
        "root": str(synthetic / "scenes"),
        "train": {"images": "train", "annotations": "annotations/train.json"},
        "val": {"images": "val", "annotations": "annotations/val.json"},
    }
    if task == "classification":
        data = {"format": "folders", "root": str(synthetic / "shapes"), "train": {"images": "train"}}
        data["val"] = {"images": "val"}
    if task == "segmentation":
        from rehead.demo.synthetic import MASK_CLASSES

        data = {"format": "masks", "root": str(synthetic / "scenes"), "classes": list(MASK_CLASSES)}
        data |= {split: {"images": split, "masks": f"{split}_masks"} for split in ("train", "val")}
    return {
        "task": task,
        "data": {**data, "resize": {"height": 64, "width": 64}, "workers": 0},
        "model": {"backbone": TINY.model_dump(), "head": HEADS[task]},
        "train": {
            **{"max_steps": 2, "batch_size": 4, "pictures": 1, "precision": "fp32"},
            "schedule": {"name": "constant"},
        },
        "device": device,
        "out": str(out),
    }


@pytest.fixture(params=list(HEADS))
def task(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "build_accelerator", lambda *_, **__: OneProcess())


def test_train_evaluate_and_predict_as_on_a_cpu(
    task: str, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehead.train(settings(synthetic, tmp_path / "cpu", task, "cpu"))
    images = synthetic / ("shapes/val" if task == "classification" else "scenes/val")
    paths = sorted(images.rglob("*.png"))[:2]
    on_cpu = rehead.evaluate(tmp_path / "cpu/last.safetensors")
    predict(tmp_path / "cpu/last.safetensors", paths, tmp_path / "by_cpu", device="cpu")
    with pretend_gpu() as gpu:
        monkeypatch.setattr(train_module, "build_accelerator", lambda *_, **__: OneProcess())
        rehead.train(settings(synthetic, tmp_path / "gpu", task, "cuda"))
        assert gpu.waits.total() > 0
        on_gpu = rehead.evaluate(tmp_path / "cpu/last.safetensors", {"device": "cuda"})
        predict(tmp_path / "cpu/last.safetensors", paths, tmp_path / "by_gpu", device="cuda")
        assert not gpu.late
    assert close(on_gpu, on_cpu)
    by_cpu, by_gpu = (json.loads((tmp_path / by / "predictions.json").read_text()) for by in ("by_cpu", "by_gpu"))
    assert close(by_gpu, by_cpu)
    trained = read_tensors(tmp_path / "gpu/last.safetensors")
    for name, tensor in read_tensors(tmp_path / "cpu/last.safetensors").items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-5)


def close(found: Any, expected: Any) -> bool:
    """Equal but for RoIAlign, of which CPU and GPU have a kernel each."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, rel=1e-3, abs=1e-2))
    return bool(found == expected)


@pytest.mark.slow
def test_a_run_goes_on_as_if_it_had_not_been_stopped(
    task: str, synthetic: Path, tmp_path: Path, one_process: None
) -> None:
    with pretend_gpu():
        rehead.train(settings(synthetic, tmp_path / "whole", task, "cuda"), {"train.max_steps": 5})
        given = settings(synthetic, tmp_path / "parts", task, "cuda")
        rehead.train(given, {"train.max_steps": 3})
        rehead.train(given, {"train.max_steps": 5}, resume=True)
    expected = read_tensors(tmp_path / "whole/last.safetensors")
    found = read_tensors(tmp_path / "parts/last.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_auto_finds_what_fits(
    synthetic: Path, tmp_path: Path, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five images fit; beyond, cuBLAS has its own words for that."""
    attempted = []
    forward = batch_size.Model.forward

    def limited(model: Any, batch: Any, targets: Any = None) -> Any:
        attempted.append(len(batch))
        if len(batch) > 5:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return forward(model, batch, targets)

    monkeypatch.setattr(batch_size.Model, "forward", limited)
    given = settings(synthetic, tmp_path / "run", "detection", "cuda")
    with pretend_gpu():
        rehead.train(given, {"train.batch_size": "auto"})
    assert max(attempted) == 8
    assert "batch_size: 4" in (tmp_path / "run/config.yaml").read_text()


def test_a_model_predicts_where_it_is(synthetic: Path) -> None:
    model = rehead.build_model(TINY, "faster_rcnn", ["a", "b"])
    model.head("main").roi_heads.score_thresh = 0.0
    image = next((synthetic / "scenes/val").glob("*.png"))
    expected = model.predict(image)
    with pretend_gpu() as gpu:
        found = model.to(CUDA).predict(image)
        assert not gpu.late
    assert type(found.boxes) is torch.Tensor
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=1e-2)


def test_a_loss_that_is_not_finite_names_the_images(synthetic: Path, tmp_path: Path, one_process: None) -> None:
    given = settings(synthetic, tmp_path / "run", "classification", "cuda")
    with pretend_gpu(), pytest.raises(TrainingError, match="not finite at step"):
        rehead.train(given, {"train.optimizer.lr": 1e30, "train.max_steps": 4})

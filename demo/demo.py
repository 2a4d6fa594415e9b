"""The whole point in one run: pre-train a backbone, keep it, swap its head twice, and compare with scratch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rehead.datasets.open import open_data
from rehead.demo.synthetic import MASK_CLASSES, write_classification, write_scenes
from rehead.files import json_text, write_text
from rehead.models.model import load
from rehead.tasks import task_named
from rehead.tasks.base import Metrics, Picture
from rehead.tasks.evaluate import evaluate
from rehead.tasks.train import train
from rehead.terminal import say
from rehead.visualize.draw import save, sheet

SIZE = 96
"""Height and width of the synthetic images, in pixels."""


@dataclass(frozen=True)
class Budget:
    """How much the demo draws and trains; the defaults take a few minutes on two CPU cores."""

    tiles: int = 3600
    tiles_val: int = 300
    scenes: int = 96
    scenes_val: int = 96
    pretrain_steps: int = 450
    detect_steps: int = 450
    segment_steps: int = 600


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    task: str
    figure: str
    transferred: float
    scratch: float | None


def demo(out: Path, budget: Budget | None = None, device: str = "auto") -> list[Result]:
    """Draws a data set, trains five small models, and compares.

    Args:
        out: a folder for the data, the runs, `results.json` and `sheet.png`.
        budget: how much.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        What was measured: classification, then detection and segmentation with and without transfer.
    """
    budget = budget or Budget()
    started = time.monotonic()
    data = out / "data"
    say(f"drawing {budget.tiles + budget.tiles_val} shapes and {budget.scenes + budget.scenes_val} scenes into {data}")
    for split, tiles, scenes in (
        ("train", budget.tiles, budget.scenes),
        ("val", budget.tiles_val, budget.scenes_val),
    ):
        write_classification(data / "shapes", split, tiles, SIZE, seed=0)
        write_scenes(data / "scenes", split, scenes, SIZE, seed=0)

    say("", "1. One backbone learns to classify single shapes.")
    base = train(_classify(out, data, budget, device), overwrite=True) / "last.safetensors"
    results = [Result("classification", "top-1", evaluate(base)["main"]["top1"], None)]
    runs: dict[str, dict[str, Path]] = {}
    for number, (task, make) in enumerate((("detection", _detect), ("segmentation", _segment)), start=2):
        say("", f"{number}. It keeps its body and gets a {task} head; then the same from scratch.")
        runs[task] = {}
        scores: dict[str, Metrics] = {}
        for how, init in (("transferred", str(base)), ("scratch", None)):
            config = make(out / f"{task}_{how}", data, budget, device, init)
            runs[task][how] = train(config, overwrite=True) / "last.safetensors"
            scores[how] = evaluate(runs[task][how])["main"]
        for name, path in (("AP", "bbox.AP"), ("AP50", "bbox.AP50")) if task == "detection" else (("mIoU", "mIoU"),):
            results.append(Result(task, name, _at(scores["transferred"], path), _at(scores["scratch"], path)))

    save(out / "sheet.png", _sheet(base, runs))
    rows = [vars(result) for result in results]
    write_text(
        out / "results.json", json_text({"seconds": round(time.monotonic() - started), "results": rows}, indent=2)
    )
    return results


def _at(metrics: Metrics, path: str) -> float:
    value: Any = metrics
    for part in path.split("."):
        value = value[part]
    return float(value)


def _model(init: str | None, head: dict[str, Any]) -> dict[str, Any]:
    """A ResNet-18 a quarter as wide as usual, with random weights unless `init` brings others.

    Residual branches that start at zero need some hundred steps to wake up; here that is the whole training.
    """
    body = {"name": "resnet18", "width": 16, "weights": "none", "zero_init_residual": False}
    return {"backbone": body, "head": head, "init": init}


def _train(steps: int, batch_size: int, lr: float) -> dict[str, Any]:
    return {
        "epochs": 10_000,
        "max_steps": steps,
        "evaluate_every": 10_000,
        "batch_size": batch_size,
        "optimizer": {"name": "adamw", "lr": lr, "weight_decay": 0.01},
        "schedule": {"name": "cosine", "warmup_steps": min(20, steps)},
        "clip_norm": 5.0,
        "pictures": 4,
    }


def _classify(out: Path, data: Path, budget: Budget, device: str) -> dict[str, Any]:
    return {
        "task": "classification",
        "data": {
            "format": "folders",
            "root": str(data / "shapes"),
            "train": {"images": "train"},
            "val": {"images": "val"},
            "resize": {"height": SIZE, "width": SIZE},
            # Images as small as these are read faster than another process could hand them over.
            "workers": 0,
            # A random crop would often miss the shape.
            "augment": "none",
        },
        "model": _model(None, {"name": "linear"}),
        "train": _train(budget.pretrain_steps, batch_size=64, lr=4e-3),
        "device": device,
        "out": str(out / "classification"),
    }


def _detect(run: Path, data: Path, budget: Budget, device: str, init: str | None) -> dict[str, Any]:
    return {
        "task": "detection",
        "data": {
            "format": "coco",
            "root": str(data / "scenes"),
            "train": {"images": "train", "annotations": "annotations/train.json"},
            "val": {"images": "val", "annotations": "annotations/val.json"},
            "resize": {"height": SIZE, "width": SIZE},
            "workers": 0,
        },
        "model": _model(
            init,
            {
                "name": "faster_rcnn",
                "channels": 64,
                "representation": 128,
                # The shapes are 20 to 45 pixels wide.
                "anchor_sizes": [[16], [24], [32], [48], [64]],
                "rpn_pre_nms_train": 300,
                "rpn_pre_nms_test": 300,
                "rpn_post_nms_train": 100,
                "rpn_post_nms_test": 100,
                "box_sampled": 64,
            },
        ),
        "train": _train(budget.detect_steps, batch_size=8, lr=2e-3),
        "device": device,
        "out": str(run),
    }


def _segment(run: Path, data: Path, budget: Budget, device: str, init: str | None) -> dict[str, Any]:
    return {
        "task": "segmentation",
        "data": {
            "format": "masks",
            "root": str(data / "scenes"),
            "train": {"images": "train", "masks": "train_masks"},
            "val": {"images": "val", "masks": "val_masks"},
            "classes": list(MASK_CLASSES),
            "resize": {"height": SIZE, "width": SIZE},
            "workers": 0,
        },
        "model": _model(init, {"name": "unet", "decoder_channels": [64, 32, 32, 16, 16]}),
        "train": _train(budget.segment_steps, batch_size=8, lr=2e-3),
        "device": device,
        "out": str(run),
    }


def _sheet(base: Path, runs: dict[str, dict[str, Path]], columns: int = 6) -> Picture:
    """Rows of validation images: classified, then detected and segmented with and without transfer."""
    rows = [("classified", base, False)]
    for task, paths in runs.items():
        word = {"detection": "detected", "segmentation": "segmented"}[task]
        rows += [
            (f"{word}, transferred", paths["transferred"], False),
            (f"{word}, from scratch", paths["scratch"], False),
        ]
        rows += [("annotated", paths["transferred"], True)]
    tiles: list[Picture] = []
    captions: list[str] = []
    for caption, checkpoint, annotated in rows:
        drawn = _drawn(checkpoint, columns, annotated)
        tiles += drawn
        captions += [caption, *[""] * (len(drawn) - 1)]
    return sheet(tiles, columns, captions)


def _drawn(checkpoint: Path, count: int, annotated: bool) -> list[Picture]:
    model = load(checkpoint)
    reader = open_data(model.config, "val")
    task = task_named(model.config.task)
    classes = model.head("main").classes
    # Spread over the split: single shapes are written class by class.
    pictures = []
    for index in np.linspace(0, len(reader) - 1, count).astype(int).tolist():
        sample = reader.read(index)
        if annotated:
            pictures.append(task.draw_truth(sample.pixels, sample, classes))
        else:
            pictures.append(task.draw(sample.pixels, model.predict(sample.pixels), classes))
    return pictures

"""Real processes on gloo that train as one: torchrun starts them, as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rehead.data.drawn import write_scenes
from rehead.training.checkpoints import read_resume, read_tensors

pytestmark = pytest.mark.slow

TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
"""torchrun, at a free port."""

SEGMENTATION = """
task: segmentation
data:
  format: masks
  root: ROOT
  train: {images: train/images, masks: train/masks}
  val: {images: val/images, masks: val/masks}
  classes: [background, circle, square, triangle, star, heart, ring]
  resize: {height: 32, width: 32}
  augment: none
  workers: 0
model:
  backbone: {name: resnet18, width: 8, weights: none, norm: group}
  head: {name: unet, decoder_channels: [16, 8, 8, 8, 8], decoder_norm: identity}
train: {epochs: 2, batch_size: 2, log_every: 3, pictures: 2, precision: fp32, optimizer: {lr: 0.05}}
device: cpu
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes: 12 to train on and 7 to judge by, which two processes share unevenly."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, "train", 12, size=32, seed=0)
    write_scenes(root, "val", 7, size=32, seed=0)
    return root


def start(
    folder: Path, config: dict[str, Any] | None, *more: str, launcher: list[str] = TWO, **environment: str
) -> subprocess.Popen[str]:
    """`rehead train` in processes of its own."""
    arguments = list(more)
    if config is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        path = folder.parent / f"{folder.name}.yaml"
        path.write_text(yaml.safe_dump({**config, "out": str(folder)}))
        arguments.insert(0, str(path))
    return subprocess.Popen(
        [*launcher, "-m", "rehead", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finished(process: subprocess.Popen[str], code: int | None = 0) -> str:
    """What it said, when it has ended as it should."""
    said, _ = process.communicate(timeout=120)
    assert code is None or process.returncode == code, said
    return said


def figures(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("step", "epoch", "lr")} for row in rows]

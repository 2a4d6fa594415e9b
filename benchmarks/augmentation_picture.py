"""Draws docs/augmentation.jpg: each of rehead's own steps and the presets, on scenes that rehead draws itself.

uv run python benchmarks/augmentation_picture.py docs/augmentation.jpg
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from rehead.configs.augment import StepOptions, step_options
from rehead.configs.readers import CocoSplit
from rehead.configs.resize import ResizeOptions
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.mix import on_canvas
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext
from rehead.datasets.formats.coco import CocoReader
from rehead.demo.synthetic import SHAPES, write_scenes
from rehead.tasks import task_named
from rehead.visualize.draw import sheet

SIZE = 256
TILES: list[tuple[str, str | list[StepOptions], int]] = [
    ("as annotated", "none", 0),
    ("light", "light", 2),
    ("strong", "strong", 1),
    ("strong", "strong", 3),
    ("Affine", [step_options({"name": "Affine", "rotate": [20, 40], "p": 1})], 0),
    ("resized_crop", [step_options({"name": "resized_crop", "scale": [0.3, 0.5]})], 1),
    ("large_scale_jitter", [step_options({"name": "large_scale_jitter", "scale": [0.4, 0.6]})], 0),
    ("large_scale_jitter", [step_options({"name": "large_scale_jitter", "scale": [1.6, 2.0]})], 0),
    ("mosaic", [step_options({"name": "mosaic"})], 0),
    ("mosaic", [step_options({"name": "mosaic"})], 1),
    ("mixup", [step_options({"name": "mixup"})], 1),
    ("copy_paste", [step_options({"name": "copy_paste", "p": 1, "share": 1})], 1),
]
"""What to show of one image: a caption, the steps, and the epoch that they are drawn for."""


def main(out: Path) -> None:
    """Writes the picture."""
    task = task_named("instance_segmentation")
    context = AugmentContext(task.name, Resize(ResizeOptions(height=SIZE, width=SIZE)))
    tiles, captions = [], []
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), "train", 8, SIZE, seed=5)
        reader = CocoReader(CocoSplit(images="train", annotations="annotations/train.json"), Path(folder), SHAPES)
        reader.masks = True
        counts = [len(sample.labels) for index in range(len(reader)) if (sample := reader[index]).labels is not None]
        fullest = int(np.argmax(counts))
        for caption, steps, epoch in TILES:
            sample, _ = Augment(steps, context)(reader.read(fullest), epoch, fullest, 0, reader)
            # What is smaller lies in its batch as here.
            sample = on_canvas(sample, (SIZE, SIZE), 0, 0, sample.pixels.dtype)
            tiles.append(task.draw_truth(sample.pixels, sample, reader.classes))
            captions.append(caption)
    Image.fromarray(sheet(tiles, 6, captions)).save(out, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

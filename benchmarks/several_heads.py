"""One ResNet-50 with three heads in one pass, against three models with a backbone each.

    uv run python benchmarks/several_heads.py

Heads: faster_rcnn, unet and linear, random weights. Times inference in eval mode on one image, and a training step
(losses, backward, SGD) on a smaller batch; both sides in turn, and prints the ratio of their medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rehead.configs.load import load_config
from rehead.models.model import Model, build_model, from_config
from rehead.types import Classes, Frame, ImageBatch, Target

CLASSES = tuple(f"class {number}" for number in range(10))
HEADS = {"boxes": "faster_rcnn", "scene": "unet", "tags": "linear"}


def batch_of(count: int, height: int, width: int) -> tuple[ImageBatch, list[Target]]:
    """Noise, with a target of every kind per image."""
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    size = (height, width)
    frames = [Frame(size, size, image_id=index) for index in range(count)]
    box = torch.tensor([[width / 8, height / 8, width / 2, height / 2]])
    targets = [
        Target(
            index,
            boxes=box,
            labels=torch.tensor([1]),
            semantic=torch.randint(0, len(CLASSES), size, dtype=torch.uint8),
            label=torch.tensor(index % len(CLASSES)),
        )
        for index in range(count)
    ]
    return ImageBatch(pixels, frames), targets


def inference(models: Sequence[Model], batch: ImageBatch) -> Callable[[], None]:
    """Predictions of all heads."""

    def run() -> None:
        with torch.inference_mode():
            for model in models:
                model.eval()(batch)

    return run


def training(models: Sequence[Model], batch: ImageBatch, targets: Sequence[Target]) -> Callable[[], None]:
    """A step of every model."""
    # A rate of zero: the work is the same, and no loss on noise grows without bounds.
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9) for model in models]

    def run() -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            torch.stack(list(model.train()(batch, targets).values())).sum().backward()
            optimizer.step()

    return run


def compared(name: str, together: Callable[[], None], apart: Callable[[], None], rounds: int) -> None:
    """Runs both in turn, after one run each that does not count, and prints a row."""
    seconds: dict[Callable[[], None], list[float]] = {together: [], apart: []}
    for number in range(rounds + 1):
        for run, times in seconds.items():
            start = time.perf_counter()
            run()
            if number:
                times.append(time.perf_counter() - start)
    one, three = (statistics.median(times) for times in seconds.values())
    print(f"| {name} | {one:.3f} s | {three:.3f} s | {one / three:.3f} |", flush=True)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], help="height and width, for inference")
    parser.add_argument("--training-size", type=int, nargs=2, default=[224, 288], help="height and width")
    parser.add_argument("--batch", type=int, default=2, help="images in a training step")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    body = {"name": options.backbone, "weights": "none"}
    heads: dict[str, Any] = {key: {"name": name} for key, name in HEADS.items()}
    config = load_config({"task": "multitask", "model": {"backbone": body, "heads": heads}})
    together = [from_config(config, {key: Classes(CLASSES) for key in HEADS})]
    apart = [build_model(options.backbone, name, CLASSES, weights="none") for name in HEADS.values()]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| what | one backbone, three heads | three models | ratio |")
    print("| --- | --- | --- | --- |")
    height, width = options.size
    image, _ = batch_of(1, height, width)
    name = f"inference, one image of {height} x {width}"
    compared(name, inference(together, image), inference(apart, image), options.rounds)
    height, width = options.training_size
    images, targets = batch_of(options.batch, height, width)
    name = f"training step, {options.batch} images of {height} x {width}"
    compared(name, training(together, images, targets), training(apart, images, targets), options.rounds)


if __name__ == "__main__":
    main()

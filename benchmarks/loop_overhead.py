"""What the training loop adds to a step: `rehead.training.loop` against a bare loop over the same model and tensors.

    uv run python benchmarks/loop_overhead.py

resnet20 with a linear head on 32-pixel images, batch in memory, CPU or GPU, fp32, SGD with momentum. The bare loop does
forward, sum of losses, backward and update, and nothing else. Both sides in turn; the difference of the medians per
step. What an epoch costs besides (evaluation, checkpoints) is not in it; rows of the metric files every 20 steps are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rehead.configs.schema import TrainOptions
from rehead.models.model import Model, build_model
from rehead.training.engine import build_accelerator, choose_device, repeatable
from rehead.training.loop import Batch
from rehead.training.run import fit
from rehead.training.schedule import build_optimizer
from rehead.types import Frame, ImageBatch, Target


class Fixed:
    """The same batch at every step; notes when the first was asked for and the last was done."""

    conditions: Mapping[str, int] = {}

    def __init__(self, model: Model, batch: Batch, steps: int) -> None:
        self.model, self.batch, self.steps_per_epoch = model, batch, steps
        self.seconds = 0.0

    def batches(self, epoch: int, start: int) -> Iterable[Batch]:
        """`steps_per_epoch` times the batch."""
        began = time.perf_counter()
        for _ in range(self.steps_per_epoch):
            yield self.batch
            self.seconds = time.perf_counter() - began

    def evaluate(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        """Nothing to evaluate."""
        return {"score": 0.0}, {}

    def metadata(self, steps: int, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Nothing to say."""
        return {"config": {}}


def ours(model: Model, batch: Batch, options: TrainOptions, device: torch.device) -> float:
    """Seconds per step of `fit`."""
    assert options.max_steps is not None
    # One step more, after which the loop leaves the batches of the last one.
    job = Fixed(model, batch, options.max_steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        fit(job, options, Path(folder), build_accelerator(device, options.precision))
    return job.seconds / (options.max_steps - 1)


def bare(model: Model, batch: Batch, options: TrainOptions, device: torch.device) -> float:
    """Seconds per step of the shortest loop there is."""
    assert options.max_steps is not None
    images, targets = batch
    optimizer = build_optimizer(model, options.optimizer)
    model.train()
    with repeatable(options, device):
        for step in range(options.max_steps):
            if step == 1:
                began = time.perf_counter()
            losses = model(images.to(device), [target.to(device) for target in targets])
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            # Both look at the loss, so that neither runs ahead of a GPU.
            loss.item()
    return (time.perf_counter() - began) / (options.max_steps - 1)


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = choose_device(given.device)
    size = (32, 32)
    images = ImageBatch(
        torch.randint(0, 256, (given.batch, 3, *size), dtype=torch.uint8),
        [Frame(size, size, image_id=index) for index in range(given.batch)],
    )
    batch = images, [Target(index, label=torch.tensor(index % 10)) for index in range(given.batch)]
    options = TrainOptions(max_steps=given.steps, epochs=1000, precision="fp32")
    classes = [f"class {number}" for number in range(10)]
    model = build_model("resnet20", "linear", classes, weights="none").to(device, memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(given.rounds):
        for name, run in (("ours", ours), ("bare", bare)):
            seconds[name].append(run(model, batch, options, device))
    loop, least = (statistics.median(seconds[name]) * 1000 for name in ("ours", "bare"))
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| bare loop, ms per step | rehead's, ms per step | added, ms |")
    print("| --- | --- | --- |")
    print(f"| {least:.2f} | {loop:.2f} | {loop - least:.2f} |")


if __name__ == "__main__":
    main()

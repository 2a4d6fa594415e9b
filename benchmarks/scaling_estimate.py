"""Computes, measures nothing: how Faster R-CNN R50-FPN on COCO scales over GPUs, and what ends it.

    uv run python benchmarks/scaling_estimate.py --images-per-second 30 --batch-size 2

The formulas are in docs/distributed.md. Every constant below is an assumption; give your own.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

IMAGES, VALIDATION, EPOCHS = 118_287, 5_000, 12
GRADIENTS = 41.4e6 * 4  # bytes: fp32 gradients of the whole network; frozen stages send nothing
BUCKET = 25e6  # bytes that DDP sends at a time; the last one cannot hide behind the backward pass
BACKWARD = 2 / 3  # of a step
IN_A_MACHINE = 8  # GPUs
NVLINK = 300e9 * 0.7  # bytes/s, one direction, and what of it a ring gets
LATENCY = 20e-6  # s per hop of the ring
DECODED = 200.0  # images/s and core: JPEG of 640 px to a resized uint8 image
PREDICTED = 2.0  # times as fast as training
METRICS = 2.5  # s, by rank 0 alone: the twelve figures of 500,000 detections
DETECTION_BYTES, GATHERED = 100, 1e9  # of a pickled detection; bytes/s over gloo


@dataclass(frozen=True)
class Estimate:
    """Seconds, of a step or of an evaluation, and what they come to."""

    step: float
    exposed: float
    evaluation: float
    hours: float
    efficiency: float
    cores: float


def all_reduce(size: float, gpus: int, network: float) -> float:
    """Seconds of a ring all-reduce: within machines over NVLink, then between them over their network cards."""
    inside, machines = min(gpus, IN_A_MACHINE), math.ceil(gpus / IN_A_MACHINE)
    seconds = 2 * (inside - 1) / inside * size / NVLINK + 2 * (inside - 1) * LATENCY
    if machines > 1:
        seconds += 2 * (machines - 1) / machines * size / network + 2 * (machines - 1) * LATENCY
    return seconds


def estimate(gpus: int, batch_size: int, images_per_second: float, gigabits: float) -> Estimate:
    """One row of the table."""
    network = gigabits / 8 * 1e9 * 0.8
    compute = batch_size / images_per_second
    hidden = BACKWARD * compute
    total = all_reduce(GRADIENTS, gpus, network)
    exposed = max(total - hidden, all_reduce(BUCKET, gpus, network)) if gpus > 1 else 0.0
    step = compute + exposed
    steps = IMAGES // (gpus * batch_size)
    gather = 100 * VALIDATION * DETECTION_BYTES / GATHERED if gpus > 1 else 0.0
    evaluation = VALIDATION / (gpus * images_per_second * PREDICTED) + gather + METRICS
    seconds = EPOCHS * (steps * step + evaluation)
    alone = EPOCHS * (IMAGES / images_per_second + VALIDATION / (images_per_second * PREDICTED) + METRICS)
    return Estimate(step, exposed, evaluation, seconds / 3600, alone / gpus / seconds, images_per_second / DECODED)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images-per-second", type=float, default=30.0, help="of one GPU in training")
    parser.add_argument("--batch-size", type=int, default=2, help="per GPU")
    arguments = parser.parse_args()
    print("| GPUs | images to a step | network | step, ms | waiting, ms | evaluation, s | 12 epochs, h | efficiency |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for gpus in (1, 8, 16, 32, 64, 128):
        for gigabits in (100, 400) if gpus > IN_A_MACHINE else (0,):
            row = estimate(gpus, arguments.batch_size, arguments.images_per_second, gigabits or 1)
            network = f"{gigabits} Gb/s" if gigabits else "NVLink" if gpus > 1 else ""
            print(
                f"| {gpus} | {gpus * arguments.batch_size} | {network} | {row.step * 1e3:.1f} | "
                f"{row.exposed * 1e3:.1f} | {row.evaluation:.1f} | {row.hours:.2f} | {row.efficiency:.0%} |"
            )
    print(f"\n{row.cores:.2f} cores per GPU decode its images")


if __name__ == "__main__":
    main()

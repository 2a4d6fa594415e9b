"""U-Net on CamVid from a pre-trained ResNet-18 and from scratch: same steps, same seed, same everything else.

    uv run python benchmarks/camvid_transfer.py CAMVID WEIGHTS --out runs/camvid_transfer

Trains both side by side, one CPU core each (about 15 minutes), then prints a row per start: IoU over the 11
classes (void left out) and pixel accuracy on the val and test splits, at the original 360 x 480.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import rehead


def main() -> None:
    """Trains both, evaluates both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("camvid", help="folder with train/, trainannot/, ...")
    parser.add_argument("weights", help="a ResNet-18 state dict")
    parser.add_argument("--out", type=Path, default=Path("runs/camvid_transfer"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    runs: dict[Path, subprocess.Popen[bytes]] = {}
    for start, weights in (("pre-trained", arguments.weights), ("scratch", "none")):
        run = arguments.out / f"{start}_seed{arguments.seed}"
        overrides = {
            "data.root": arguments.camvid,
            # Trained at two thirds of the size, judged at the original one.
            "data.resize": "{height: 240, width: 320}",
            "data.workers": 0,
            "model.backbone.weights": weights,
            "train.max_steps": arguments.steps,
            "train.evaluate_every": 1000,
            "train.seed": arguments.seed,
            "out": run,
        }
        command = [sys.executable, "-m", "rehead", "train", "camvid_unet_r18", "--overwrite"]
        command += [f"{key}={value}" for key, value in overrides.items()]
        runs[run] = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for process in runs.values():
        if process.wait() != 0:
            sys.exit(process.returncode)
    print(f"{arguments.steps} steps, seed {arguments.seed}, both in {(time.monotonic() - began) / 60:.1f} minutes")
    print("| start | val mIoU | val pixel accuracy | test mIoU | test pixel accuracy |")
    for run in runs:
        found = [rehead.evaluate(run / "last.safetensors", {"data.split": split})["main"] for split in ("val", "test")]
        cells = [f"{figures[name]:.4f}" for figures in found for name in ("mIoU", "pixel_accuracy")]
        print(f"| {run.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Plain against residual networks, shortcuts, warm-up, zero-initialised branches: configs/paper, shortened.

    uv run python benchmarks/paper_networks.py IMAGENETTE --out runs/paper_networks

Trains every recipe for `--epochs` (12 instead of 164, the rate dropping at the same fractions), `--jobs` at a
time with one CPU core each, in bf16; then prints a row per network. A run that is finished is not trained
again, one that was stopped goes on. An hour or two on two cores with AMX, which is what makes bf16 fast there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rehead.configs.load import load_config
from rehead.files import atomic_path

NAMES = [
    *("resnet20", "plain20", "resnet56", "plain56", "resnet56_zero_init", "resnet110", "resnet110_no_warmup"),
    *("plain110", "resnet20_shortcut_b", "resnet20_shortcut_c", "resnet20_zero_init", "resnet110_zero_init"),
    "resnet20_low_rate",
]
LOW_RATE = 0.01
"""Of `resnet20_low_rate`, which is resnet20 otherwise."""
COLOURS = ("#93c5fd", "#3b82f6", "#1e3a8a", "#c2410c", "#65a30d")
DEPTH = {
    "plain": {f"plain{depth}": f"{depth} layers" for depth in (20, 56, 110)},
    "residual": {
        **{f"resnet{depth}": f"{depth} layers" for depth in (20, 56, 110)},
        "resnet56_zero_init": "56 layers, branches start at 0",
    },
}
VARIANTS = {
    "residual, 56 layers": {
        "resnet56": "rate 0.1 from the first step",
        "resnet56_zero_init": "the same, branches start at 0",
    },
    "residual, 110 layers": {
        "resnet110_no_warmup": "rate 0.1 from the first step",
        "resnet110": "0.01 for 100 steps, then 0.1",
        "resnet110_zero_init": "0.1, branches start at 0",
    },
    "residual, 20 layers": {
        "resnet20": "A: zeros where the shape changes",
        "resnet20_shortcut_b": "B: projections there",
        "resnet20_shortcut_c": "C: projections everywhere",
        "resnet20_zero_init": "A, branches start at 0",
        "resnet20_low_rate": "A, rate 0.01 instead of 0.1",
    },
}
HIGHEST_LOSS = 3.0
"""Drawn; what is above it happens in the first steps and would flatten everything else."""
WARMUP_STEPS = 100
"""Instead of the 400 of the recipes, which would be half of a run this short."""


def main() -> None:
    """Trains what is not trained yet, then plots and prints a row per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imagenette", help="folder with train/ and val/, a folder per class in each")
    parser.add_argument("--out", type=Path, default=Path("runs/paper_networks"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps-110", type=int, help="stop the networks of 110 layers after so many steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--plots", type=Path, help="folder for depth.png and variants.png; --out unless given")
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = list(pool.map(lambda name: train(name, arguments), arguments.only))
    rows = {name: read(run) for name, run in zip(arguments.only, runs, strict=True)}
    draw(rows, DEPTH, 2, (arguments.plots or arguments.out) / "depth.png")
    draw(rows, VARIANTS, 1, (arguments.plots or arguments.out) / "variants.png")
    print("| network | steps | training loss, last 50 steps | validation error |")
    print("| --- | --- | --- | --- |")
    for name, found in rows.items():
        losses = [row["loss"] for row in found if "loss" in row][-5:]
        error = 1 - found[-1]["main.top1"]
        print(f"| {name} | {found[-1]['step']} | {sum(losses) / len(losses):.3f} | {error:.3f} |")


def train(name: str, arguments: argparse.Namespace) -> Path:
    """Trains one recipe in a process of its own; returns its run folder."""
    run: Path = arguments.out / f"{name}_seed{arguments.seed}"
    epochs = arguments.epochs
    overrides = {
        "data.root": arguments.imagenette,
        "data.workers": 0,
        "train.epochs": epochs,
        "train.schedule.milestones": [epochs // 2, epochs * 3 // 4],
        "train.precision": arguments.precision,
        "train.seed": arguments.seed,
        "train.log_every": 10,
        "train.pictures": 0,
        "out": run,
    }
    recipe = f"paper/{name.removesuffix('_low_rate')}"
    if name.endswith("_low_rate"):
        overrides["train.optimizer.lr"] = LOW_RATE
    if "110" in name and arguments.steps_110:
        overrides["train.max_steps"] = arguments.steps_110
    if load_config(recipe).train.schedule.warmup_steps:
        overrides["train.schedule.warmup_steps"] = WARMUP_STEPS
    asked = json.dumps({key: str(value) for key, value in overrides.items()})
    marker = run / "asked_for.json"
    if run.exists() and (not marker.exists() or marker.read_text() != asked):
        sys.exit(f"{run} was trained with other arguments; give another --out, or remove it")
    if (run / "finished").exists():
        return run
    run.mkdir(parents=True, exist_ok=True)
    marker.write_text(asked)
    command = [sys.executable, "-m", "rehead", "train"]
    if (run / "resume.pt").exists():
        command += ["--resume", str(run)]
    else:
        command += [recipe, "--overwrite", *(f"{key}={value}" for key, value in overrides.items())]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (run / "finished").touch()
    return run


def read(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metric file."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def draw(rows: dict[str, list[dict[str, Any]]], panels: dict[str, dict[str, str]], lines: int, file: Path) -> None:
    """Training loss and, with two lines, validation error below it; a column per group of networks."""
    figure = Figure(figsize=(11, 3.4 * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, len(panels), sharex=True, sharey="row", squeeze=False)
    for column, (title, networks) in enumerate(panels.items()):
        axes[0, column].set_title(title)
        axes[-1, column].set_xlabel("step")
        for (name, label), colour in zip(networks.items(), COLOURS, strict=False):
            if name not in rows:
                continue
            losses = [(row["step"], row["loss"]) for row in rows[name] if "loss" in row]
            errors = [(row["step"], 1 - row["main.top1"]) for row in rows[name] if "main.top1" in row]
            # Each row is the mean of ten steps; the mean of five rows is what an eye can follow.
            smooth = [
                sum(loss for _, loss in losses[max(0, i - 4) : i + 1]) / min(5, i + 1) for i in range(len(losses))
            ]
            axes[0, column].plot([step for step, _ in losses], smooth, color=colour, label=label)
            if lines == 2:
                axes[1, column].plot(*zip(*errors, strict=True), "o-", color=colour, label=label, markersize=4)
        for line in axes:
            line[column].grid(alpha=0.3)
            if line[column].lines:
                line[column].legend(frameon=False)
    axes[0, 0].set_ylabel("training loss")
    axes[0, 0].set_ylim(None, HIGHEST_LOSS)
    if lines == 2:
        axes[1, 0].set_ylabel("validation error")
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    main()

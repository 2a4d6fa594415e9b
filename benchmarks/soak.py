"""Kills trainings in a loop and compares what they come to, and watches a long one for what it does not give back.

    nice uv run python benchmarks/soak.py --plot docs/soak.png

Two parts, on synthetic data and tiny networks, on a CPU. The first kills (SIGKILL) trainings of every task, and of two
processes on gloo: before and after every file takes its place, and at random moments, and goes on with each of them
until its end; every tensor of `best.safetensors`, `last.safetensors` and `resume.pt` and every metric file is compared
with those of a run that nothing interrupted. The second trains for 5,000 steps with worker processes, and samples the
memory, the open files and the shared memory of all its processes. The exit code is 1 if anything differs or grows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Before torch: on tensors as small as these, threads cost more than they save, and sums depend on their number.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import psutil
import torch
import yaml
from run_process import start

from rehead.demo.synthetic import MASK_CLASSES, write_classification, write_scenes
from rehead.training.checkpoints import read_tensors
from rehead.training.resume import read_resume

PATIENCE = 180.0
"""Seconds after which a process that does not end is a failure: a machine that does other things too is slow."""

MiB = 1 << 20

COCO: dict[str, Any] = {
    "format": "coco",
    "train": {"images": "train", "annotations": "annotations/train.json"},
    "val": {"images": "val", "annotations": "annotations/val.json"},
}
MASKS: dict[str, Any] = {
    "format": "masks",
    "train": {"images": "train", "masks": "train_masks"},
    "val": {"images": "val", "masks": "val_masks"},
    "classes": list(MASK_CLASSES),
}
POINTS: dict[str, Any] = {
    "format": "coco",
    "train": {"images": "train", "annotations": "annotations/train_points.json"},
    "val": {"images": "val", "annotations": "annotations/val_points.json"},
}
RCNN = {"channels": 8, "representation": 16, "rpn_post_nms_train": 50, "rpn_post_nms_test": 50, "box_sampled": 32}

KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "classification": ("classification", {"format": "folders", "root": "shapes"}, {"name": "linear", "dropout": 0.1}),
    "multi-label": ("classification", COCO, {"name": "linear", "multi_label": True}),
    "detection": ("detection", COCO, {"name": "faster_rcnn", **RCNN}),
    "instance segmentation": (
        "instance_segmentation",
        COCO,
        {"name": "mask_rcnn", **RCNN, "mask_convs": 1, "mask_channels": 8, "detections": 10},
    ),
    "keypoints": (
        "keypoint_detection",
        POINTS,
        {"name": "keypoint_rcnn", **RCNN, "keypoint_convs": 1, "keypoint_channels": 8, "detections": 10},
    ),
    "semantic segmentation": ("segmentation", MASKS, {"name": "unet", "decoder_channels": [16, 8, 8, 8, 8]}),
    "two processes": ("segmentation", MASKS, {"name": "unet", "decoder_channels": [16, 8, 8, 8, 8]}),
}
"""By name: the task, its data and its head. The last one trains as two processes on gloo."""


@dataclass
class Tally:
    """What came of the kills of one kind.

    Attributes:
        kills: SIGKILLs that found the training alive.
        runs: that were killed, and then gone on with to their end.
        tensors: compared, of all these runs.
        differing: of these.
        files: metric files that differ.
        problems: what went wrong besides.
    """

    kills: int = 0
    runs: int = 0
    tensors: int = 0
    differing: int = 0
    files: int = 0
    problems: list[str] = field(default_factory=list)


def draw(root: Path) -> None:
    """The data of all kinds: single shapes in folders; scenes as COCO with and without keypoints, and as masks."""
    for split, count in (("train", 8), ("val", 4)):
        write_classification(root / "shapes", split, 12 if split == "train" else 6, size=32, seed=0)
        write_scenes(root / "scenes", split, count, size=64, seed=0)
        content = json.loads((root / f"scenes/annotations/{split}.json").read_text())
        for category in content["categories"]:
            category["keypoints"] = ["left", "right", "middle"]
        for one in content["annotations"]:
            x, y, w, h = one["bbox"]
            one["keypoints"] = [x, y, 2, x + w, y, 1, x + w / 2, y + h / 2, 2]
            one["num_keypoints"] = 3
        (root / f"scenes/annotations/{split}_points.json").write_text(json.dumps(content))


def config_of(kind: str, root: Path, out: Path, **train: Any) -> Path:
    """Writes the configuration of a run: everything random at once, an average, a best, checkpoints between epochs."""
    task, data, head = KINDS[kind]
    if data["format"] == "folders":
        data = {**data, "train": {"images": "train"}, "val": {"images": "val"}}
    config = {
        "task": task,
        "data": {
            **data,
            "root": str(root / data.get("root", "scenes")),
            "resize": {"height": 64, "width": 64},
            "augment": "light",
            "workers": 0,
        },
        "model": {"backbone": {"name": "resnet18", "weights": "none", "width": 8}, "head": head},
        "train": {
            "epochs": 2,
            "batch_size": 1,
            "accumulate": 1 if kind == "two processes" else 2,
            "log_every": 1,
            "checkpoint_every": 3,
            "pictures": 1,
            "precision": "fp32",
            "optimizer": {"lr": 0.01},
            "schedule": {"name": "cosine", "warmup_steps": 2},
            "ema": {"decay": 0.9},
            **train,
        },
        "device": "cpu",
        "out": str(out),
    }
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    return file


class Run:
    """A training in its own process, or in two."""

    def __init__(self, kind: str, log: Path, *arguments: object, die_at_rename: int | None = None) -> None:
        self.log = log
        environments: list[dict[str, str]] = [{}]
        if kind == "two processes":
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            environments = [{**meeting, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
        self.processes: list[BaseProcess] = [
            # The first process alone writes.
            start(log, "train", *arguments, die_at_rename=None if number else die_at_rename, environment=environment)
            for number, environment in enumerate(environments)
        ]

    def kill(self, rng: random.Random) -> bool:
        """Kills it, one process of it; whether that found it alive."""
        process = rng.choice(self.processes)
        alive = process.is_alive()
        process.kill()
        self.end()
        return alive and process.exitcode == -signal.SIGKILL

    def end(self) -> list[int | None]:
        """Waits for its end, and ends the others of a dead process as a launcher does; the exit codes.

        Raises:
            TimeoutError: if it does not end.
        """
        deadline = time.monotonic() + PATIENCE
        while any(one.is_alive() for one in self.processes):
            if any(one.exitcode not in (None, 0) for one in self.processes):
                time.sleep(0.2)
                for one in self.processes:
                    one.kill()
            if time.monotonic() > deadline:
                for one in self.processes:
                    one.kill()
                raise TimeoutError(f"no end after {PATIENCE:.0f} s: {self.log.read_text()[-500:]}")
            time.sleep(0.01)
        for one in self.processes:
            one.join()
        return [one.exitcode for one in self.processes]


def again(folder: Path, config: Path) -> list[str]:
    """What a training that was killed goes on with: its folder, or where it has none yet, its configuration."""
    return ["--resume", str(folder)] if (folder / "config.yaml").exists() else [str(config)]


def finish(kind: str, folder: Path, config: Path, log: Path) -> str:
    """Goes on with a killed run to its end; what went wrong, if something did."""
    codes = Run(kind, log, *again(folder, config)).end()
    return "" if set(codes) == {0} else f"exit codes {codes}: {log.read_text()[-1000:]}"


def compare(whole: Path, folder: Path, tally: Tally) -> None:
    """Adds to a tally what two runs have in common and what not."""
    tally.runs += 1
    for name in ("best.safetensors", "last.safetensors"):
        _compare_tensors(read_tensors(whole / name), read_tensors(folder / name), f"{folder}/{name}", tally)
    states = [dict(leaves(read_resume(one / "resume.pt"))) for one in (whole, folder)]
    for state in states:
        del state["metadata"]  # it says where the run is
    _compare_tensors(*states, f"{folder}/resume.pt", tally)
    for name in ("metrics.csv", "metrics.jsonl"):
        if (whole / name).read_bytes() != (folder / name).read_bytes():
            tally.files += 1
            tally.problems.append(f"{folder}/{name} differs")
    names = [sorted(path.name for path in one.iterdir()) for one in (whole, folder)]
    if names[0] != names[1]:
        tally.problems.append(f"{folder} holds {names[1]}, not {names[0]}")


def _compare_tensors(one: dict[str, Any], other: dict[str, Any], where: str, tally: Tally) -> None:
    for name in sorted({*one, *other}):
        tally.tensors += 1
        value, found = one.get(name), other.get(name)
        same = (
            isinstance(found, torch.Tensor) and torch.equal(value, found)
            if isinstance(value, torch.Tensor)
            else value == found
        )
        if not same:
            tally.differing += 1
            tally.problems.append(f"{where}: {name} differs")


def leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Everything in nested dicts and lists, by dotted name."""
    if isinstance(value, dict):
        for key, own in value.items():
            yield from leaves(own, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for place, own in enumerate(value):
            yield from leaves(own, f"{name}.{place}")
    else:
        yield name, value


def killed(
    kind: str, root: Path, work: Path, moments: range, random_kills: int, rng: random.Random, say: Callable[[str], None]
) -> Tally:
    """Kills runs of a kind, goes on with them, and compares.

    Args:
        kind: of `KINDS`.
        root: of the data.
        work: an empty folder.
        moments: at which files take their places (an even one before, an odd one after); each has a run of its own,
            until one is past the last file.
        random_kills: at least so many more at random moments, up to three in one run.
        rng: of the moments.
        say: what is going on.
    """
    tally = Tally()
    config = config_of(kind, root, work / "whole")
    log = work / "log"
    began = time.monotonic()
    codes = Run(kind, log, config).end()
    seconds = time.monotonic() - began
    if set(codes) != {0}:
        raise SystemExit(f"{kind}: {log.read_text()}")

    def checked(folder: Path, own: Path) -> None:
        problem = finish(kind, folder, own, log)
        if problem:
            tally.problems.append(f"{folder}: {problem}")
        else:
            compare(work / "whole", folder, tally)
        if not tally.problems:
            shutil.rmtree(folder)

    for moment in moments:
        folder = work / f"rename-{moment}"
        own = config_of(kind, root, folder)
        codes = Run(kind, log, own, die_at_rename=moment).end()
        if codes[0] == 0:
            shutil.rmtree(folder)
            break
        if codes[0] != -signal.SIGKILL:
            tally.problems.append(f"{folder}: exit codes {codes}: {log.read_text()[-1000:]}")
            break
        tally.kills += 1
        checked(folder, own)
    before = tally.kills
    say(f"{kind}: {before} kills at renames, {tally.differing} differing tensors, a run takes {seconds:.1f} s")
    number = 0
    while tally.kills < before + random_kills:
        folder = work / f"random-{number}"
        number += 1
        own = config_of(kind, root, folder)
        for _ in range(3):
            run = Run(kind, log, *again(folder, own), f"data.workers={rng.choice((0, 0, 1, 2))}")
            time.sleep(rng.uniform(0, seconds))
            if not run.kill(rng):
                break
            tally.kills += 1
        checked(folder, own)
    say(f"{kind}: {tally.kills} kills, {tally.tensors} tensors compared, {tally.differing} differing")
    for problem in tally.problems:
        say(f"  {problem}")
    return tally


@dataclass
class Sample:
    """What all processes of a training had at a step: bytes of memory and of shared memory, open files."""

    step: int
    memory: int
    files: int
    shared: int


def soaked(root: Path, work: Path, steps: int, say: Callable[[str], None]) -> list[Sample]:
    """Trains for so many steps with two workers, an evaluation every 25 epochs and a checkpoint every 100 steps."""
    often = {
        "batch_size": 2,
        "accumulate": 1,
        "epochs": 10_000,
        "max_steps": steps,
        "evaluate_every": 25,
        "checkpoint_every": 100,
        "log_every": 10,
    }
    config = config_of("detection", root, work / "soak", **often)
    log = work / "soak.log"
    run = Run("detection", log, config, "data.workers=2", "data.augment=strong")
    samples: list[Sample] = []
    process = psutil.Process(run.processes[0].pid)
    while run.processes[0].is_alive():
        time.sleep(1)
        step = _last_step(work / "soak/metrics.jsonl")
        if step is not None and (not samples or step > samples[-1].step):
            found = sample(process, step)
            if found is not None:
                samples.append(found)
                if len(samples) % 60 == 0:
                    say(f"step {step} of {steps}: {found.memory / MiB:.0f} MiB, {found.files} files")
    if set(run.end()) != {0}:
        raise SystemExit(f"the long run: {log.read_text()[-2000:]}")
    return samples


def sample(process: psutil.Process, step: int) -> Sample | None:
    """A process with its children; None while one of them is going."""
    memory = files = 0
    shared: dict[str, int] = {}
    try:
        for one in (process, *process.children(recursive=True)):
            memory += one.memory_full_info().uss
            files += one.num_fds()
            for line in Path(f"/proc/{one.pid}/maps").read_text().splitlines():
                parts = line.split(maxsplit=5)
                if len(parts) == 6 and parts[5].startswith("/dev/shm"):
                    first, last = (int(edge, 16) for edge in parts[0].split("-"))
                    shared[parts[4]] = last - first  # by inode: the processes share it
    except (psutil.Error, OSError):
        return None
    return Sample(step, memory, files, sum(shared.values()))


def _last_step(metrics: Path) -> int | None:
    try:
        return int(json.loads(metrics.read_text().splitlines()[-1])["step"])
    except (OSError, IndexError, ValueError):
        return None


def grown(samples: list[Sample], what: str) -> tuple[float, float, float]:
    """The mean of the second and of the last fifth of the steps, and how much that is in per cent of the former."""
    last = samples[-1].step
    fifths = [
        [getattr(one, what) for one in samples if last * first <= one.step <= last * end]
        for first, end in ((0.2, 0.4), (0.8, 1.0))
    ]
    before, after = (sum(values) / max(len(values), 1) for values in fifths)
    return before, after, 100 * (after - before) / max(before, 1)


def plot(samples: list[Sample], file: Path) -> None:
    """Draws the samples by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots(3, sharex=True)
    rows = (("memory", "memory, MiB", MiB), ("shared", "/dev/shm, MiB", MiB), ("files", "open files", 1))
    for axis, (what, label, unit) in zip(axes, rows, strict=True):
        axis.plot([one.step for one in samples], [getattr(one, what) / unit for one in samples], linewidth=1)
        axis.set_ylim(0, 1.15 * max(getattr(one, what) / unit for one in samples))
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    figure.savefig(file, dpi=80)


def main() -> int:
    """Runs both parts and prints their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), help="what is killed")
    parser.add_argument("--renames", type=int, default=1000, help="moments at renames, at most, of each kind")
    parser.add_argument("--random-kills", type=int, default=6, help="further kills of each kind")
    parser.add_argument("--steps", type=int, default=5000, help="of the long run; 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--plot", type=Path, help="draw the long run to this file")
    parser.add_argument("--work", type=Path, help="folder for the runs, which is kept; a temporary one unless given")
    options = parser.parse_args()

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True)

    work = options.work or Path(tempfile.mkdtemp(prefix="soak-"))
    work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("REHEAD_CACHE", str(work / "cache"))
    root = work / "data"
    draw(root)
    start(work / "log", "train", "none").join()  # imports torch, which is no part of a run's time
    tallies = {}
    for kind in options.kinds:
        own = work / kind.replace(" ", "_")
        own.mkdir()
        rng = random.Random(f"{options.seed} {kind}")
        tallies[kind] = killed(kind, root, own, range(options.renames), options.random_kills, rng, say)
    bad = any(one.differing or one.files or one.problems for one in tallies.values())
    if tallies:
        print("| task | kills | runs gone on with | tensors compared | differing |\n| --- | --- | --- | --- | --- |")
        sums = [0, 0, 0, 0]
        for kind, one in tallies.items():
            counts = [one.kills, one.runs, one.tensors, one.differing]
            sums = [total + count for total, count in zip(sums, counts, strict=True)]
            print(f"| {kind} | {' | '.join(map(str, counts))} |")
        print(f"| all | {' | '.join(map(str, sums))} |\n")
    if options.steps:
        samples = soaked(root, work, options.steps, say)
        print("| | steps 20 to 40 % | steps 80 to 100 % | change |\n| --- | --- | --- | --- |")
        for what, label, unit in (
            ("memory", "memory, MiB", MiB),
            ("shared", "/dev/shm, MiB", MiB),
            ("files", "open files", 1),
        ):
            before, after, percent = grown(samples, what)
            bad = bad or percent > 5
            print(f"| {label} | {before / unit:.1f} | {after / unit:.1f} | {percent:+.1f} % |")
        print(f"\n{samples[-1].step} steps, {len(samples)} samples")
        if options.plot is not None:
            plot(samples, options.plot)
    if options.work is None and not bad:
        shutil.rmtree(work)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())

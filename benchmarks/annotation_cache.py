"""The annotation cache beside pycocotools, at the size of COCO's training set.

    uv run python benchmarks/annotation_cache.py

Writes an instances file of 118,000 images and 860,000 annotations (400 MB) in a temporary folder and measures, each
in a process of its own and in turns: opening it by `pycocotools.COCO`, by the reader the first time (parsing it
into the cache) and again (mapping what the cache has), imports apart; and the private memory of two loader
workers that have gone through every image's annotation, above that of workers on an empty data set.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, ANNOTATIONS, CATEGORIES = 118_000, 860_000, 80
SEGMENTATION_NUMBERS = 46
"""On average, which makes 400 MB."""


def generate(path: Path, images: int, annotations: int) -> None:
    """Writes an instances file of the size and the shape of COCO's."""
    rng = np.random.default_rng(0)
    listed = [{"id": 7 * i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640} for i in range(images)]
    lengths = 2 * rng.integers(3, SEGMENTATION_NUMBERS - 3, annotations)
    numbers = rng.uniform(0, 640, 100_000).round(2)
    rows = zip(
        rng.integers(0, images, annotations).tolist(),
        rng.integers(1, CATEGORIES + 1, annotations).tolist(),
        rng.uniform(1, 300, (annotations, 4)).round(2).tolist(),
        rng.integers(0, len(numbers) - SEGMENTATION_NUMBERS * 2, annotations).tolist(),
        lengths.tolist(),
        strict=True,
    )
    with path.open("w") as file:
        file.write(f'{{"images": {json.dumps(listed)}, "annotations": [')
        for number, (image, category, box, start, length) in enumerate(rows):
            entry = {
                "segmentation": [numbers[start : start + length].tolist()],
                "area": box[2] * box[3],
                "iscrowd": 0,
                "image_id": 7 * image,
                "bbox": box,
                "category_id": category,
                "id": number,
            }
            file.write(f"{', ' if number else ''}{json.dumps(entry)}")
        categories = [{"id": i, "name": f"class {i}"} for i in range(1, CATEGORIES + 1)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def reader(root: str, name: str) -> Any:
    """The file's reader."""
    from rehead.configs.readers import CocoSplit
    from rehead.datasets.formats.coco import CocoReader

    return CocoReader(CocoSplit(images=".", annotations=name), Path(root))


def timed(kind: str, root: str) -> float:
    """Seconds that opening takes, without the imports."""
    if kind == "pycocotools":
        from pycocotools.coco import COCO

        start = time.perf_counter()
        COCO(f"{root}/train.json")
        return time.perf_counter() - start
    # Of another file, so that all is imported.
    reader(root, "empty.json")
    start = time.perf_counter()
    reader(root, "train.json")
    return time.perf_counter() - start


def private_mb() -> float:
    """Memory of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class Annotations:
    """A data set whose samples are annotations; each tells the worker's private memory."""

    def __init__(self, kind: str, root: str, name: str) -> None:
        if kind == "pycocotools":
            from pycocotools.coco import COCO

            self.coco = COCO(f"{root}/{name}")
            self.ids = list(self.coco.imgs)
        else:
            self.reader = reader(root, name)
        self.kind = kind

    def __len__(self) -> int:
        return len(self.ids) if self.kind == "pycocotools" else len(self.reader)

    def __getitem__(self, index: int) -> float:
        if self.kind == "pycocotools":
            annotations = self.coco.loadAnns(self.coco.getAnnIds(self.ids[index]))
            np.array([annotation["bbox"] for annotation in annotations], np.float32)
        else:
            sample = self.reader[index]
            assert sample.boxes is not None
        # Seldom: reading it takes longer than an annotation.
        return private_mb() if index % 500 >= 498 or index >= len(self) - 2 else 0.0


def worker_mb(kind: str, root: str, name: str, method: str) -> float:
    """The largest private memory of two workers after an epoch."""
    from torch.utils.data import DataLoader

    multiprocessing.set_start_method(method, force=True)
    data: Any = Annotations(kind, root, name)
    loader = DataLoader(data, batch_size=None, num_workers=2, collate_fn=float)
    return max(loader)


def measure(*arguments: str) -> float:
    """A figure from a process of its own."""
    command = [sys.executable, __file__, "--one", *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measures and prints a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the file, below 1 for trying out")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, *rest = options.one
        print(timed(*rest) if what == "time" else worker_mb(*rest))
        return
    with tempfile.TemporaryDirectory() as root:
        os.environ["REHEAD_CACHE"] = f"{root}/cache"
        path = Path(root) / "train.json"
        generate(path, round(IMAGES * options.scale), round(ANNOTATIONS * options.scale))
        generate(Path(root) / "empty.json", 2, 0)
        time.sleep(3)  # what has just changed is not kept
        print(f"{path.stat().st_size / 1e6:.0f} MB of JSON")
        seconds: dict[str, list[float]] = {"pycocotools": [], "first opening": [], "second opening": []}
        for _ in range(options.rounds):
            seconds["pycocotools"].append(measure("time", "pycocotools", root))
            shutil.rmtree(f"{root}/cache", ignore_errors=True)
            seconds["first opening"].append(measure("time", "cache", root))
            seconds["second opening"].append(measure("time", "cache", root))
        base = statistics.median(seconds["pycocotools"])
        for kind, values in seconds.items():
            middle = statistics.median(values)
            print(f"{kind:15} {middle:9.4f} s   {base / middle:8.1f} x pycocotools")
        (kept,) = (file for file in Path(root, "cache/annotations").iterdir() if file.stat().st_size > 100_000)
        print(f"on disk {kept.stat().st_size / 1e6:.0f} MB")
        for method in ("fork", "spawn"):
            for kind in ("pycocotools", "cache"):
                empty, full = (measure("memory", kind, root, name, method) for name in ("empty.json", "train.json"))
                print(
                    f"worker, {method}, {kind:11} {full:6.0f} MB private, {full - empty:+7.1f} MB beside an empty one"
                )


if __name__ == "__main__":
    main()

"""COCO's twelve figures beside pycocotools and faster-coco-eval, at the size of COCO's validation set.

    uv run --with faster-coco-eval python benchmarks/evaluation.py

5,000 images, 80 classes, 33,000 objects and 500,000 detections, drawn: most detections are an object's box, moved a
little, the others anywhere. From the JSON files to the figures, each in a process of its own and in turns, imports
apart. Whoever is installed is measured; the figures must be equal.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, OBJECTS, DETECTIONS, CLASSES = 5_000, 33_000, 500_000, 80
MASK_SIZE = (480, 640)
PEERS = {"pycocotools": "pycocotools", "faster-coco-eval": "faster_coco_eval", "rehead": "rehead"}


def boxes(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """(N, 4) xywh in an image of 480x640, small ones more often than large ones."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    return np.concatenate([rng.uniform(0, [600, 440], (count, 2)), sides], 1).clip(0, [639, 479, 300, 300]).round(2)


def write(root: Path, scale: float, kind: str) -> None:
    """A ground truth and results."""
    rng = np.random.default_rng(0)
    images, objects, detections = (max(1, round(count * scale)) for count in (IMAGES, OBJECTS, DETECTIONS))
    truth_boxes = boxes(rng, objects)
    where, what = rng.integers(0, images, objects), rng.integers(0, CLASSES, objects)
    of = rng.integers(0, objects, detections)
    near = rng.random(detections) < 0.5
    moved = truth_boxes[of] * rng.uniform(0.85, 1.15, (detections, 4))
    found = np.where(near[:, None], moved, boxes(rng, detections)).round(2)
    category = np.where(near, what[of], rng.integers(0, CLASSES, detections))
    score = (rng.random(detections) * np.where(near, 1, 0.6)).round(4)

    def shape(box: np.ndarray[Any, Any]) -> dict[str, Any]:
        from pycocotools import mask

        x, y, w, h = box.tolist()
        ring = [x, y + h / 2, x + w / 4, y, x + w, y + h / 3, x + 0.8 * w, y + h, x + w / 3, y + 0.9 * h]
        encoded: Any = mask.merge(mask.frPyObjects([ring], *MASK_SIZE))
        return {"size": list(MASK_SIZE), "counts": encoded["counts"].decode()}

    def compared(box: np.ndarray[Any, Any]) -> dict[str, Any]:
        return {"bbox": box.tolist()} if kind == "bbox" else {"segmentation": shape(box)}

    annotations = [
        {"id": n + 1, "image_id": int(where[n]), "category_id": int(what[n]), "iscrowd": int(n % 100 == 0)}
        | {"area": float(box[2] * box[3]), "bbox": box.tolist(), **compared(box)}
        for n, box in enumerate(truth_boxes)
    ]
    results = [
        {"image_id": int(where[of[n]]), "category_id": int(category[n]), "score": float(score[n]), **compared(box)}
        for n, box in enumerate(found)
    ]
    listed = [{"id": n, "height": MASK_SIZE[0], "width": MASK_SIZE[1]} for n in range(images)]
    categories = [{"id": n, "name": f"class {n}"} for n in range(CLASSES)]
    truth = {"images": listed, "annotations": annotations, "categories": categories}
    (root / "truth.json").write_text(json.dumps(truth))
    (root / "results.json").write_text(json.dumps(results))


def judged(peer: str, truth: str, results: str, kind: Any) -> tuple[float, list[float]]:
    """Seconds, and the twelve figures."""
    if peer == "rehead":
        from rehead.evaluation.coco import coco_metrics

        start = time.perf_counter()
        figures = list(coco_metrics(Path(truth), Path(results), kind).values())
        return time.perf_counter() - start, figures
    if peer == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    start = time.perf_counter()
    known = COCO(truth)
    evaluation = COCOeval(known, known.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return time.perf_counter() - start, [float(value) for value in evaluation.stats[:12]]


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="bbox", choices=["bbox", "segm"])
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of images, objects and detections")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(judged(*given.one)))
        return
    peers = [name for name, module in PEERS.items() if importlib.util.find_spec(module)]
    seconds: dict[str, list[float]] = {peer: [] for peer in peers}
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given.scale, given.kind)
        for _ in range(given.rounds):
            for peer in peers:
                command = [sys.executable, __file__, "--one", peer, f"{folder}/truth.json", f"{folder}/results.json"]
                done = subprocess.run([*command, given.kind], check=True, capture_output=True, text=True)
                taken, figures[peer] = json.loads(done.stdout.splitlines()[-1])
                seconds[peer].append(taken)
    base = statistics.median(seconds["pycocotools"])
    print(f"{given.kind}, AP {figures['rehead'][0]:.4f}")
    print("| | s | ratio | largest difference of a figure |\n| --- | --- | --- | --- |")
    for peer in peers:
        middle = statistics.median(seconds[peer])
        off = max(abs(a - b) for a, b in zip(figures[peer], figures["pycocotools"], strict=True))
        print(f"| {peer} | {middle:.2f} | {base / middle:.1f}x | {off:.1e} |")


if __name__ == "__main__":
    main()

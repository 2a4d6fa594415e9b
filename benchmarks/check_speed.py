"""The check beside a loop that decodes the same files and does nothing else.

    uv run python benchmarks/check_speed.py

Draws 1,000 JPEGs of 640 x 480 pixels in a temporary folder (or as many as `--images` says) with a COCO file of three
boxes each, and measures in turns: `cv2.imread` in as many processes as `--processes` says, their start apart, and the
whole of `rehead data check`'s work on as many cores, from opening the annotations to the last finding, the start of its
threads or processes included. Prints images per second of both and their ratio; 1 or more means that the check keeps up
with the decoder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from rehead.datasets.audit.run import check_data


def draw(path: Path, seed: int) -> None:
    """Writes one JPEG of 640 x 480: as many bytes as a photograph of that size, and no two alike."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    noise = cv2.resize(rng.normal(0, 25, (240, 320, 3)), (640, 480), interpolation=cv2.INTER_LINEAR)
    cv2.imwrite(str(path), np.clip(coarse + noise, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 88])


def write(root: Path, count: int) -> list[Path]:
    """Writes the data set."""
    (root / "train").mkdir()
    paths = [root / "train" / f"{number:06d}.jpg" for number in range(count)]
    images, annotations = [], []
    for number, path in enumerate(paths):
        draw(path, number)
        images.append({"id": number, "file_name": path.name, "height": 480, "width": 640})
        for place in range(3):
            box = [20 + 200 * place, 30, 100, 200]
            row = {"id": 3 * number + place, "image_id": number, "category_id": 1, "bbox": box, "area": 20000}
            annotations.append({**row, "iscrowd": 0})
    whole = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "train.json").write_text(json.dumps(whole))
    return paths


def decode(path: Path) -> int:
    """Decodes a file, as plainly as can be."""
    image = cv2.imread(str(path))
    assert image is not None
    return len(image)


def bare(pool: ProcessPoolExecutor, paths: list[Path]) -> float:
    """Seconds of decoding every file."""
    start = time.perf_counter()
    assert sum(pool.map(decode, paths, chunksize=16)) == 480 * len(paths)
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REHEAD_CACHE"] = f"{folder}/cache"
        data = Path(folder) / "data"
        data.mkdir()
        paths = write(data, arguments.images)
        size = sum(path.stat().st_size for path in paths) / len(paths) / 1024
        print(f"{len(paths)} images of {size:.0f} KiB, {arguments.processes} processes")
        context = multiprocessing.get_context("spawn")
        ratios = []
        with ProcessPoolExecutor(arguments.processes, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            bare(pool, paths)  # starts the processes, and reads the files into the system's cache
            for number in range(arguments.rounds):
                before = bare(pool, paths)
                start = time.perf_counter()
                checked = check_data(data, workers=arguments.processes)
                own = time.perf_counter() - start
                assert len(checked.facts[0]) == len(paths)
                assert not checked.findings.errors
                after = bare(pool, paths)
                # What else the machine does falls on both.
                loop = (before + after) / 2
                ratios.append(loop / own)
                print(
                    f"round {number + 1}: loop {len(paths) / loop:.0f} images/s, check {len(paths) / own:.0f} "
                    f"images/s, ratio {ratios[-1]:.2f}",
                    flush=True,
                )
        print(f"the check at {statistics.median(ratios):.2f} of the decoder's rate (median of {len(ratios)} rounds)")


if __name__ == "__main__":
    main()

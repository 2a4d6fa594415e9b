"""From JPEG files to training batches, beside torchvision's reference pipeline.

    uv run python benchmarks/input_pipeline.py [FOLDER OF PHOTOGRAPHS]

Both sides read the same JPEGs (quality 90) through a COCO file of the same boxes, mirror half of them, resize them to a
random shorter side of 480 to 800 pixels (the longer at most 1333) and batch four, padded to one size:

- torchvision as its detection references have it (references/detection/presets.py, `multiscale` without colours):
  `CocoDetection`, Pillow's decoder, `RandomShortestSize`, `RandomHorizontalFlip`, `ToImage`, `ToDtype(float32)`,
  `Normalize`; with backend `pil`, their default, and with backend `tensor`, which resizes a tensor.
- rehead's own reader and `make_loader`, as in a training with `augment: [multi_scale, HorizontalFlip]`: with
  reduced decoding, the default, and without. It gives bytes, which the model normalises on its device: the last row
  adds that, on this CPU and in the process that reads the loader.

Photographs of 640x480 are those of the folder, resized; those of 1920x1440 show four of them each. Without a
folder they are drawn. Every figure comes from a process of its own, in turns; one process (no workers) and two workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

BATCH = 4
SIZES = {"640 px": (480, 640), "1920 px": (1440, 1920)}
FILES = {"640 px": 64, "1920 px": 24}
BOXES = 7
"""Per image, as in COCO."""
SHORTER, LONGER = (480, 800), 1333
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BASE = "torchvision, pil"
KINDS = (BASE, "torchvision, tensor", "rehead, decoded fully", "rehead", "rehead, normalised")


def photographs(folder: Path | None, count: int) -> list[np.ndarray[Any, Any]]:
    """Landscape images of 640x480, from a folder or drawn."""
    height, width = SIZES["640 px"]
    found: list[np.ndarray[Any, Any]] = []
    for path in sorted(folder.rglob("*.jpg")) if folder else ():
        image = cv2.imread(str(path))
        if image is not None and image.shape[1] > image.shape[0] >= 400:
            found.append(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        if len(found) == count:
            return found
    if folder:
        raise SystemExit(f"{folder}: {len(found)} landscape photographs (*.jpg) of 400 pixels and more, need {count}")
    from rehead.demo.synthetic import draw_scene

    rng = np.random.default_rng(0)
    return [cv2.resize(draw_scene(rng, width).image[:height], (width, height)) for _ in range(count)]


def write(root: Path, name: str, images: list[np.ndarray[Any, Any]]) -> None:
    """Writes a folder of JPEGs and its COCO file."""
    rng = np.random.default_rng(0)
    (root / name).mkdir()
    height, width = SIZES[name]
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(FILES[name]):
        image = images[number % len(images)]
        if name == "1920 px":
            # Enlarged by half, they are about as sharp as a camera's: 0.2 bytes a pixel.
            four = [images[(4 * number + place) % len(images)] for place in range(4)]
            four = [cv2.resize(one, (width // 2, height // 2), interpolation=cv2.INTER_CUBIC) for one in four]
            image = np.vstack([np.hstack(four[:2]), np.hstack(four[2:])])
        cv2.imwrite(str(root / name / f"{number}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        entries.append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
        for _ in range(BOXES):
            w, h = rng.uniform(10, 0.5 * width), rng.uniform(10, 0.5 * height)
            box = [rng.uniform(0, width - w), rng.uniform(0, height - h), w, h]
            about = {"category_id": 1 + len(annotations) % 80, "bbox": box, "area": w * h, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **about})
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (root / f"{name}.json").write_text(json.dumps(content))


def torchvision_loader(root: Path, name: str, backend: str, batches: int, workers: int) -> Iterable[Any]:
    """The reference's data set and transforms, and batches as its models make them."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    shorter = list(range(SHORTER[0], SHORTER[1] + 1, 32))
    data = CocoDetection(
        root / name,
        root / f"{name}.json",
        transforms=v2.Compose(
            [
                *([v2.PILToTensor()] if backend == "tensor" else []),
                v2.RandomShortestSize(shorter, LONGER),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
                v2.SanitizeBoundingBoxes(),
                v2.ToPureTensor(),
            ]
        ),
    )

    def padded(items: list[Any]) -> Any:
        height, width = (max(image.shape[axis] for image, _ in items) for axis in (1, 2))
        batch = torch.zeros(len(items), 3, height, width)
        for place, (image, _) in zip(batch, items, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        return batch, [target for _, target in items]

    wrapped = wrap_dataset_for_transforms_v2(data, target_keys=["boxes", "labels"])
    return DataLoader(wrapped, num_workers=workers, collate_fn=padded, batch_sampler=order(name, batches))


def rehead_loader(root: Path, name: str, kind: str, batches: int, workers: int) -> Iterable[Any]:
    """The loader of a training."""
    from rehead.configs.augment import step_options
    from rehead.configs.readers import CocoSplit
    from rehead.configs.resize import ResizeOptions
    from rehead.data.loader import make_loader
    from rehead.data.sampler import Key
    from rehead.data.transforms.augment import Augment
    from rehead.data.transforms.resize import Resize
    from rehead.data.transforms.steps import AugmentContext
    from rehead.datasets.formats.coco import CocoReader

    middle = sum(SHORTER) // 2
    resize = Resize(ResizeOptions(shorter=middle, longer=round(LONGER * middle / SHORTER[1])))
    scale = [side / middle for side in SHORTER]
    steps = [step_options({"name": "multi_scale", "scale": scale}), step_options({"name": "HorizontalFlip"})]
    reader = CocoReader(CocoSplit(images=name, annotations=f"{name}.json"), root)
    return make_loader(
        reader,
        resize=resize,
        augment=Augment(steps, AugmentContext("detection", resize), reduced=kind != "rehead, decoded fully"),
        batches=[[Key(0, index) for index in batch] for batch in order(name, batches)],
        workers=workers,
    )


def order(name: str, batches: int) -> list[list[int]]:
    """Every image in turn, as often as it takes."""
    return [[(BATCH * batch + place) % FILES[name] for place in range(BATCH)] for batch in range(batches)]


def images_per_second(root: str, name: str, kind: str, workers: int, batches: int) -> float:
    """From the batch after the first few on, so that nothing is measured of how processes start."""
    import torch

    warm = 2 + 2 * workers
    if kind.startswith("torchvision"):
        loader = torchvision_loader(Path(root), name, kind.split()[-1], warm + batches, workers)
    else:
        loader = rehead_loader(Path(root), name, kind, warm + batches, workers)
    shift, scale = (torch.tensor(values).mul(255).view(-1, 1, 1) for values in (MEAN, STD))
    arriving: Iterator[Any] = iter(loader)
    for _ in range(warm):
        next(arriving)
    start = time.perf_counter()
    for images, _ in arriving:
        if kind == "rehead, normalised":
            images.pixels.float().sub_(shift).div_(scale)
    return batches * BATCH / (time.perf_counter() - start)


def measure(*arguments: object) -> float:
    """A figure from a process of its own."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    threads = {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **threads})
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measures and prints a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of photographs, such as those of COCO")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40, help="of 640 px that a round times; a quarter of 1920 px")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        root, name, kind, workers, batches = options.one
        print(images_per_second(root, name, kind, int(workers), int(batches)))
        return
    with tempfile.TemporaryDirectory() as root:
        os.environ["REHEAD_CACHE"] = f"{root}/cache"
        images = photographs(options.folder, FILES["640 px"])
        for name in SIZES:
            write(Path(root), name, images)
        time.sleep(3)  # the annotation store does not keep what has just changed
        cases = [(name, workers) for name in SIZES for workers in (0, 2)]
        figures: dict[tuple[str, int, str], list[float]] = {}
        for _ in range(options.rounds):
            for name, workers in cases:
                batches = options.batches // (1 if name == "640 px" else 4)
                for kind in KINDS:
                    found = measure(root, name, kind, workers, batches)
                    figures.setdefault((name, workers, kind), []).append(found)
        print("images/s, and times " + BASE)
        print(" " * 22 + "".join(f"{f'{name}, {workers or 1} proc.':>22}" for name, workers in cases))
        for kind in KINDS:
            middle = [statistics.median(figures[name, workers, kind]) for name, workers in cases]
            base = [statistics.median(figures[name, workers, BASE]) for name, workers in cases]
            row = "".join(f"{found:13.0f} {found / of:7.1f}x" for found, of in zip(middle, base, strict=True))
            print(f"{kind:22}{row}")


if __name__ == "__main__":
    main()

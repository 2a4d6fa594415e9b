"""Small data sets for the check: whole ones in every format, and one to break."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rehead.configs.readers import CocoSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.run import check_data
from rehead.datasets.open import open_reader
from rehead.datasets.write import write

SIZE = (30, 40)
STEMS = {"train": ["a", "b", "c"], "val": ["d", "e"]}


def noise(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray[Any, Any]:
    """(H, W, 3) uint8: no two seeds are alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1]))


def write_images(root: Path, suffix: str = ".png") -> None:
    for split, stems in STEMS.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            Image.fromarray(noise(ord(stem))).save(root / split / f"{stem}{suffix}")


def annotation(number: int, image: int, x: float = 5, **others: Any) -> dict[str, Any]:
    y, w, h = 4, 20, 10
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    row = {"id": number, "image_id": image, "category_id": 1 + number % 2, "bbox": [x, y, w, h], "area": w * h}
    return {**row, "iscrowd": 0, "segmentation": [corners], **others}


def content(split: str, suffix: str = ".png") -> dict[str, Any]:
    """Two objects on every image, one of each class."""
    images = [
        {"id": number, "file_name": f"{stem}{suffix}", "height": SIZE[0], "width": SIZE[1]}
        for number, stem in enumerate(STEMS[split], start=1)
    ]
    annotations = [annotation(2 * i["id"] + place, i["id"], 5 + 9 * place) for i in images for place in (0, 1)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def save(root: Path, split: str, what: Mapping[str, Any]) -> None:
    (root / f"{split}.json").write_text(json.dumps(what))


def write_coco(root: Path, suffix: str = ".png") -> Path:
    write_images(root, suffix)
    for split in STEMS:
        save(root, split, content(split, suffix))
    return root


def write_masks(root: Path, values: tuple[int, ...] = (0, 1, 2)) -> Path:
    write_images(root)
    for split, stems in STEMS.items():
        (root / f"{split}_masks").mkdir()
        for stem in stems:
            mask = np.zeros(SIZE, np.uint8)
            for place, value in enumerate(values):
                mask[:, 10 * place :] = value
            Image.fromarray(mask).save(root / f"{split}_masks" / f"{stem}.png")
    return root


def write_format(name: str, root: Path) -> Path:
    """The same content in a format."""
    if name == "coco":
        return write_coco(root)
    if name in ("voc", "yolo"):
        source = write_coco(root / "source")
        splits = {split: CocoSplit(images=split, annotations=f"{split}.json") for split in STEMS}
        data = DataOptions(format="coco", root=str(source), **splits)
        write({split: open_reader(data, split) for split in STEMS}, name, root / "written")
        return root / "written"
    if name == "masks":
        return write_masks(root)
    write_images(root)
    if name == "folders":
        for split, stems in STEMS.items():
            for number, stem in enumerate(stems[:2]):
                (root / "classes" / split / f"class{number}").mkdir(parents=True)
                (root / split / f"{stem}.png").rename(root / "classes" / split / f"class{number}" / f"{stem}.png")
        return root / "classes"
    for split in STEMS:
        whole = content(split)
        names = {image["id"]: image["file_name"] for image in whole["images"]}
        if name == "csv":
            with (root / f"{split}.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["filename", "class", "xmin", "ymin", "xmax", "ymax"])
                for one in whole["annotations"]:
                    x, y, w, h = one["bbox"]
                    table.writerow([names[one["image_id"]], f"c{one['category_id']}", x, y, x + w, y + h])
        elif name == "via":
            entries = {
                file: {
                    "filename": file,
                    "regions": [
                        {
                            "shape_attributes": _rectangle(*one["bbox"]),
                            "region_attributes": {"class": f"c{one['category_id']}"},
                        }
                        for one in whole["annotations"]
                        if one["image_id"] == number
                    ],
                }
                for number, file in names.items()
            }
            (root / f"{split}.json").write_text(json.dumps(entries))
        elif name == "instance_masks":
            (root / f"{split}_masks").mkdir()
            for number, stem in enumerate(STEMS[split]):
                mask = np.zeros(SIZE, np.uint8)
                for value in range(1, 3 + number):
                    mask[3:20, 8 * value : 8 * value + 6] = value
                Image.fromarray(mask).save(root / f"{split}_masks" / f"{stem}.png")
    return root


def _rectangle(x: float, y: float, w: float, h: float) -> dict[str, Any]:
    return {"name": "rect", "x": x, "y": y, "width": w, "height": h}


def codes(source: Path, overrides: Mapping[str, Any] | None = None) -> Counter[str]:
    """How often each code is found."""
    return Counter(one.code for one in check_data(source, overrides).findings)

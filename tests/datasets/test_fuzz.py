"""No file may end in a traceback: what is mutated is read right, or refused by name.

Hypothesis changes a good file of every format, in bytes and in tokens, without a random seed: a few seconds of it run
by default, and more as `slow`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hostile import CHANGES, SETTINGS, mutated
from hypothesis import given, settings
from PIL import Image

from rehead.configs.readers import (
    CocoSplit,
    CsvSplit,
    InstanceMasksSplit,
    MasksSplit,
    SplitOptions,
    ViaSplit,
    VocSplit,
    YoloSplit,
)
from rehead.configs.schema import DataOptions
from rehead.data.image_io import channels_in, image_size, read_image
from rehead.datasets.audit.before_training import refuse_broken
from rehead.datasets.audit.run import check_data
from rehead.datasets.detect_format import detect_format
from rehead.datasets.mask_values import read_mask
from rehead.datasets.open import open_reader
from rehead.errors import DataError, ReheadError

FEW, MANY = 60, 300
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def coco(root: Path) -> tuple[str, SplitOptions]:
    polygon = [2, 3, 12, 3, 12, 11, 2, 11]
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 32, "height": 24},
            {"id": 2, "file_name": "in/b.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 8], "segmentation": [polygon], "area": 80},
            {
                "id": 2,
                "image_id": 2,
                "category_id": 3,
                "bbox": [0, 0, 4, 2.5],
                "segmentation": {"size": [24, 32], "counts": [0, 30, 738]},
                "iscrowd": 1,
            },
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    (root / "a.json").write_text(json.dumps(content))
    return "a.json", CocoSplit(images="images", annotations="a.json")


def keypoints(root: Path) -> tuple[str, SplitOptions]:
    category = {"id": 1, "name": "cat", "keypoints": ["left_ear", "right_ear"], "skeleton": [[1, 2]]}
    one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 8], "keypoints": [3, 4, 2, 5, 6, 1]}
    image = {"id": 1, "file_name": "a.png", "width": 32, "height": 24}
    (root / "k.json").write_text(json.dumps({"images": [image], "annotations": [one], "categories": [category]}))
    return "k.json", CocoSplit(images="images", annotations="k.json")


def via(root: Path) -> tuple[str, SplitOptions]:
    shapes = [
        {"name": "polygon", "all_points_x": [2, 12, 12], "all_points_y": [3, 3, 11]},
        {"name": "rect", "x": 2, "y": 3, "width": 10, "height": 8},
        {"name": "ellipse", "cx": 12, "cy": 11, "rx": 4, "ry": 3, "theta": 0.5},
    ]
    regions = [{"shape_attributes": shape, "region_attributes": {"class": {"cat": True}}} for shape in shapes]
    content = {"_via_img_metadata": {"a": {"filename": "a.png", "size": 9, "regions": regions}}}
    (root / "v.json").write_text(json.dumps(content))
    return "v.json", ViaSplit(images="images", annotations="v.json")


def csv(root: Path) -> tuple[str, SplitOptions]:
    lines = [
        "filename,width,height,class,xmin,ymin,xmax,ymax",
        "a.png,32,24,cat,2,3,12,11",
        'in/b.png,,,"a, b",1,1,3,3',
    ]
    (root / "b.csv").write_text("\n".join(lines))
    return "b.csv", CsvSplit(images="images", annotations="b.csv")


def voc(root: Path) -> tuple[str, SplitOptions]:
    (root / "xml").mkdir()
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>11</ymax></bndbox>"
    things = f"<object><name>cat</name><difficult>0</difficult>{box}</object>" * 2
    size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
    text = f"<?xml version='1.0' encoding='UTF-8'?>\n<annotation><filename>a.png</filename>{size}{things}</annotation>"
    (root / "xml/a.xml").write_text(text)
    return "xml/a.xml", VocSplit(images="images", annotations="xml")


def yolo(root: Path) -> tuple[str, SplitOptions]:
    (root / "labels").mkdir()
    (root / "data.yaml").write_text("names: [cat, dog]\ntrain: images\n")
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.9 0.1 0.9 0.9\n")
    return "labels/a.txt", YoloSplit(images="images")


def yolo_yaml(root: Path) -> tuple[str, SplitOptions]:
    yolo(root)
    text = "path: .\ntrain: images\nval: images\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\nnames:\n  0: cat\n  1: dog\n"
    (root / "data.yaml").write_text(text)
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.25 0.25 0.4 0.4 2 0.6 0.6 1\n")
    return "data.yaml", YoloSplit(images="images")


def yolo_list(root: Path) -> tuple[str, SplitOptions]:
    yolo(root)
    (root / "list.txt").write_text("images/a.png\n./images/in/b.png\n")
    return "list.txt", YoloSplit(images="list.txt")


def masks(root: Path) -> tuple[str, SplitOptions]:
    _maps(root)
    return "masks/a.png", MasksSplit(images="images", masks="masks")


def numbered(root: Path) -> tuple[str, SplitOptions]:
    _maps(root)
    return "masks/a.png", InstanceMasksSplit(images="images", masks="masks")


def _maps(root: Path) -> None:
    for name in ("a", "in/b"):
        (root / f"masks/{name}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PICTURE[:, :, 0] % 3).save(root / f"masks/{name}.png")


FORMATS: dict[str, tuple[str, Callable[[Path], tuple[str, SplitOptions]]]] = {
    "coco": ("coco", coco),
    "keypoints": ("coco", keypoints),
    "via": ("via", via),
    "csv": ("csv", csv),
    "voc": ("voc", voc),
    "yolo": ("yolo", yolo),
    "yolo's data.yaml": ("yolo", yolo_yaml),
    "yolo's list": ("yolo", yolo_list),
    "masks": ("masks", masks),
    "instance_masks": ("instance_masks", numbered),
}


def use(root: Path, form: str, split: SplitOptions) -> None:
    """Everything that a training or a check asks of annotations; what they give must make sense."""
    more = {"classes": ["x", "y", "z"]} if form == "masks" else {}
    task = "segmentation" if form == "masks" else "instance_segmentation"
    reader = open_reader(DataOptions(format=form, root=str(root), train=split, **more), "train", task=task)
    reader.masks = form in ("coco", "via", "yolo", "instance_masks")
    try:
        refuse_broken(reader, "data.train", {task}, learn=True)
    except DataError:
        reader.masks = False
    for row in range(len(reader)):
        annotation = reader[row]
        if annotation.boxes is not None:
            assert annotation.labels is not None
            assert np.isfinite(annotation.boxes).all()
            assert ((annotation.labels >= 0) & (annotation.labels < len(reader.classes))).all()
            assert (annotation.boxes[:, 2:] >= annotation.boxes[:, :2]).all()
        if annotation.keypoints is not None:
            assert np.isfinite(annotation.keypoints).all()
        try:
            sample = reader.read(row)
        except DataError:
            continue
        assert sample.pixels.shape == (24, 32, 3)
        if sample.semantic is not None:
            assert sample.semantic.shape == (24, 32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "images/in").mkdir(parents=True)
    for name in ("a", "in/b"):
        Image.fromarray(PICTURE).save(root / f"images/{name}.png")
    return root


def fuzz_annotations(name: str, images: Path, examples: int) -> None:
    form, write = FORMATS[name]
    root = images.parent / f"{images.name} {name}"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(images, root)
    file, split = write(root)
    use(root, form, split)
    good = (root / file).read_bytes()
    options = {"data.format": form, **({"data.classes": ["x", "y", "z"]} if form == "masks" else {})}

    @settings(max_examples=examples, **SETTINGS)
    @given(CHANGES)
    def check(changes: list[tuple[str, float, float, bytes]]) -> None:
        (root / file).write_bytes(mutated(good, changes))
        for ask in (
            lambda: use(root, form, split),
            lambda: detect_format(root, set()),
            lambda: check_data(root, options, workers=0),
        ):
            try:
                ask()
            except ReheadError:
                continue

    check()


IMAGES: dict[str, Callable[[Path], None]] = {
    "a.png": lambda path: Image.fromarray(PICTURE).save(path),
    "palette.png": lambda path: Image.fromarray(PICTURE).quantize(16).save(path),
    "a.jpg": lambda path: Image.fromarray(PICTURE).save(path),
    "exif.jpg": lambda path: Image.fromarray(PICTURE).save(path, exif=_exif()),
    "a.webp": lambda path: Image.fromarray(PICTURE).save(path),
    "a.gif": lambda path: Image.fromarray(PICTURE).save(path),
    "a.bmp": lambda path: Image.fromarray(PICTURE).save(path),
    "a.ppm": lambda path: Image.fromarray(PICTURE).save(path),
    "a.npy": lambda path: np.save(path, PICTURE),
    "a.tif": lambda path: tifffile.imwrite(path, PICTURE, photometric="rgb"),
    "tiles.tif": lambda path: tifffile.imwrite(path, PICTURE, photometric="rgb", tile=(16, 16), compression="deflate"),
    "bands.tif": lambda path: tifffile.imwrite(
        path,
        PICTURE.transpose(2, 0, 1).astype(np.float32),
        photometric="minisblack",
        planarconfig="separate",
        compression="lzw",
    ),
    "jpeg.tif": lambda path: tifffile.imwrite(path, PICTURE, photometric="ycbcr", compression="jpeg"),
    "palette.tif": lambda path: Image.fromarray(PICTURE).quantize(16).save(path),
    "fax.tif": lambda path: Image.fromarray(PICTURE[:, :, 0] > 99).save(path, compression="group4"),
}


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def named(path: Path, error: DataError) -> None:
    assert str(path) in str(error)


def fuzz_image(name: str, folder: Path, examples: int) -> None:
    path = folder / name
    IMAGES[name](path)
    good = path.read_bytes()
    assert read_image(path, channels_in(path)).shape[:2] == image_size(path)

    @settings(max_examples=examples, **SETTINGS)
    @given(CHANGES)
    def check(changes: list[tuple[str, float, float, bytes]]) -> None:
        path.write_bytes(mutated(good, changes))
        try:
            image = read_image(path, channels_in(path), scale=255)
        except DataError as error:
            named(path, error)
        else:
            assert image.shape[:2] == image_size(path)
            assert np.isfinite(image).all()
        try:
            mask = read_mask(path)
        except DataError as error:
            named(path, error)
        else:
            assert mask.shape == image_size(path)

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_annotations(name: str, images: Path) -> None:
    fuzz_annotations(name, images, FEW)


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str, tmp_path: Path) -> None:
    fuzz_image(name, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_annotations_for_long(name: str, images: Path) -> None:
    fuzz_annotations(name, images, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_images_for_long(name: str, tmp_path: Path) -> None:
    fuzz_image(name, tmp_path, MANY)

"""The check: every defect is found under its own code, and whole data are left in peace."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from checked_data import (
    SIZE,
    STEMS,
    annotation,
    codes,
    content,
    noise,
    save,
    write_coco,
    write_format,
    write_images,
    write_masks,
)
from PIL import Image

from rehead.datasets.audit import images
from rehead.datasets.audit.crossings import Crossings
from rehead.datasets.audit.findings import CODES, Findings
from rehead.datasets.audit.images import FEW, MOST_THREADS, Job, examine_all
from rehead.datasets.audit.repair import repair
from rehead.datasets.audit.run import check_data, report_duplicates

FORMATS = ["coco", "voc", "yolo", "csv", "via", "masks", "instance_masks", "folders"]


@pytest.mark.parametrize("name", FORMATS)
def test_whole_data_are_left_in_peace(name: str, tmp_path: Path) -> None:
    checked = check_data(write_format(name, tmp_path))
    assert checked.data.format == name
    assert list(checked.findings) == []
    assert all(count for own in checked.counts.values() for count in own.values())


# What is done to an image of whole COCO data, and what is found.


def _exif(path: Path, orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(7, size)).save(path, exif=exif)


def _truncated(path: Path) -> None:
    Image.fromarray(noise(7)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-200])


IMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "cut short": ("unreadable_image", _truncated),
    "empty": ("unreadable_image", lambda path: path.write_bytes(b"")),
    "no image": ("unreadable_image", lambda path: path.write_text("<html>")),
    "gone": ("missing_image", lambda path: path.unlink()),
    "grey": ("grey", lambda path: Image.fromarray(noise(7)).convert("L").save(path)),
    "alpha": ("alpha", lambda path: Image.fromarray(noise(7)).convert("RGBA").save(path)),
    "palette": ("palette", lambda path: Image.fromarray(noise(7)).quantize(200).save(path)),
    "16 bits": (
        "16_bit",
        lambda path: Image.fromarray(noise(7)[..., 0].astype(np.uint16) * 257).save(path),
    ),
    "inks": ("cmyk", lambda path: Image.fromarray(noise(7)).convert("CMYK").save(path, format="JPEG")),
    "another size": ("size_mismatch", lambda path: Image.fromarray(noise(7, (60, 80))).save(path)),
    "turned": ("exif_rotation", lambda path: _exif(path, 6, SIZE[::-1])),
    "turned, but annotated as stored": ("exif_rotation", lambda path: _exif(path, 6, SIZE)),
    "upside down": ("exif_ambiguous", lambda path: _exif(path, 3, SIZE)),
    "a near-duplicate": (
        "near_duplicate",
        lambda path: Image.fromarray(noise(ord("b")) // 2 + 60).save(path),
    ),
    "a leak": ("leak", lambda path: Image.fromarray(noise(ord("d"))).save(path)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name: str, tmp_path: Path) -> None:
    code, spoil = IMAGES[name]
    write_coco(tmp_path)
    spoil(tmp_path / "train" / "a.png")
    found = check_data(tmp_path).findings
    assert {one.code for one in found} == {code}
    named = {"near_duplicate": "train/b.png", "leak": "val/d.png"}.get(code, "train/a.png")
    assert [one.file for one in found] == [str(tmp_path / named)]


OBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "outside": ("box_outside", {"bbox": [50, 4, 5, 5], "segmentation": [[1, 1, 5, 1, 5, 5]]}),
    "over the edge": ("box_over_edge", {"bbox": [30, 4, 15, 5]}),
    "no width": ("empty_box", {"bbox": [5, 4, 0, 5]}),
    "negative width": ("negative_box", {"bbox": [5, 4, -3, 5]}),
    "not a number": ("broken_annotation", {"bbox": [5, 4, float("nan"), 5]}),
    "text for a number": ("broken_annotation", {"bbox": [5, 4, "wide", 5]}),
    "one pixel": ("tiny_box", {"bbox": [5, 4, 1, 5]}),
    "no such image": ("unknown_image", {"image_id": 77}),
    "no such class": ("unknown_category", {"category_id": 77}),
    "two points": ("broken_polygon", {"segmentation": [[5, 4, 9, 4]]}),
    "odd coordinates": ("broken_polygon", {"segmentation": [[5, 4, 9, 4, 9, 9, 5]]}),
    "null in a polygon": ("broken_polygon", {"segmentation": [[5, 4, 9, 4, 9, None]]}),
    "a run-length code of another size": (
        "broken_polygon",
        {"segmentation": {"size": [9, 9], "counts": [1, 80]}},
    ),
    **{
        f"a run-length code that {name}": ("broken_polygon", {"segmentation": {"size": [*SIZE], "counts": counts}})
        for name, counts in {
            "is cut": "d4:d00O2N1O1O1",
            "is empty": "",
            "is there twice": "U4;c0:V`0:V`0",
            "holds numbers as text": ["130", "20", "1050"],
            "holds negative numbers": [1300, -100],
            "holds what is no code": "\t\n~",
        }.items()
    },
    "a run-length code that ends early": (
        "broken_polygon",
        {"segmentation": {"size": [*SIZE], "counts": [1, 80]}},
    ),
    "no polygon": ("missing_outline", {"segmentation": []}),
    "an empty polygon": ("missing_outline", {"segmentation": [[]]}),
    "a polygon outside the image": ("missing_outline", {"segmentation": [[50, 4, 60, 4, 60, 9]]}),
    "a run-length code of nothing": ("missing_outline", {"segmentation": {"size": [*SIZE], "counts": [1200]}}),
    "between the middles of pixels": ("empty_outline", {"segmentation": [[5.6, 4.6, 5.9, 4.6, 5.9, 4.9]]}),
    "a line": ("empty_outline", {"segmentation": [[5, 4, 9, 4, 15, 4]]}),
    "edges that cross": ("self_crossing", {"segmentation": [[5, 4, 25, 14, 25, 4, 5, 14]]}),
    "no outline": ("missing_outline", {"segmentation": None}),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name: str, tmp_path: Path) -> None:
    code, change = OBJECTS[name]
    write_coco(tmp_path)
    whole = content("train")
    if change.get("segmentation", "") is None:
        whole["annotations"].append({k: v for k, v in annotation(90, 1, 7).items() if k != "segmentation"})
    else:
        whole["annotations"].append({**annotation(90, 1, 7), **change})
    save(tmp_path, "train", whole)
    found = check_data(tmp_path).findings
    # A file with NaN is not JSON either.
    expected = [code, code] if name == "not a number" else [code]
    assert [one.code for one in found] == expected
    assert "90" in found[-1].message


@pytest.mark.parametrize("outline", [[], [[]], None, [[50, 4, 60, 4, 60, 9]]])
def test_boxes_without_outlines_are_normal(outline: Any, tmp_path: Path) -> None:
    write_coco(tmp_path)
    for split in STEMS:
        whole = content(split)
        for one in whole["annotations"]:
            one["segmentation"] = outline
        save(tmp_path, split, whole)
    assert codes(tmp_path) == {}
    splits = {split: {"images": split, "annotations": f"{split}.json"} for split in STEMS}
    config = {"data": {"format": "coco", "root": str(tmp_path), **splits}}
    for task, head, found in (
        ("detection", "fcos", {}),
        ("instance_segmentation", "mask_rcnn", {"no_segmentation": 10}),
    ):
        (tmp_path / "config.yaml").write_text(json.dumps({"task": task, "model": {"head": head}, **config}))
        assert codes(tmp_path / "config.yaml") == found


def test_a_size_that_one_of_two_splits_says_is_said_of_that_one(tmp_path: Path) -> None:
    write_coco(tmp_path)
    whole = content("train")
    whole["images"][0]["width"] = 90
    save(tmp_path, "val", whole)
    save(tmp_path, "train", content("train"))
    splits = {split: {"images": "train", "annotations": f"{split}.json"} for split in ("train", "val")}
    data = {"format": "coco", "root": str(tmp_path), **splits}
    (tmp_path / "both.yaml").write_text(json.dumps({"data": data}))
    (found,) = (one for one in check_data(tmp_path / "both.yaml").findings if one.code == "size_mismatch")
    assert found.message == "the image is 40x30, its annotation (val) 90x30"


def test_every_broken_annotation_is_named_and_not_only_the_first(tmp_path: Path) -> None:
    write_coco(tmp_path)
    whole = content("train")
    whole["annotations"] += [{**annotation(90 + n, 1, 7 + n), "category_id": 77} for n in range(5)]
    save(tmp_path, "train", whole)
    found = check_data(tmp_path).findings
    assert [one.code for one in found] == ["unknown_category"] * 5
    assert found[4].message == "annotation 94: category_id 77, which categories does not list"


def test_thousands_of_images_that_are_alike() -> None:
    paths = [Path(f"{number}.jpg") for number in range(20_000)]
    users = {path: {"val" if number == 7 else "train"} for number, path in enumerate(paths)}
    found = Findings()
    began = time.process_time()
    report_duplicates(paths, [5] * len(paths), users, found)
    assert time.process_time() - began < 5  # 0.1, and minutes if each is compared with each
    assert Counter(one.code for one in found) == {"leak": len(paths) - 1}
    said = {one.file: one.message for one in found}
    assert said["7.jpg"] == "(val) is nearly 0.jpg (train)"
    assert said["19999.jpg"] == "(train) is nearly 7.jpg (val)"


def test_an_object_twice(tmp_path: Path) -> None:
    write_coco(tmp_path)
    whole = content("train")
    whole["annotations"].append({**whole["annotations"][0], "id": 90})
    # Not twice: another class, and another image.
    whole["annotations"].append({**whole["annotations"][0], "id": 91, "category_id": 2})
    save(tmp_path, "train", whole)
    (found,) = check_data(tmp_path).findings
    assert found.code == "duplicate_annotation"
    assert found.message == "annotation 90: box 5 4 25 14 as of annotation 2"


def test_where_an_outline_crosses_itself(tmp_path: Path) -> None:
    write_coco(tmp_path)
    whole = content("train")
    # Nothing wrong: points twice, a bridge of no width to a second part, a corner on another edge.
    whole["annotations"][0]["segmentation"] = [[5, 4, 5, 4, 15, 4, 15, 14, 20, 14, 25, 9, 20, 14, 15, 14, 5, 14, 5, 4]]
    whole["annotations"][1]["segmentation"] = [[5, 4, 25, 4, 25, 14, 15, 4, 5, 14]]
    whole["annotations"][2]["segmentation"] = [
        [1, 1, 3, 1, 3, 3],
        [5, 4, 25, 12, 25, 4, 5, 12],  # an hour-glass on its side
    ]
    # A bridge of no width that leaves its part through the other side.
    whole["annotations"][4]["segmentation"] = [[5, 4, 9, 4, 9, 8, 5, 8, 20, 6, 25, 6, 25, 9, 20, 6, 5, 8]]
    whole["annotations"][3]["segmentation"] = [[0, 0, 10, 0, 10, 2, 2, -2, 4, 3, 0, 3]]
    save(tmp_path, "train", whole)
    found = check_data(tmp_path).findings
    assert [(one.code, one.message) for one in found] == [
        ("self_crossing", "annotation 4: edges of its outline of 4 points cross at 15.0 8.0"),
        ("self_crossing", "annotation 5: edges of its outline of 6 points cross 2 times, first at 6.0 0.0"),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_crossings_are_those_of_a_comparison_edge_by_edge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [rng.integers(0, 9, (int(rng.integers(3, 9)), 2)).astype(float) for _ in range(200)]
    seen = Crossings()
    for row, polygon in enumerate(polygons):
        seen.add(row, polygon.ravel().tolist())

    def side(a: Any, b: Any, c: Any) -> float:
        return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    expected = {}
    for row, polygon in enumerate(polygons):
        corners = [tuple(corner) for corner in polygon.tolist()]
        whole = list(zip(corners, corners[1:] + corners[:1], strict=True))
        edges = [(a, b) for a, b in whole if (b, a) not in whole]  # not what goes there and back
        pairs = sum(
            side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
            for (a, b), (c, d) in combinations(edges, 2)
        )
        if pairs:
            expected[row] = pairs
    assert {one.row: one.pairs for one in seen.found()} == expected


def test_keypoints_outside(tmp_path: Path) -> None:
    write_coco(tmp_path)
    for split in STEMS:
        whole = content(split)
        for category in whole["categories"]:
            category["keypoints"] = ["nose", "tail", "paw"]
        for one in whole["annotations"]:
            one["keypoints"] = [0, 0, 2, 40, 30, 1, 99, 99, 0]  # at the edges, and far off but not labelled
        if split == "train":
            whole["annotations"][0]["keypoints"] = [5, 5, 2, 45, 30, 1, 9, -7, 2]
        save(tmp_path, split, whole)
    checked = check_data(tmp_path)
    (found,) = checked.findings
    assert found.code == "keypoint_outside"
    assert found.message == "annotation 2: 2 of 3 labelled points outside 40x30: tail at 45 30 and 1 more"
    repair(checked, tmp_path / "repaired")
    (again,) = (tmp_path / "repaired").rglob("*train*.json")
    first, second = json.loads(again.read_text())["annotations"][:2]
    assert first["keypoints"] == [5, 5, 2, 0, 0, 0, 0, 0, 0]
    assert second["keypoints"] == [0, 0, 2, 40, 30, 1, 99, 99, 0]
    assert codes(tmp_path / "repaired") == {}


def test_images_and_annotations_without_one_another(tmp_path: Path) -> None:
    write_coco(tmp_path)
    Image.fromarray(noise(1)).save(tmp_path / "train" / "more.png")
    whole = content("val")
    whole["annotations"] = [one for one in whole["annotations"] if one["image_id"] == 1]
    save(tmp_path, "val", whole)
    assert codes(tmp_path) == {"unlisted_image": 1, "no_objects": 1}
    whole["images"].append(whole["images"][0])
    save(tmp_path, "val", whole)
    assert codes(tmp_path)["duplicate_image"] == 1


@pytest.mark.parametrize(
    ("gone", "code"),
    [
        (("train", "val"), "class_without_examples"),
        (("train",), "class_not_in_train"),
        (("val",), "class_not_in_val"),
    ],
)
def test_classes(gone: tuple[str, ...], code: str, tmp_path: Path) -> None:
    write_coco(tmp_path)
    for split in gone:
        whole = content(split)
        whole["annotations"] = [one for one in whole["annotations"] if one["category_id"] == 1]
        save(tmp_path, split, whole)
    (found,) = check_data(tmp_path).findings
    assert found.code == code
    assert "'dog'" in found.message


def test_a_validation_split_must_list_the_classes_of_training(tmp_path: Path) -> None:
    write_coco(tmp_path)
    whole = content("val")
    whole["annotations"] = [one for one in whole["annotations"] if one["category_id"] == 1]
    whole["categories"] = whole["categories"][:1]
    save(tmp_path, "val", whole)
    assert codes(tmp_path) == {"classes_differ": 1, "class_not_in_val": 1}


NAMED = {"data.format": "masks", "data.classes": ["x", "y", "z"]}


class TestMasks:
    def mask(self, root: Path, mask: np.ndarray[Any, Any] | Image.Image, name: str = "a.png") -> None:
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(root / "train_masks" / name)

    def test_another_size(self, tmp_path: Path) -> None:
        write_masks(tmp_path)
        self.mask(tmp_path, np.zeros((15, 20), np.uint8))
        assert codes(tmp_path, NAMED) == {"mask_size": 1}

    def test_values_that_are_no_class(self, tmp_path: Path) -> None:
        write_masks(tmp_path, (0, 1, 2))
        assert codes(tmp_path, NAMED) == {}
        mask = np.zeros(SIZE, np.uint8)
        mask[:3, :40] = 9
        self.mask(tmp_path, mask)
        (found,) = check_data(tmp_path, NAMED).findings
        assert (found.code, found.message) == ("mask_values", "9: no class (10.00% of the pixels)")
        assert codes(tmp_path, {**NAMED, "data.ignore_index": 9}) == {}

    def test_a_lossy_format(self, tmp_path: Path) -> None:
        write_masks(tmp_path)
        (tmp_path / "train_masks" / "a.png").unlink()
        self.mask(tmp_path, Image.fromarray(noise(3)).convert("L"), "a.jpg")
        assert codes(tmp_path, NAMED) == {"lossy_mask": 1}

    def test_a_broken_file_and_colours(self, tmp_path: Path) -> None:
        write_masks(tmp_path)
        (tmp_path / "train_masks" / "a.png").write_text("no")
        self.mask(tmp_path, noise(3), "b.png")
        assert codes(tmp_path, NAMED) == {"unreadable_mask": 2}

    def test_one_without_the_other(self, tmp_path: Path) -> None:
        write_masks(tmp_path)
        (tmp_path / "train" / "a.png").unlink()
        (tmp_path / "train_masks" / "b.png").unlink()
        assert codes(tmp_path, NAMED) == {"label_without_image": 1, "missing_mask": 1}


class TestFormats:
    """What readers refuse one at a time is noted, and the rest is checked."""

    def test_voc(self, tmp_path: Path) -> None:
        root = write_format("voc", tmp_path)
        files = sorted(root.rglob("*.xml"))
        files[0].write_text("<annotation>")
        text = files[1].read_text()
        files[1].write_text(text.replace("<xmax>", "<xmax>-", 1))
        (root / "JPEGImages" / f"{files[2].stem}.png").unlink()
        found = codes(root)
        assert found["broken_annotation"] == found["negative_box"] == found["missing_image"] == 1

    def test_yolo(self, tmp_path: Path) -> None:
        root = write_format("yolo", tmp_path)
        files = sorted(root.rglob("labels/train/*.txt"))
        files[0].write_text("77 0.5 0.5 0.1 0.1\n0 0.5 0.5 7 0.1\n0 0.5\n0 0.5 0.5 0.5 0.5\n")
        (files[0].parent / "nobody.txt").write_text("0 0.5 0.5 0.5 0.5\n")
        next(root.rglob("images/train/c.png")).write_text("no")
        found = codes(root)
        assert found == {
            "unknown_category": 1,
            "broken_annotation": 2,
            "label_without_image": 1,
            "unreadable_image": 1,
            "missing_outline": 1,  # the last line is a box, and the others are polygons
        }

    def test_csv(self, tmp_path: Path) -> None:
        root = write_format("csv", tmp_path)
        with (root / "train.csv").open("a") as file:
            file.write("a.png,c1,30,4,20,9\na.png,c1,x,4,20,9\ngone.png,c1,3,4,20,9\n")
        assert codes(root) == {"negative_box": 1, "broken_annotation": 1, "missing_image": 1}

    def test_via(self, tmp_path: Path) -> None:
        root = write_format("via", tmp_path)
        whole = json.loads((root / "train.json").read_text())
        shape = {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}
        region = {"shape_attributes": shape, "region_attributes": {"class": "c1"}}
        whole["a.png"]["regions"] += [region, {**region, "region_attributes": {"class": ""}}]
        (root / "train.json").write_text(json.dumps(whole))
        assert codes(root) == {"broken_polygon": 2}

    def test_folders(self, tmp_path: Path) -> None:
        root = write_format("folders", tmp_path)
        shutil.rmtree(root / "val")
        (root / "train" / "empty").mkdir()
        assert codes(root) == {"empty_folder": 1, "class_without_examples": 1}


def test_a_file_that_holds_no_data_is_a_finding_and_not_the_end(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "val.json").write_text('{"images": [], "annotations": [], "categories": []}')
    found = codes(tmp_path)
    assert found == {"broken_annotation": 1}


def test_masks_that_number_objects_are_told_from_class_maps(tmp_path: Path) -> None:
    assert check_data(write_format("instance_masks", tmp_path / "a")).data.format == "instance_masks"
    assert check_data(write_masks(tmp_path / "b")).data.format == "masks"
    assert check_data(write_masks(tmp_path / "c", (0, 255, 0))).data.format == "masks"


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_several_see_what_one_sees(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path)
    (tmp_path / "train" / "broken.png").write_bytes(b"no image")
    jobs = [Job(path) for path in sorted(tmp_path.rglob("*.png"))]
    assert len(jobs) < FEW
    by_one = examine_all(jobs)
    threads, other = (MOST_THREADS, "ProcessPoolExecutor") if kind == "threads" else (1, "ThreadPoolExecutor")
    monkeypatch.setattr(images, "MOST_THREADS", threads)
    monkeypatch.setattr(images, other, None)
    before = cv2.getNumThreads()
    assert examine_all(jobs, 2) == by_one
    assert cv2.getNumThreads() == before


def test_every_code_says_what_it_means() -> None:
    assert Counter(kind.severity for kind in CODES.values()).keys() == {"error", "warning", "advice"}
    assert all(kind.meaning for kind in CODES.values())

"""The repaired copy: whole, as training saw the original, which stays as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from checked_data import SIZE, annotation, codes, content, noise, save, write_coco, write_format, write_masks
from PIL import Image

from rehead.configs.readers import CocoSplit
from rehead.configs.schema import SourceOptions
from rehead.data.image_io import read_image
from rehead.data.reader import Reader
from rehead.datasets.audit.before_training import say_if_repaired
from rehead.datasets.audit.findings import CODES
from rehead.datasets.audit.repair import repair
from rehead.datasets.audit.run import check_data
from rehead.datasets.open import open_reader
from rehead.errors import DataError, OutputError


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def repaired(root: Path, out: Path, overrides: dict[str, Any] | None = None) -> list[str]:
    before = state(root)
    said = repair(check_data(root, overrides), out)
    assert state(root) == before
    return said


def train(out: Path) -> Reader:
    split = CocoSplit(images="images/train", annotations="annotations/instances_train.json")
    return open_reader(SourceOptions(format="coco", root=str(out), train=split), "train")


def turned(path: Path, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(7, size)).save(path, exif=exif)


def test_what_can_be_repaired_is_not_found_again(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    Image.fromarray(noise(7)).convert("L").save(root / "train" / "a.png")
    turned(root / "train" / "b.png", SIZE[::-1])
    (root / "val" / "d.png").write_bytes(b"no image")
    Image.fromarray(noise(8)).save(root / "val" / "nobody.png")
    whole = content("train")
    whole["annotations"] += [
        annotation(90, 1, 30),
        annotation(91, 1, 70),
        {**annotation(92, 1), "bbox": [5, 4, 0, 3]},
        {**annotation(93, 1), "bbox": [5, 4, -2, 3]},
        {**annotation(94, 1), "segmentation": [[1, 2, 3]]},
        {**annotation(95, 1), "segmentation": [[1, 2, 3, 2, 4, 2]]},
        {**annotation(96, 1), "category_id": 77},
        {**annotation(97, 1), "image_id": 77},
        {**whole["annotations"][0], "id": 98},
        {**annotation(99, 1), "bbox": None},
    ]
    save(root, "train", whole)
    found = codes(root)
    assert found.keys() == {
        *("grey", "exif_rotation", "unreadable_image", "unlisted_image", "box_over_edge", "box_outside", "empty_box"),
        *("negative_box", "broken_polygon", "empty_outline", "unknown_category", "unknown_image"),
        *("duplicate_annotation", "broken_annotation"),
    }
    assert all(CODES[code].repair for code in found)
    said = repaired(root, tmp_path / "out")
    # The object whose outline encloses nothing keeps its box.
    assert codes(tmp_path / "out") == {"missing_outline": 1}
    assert [line for line in said if not line.startswith(" ")][1:8] == [
        "images left out: 1",
        "objects left out: 9",
        "outlines left out, the boxes stay: 1",
        "files left out: 1",
        "images written anew, upright and in 8 bits: 2",
        "boxes cut to their image: 1",
        "objects of classes without a name, kept under their number: 1",
    ]
    reader = train(tmp_path / "out")
    sample = reader[0]
    assert sample.boxes is not None
    assert sample.labels is not None
    twice = [5, 4, 25, 14]
    assert sample.boxes.tolist() == [twice, [14, 4, 34, 14], [30, 4, 40, 14], twice, twice]
    assert [reader.classes.names[label] for label in sample.labels][-2:] == ["dog", "class 77 (no name)"]


def listed(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "repair.json").read_text())
    return found


def changes(out: Path) -> dict[tuple[str, str], int]:
    return {(one["done"], one["kind"]): one["count"] for one in listed(out)["changes"]}


def test_every_change_is_listed_by_kind_file_and_object_and_the_counts_add_up(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    whole = content("train")
    whole["annotations"] += [
        {**annotation(92, 1), "bbox": [5, 4, 0, 3]},
        {**annotation(93, 2), "bbox": [5, 4, -2, 3]},
        {**annotation(96, 1), "category_id": 77},
        {**annotation(97, 1), "image_id": 77},
    ]
    save(root, "train", whole)
    (root / "val" / "d.png").write_bytes(b"no image")
    said = repaired(root, tmp_path / "out")
    assert f"every change: {tmp_path / 'out/repair.json'}" in said
    assert any(line.startswith("  negative_box: 1 (a box with a negative") and "annotation 93" in line for line in said)
    assert changes(tmp_path / "out") == {
        ("images left out", "unreadable_image"): 1,
        ("objects left out", "unreadable_image"): 2,
        ("objects left out", "empty_box"): 1,
        ("objects left out", "negative_box"): 1,
        ("objects left out", "unknown_image"): 1,
        ("objects of classes without a name, kept under their number", "unknown_category"): 1,
    }
    found = listed(tmp_path / "out")
    kinds = {one["kind"]: one["items"] for one in found["changes"]}
    assert kinds["empty_box"] == [
        {"split": "train", "file": str(root / "train/a.png"), "what": "annotation 92: box 5 4 5 7"}
    ]
    assert kinds["unknown_category"][0]["what"] == "annotation 96: class 77 (no name)"
    assert kinds["negative_box"][0]["file"] == str(root / "train.json")
    before, after = found["before"], found["after"]
    assert before["train"] == {
        "images": 3,
        "objects": len(whole["annotations"]),
        "by_class": {"cat": 4, "dog": 3, "class 77 (no name)": 1},
    }
    assert after["train"] == {"images": 3, "objects": 7, "by_class": {"cat": 3, "dog": 3, "class 77 (no name)": 1}}
    assert (before["val"]["images"], after["val"]["images"]) == (2, 1)
    lost = sum(before[split]["objects"] - after[split]["objects"] for split in before)
    assert found["left_out"] == {"images": 1, "objects": 5}
    assert lost == 5


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_objects_of_classes_without_a_name_stay_under_their_number(name: str, tmp_path: Path) -> None:
    root = write_format(name, tmp_path / "data")
    if name == "coco":
        whole = content("train")
        for one in whole["annotations"]:
            one["category_id"] = {1: 1, 2: 17}[one["category_id"]]
        save(root, "train", whole)
    else:
        for file in (root / "labels/train").iterdir():
            file.write_text(re.sub(r"^1 ", "17 ", file.read_text(), flags=re.MULTILINE))
    assert codes(root)["unknown_category"] == 3
    said = repaired(root, tmp_path / "out")
    assert "objects of classes without a name, kept under their number: 3" in said
    assert not any(line.startswith("objects left out") for line in said)
    reader = train(tmp_path / "out")
    assert (reader.classes.names[-1], reader.classes.ids[-1]) == ("class 17 (no name)", 17)
    assert sum(len(sample.labels) for sample in reader if sample.labels is not None) == 6
    assert codes(tmp_path / "out")["no_objects"] == 0
    # Told otherwise.
    said = repaired(root, tmp_path / "chosen", {"data.classes": ["cat"]})
    assert "objects left out: 5" in said
    assert train(tmp_path / "chosen").classes.names == ("cat",)


def test_a_broken_outline_costs_its_object_only_where_masks_are_learned(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    whole = content("train")
    whole["annotations"][0]["segmentation"] = [[1, 2, 3]]
    whole["annotations"][3]["segmentation"] = {"size": [*SIZE], "counts": ""}
    save(root, "train", whole)
    repaired(root, tmp_path / "boxes")
    assert changes(tmp_path / "boxes") == {("outlines left out, the boxes stay", "broken_polygon"): 2}
    splits = {split: {"images": split, "annotations": f"{split}.json"} for split in ("train", "val")}
    data = {"format": "coco", "root": str(root), **splits}
    config = {"task": "instance_segmentation", "data": data, "model": {"head": "mask_rcnn"}}
    (tmp_path / "masks.yaml").write_text(yaml.safe_dump(config))
    repair(check_data(tmp_path / "masks.yaml"), tmp_path / "masks")
    assert changes(tmp_path / "masks") == {("objects left out", "broken_polygon"): 2}


def test_data_that_are_a_repaired_copy_are_said_to_be_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_coco(tmp_path / "data")
    (root / "train" / "a.png").write_bytes(b"no image")
    repaired(root, tmp_path / "out")
    say_if_repaired(train(tmp_path / "out"), "data.val")
    expected = "data.val: a repaired copy: 1 images and 2 objects of the original are not in it ({}/repair.json)"
    assert expected.format(tmp_path / "out") in caplog.text
    caplog.clear()
    split = CocoSplit(images="train", annotations="train.json")
    say_if_repaired(open_reader(SourceOptions(format="coco", root=str(root), train=split), "train"), "data.train")
    assert not caplog.text


@pytest.mark.parametrize("stored", [SIZE, SIZE[::-1]])
def test_a_turned_image_is_written_as_training_sees_it(stored: tuple[int, int], tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    turned(root / "train" / "a.png", stored)
    before = read_image(root / "train" / "a.png", 3, SIZE)
    repaired(root, tmp_path / "out")
    with Image.open(tmp_path / "out" / "images" / "train" / "a.png") as image:
        assert image.size == SIZE[::-1]
        np.testing.assert_array_equal(np.asarray(image), before)
        assert not image.getexif()


def test_annotations_follow_an_image_that_was_resized(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    Image.fromarray(noise(7, (60, 80))).save(root / "train" / "a.png")
    whole = content("train")
    code = {"size": [*SIZE], "counts": [0, 30 * 20, 30 * 20]}
    whole["annotations"][1]["segmentation"] = code
    save(root, "train", whole)
    repaired(root, tmp_path / "out")
    assert codes(tmp_path / "out") == {}
    reader = train(tmp_path / "out")
    reader.masks = True
    sample = reader.read(0)
    assert sample.size == (60, 80)
    assert sample.boxes is not None
    assert sample.areas is not None
    assert sample.masks is not None
    assert sample.boxes.tolist() == [[10, 8, 50, 28], [28, 8, 68, 28]]
    assert sample.areas.tolist() == [800, 800]
    assert sample.masks[0, 8:28, 10:50].all()
    assert sample.masks[0].sum() == 800
    assert sample.masks[1, :, :40].all()
    assert not sample.masks[1, :, 40:].any()


def test_an_image_of_another_shape_is_left_out(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    Image.fromarray(noise(7, (33, 33))).save(root / "train" / "a.png")
    assert "images left out: 1" in repaired(root, tmp_path / "out")
    assert [sample.path.name for sample in train(tmp_path / "out")] == ["b.png", "c.png"]
    assert codes(tmp_path / "out") == {}


def test_ids_and_images_that_were_whole_are_kept_as_they_are(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    whole = content("train")
    for row in (*whole["images"], *whole["annotations"]):
        row.update({key: 1000 + row[key] for key in ("image_id", "id") if key in row})
    save(root, "train", whole)
    assert codes(root) == {}
    repaired(root, tmp_path / "out")
    assert [sample.image_id for sample in train(tmp_path / "out")] == [1001, 1002, 1003]
    assert (tmp_path / "out/images/train/a.png").read_bytes() == (root / "train" / "a.png").read_bytes()


@pytest.mark.parametrize("named", [True, False])
def test_masks(named: bool, tmp_path: Path) -> None:
    root = write_masks(tmp_path / "data", (0, 3, 5))
    overrides: dict[str, Any] = {"data.format": "masks"}
    if named:
        overrides |= {"data.values": {"x": 0, "y": 3, "z": 5}}
    mask = np.asarray(Image.open(root / "train_masks" / "a.png"))
    Image.fromarray(mask[::2, ::2]).save(root / "train_masks" / "a.png")
    Image.fromarray(noise(7)).convert("CMYK").save(root / "train" / "b.png", format="JPEG")
    (root / "val_masks" / "d.png").write_text("no")
    assert codes(root, overrides) == {"mask_size": 1, "cmyk": 1, "unreadable_mask": 1}
    repaired(root, tmp_path / "out", overrides)
    assert codes(tmp_path / "out", overrides) == {}
    found = np.asarray(Image.open(tmp_path / "out/masks/train/a.png"))
    assert found.shape == SIZE
    assert set(np.unique(found).tolist()) == {0, 3, 5}


def test_folders(tmp_path: Path) -> None:
    root = write_format("folders", tmp_path / "data")
    (root / "train" / "class0" / "bad.png").write_text("no")
    Image.fromarray(noise(7)).convert("L").save(root / "val" / "class1" / "grey.bmp")
    (root / "train" / "empty").mkdir()
    assert codes(root) == {
        "unreadable_image": 1,
        "grey": 1,
        "empty_folder": 1,
        "class_without_examples": 1,
        "classes_differ": 1,
    }
    repaired(root, tmp_path / "out")
    assert codes(tmp_path / "out") == {}
    assert (tmp_path / "out/val/class1/grey.png").is_file()


@pytest.mark.parametrize("name", ["voc", "yolo", "csv", "via", "instance_masks"])
def test_every_format_of_objects_becomes_coco(name: str, tmp_path: Path) -> None:
    root = write_format(name, tmp_path / "data")
    repaired(root, tmp_path / "out")
    checked = check_data(tmp_path / "out")
    assert (checked.data.format, list(checked.findings)) == ("coco", [])
    assert checked.counts == check_data(root).counts


def test_what_cannot_be_repaired_is_said(tmp_path: Path) -> None:
    root = write_masks(tmp_path / "data")
    overrides = {"data.format": "masks", "data.classes": ["x", "y"]}
    with pytest.raises(DataError, match="nothing is left of train"):
        repair(check_data(root, overrides), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "train_masks" / "a.png")
    Image.fromarray(np.ones(SIZE, np.uint8)).save(root / "val_masks" / "d.png")
    said = repaired(root, tmp_path / "out", overrides)
    assert "not repaired, mask_values: 3 (values of a mask that are no class)" in said
    assert "images left out: 3" in said


def test_a_split_that_was_drawn_is_to_be_drawn_again(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = {"format": "coco", "root": str(tmp_path), "train": {"images": "train", "annotations": "train.json"}}
    data["val"] = {"from_train": 0.4}
    (tmp_path / "drawn.yaml").write_text(yaml.safe_dump({"data": data}))
    said = repair(check_data(tmp_path / "drawn.yaml"), tmp_path / "out")
    assert "val: sampled from the training images; say so again for the copy" in said
    assert len(train(tmp_path / "out")) == 3


def test_heads_with_annotations_of_their_own_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"{split}_masks").mkdir()
        for image in sorted((tmp_path / split).iterdir()):
            Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / f"{split}_masks" / image.name)
    coco = {split: {"images": split, "annotations": f"{split}.json"} for split in ("train", "val")}
    maps = {split: {"images": split, "masks": f"{split}_masks"} for split in ("train", "val")}
    root = {"root": str(tmp_path)}
    masks = {"format": "masks", **root, **maps, "classes": ["sky", "road"]}
    config = {
        "task": "multitask",
        "data": {"format": "coco", **root, **coco, "sources": {"scene": masks}},
        "model": {"heads": {"boxes": {"name": "fcos"}, "scene": {"name": "unet"}}},
    }
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(config))
    checked = check_data(tmp_path / "both.yaml")
    assert {source.reader.values is None for source in checked.data.sources} == {True, False}
    several = r"train\.json \(detection\); .*train_masks \(segmentation\).*\. Repair one after the other"
    with pytest.raises(DataError, match=several):
        repair(checked, tmp_path / "out")
    monkeypatch.setattr("rehead.datasets.audit.run.examine_all", None)
    with pytest.raises(DataError, match=several):
        check_data(tmp_path / "both.yaml", to_repair=True)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    with pytest.raises(OutputError, match="not empty"):
        repair(check_data(root), root)

"""`format: auto` finds the format, the splits, and says what it saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rehead.configs.load import dump, load_config
from rehead.configs.readers import CocoSplit
from rehead.configs.schema import Config, DataOptions
from rehead.datasets.audit.run import check_data
from rehead.datasets.detect_format import detect_format
from rehead.datasets.open import open_data, open_reader
from rehead.errors import ConfigError, DataError

HEADS = {
    "detection": "faster_rcnn",
    "instance_segmentation": "mask_rcnn",
    "segmentation": "unet",
    "classification": "linear",
}


def fill(root: Path, *names: str, text: str = "") -> None:
    """Images, or files with a text."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            Image.new("RGB", (8, 6), (len(name), hash(name) % 200, 0)).save(path)
        else:
            path.write_text(text)


def auto(root: Path, task: str, **data: Any) -> Config:
    raw = {"task": task, "model": {"head": HEADS[task]}, "data": {"format": "auto", "root": str(root), **data}}
    config = load_config(raw)
    assert load_config(dump(config)) == config
    return config


def splits(config: Config) -> dict[str, Any]:
    data = config.data.model_dump(exclude_defaults=True)
    return {split: data[split] for split in ("train", "val", "test") if split in data}


def coco(name: str) -> str:
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": name, "width": 8, "height": 6}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
    )


def test_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, "train2017/ü1.jpg", "val2017/2.jpg")
    for split, name in (("train", "ü1.jpg"), ("val", "2.jpg")):
        for kind in ("instances", "captions", "person_keypoints"):
            fill(tmp_path, f"annotations/{kind}_{split}2017.json", text=coco(name))
    config = auto(tmp_path, "detection")
    assert config.data.format == "coco"
    assert splits(config) == {
        "train": {"images": "train2017", "annotations": "annotations/instances_train2017.json"},
        "val": {"images": "val2017", "annotations": "annotations/instances_val2017.json"},
    }
    said = capsys.readouterr().err
    assert "has COCO JSON in annotations/instances_train2017.json, annotations/instances_val2017.json: coco" in said
    assert open_data(config, "val").read(0).pixels.shape == (6, 8, 3)


@pytest.mark.parametrize("form", ["coco", "csv"])
def test_images_of_the_same_names_in_every_split(form: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        fill(tmp_path, f"images/{split}/1.jpg")
        if form == "coco":
            fill(tmp_path, f"{split}.json", text=coco("1.jpg"))
        else:
            fill(tmp_path, f"{split}.csv", text="filename,class,xmin,ymin,xmax,ymax\n1.jpg,cat,0,0,4,4\n")
    found = splits(auto(tmp_path, "detection"))
    assert {split: own["images"] for split, own in found.items()} == {"train": "images/train", "val": "images/val"}


def test_roboflows_coco_and_what_is_written_out_wins(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        fill(tmp_path, f"{split}/1.jpg")
        fill(tmp_path, f"{split}/_annotations.coco.json", text=coco("1.jpg"))
    test = {"images": "valid", "annotations": "valid/_annotations.coco.json"}
    config = auto(tmp_path, "instance_segmentation", test=test, val={"from_train": 0.5})
    assert splits(config) == {
        "train": {"images": "train", "annotations": "train/_annotations.coco.json"},
        "val": {"from_train": 0.5},
        "test": test,
    }


VOC = (
    "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    "</object></annotation>"
)


def test_voc_with_image_sets(tmp_path: Path) -> None:
    fill(tmp_path, "VOC2012/JPEGImages/a.jpg", "VOC2012/JPEGImages/b.jpg", "VOC2012/SegmentationClass/a.png")
    fill(tmp_path, "VOC2012/Annotations/a.xml", "VOC2012/Annotations/b.xml", text=VOC)
    for kind in ("Main", "Segmentation"):
        fill(tmp_path, f"VOC2012/ImageSets/{kind}/train.txt", text="a")
        fill(tmp_path, f"VOC2012/ImageSets/{kind}/val.txt", text="b")
    config = auto(tmp_path, "detection")
    assert config.data.format == "voc"
    assert [open_data(config, split)[0].image_id for split in ("train", "val")] == ["a", "b"]
    config = auto(tmp_path, "segmentation")
    assert splits(config)["train"]["image_set"] == "VOC2012/ImageSets/Segmentation/train.txt"


def test_voc_without_image_sets_gets_a_val_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, *(f"images/{n}.jpg" for n in range(5)))
    fill(tmp_path, *(f"annotations/{n}.xml" for n in range(5)), text=VOC)
    config = auto(tmp_path, "detection")
    assert splits(config) == {
        "train": {"images": "images", "annotations": "annotations"},
        "val": {"from_train": 0.2},
    }
    assert "there is no val, so a fifth of the training images is taken" in capsys.readouterr().err
    assert [len(open_data(config, split)) for split in ("train", "val")] == [4, 1]


def test_an_image_that_is_missing_does_not_mislead(tmp_path: Path) -> None:
    fill(tmp_path, "images/b.jpg", "images/c.jpg", "other/a.jpg")
    fill(tmp_path, *(f"annotations/{name}.xml" for name in "abc"), text=VOC)
    assert splits(auto(tmp_path, "detection"))["train"]["images"] == "images"


def test_the_first_images_of_a_file_may_be_missing_too(tmp_path: Path) -> None:
    fill(tmp_path, "pictures/b.jpg")
    content = json.loads(coco("b.jpg"))
    content["images"].insert(0, {**content["images"][0], "id": 0, "file_name": 'a "quoted" \\ name.jpg'})
    fill(tmp_path, "train.json", text=json.dumps(content))
    assert splits(auto(tmp_path, "detection"))["train"]["images"] == "pictures"


def test_voc_beside_the_images(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        fill(tmp_path, f"{split}/a.jpg")
        fill(tmp_path, f"{split}/a.xml", text=VOC)
    assert splits(auto(tmp_path, "detection"))["val"] == {"images": "valid", "annotations": "valid"}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"train": "images/train", "val": "images/val", "path": "../datasets/{root}"}, "."),
        ({"train": "images/train", "val": "images/val", "path": "datasets/elsewhere"}, "."),
        ({"train": "../images/train", "valid": "../images/val"}, "."),
        ({"train": ["images/train"], "val": "./images/val", "path": "."}, "."),
        ({"train": "train/images", "val": "valid/images"}, "other"),
    ],
)
def test_yolo_and_its_relative_paths(tmp_path: Path, content: dict[str, Any], place: str) -> None:
    root = tmp_path / "coco8"
    content = {key: value.format(root=root.name) if isinstance(value, str) else value for key, value in content.items()}
    for split in ("train", "val"):
        short = "valid" if split == "val" else split
        folder = f"images/{split}" if place == "." else f"other/{short}/images"
        fill(root, f"{folder}/a.png")
        fill(root, f"{folder.replace('images', 'labels')}/a.txt", text="1 0.5 0.5 0.5 0.5")
    fill(root, f"{place}/data.yaml", text=yaml.safe_dump({**content, "names": {0: "cat", 1: "dog"}}))
    config = auto(root, "detection")
    assert config.data.format == "yolo"
    for split in ("train", "val"):
        reader = open_data(config, split)
        assert reader.classes.names == ("cat", "dog")
        assert reader[0].labels is not None
        assert reader[0].labels.tolist() == [1]


def test_a_path_in_data_yaml_that_is_not_there_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "data.yaml", text="{train: images/train, names: [a]}")
    with pytest.raises(
        ConfigError, match=r"data\.format: auto: .*data\.yaml: train: images/train is not there; looked for"
    ):
        auto(tmp_path, "detection")


def test_yolo_without_a_yaml_file(tmp_path: Path) -> None:
    fill(tmp_path, "images/train/a.png")
    fill(tmp_path, "labels/train/a.txt", text="0 0.5 0.5 0.5 0.5")
    config = auto(tmp_path, "detection", classes=["cat"])
    assert splits(config)["train"] == {"images": "images/train"}


def test_csv_and_via(tmp_path: Path) -> None:
    fill(tmp_path, "table/images/a.png", "via/pictures/a.png")
    fill(tmp_path, "table/train_labels.csv", text="filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,1,4,4\n")
    fill(tmp_path, "table/notes.csv", text="a,b\n1,2\n")
    shape = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}
    region = {"shape_attributes": shape, "region_attributes": {"class": "cat"}}
    fill(tmp_path, "via/via.json", text=json.dumps({"a.png1": {"filename": "a.png", "regions": [region]}}))
    assert splits(auto(tmp_path / "table", "detection"))["train"] == {
        "images": "table/images".removeprefix("table/"),
        "annotations": "train_labels.csv",
    }
    config = auto(tmp_path / "via", "instance_segmentation")
    assert config.data.format == "via"
    assert splits(config)["train"] == {"images": "pictures", "annotations": "via.json"}


@pytest.mark.parametrize(
    ("images", "masks"),
    [("{}", "{}annot"), ("images/{}", "masks/{}"), ("{}/images", "{}/masks"), ("{}_images", "{}_labels")],
)
def test_masks(tmp_path: Path, images: str, masks: str, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        fill(tmp_path, f"{images.format(split)}/a.jpg", f"{images.format(split)}/b.jpg")
        for name in "ab":
            path = tmp_path / masks.format(split) / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([[0, 1, 2, 11]], np.uint8)).save(path)
    config = auto(tmp_path, "segmentation", classes=["a", "b", "c"], ignore_index=11)
    assert config.data.format == "masks"
    assert splits(config) == {
        split: {"images": images.format(split), "masks": masks.format(split)} for split in ("train", "val")
    }
    assert "their values 0 to 2, 11" in capsys.readouterr().err
    assert auto(tmp_path, "instance_segmentation").data.format == "instance_masks"


def test_binary_masks_need_no_more_words(tmp_path: Path) -> None:
    fill(tmp_path, "images/a.jpg", "images/b.jpg")
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.fromarray(np.repeat([[0, 255]], 6, axis=0).astype(np.uint8)).resize(
            (8, 6), Image.Resampling.NEAREST
        ).save(tmp_path / f"masks/{name}.png")
    config = auto(tmp_path, "segmentation", val={"from_train": 0.5})
    assert config.data.values == {"background": 0, "foreground": 255}
    assert open_data(config, "train").classes.names == ("background", "foreground")


def test_folders(tmp_path: Path) -> None:
    fill(tmp_path, *(f"split/{s}/{c}/{n}.png" for s in ("train", "val") for c in ("cat", "dog") for n in range(2)))
    assert splits(auto(tmp_path / "split", "classification")) == {
        "train": {"images": "train"},
        "val": {"images": "val"},
    }
    assert splits(auto(tmp_path / "split/train", "classification")) == {
        "train": {"images": "."},
        "val": {"from_train": 0.2},
    }


def test_folders_inside_those_of_classes_are_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{s}/{c}/{day}/1.png" for s in ("train", "val") for c in ("cat", "dog") for day in ("mon", "tue")]
    fill(tmp_path / "set", *names)
    config = auto(tmp_path / "set", "classification")
    assert splits(config) == {"train": {"images": "train"}, "val": {"images": "val"}}
    assert open_data(config, "train").classes.names == ("cat", "dog")
    fill(tmp_path / "set", "old/train/cat/1.png")
    assert splits(auto(tmp_path / "set", "classification"))["train"] == {"images": "train"}
    assert "passed over, a second folder of a split: old/train" in capsys.readouterr().err


def test_what_is_there_is_said_when_nothing_fits(tmp_path: Path) -> None:
    fill(tmp_path, "images/a.jpg")
    fill(tmp_path, "notes.txt")
    with pytest.raises(ConfigError, match=r"auto: .*no format is detected in 2 files \(\.jpg, \.txt\) in 2 folders"):
        auto(tmp_path, "detection")
    fill(tmp_path, "annotations/a.xml", text=VOC)
    with pytest.raises(
        ConfigError, match=r"nothing for segmentation, but there is Pascal VOC's XML in annotations, without"
    ):
        auto(tmp_path, "segmentation")
    fill(tmp_path, "instances.json", "train2.json", "train.json", text=coco("a.jpg"))
    with pytest.raises(ConfigError, match=r"data\.root: no folder .*nowhere"):
        auto(tmp_path / "nowhere", "detection")


def test_options_that_were_never_checked_are_refused(tmp_path: Path) -> None:
    data = DataOptions(format="auto", root=str(tmp_path), train=CocoSplit(images=".", annotations="a.json"))
    with pytest.raises(DataError, match=r"data\.format: auto is answered when a configuration is checked"):
        open_reader(data, "train")


def test_two_files_of_one_split_are_not_chosen_from(tmp_path: Path) -> None:
    fill(tmp_path, "images/a.jpg")
    fill(tmp_path, "train_a.json", "train_b.json", text=coco("a.jpg"))
    with pytest.raises(
        ConfigError, match=r"both look like train; say which one \(data\.train\.annotations=train_b\.json\)"
    ):
        auto(tmp_path, "detection")
    found = splits(auto(tmp_path, "detection", train={"annotations": "train_b.json"}))
    assert found["train"] == {"images": "images", "annotations": "train_b.json"}


@pytest.mark.parametrize(
    ("name", "task", "found", "counts"),
    [
        ("coco", "instance_segmentation", "coco", (238, 79)),
        ("raccoon", "detection", "voc", (160, 40)),
        ("camvid", "segmentation", "masks", (367, 101)),
        ("pennfudan", "instance_segmentation", "instance_masks", (136, 34)),
        ("imagenette128", "classification", "folders", (9469, 3925)),
    ],
)
def test_real_data(shared: Path, name: str, task: str, found: str, counts: tuple[int, int]) -> None:
    more: dict[str, Any] = {"classes": list("abcdefghijk"), "ignore_index": 11} if name == "camvid" else {}
    config = auto(shared / "data" / name, task, **more)
    assert config.data.format == found
    readers = [open_data(config, split) for split in ("train", "val")]
    assert tuple(map(len, readers)) == counts
    for reader in readers:
        sample = reader.read(len(reader) - 1)
        for masks in (sample.masks, None if sample.semantic is None else sample.semantic[None]):
            assert masks is None or masks.shape[1:] == sample.pixels.shape[:2]


def yolo(root: Path, name: str, folder: str, label: str) -> None:
    fill(root, f"{folder}/images/train/a.png")
    fill(root, f"{folder}/labels/train/a.txt", text=label)
    fill(root, name, text=f"{{train: {folder}/images/train, val: {folder}/images/train, names: [cat]}}")


BOX, POLYGON = "0 0.5 0.5 0.5 0.5", "0 0.1 0.1 0.9 0.1 0.5 0.9"


class TestSeveralCandidates:
    def test_of_two_yaml_files_the_one_of_the_tasks_kind_is_taken_and_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        yolo(tmp_path, "a-seg.yaml", "polygons", POLYGON)
        yolo(tmp_path, "b.yaml", "boxes", BOX)
        assert splits(auto(tmp_path, "detection"))["train"] == {"images": "boxes/images/train", "names": "b.yaml"}
        assert "b.yaml with boxes (not taken: a-seg.yaml): yolo" in capsys.readouterr().err
        assert splits(auto(tmp_path, "instance_segmentation"))["train"]["names"] == "a-seg.yaml"

    def test_where_the_kind_does_not_decide_all_are_listed(self, tmp_path: Path) -> None:
        yolo(tmp_path, "a.yaml", "one", BOX)
        yolo(tmp_path, "b.yaml", "two", BOX)
        with pytest.raises(ConfigError, match=r"could be read in several ways: a\.yaml with boxes; b\.yaml with boxes"):
            auto(tmp_path, "detection")
        with pytest.raises(DataError, match=r"data\.train='\{images: two/images/train, names: b\.yaml\}'"):
            detect_format(tmp_path, ())

    def test_two_files_that_say_the_same_are_one(self, tmp_path: Path) -> None:
        yolo(tmp_path, "a.yaml", "one", BOX)
        (tmp_path / "copy.yaml").write_text((tmp_path / "a.yaml").read_text())
        assert splits(auto(tmp_path, "detection"))["train"]["images"] == "one/images/train"

    def test_of_two_formats_none_is_taken_unless_one_is_asked_for(self, tmp_path: Path) -> None:
        fill(tmp_path, "images/a.jpg")
        fill(tmp_path, "xml/a.xml", text=VOC)
        fill(tmp_path, "train.json", text=coco("a.jpg"))
        with pytest.raises(ConfigError, match=r"ways: COCO JSON in train\.json \(data\.format=coco data\.train="):
            auto(tmp_path, "detection")
        # Boxes alone are no masks.
        assert auto(tmp_path, "instance_segmentation").data.format == "coco"
        assert detect_format(tmp_path, (), "voc").format == "voc"
        assert check_data(tmp_path, {"data.format": "voc"}).data.format == "voc"

    def test_files_that_name_no_split_are_not_passed_over_in_silence(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fill(tmp_path, "images/a.jpg")
        fill(tmp_path, "one.json", "two.json", text=coco("a.jpg"))
        with pytest.raises(ConfigError, match=r"one\.json, two\.json: none of them says which split it is"):
            auto(tmp_path, "detection")
        (tmp_path / "one.json").rename(tmp_path / "train.json")
        auto(tmp_path, "detection")
        assert "passed over, since they name no split: two.json" in capsys.readouterr().err

    @pytest.mark.parametrize("form", ["coco", "voc", "csv"])
    def test_two_folders_with_the_same_images(self, form: str, tmp_path: Path) -> None:
        fill(tmp_path, "one/a.jpg", "one/b.jpg", "two/a.jpg", "masks/a.jpg")
        if form == "coco":
            fill(tmp_path, "train.json", text=coco("a.jpg"))
        elif form == "voc":
            fill(tmp_path, "xml/a.xml", text=VOC)
        else:
            fill(tmp_path, "train.csv", text="filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,0,0,4,4\n")
        with pytest.raises(ConfigError, match=r"the images of .* could be in one, two; say which one, such as"):
            auto(tmp_path, "detection")
        assert splits(auto(tmp_path, "detection", train={"images": "two"}))["train"]["images"] == "two"
        (tmp_path / "two/a.jpg").unlink()
        assert splits(auto(tmp_path, "detection"))["train"]["images"] == "one"


def test_what_is_said_of_a_split_is_added_to_what_was_found(tmp_path: Path) -> None:
    yolo(tmp_path, "data.yaml", ".", BOX)
    found = splits(auto(tmp_path, "detection", train={"missing_labels": "skip"}))
    assert found["train"] == {"images": "images/train", "missing_labels": "skip"}

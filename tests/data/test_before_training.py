"""What training refuses before its first step, without decoding an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checked_data import STEMS, content, save, write_coco, write_masks

from rehead.configs.readers import CocoSplit, FromTrainSplit, MasksSplit
from rehead.configs.schema import SourceOptions
from rehead.data.check.before_training import refuse_broken
from rehead.data.readers import Reader, open_reader
from rehead.errors import DataError

COCO = CocoSplit(images="train", annotations="train.json")


def coco(root: Path, split: str = "train", **more: Any) -> Reader:
    reader = open_reader(SourceOptions(format="coco", root=str(root), train=COCO, **more), split)
    reader.masks = True
    return reader


def refuse(reader: Reader, task: str = "instance_segmentation") -> None:
    refuse_broken(reader, "data.train", {task}, learn=True)


def test_whole_data_are_let_through_without_a_look_at_a_pixel(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    for stem in STEMS["train"]:
        (root / "train" / f"{stem}.png").write_text("looked at later")
    refuse(coco(root))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"1 of 3 images are not there, the first is .*b\.png; `rehead data check` lists"),
        (lambda path: path.write_bytes(b""), r"1 of 3 images are empty files, the first is .*b\.png"),
    ],
)
def test_images(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    spoil(root / "train" / "b.png")
    with pytest.raises(DataError, match=rf"data\.train: {message}"):
        refuse(coco(root))


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_masks(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    root = write_masks(tmp_path)
    split = MasksSplit(images="train", masks="train_masks")
    reader = open_reader(SourceOptions(format="masks", root=str(root), train=split, classes=["x", "y", "z"]), "train")
    refuse(reader, "segmentation")
    spoil(root / "train_masks" / "c.png")
    with pytest.raises(DataError, match=r"1 of 3 masks are (not there|empty files), the first is .*c\.png"):
        refuse(reader, "segmentation")


def test_outlines_where_masks_are_wanted_alone(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    whole = content("train")
    whole["annotations"][2]["segmentation"] = [[1, 2, 3, 4]]
    save(root, "train", whole)
    reader = coco(root)
    with pytest.raises(
        DataError, match=r"train\.json: 1 of 6 objects .* annotation 4 of .*b\.png: a polygon is a list"
    ):
        refuse(reader)
    with pytest.raises(DataError, match="annotation 4"):
        refuse(coco(root, "val", val=FromTrainSplit(from_train=0.4)))
    reader.masks = False
    refuse(reader, "detection")
    # Objects of classes that were not asked for may be as they are.
    chosen = open_reader(SourceOptions(format="coco", root=str(root), train=COCO), "train", ["dog"])
    chosen.masks = True
    refuse(chosen)
    del whole["annotations"][2]["segmentation"]
    save(root, "train", whole)
    with pytest.raises(DataError, match=r"annotation 4 of .*b\.png: no segmentation"):
        refuse(coco(root))


@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"bbox": [5, 4, 0, 3]}])
def test_boxes_that_training_leaves_out_are_nothing_to_learn_from(change: dict[str, Any], tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    whole = content("train")
    whole["annotations"] = [{**one, **change} for one in whole["annotations"]]
    save(root, "train", whole)
    with pytest.raises(DataError, match=r"data\.train: none of the 3 images has a box to learn from"):
        refuse(coco(root), "detection")
    refuse_broken(coco(root), "data.val", {"detection"}, learn=False)

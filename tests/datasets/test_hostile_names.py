"""Names with control, bidirectional and other characters that leave no mark, in pictures and in what is written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from checked_data import STEMS, content, noise, save, write_coco
from PIL import Image

from rehead.configs.load import load_config
from rehead.configs.readers import CocoSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.picture import draw
from rehead.datasets.every_split import open_every_split
from rehead.datasets.open import open_reader
from rehead.datasets.parsing import inline
from rehead.datasets.split import write_split
from rehead.datasets.write import write
from rehead.errors import DataError
from rehead.visualize.draw import draw_boxes, draw_classes, draw_label, draw_semantic, sheet

ODD = "a\nb\r\x1b[31m\u202e$\\frac{$"
NO_TEXT = b"\xff.png".decode("utf-8", "surrogateescape")


def test_pictures_are_drawn_with_any_name(tmp_path: Path) -> None:
    image = noise(1, (60, 80))
    names = [ODD, "\x00", "\udcff", "\u200b" * 9]
    boxes = np.array([[5, 5, 70, 50]] * 4, np.float32)
    labels = np.arange(4)
    tiles = [
        draw_boxes(image, boxes, labels, names, np.linspace(0.4, 0.9, 4)),
        draw_semantic(image, np.arange(80) // 20 * np.ones((60, 1), np.int64), names),
        draw_label(image, ODD),
        draw_classes(image, [0, 1, 2, 3], names),
    ]
    assert all(tile.shape[1] % 80 == 0 for tile in tiles)
    # The letters of an escape are drawn, not an empty line.
    assert (draw_label(image, "\x1b") == draw_label(image, r"\x1b")).all()
    sheet(tiles, columns=2, captions=names)
    draw(tmp_path / "classes.png", None, {name * 9: {"train": 3, "val": 1} for name in names}, "objects")
    assert Image.open(tmp_path / "classes.png").size[0] > 100


def odd_coco(root: Path) -> Path:
    """Classes of any name."""
    write_coco(root)
    for split in STEMS:
        whole = content(split)
        whole["categories"][0]["name"] = ODD
        save(root, split, whole)
    return root


def coco(root: Path) -> DataOptions:
    return DataOptions(
        format="coco",
        root=str(root),
        **{split: CocoSplit(images=split, annotations=f"{split}.json") for split in STEMS},
    )


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_class_names_survive_being_written(form: str, tmp_path: Path) -> None:
    source = coco(odd_coco(tmp_path / "data"))
    written = write({split: open_reader(source, split) for split in STEMS}, form, tmp_path / "out")
    read = load_config({"task": "detection", "model": {"head": "fcos"}, "data": written.options})
    assert open_every_split(read.data, "detection")["train"].classes.names == (ODD, "dog")


def test_voc_refuses_names_that_xml_and_lists_have_no_place_for(tmp_path: Path) -> None:
    source = coco(odd_coco(tmp_path / "data"))
    with pytest.raises(DataError, match=r"class 'a\nb\r\x1b.*rename it"):
        write({"train": open_reader(source, "train")}, "voc", tmp_path / "out")
    root = write_coco(tmp_path / "images")
    rename_first(root, "a\nb.png")
    with pytest.raises(DataError, match=r"image 'a\nb\.png' holds control characters"):
        write({"train": open_reader(coco(root), "train")}, "voc", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def rename_first(root: Path, name: str) -> None:
    whole = content("train")
    (root / "train" / whole["images"][0]["file_name"]).rename(root / "train" / name)
    whole["images"][0]["file_name"] = name
    save(root, "train", whole)


@pytest.mark.parametrize("name", ["a\nb.png", " a.png"])
def test_a_drawn_split_refuses_names_that_are_no_line(name: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    rename_first(root, name)
    source = DataOptions(format="coco", root=str(root), train=CocoSplit(images="train", annotations="train.json"))
    with pytest.raises(DataError, match="cannot be a line of a list; rename it"):
        write_split(source, "detection", {"val": 0.5}, 0, tmp_path / "lists")
    assert not (tmp_path / "lists").exists()


def test_a_repair_lists_files_whose_names_are_no_text(tmp_path: Path, rehead_command) -> None:
    root = write_coco(tmp_path / "data")
    try:
        Image.fromarray(noise(5)).save(root / "train" / NO_TEXT)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes names of UTF-8 alone")
    outcome = rehead_command("data", "check", root, "--fix", tmp_path / "fixed")
    assert outcome.code == 0, outcome
    kinds = json.loads((tmp_path / "fixed/repair.json").read_bytes())["changes"]
    assert [item["file"] for kind in kinds for item in kind["items"]] == [str(root / "train" / NO_TEXT)]


def test_names_of_no_text_go_into_yolo_and_are_refused_by_coco(tmp_path: Path) -> None:
    source = coco(write_coco(tmp_path / "data"))
    written = write({split: open_reader(source, split) for split in STEMS}, "yolo", tmp_path / "yolo")
    folder = tmp_path / "yolo"
    try:
        (folder / "images/train/a.png").rename(folder / "images/train" / NO_TEXT)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes names of UTF-8 alone")
    (folder / "labels/train/a.txt").rename((folder / "labels/train" / NO_TEXT).with_suffix(".txt"))
    read = load_config({"task": "detection", "model": {"head": "fcos"}, "data": written.options}).data
    splits = open_every_split(read, "detection")
    again = write(splits, "yolo", tmp_path / "again")
    assert (tmp_path / "again/images/train" / NO_TEXT).is_file()
    assert again.options["train"] == {"images": "images/train"}
    for form in ("coco", "voc"):
        with pytest.raises(DataError, match="bytes that are no text"):
            write(splits, form, tmp_path / form)


def test_a_command_to_paste_is_one_word_whatever_a_name_holds() -> None:
    value = {"classes": ["it's; rm -rf ~", "$(reboot)", "`x`"]}
    command, *others = shlex.split(f"key={inline(value)}")
    assert others == []
    assert yaml.safe_load(command.removeprefix("key=")) == value

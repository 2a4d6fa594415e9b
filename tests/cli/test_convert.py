"""`rehead data convert` and `rehead data split` in one process, as a newcomer would use them, right and wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from checked_data import noise
from PIL import Image

from rehead.configs.load import load_config
from rehead.datasets.open import open_data
from rehead.demo.synthetic import MASK_CLASSES, SHAPES
from rehead.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def scenes(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic scenes as COCO alone, since there they lie beside masks."""
    root = tmp_path_factory.mktemp("alone") / "scenes"
    shutil.copytree(synthetic / "scenes", root, ignore=shutil.ignore_patterns("*_masks"))
    return root


def count(data: dict[str, Any], split: str, task: str, head: str) -> tuple[int, int, tuple[str, ...]]:
    """Images, objects and classes of what a command printed, read as a training would."""
    reader = open_data(load_config({"task": task, "model": {"head": head}, "data": data}), split)
    objects = sum(len(sample.labels) for sample in reader if sample.labels is not None)
    return len(reader), objects, reader.classes.names


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_the_printed_configuration_reads_what_was_written(
    form: str, rehead_command, tmp_path: Path, scenes: Path
) -> None:
    outcome = rehead_command("data", "convert", scenes, tmp_path / "new", "--to", form)
    assert outcome.code == 0, outcome.err
    printed = yaml.safe_load(outcome.out)["data"]
    assert printed["format"] == form
    original = {"format": "auto", "root": str(scenes)}
    for split in ("train", "val"):
        expected = count(original, split, "detection", "fcos")
        assert count(printed, split, "detection", "fcos") == expected
        # Without being told, it is detected too.
        detected = count({"format": "auto", "root": str(tmp_path / "new")}, split, "detection", "fcos")
        assert detected[:2] == expected[:2]
        assert sorted(detected[2]) == sorted(expected[2])
    if form == "voc":
        assert "masks or outlines are left out: VOC's objects are boxes" in outcome.err


def test_objects_become_class_maps(rehead_command, tmp_path: Path, scenes: Path, synthetic: Path) -> None:
    outcome = rehead_command("data", "convert", scenes, tmp_path / "maps", "--to", "masks", "--images", "link")
    assert outcome.code == 0, outcome.err
    printed = yaml.safe_load(outcome.out)["data"]
    assert tuple(printed["values"]) == ("background", *SHAPES)
    assert "objects are painted into one map per image" in outcome.err
    # The drawn masks say the same, where nothing lies over another.
    for path in sorted((tmp_path / "maps/masks/val").iterdir()):
        with Image.open(path) as image, Image.open(synthetic / "scenes/val_masks" / path.name) as truth:
            assert (np.asarray(image) == np.asarray(truth)).mean() > 0.999


def test_a_folder_of_masks_has_to_be_explained(rehead_command, tmp_path: Path, synthetic: Path) -> None:
    root = tmp_path / "maps"
    shutil.copytree(synthetic / "scenes", root, ignore=shutil.ignore_patterns("annotations"))
    outcome = rehead_command("data", "convert", root, tmp_path / "new", "--to", "coco")
    assert outcome.code == 2
    assert "say what the values are: data.format=instance_masks" in outcome.err
    more = ("data.format=masks", f"data.classes=[{','.join(MASK_CLASSES)}]")
    outcome = rehead_command("data", "convert", root, tmp_path / "new", "--to", "masks", *more)
    assert outcome.code == 0, outcome.err
    outcome = rehead_command("data", "convert", root, tmp_path / "other", "--to", "yolo", *more)
    assert outcome.code == 2
    assert "holds class maps, which yolo has no place for; use --to masks" in outcome.err
    assert not (tmp_path / "other").exists()


def test_what_is_wrong_is_one_message(rehead_command, tmp_path: Path, scenes: Path, synthetic: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()

    def refused(said: str, *arguments: Any) -> None:
        outcome = rehead_command("data", *arguments)
        assert outcome.code == 2
        assert said in outcome.err, outcome.err
        assert "Traceback" not in outcome.err

    new = tmp_path / "new"
    refused("no such file or recipe", "convert", tmp_path / "nowhere", new, "--to", "coco")
    refused(
        "is a folder that is not empty; nothing is overwritten", "convert", scenes, tmp_path / "full", "--to", "coco"
    )
    refused("no writer for 'cocoa'; did you mean 'coco'?", "convert", scenes, new, "--to", "cocoa")
    said = "holds classes of images, which coco has no place for; use --to folders"
    refused(said, "convert", synthetic / "shapes", new, "--to", "coco")
    refused(
        "data.clases: unknown key; did you mean 'classes'", "convert", scenes, new, "--to", "coco", "data.clases=[a]"
    )
    refused("no format is detected", "convert", tmp_path / "full", new, "--to", "coco")
    refused("has a val already", "split", scenes)
    refused("--val: 1.5 is no share", "split", scenes, "--val", 1.5)
    refused("leave some images to train on", "split", scenes, "--val", 0.6, "--test", 0.4)
    refused("nothing to draw", "split", scenes, "--val", 0)
    refused("nothing is overwritten", "split", scenes, "--val", 0, "--test", 0.5, "--out", tmp_path / "full")
    assert not new.exists()
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["mine.txt"]


@pytest.mark.parametrize("kind", ["folders", "coco"])
def test_a_written_split_is_read_back(kind: str, rehead_command, tmp_path: Path, synthetic: Path, scenes: Path) -> None:
    root = tmp_path / "data"
    if kind == "folders":
        shutil.copytree(synthetic / "shapes/train", root / "train")
    else:
        shutil.copytree(scenes / "train", root / "train")
        (root / "annotations").mkdir()
        shutil.copy(scenes / "annotations/train.json", root / "annotations")
    outcome = rehead_command("data", "split", root, "--val", 0.25, "--test", 0.25, "--seed", 3)
    assert outcome.code == 0, outcome.err
    printed = yaml.safe_load(outcome.out)["data"]
    assert printed["val"] == {"from_train": "splits/val.txt"}
    task, head = ("classification", "linear") if kind == "folders" else ("detection", "fcos")
    config = load_config({"task": task, "model": {"head": head}, "data": printed})
    found = {
        split: {sample.path.name + sample.path.parent.name for sample in open_data(config, split)}
        for split in ("train", "val", "test")
    }
    assert {split: len(own) for split, own in found.items()} == {"train": 6, "val": 3, "test": 3}
    assert len(set().union(*found.values())) == 12
    listed = (root / "splits/val.txt").read_text().splitlines()
    assert {Path(name).name + ((root / "train" / name).parent.name) for name in listed} == found["val"]
    # The same seed gives the same split, and of others not all.
    for seed in range(3, 7):
        out = tmp_path / f"seed{seed}"
        rehead_command("data", "split", root, "--val", 0.25, "--test", 0.25, "--seed", seed, "--out", out)
    again = [(tmp_path / f"seed{seed}/val.txt").read_text().splitlines() for seed in range(3, 7)]
    assert again[0] == listed
    assert any(other != listed for other in again)
    # A drawn split becomes files of its own.
    if kind == "coco":
        whole = {"task": task, "model": {"head": head}, "data": printed}
        for name, content in (("whole", whole), ("printed", {"data": printed})):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
            outcome = rehead_command("data", "convert", tmp_path / f"{name}.yaml", tmp_path / name, "--to", "yolo")
            assert outcome.code == 0, outcome.err
            assert len(list((tmp_path / name / "images/test").iterdir())) == 3
        outcome = rehead_command("data", "check", tmp_path / "printed.yaml", "--json", tmp_path / "found.json")
        assert "images: 12 in train" in outcome.out
        (tmp_path / "printed.yaml").write_text(yaml.safe_dump({"data": {**printed, "roott": "x"}}))
        outcome = rehead_command("data", "check", tmp_path / "printed.yaml")
        assert outcome.code == 2
        assert "data.roott: unknown key; did you mean 'root'" in outcome.err


def test_lists_of_a_split_become_no_class(tmp_path: Path, rehead_command) -> None:
    root = tmp_path / "photos"
    for number in range(8):
        (root / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(root / f"class{number % 2}" / f"{number}.png")
    outcome = rehead_command("data", "split", root, "--val", 0.5)
    assert outcome.code == 0, outcome
    assert sorted(path.name for path in root.iterdir()) == ["class0", "class1"]
    lists = tmp_path / "photos_splits"
    assert yaml.safe_load(outcome.out)["data"]["val"] == {"from_train": str(lists / "val.txt")}
    outcome = rehead_command("data", "split", root, "--val", 0.5, "--out", root / "lists")
    assert (outcome.code, (root / "lists").exists()) == (2, False)


def test_a_list_of_names_is_checked(tmp_path: Path, synthetic: Path) -> None:
    shutil.copytree(synthetic / "shapes/train", tmp_path / "train")
    names = sorted(path.relative_to(tmp_path / "train").as_posix() for path in tmp_path.rglob("*.png"))
    data = {"format": "folders", "root": str(tmp_path), "train": {"images": "train"}}

    def opened(**lists: str) -> None:
        for split, text in lists.items():
            (tmp_path / f"{split}.txt").write_text(text)
        drawn_by = {split: {"from_train": f"{split}.txt"} for split in lists if split != "gone"}
        if "gone" in lists:
            drawn_by = {"val": {"from_train": "no/gone.txt"}}
        raw = {"task": "classification", "model": {"head": "linear"}, "data": {**data, **drawn_by}}
        open_data(load_config(raw), "val")

    for said, lists in {
        "names 1 images that training has not, first: circle/1.png; did you mean": {"val": "circle/1.png\n"},
        "names no image": {"val": "\n"},
        "which is in .*val.txt too": {"val": names[0], "test": f"{names[1]}\n{names[0]}"},
        "leave none to train on": {"val": "\n".join(names)},
    }.items():
        with pytest.raises(DataError, match=said):
            opened(**lists)
    with pytest.raises(DataError, match=r"gone\.txt: no such file"):
        opened(gone="")
    with pytest.raises(ConfigError, match="both shares, or both text files"):
        load_config({"data": {**data, "val": {"from_train": "val.txt"}, "test": {"from_train": 0.1}}})

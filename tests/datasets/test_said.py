"""What is said on the command line wins over what was detected, key by key, in every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rehead.configs.load import load_config
from rehead.configs.overrides import parse_overrides
from rehead.configs.readers import SplitOptions
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.repair import repair
from rehead.datasets.audit.run import check_data
from rehead.datasets.audit.sources import open_all
from rehead.datasets.every_split import source_of
from rehead.errors import ConfigError, DataError

BOX = "0 0.5 0.5 0.5 0.5"


def images(root: Path, folder: str, *names: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        shade = sum(map(ord, folder + name)) % 256
        Image.effect_noise((32, 24), shade).convert("RGB").save(root / folder / name)


def yolo(root: Path, yaml: str, *splits: str) -> Path:
    for split in splits:
        images(root, f"{split}/images", "a.png")
        (root / split / "labels").mkdir(parents=True)
        (root / split / "labels/a.txt").write_text(BOX)
    (root / "data.yaml").write_text(yaml)
    return root


def coco(root: Path, *splits: str) -> Path:
    for split in splits:
        images(root, split, "a.png")
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def trained(root: Path, *said: str) -> DataOptions:
    """As `train` and `data show` read it."""
    raw = {"task": "detection", "model": {"head": "faster_rcnn"}, "data": {"format": "auto", "root": str(root)}}
    return load_config(raw, parse_overrides(said)).data


def converted(root: Path, *said: str) -> DataOptions:
    """As `data convert` and `data split` read it."""
    return source_of(root, parse_overrides(said))[0]


WAYS: list[Callable[..., DataOptions]] = [trained, converted]


def options(split: SplitOptions | None) -> dict[str, Any] | None:
    return None if split is None else split.model_dump(exclude_defaults=True)


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize(
    ("said", "split", "expected"),
    [
        ("data.val=null", "val", None),
        ("data.val={from_train: 0.2}", "val", {"from_train": 0.2}),
        ("data.val.images=other", "val", {"images": "other", "annotations": "val.json"}),
        ("data.train.images=other", "train", {"images": "other", "annotations": "train.json"}),
        ("data.train.annotations=val.json", "train", {"images": "train", "annotations": "val.json"}),
        ("data.format=coco", "val", {"images": "val", "annotations": "val.json"}),
        ("data.format=auto", "val", {"images": "val", "annotations": "val.json"}),
        (
            "data.test={images: other, annotations: val.json}",
            "test",
            {"images": "other", "annotations": "val.json"},
        ),
    ],
)
def test_what_is_said_wins(
    read: Callable[..., DataOptions], said: str, split: str, expected: dict[str, Any] | None, tmp_path: Path
) -> None:
    images(coco(tmp_path, "train", "val"), "other", "a.png")
    found = read(tmp_path, said)
    assert found.format == "coco"
    assert options(getattr(found, split)) == expected
    rest = next(name for name in ("train", "val") if name != split)
    assert options(getattr(found, rest)) == {"images": rest, "annotations": f"{rest}.json"}


@pytest.mark.parametrize(
    ("said", "splits"),
    [
        ("data.val=null", ["train"]),
        ("data.train.images=other", ["train", "val"]),
        ("data.format=auto", ["train", "val"]),
    ],
)
def test_the_check_too(said: str, splits: list[str], tmp_path: Path) -> None:
    images(coco(tmp_path, "train", "val"), "other", "a.png")
    found = open_all(tmp_path, parse_overrides([said]), Findings())
    assert [one.split for one in found.sources] == splits
    assert found.sources[0].reader.folder.name == ("other" if "other" in said else "train")


@pytest.mark.parametrize("read", WAYS)
def test_of_yolo_the_names_stay_with_another_folder_of_images(read: Callable[..., DataOptions], tmp_path: Path) -> None:
    root = tmp_path / "data"
    yolo(root / "export", "{train: train/images, names: [cat]}", "train", "spare")
    found = read(root, "data.format=yolo", "data.val.images=export/spare/images")
    assert options(found.val) == {"images": "export/spare/images", "names": "export/data.yaml"}


@pytest.mark.parametrize("read", WAYS)
def test_a_format_with_its_splits_written_out_needs_nothing_to_be_recognised(
    read: Callable[..., DataOptions], tmp_path: Path
) -> None:
    coco(tmp_path, "one", "two")  # of no split by their names
    said = ["data.format=coco", "data.train={images: one, annotations: one.json}"]
    assert options(read(tmp_path, *said).train) == {"images": "one", "annotations": "one.json"}
    with pytest.raises((ConfigError, DataError), match="none of them says which split it is"):
        read(tmp_path)


def test_of_a_folder_only_its_data_can_be_said(tmp_path: Path) -> None:
    coco(tmp_path, "train")
    for said, message in (("train.epochs=1", "train.epochs: .* is a folder"), ("data.root=x", "is the folder already")):
        with pytest.raises(ConfigError, match=message):
            converted(tmp_path, said)


class TestARecipesOwnSplits:
    def recipe(self, tmp_path: Path) -> Path:
        file = tmp_path / "mine.yaml"
        data = {
            "format": "voc",
            "root": "elsewhere",
            "train": {"images": "images", "annotations": "annotations"},
            "val": {"from_train": 0.2},
        }
        raw = {"task": "detection", "model": {"head": "faster_rcnn"}, "data": data}
        file.write_text(json.dumps(raw))
        return file

    def test_give_way_where_they_are_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = coco(tmp_path / "own", "train", "val")
        for form in ("auto", "coco"):
            said = {"data.format": form, "data.root": str(root)}
            found = load_config(self.recipe(tmp_path), said).data
            assert found.format == "coco"
            assert options(found.val) == {"images": "val", "annotations": "val.json"}
        assert "own splits (voc) are not there and give way" in capsys.readouterr().err

    def test_but_not_what_the_user_says(self, tmp_path: Path) -> None:
        root = coco(tmp_path / "own", "train", "val")
        said = {"data.format": "auto", "data.root": str(root), "data.val": {"from_train": 0.5}}
        assert options(load_config(self.recipe(tmp_path), said).data.val) == {"from_train": 0.5}

    def test_stay_where_they_are_there(self, tmp_path: Path) -> None:
        root = tmp_path / "own"
        thing = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
        for folder in ("images", "val"):
            images(root, folder, "a.png")
            (root / f"{folder.replace('images', '')}annotations").mkdir()
            file = root / f"{folder.replace('images', '')}annotations/a.xml"
            file.write_text(f"<annotation>{thing}</object></annotation>")
        found = load_config(self.recipe(tmp_path), {"data.format": "auto", "data.root": str(root)}).data
        assert options(found.train) == {"images": "images", "annotations": "annotations"}
        assert options(found.val) == {"from_train": 0.2}


class TestAWrongPathInDataYaml:
    def root(self, tmp_path: Path) -> Path:
        return yolo(tmp_path, "{train: ../train/images, val: ../val/images, names: [cat]}", "train", "valid2")

    @pytest.mark.parametrize("read", WAYS)
    def test_is_an_error_that_names_what_there_is_and_the_cure(
        self, read: Callable[..., DataOptions], tmp_path: Path
    ) -> None:
        root = self.root(tmp_path)
        there = r"has images in train/images \(1 images\), valid2/images \(1 images\)"
        message = rf"data\.yaml: val: \.\./val/images is not there.*{there}; say data\.val\.images=valid2/images or"
        with pytest.raises((ConfigError, DataError), match=message):
            read(root)
        cured = read(root, "data.val.images=valid2/images").val
        assert options(cured) in ({"images": "valid2/images"}, {"images": "valid2/images", "names": "data.yaml"})
        assert read(root, "data.val=null").val is None

    def test_is_a_finding_of_the_check_which_goes_on(self, tmp_path: Path) -> None:
        checked = check_data(self.root(tmp_path))
        assert [one.split for one in checked.data.sources] == ["train"]
        (wrong,) = (one for one in checked.findings if one.code == "missing_split")
        assert wrong.file.endswith("data.yaml")
        assert "say data.val.images=valid2/images or" in wrong.message
        cured = check_data(tmp_path, {"data.val.images": "valid2/images"})
        assert [one.split for one in cured.data.sources] == ["train", "val"]
        assert "missing_split" not in {one.code for one in cured.findings}

    def test_or_of_all_splits(self, tmp_path: Path) -> None:
        checked = check_data(yolo(tmp_path, "{train: nowhere, val: nothing, names: [cat]}"))
        assert not checked.data.sources
        assert [one.code for one in checked.findings] == ["missing_split"] * 2
        assert checked.findings.errors

    def test_is_not_repaired_in_silence(self, tmp_path: Path) -> None:
        said = repair(check_data(self.root(tmp_path / "in")), tmp_path / "out")
        assert any(line.startswith("not repaired, missing_split: 1") for line in said)


def test_a_file_of_data_alone_may_leave_the_format_open(tmp_path: Path) -> None:
    coco(tmp_path / "own", "train", "val")
    file = tmp_path / "data.yaml"
    file.write_text(json.dumps({"data": {"format": "auto", "root": str(tmp_path / "own"), "val": {"from_train": 0.5}}}))
    found = source_of(file)[0]
    assert options(found.train) == {"images": "train", "annotations": "train.json"}
    assert options(found.val) == {"from_train": 0.5}
    data = open_all(file, {"data.val": None}, Findings())
    assert ([one.split for one in data.sources], data.drawn) == (["train"], [])

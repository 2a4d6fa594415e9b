"""Hugging Face `datasets`, an extra."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rehead.configs.load import load_config
from rehead.configs.readers import HuggingFaceSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.run import check_data
from rehead.datasets.every_split import open_every_split, source_of
from rehead.datasets.open import Reader, open_data, open_reader
from rehead.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")


def png(value: int, mode: str = "RGB") -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8) if mode == "L" else (6, 8, 3), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images with a class, objects as lists and as a dictionary of lists, and a class map."""
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path / "cache"))
    names = datasets.ClassLabel(names=["cat", "dog"])
    box = datasets.List(datasets.Value("float32"))
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": names,
            "objects": datasets.List({"bbox": box, "category": names}),
            "faces": {"bbox": datasets.List(box), "label": datasets.List(datasets.Value("string"))},
            "map": datasets.Image(),
        }
    )
    objects = [[{"bbox": [1, 2, 3, 4], "category": 1}, {"bbox": [0, 0, 8, 6], "category": 0}], [], []]
    faces = [{"bbox": [[1, 2, 3, 4]], "label": ["eel"]}, {"bbox": [], "label": []}, {"bbox": [], "label": []}]
    rows = {
        "image": [png(10), png(20), png(30)],
        "label": [1, 0, 1],
        "objects": objects,
        "faces": faces,
        "map": [png(value, "L") for value in (0, 1, 255)],
    }
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "data"))
    return tmp_path


def opened(root: Path, task: str, split: dict[str, Any] | None = None, **data: Any) -> Reader:
    options = HuggingFaceSplit(**{"dataset": "data", "split": "train", **(split or {})})
    return open_reader(DataOptions(format="huggingface", root=str(root), train=options, **data), "train", task=task)


def test_classes(saved: Path) -> None:
    found = opened(saved, "classification")
    assert found.classes.names == ("cat", "dog")
    assert [sample.label for sample in found] == [1, 0, 1]
    assert [int(found.read(index).pixels.mean()) for index in range(3)] == [10, 20, 30]
    assert [sample.label for sample in opened(saved, "classification", classes=["dog", "cat"])] == [0, 1, 0]
    assert [sample.label for sample in opened(saved, "classification", classes=["cat"])] == [None, 0, None]


def test_objects_as_a_list_and_as_lists(saved: Path) -> None:
    found = opened(saved, "detection", {"annotation": "objects"})
    assert found[0].boxes is not None
    assert found[0].labels is not None
    assert found[0].boxes.tolist() == [[1, 2, 4, 6], [0, 0, 8, 6]]
    assert found[0].labels.tolist() == [1, 0]
    assert [len(sample.boxes) for sample in found if sample.boxes is not None] == [2, 0, 0]
    found = opened(saved, "detection", {"annotation": "faces", "boxes": "xyxy"})
    assert found.classes.names == ("eel",)
    assert found[0].boxes is not None
    assert found[0].boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ({"bbox": [1, 2, 3, 4], "category": -1}, "row 0 object 1: category -1, but there are 2 classes"),
        (
            {"bbox": [1, 2, -3, 4], "category": 1},
            r"row 0 object 1: bbox \[1.0, 2.0, -3.0, 4.0\] as xywh has a neg",
        ),
        ({"bbox": [1, 2, float("nan"), 4], "category": 1}, "row 0 object 1: bbox .* infinite side"),
    ],
)
def test_objects_that_are_none_are_named(saved: Path, one: dict[str, Any], said: str) -> None:
    box = datasets.Sequence(datasets.Value("float32"), length=4)
    kinds = {"bbox": box, "category": datasets.ClassLabel(names=["cat", "dog"])}
    features = datasets.Features({"image": datasets.Image(), "objects": datasets.List(kinds)})
    rows = {"image": [png(10)], "objects": [[{"bbox": [1, 2, 3, 4], "category": 1}, one]]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features)}).save_to_disk(str(saved / "broken"))
    with pytest.raises(DataError, match=said):
        opened(saved, "detection", {"dataset": "broken"})


def test_class_maps(saved: Path) -> None:
    found = opened(saved, "segmentation", classes=["sky", "road"], ignore_index=[255])
    maps = [found.read(index).semantic for index in range(3)]
    assert [int(own.mean()) for own in maps if own is not None] == [0, 1, 255]


@pytest.mark.parametrize(
    ("task", "split", "said"),
    [
        ("detection", {}, "right for detection, found objects, faces; say which by annotation"),
        ("detection", {"annotation": "map"}, "right for detection, found none"),
        ("classification", {"split": "trian"}, "split: data has no 'trian'; did you mean 'train'"),
        ("classification", {"image": "label"}, "image: .*data has no column of images 'label'"),
    ],
)
def test_what_is_not_there_is_named(saved: Path, task: str, split: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        opened(saved, task, split)


def test_a_folder_that_is_no_data_set(saved: Path) -> None:
    (saved / "empty").mkdir()
    with pytest.raises(DataError, match="empty: cannot be loaded"):
        opened(saved, "detection", {"dataset": "empty"})


def auto(root: Path, task: str, head: str, **data: Any) -> Any:
    return load_config({"task": task, "model": {"head": head}, "data": {"format": "auto", "root": str(root), **data}})


class TestAuto:
    """`format: auto` on folders that `save_to_disk` wrote."""

    def test_says_what_it_saw_and_reads_it(self, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = auto(saved / "data", "classification", "linear")
        said = capsys.readouterr().err
        assert "has a data set of Hugging Face's datasets saved in train, with" in said
        assert "boxes (objects, faces), class maps (map), classes (label): huggingface, data.train=" in said
        assert "a fifth of the training images is taken" in said
        assert config.data.format == "huggingface"
        assert config.data.train == HuggingFaceSplit(dataset=".", split="train")
        assert open_data(config, "val").classes.names == ("cat", "dog")

    def test_splits_under_their_own_names_wherever_they_lie(self, saved: Path) -> None:
        shutil.copytree(saved / "data" / "train", saved / "data" / "validation")
        (saved / "data" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
        above = auto(saved, "classification", "linear").data
        assert above.train == HuggingFaceSplit(dataset="data", split="train")
        assert above.val == HuggingFaceSplit(dataset="data", split="validation")
        (saved / "data" / "dataset_dict.json").unlink()  # each saved alone
        alone = auto(saved / "data", "classification", "linear")
        assert alone.data.val == HuggingFaceSplit(dataset="validation", split="val")
        assert len(open_data(alone, "val")) == 3

    def test_a_folder_is_what_its_columns_are_for(self, saved: Path) -> None:
        table = datasets.load_from_disk(str(saved / "data"))["train"]
        table.select_columns(["image", "label"]).save_to_disk(str(saved / "classes"))
        table.select_columns(["image", "objects"]).save_to_disk(str(saved / "boxes"))
        with pytest.raises(ConfigError, match=r"nothing for detection, .* with classes \(label\) \(huggingface\)"):
            auto(saved / "classes", "detection", "fcos")
        checked = check_data(saved / "boxes")
        assert checked.counts == {"cat": {"train": 1}, "dog": {"train": 1}}
        assert check_data(saved / "classes").counts == {"cat": {"train": 1}, "dog": {"train": 2}}
        options, task = source_of(saved / "boxes")
        assert task == "detection"
        assert open_every_split(options, task)["train"].classes.names == ("cat", "dog")
        table.select_columns(["label"]).save_to_disk(str(saved / "texts"))
        with pytest.raises(DataError, match="texts: a data set of Hugging Face without images"):
            check_data(saved / "texts")

    def test_without_the_extra_it_says_what_to_install(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        config = auto(saved / "data", "classification", "linear")
        assert config.data.format == "huggingface"
        needed = r"needs the package datasets: pip install 'rehead\[huggingface\]'"
        with pytest.raises(ConfigError, match=needed):
            open_data(config, "train")
        with pytest.raises(ConfigError, match=needed):
            check_data(saved / "data")

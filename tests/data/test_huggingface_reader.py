"""Hugging Face `datasets`, an extra."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rehead.configs.readers import HuggingFaceSplit
from rehead.configs.schema import DataOptions
from rehead.data.readers import Reader, open_reader
from rehead.errors import DataError

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

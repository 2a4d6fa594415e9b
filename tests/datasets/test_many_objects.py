"""Hundreds of thousands of objects on one image: what a training step takes of them is bounded, and said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked_data import annotation, content, save, write_coco

from rehead.configs.load import load_config
from rehead.configs.readers import CocoSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.before_training import limit_objects
from rehead.datasets.audit.run import MOST_OBJECTS, check_data
from rehead.datasets.open import Reader, open_reader
from rehead.datasets.subset import Subset
from rehead.tasks.train import _open

COCO = CocoSplit(images="train", annotations="train.json")


def crowded(root: Path, count: int) -> Path:
    """The first image of training has so many objects, of growing ids; the others have one."""
    write_coco(root)
    rows = [annotation(number, 1, 1 + number % 9) for number in range(count)]
    rows += [annotation(count + image, image) for image in (2, 3)]
    save(root, "train", {**content("train"), "annotations": rows})
    return root


def opened(root: Path, **more: Any) -> Reader:
    return open_reader(DataOptions(format="coco", root=str(root), train=COCO, **more), "train")


def test_of_more_than_the_limit_so_many_are_given_evenly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = opened(crowded(tmp_path, 1000))
    reader.masks = True
    with caplog.at_level(logging.WARNING):
        limit_objects(reader, "data.train", 100)
    (said,) = caplog.messages
    assert said.startswith("data.train: 1 images have more than 100 objects, the first is ")
    assert "a.png with 1000; of each no more than 100 are trained on (data.max_objects)" in said
    whole = opened(tmp_path)
    sample = reader.read(0)
    assert sample.boxes is not None
    assert sample.masks is not None
    assert sample.boxes.tolist() == whole[0].boxes[::10].tolist()  # type: ignore[index]
    assert len(sample.labels) == len(sample.masks) == len(sample.iscrowd) == len(sample.areas) == 100  # type: ignore[arg-type]
    # The masks are those of the boxes.
    for box, mask in zip(sample.boxes, sample.masks, strict=True):
        assert np.flatnonzero(mask.any(axis=0))[[0, -1]].tolist() == [box[0], box[2] - 1]
    assert len(reader[1].labels) == 1  # type: ignore[arg-type]


def test_within_the_limit_nothing_is_said_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = opened(crowded(tmp_path, 100))
    limit_objects(reader, "data.train", 100)
    assert not caplog.messages
    assert len(reader[0].labels) == 100  # type: ignore[arg-type]


def test_objects_of_other_classes_do_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = opened(crowded(tmp_path, 100), classes=["cat"])
    limit_objects(reader, "data.train", 50)
    assert not caplog.messages
    assert len(reader[0].labels) == 50  # type: ignore[arg-type]


def test_the_classes_of_an_image_are_those_of_all_its_objects(tmp_path: Path) -> None:
    reader = opened(crowded(tmp_path, 100))
    limit_objects(reader, "data.train", 1)
    reader.presence, reader.boxes = True, False
    assert np.asarray(reader[0].label).tolist() == [1, 1]


def test_a_part_of_the_images_is_limited_by_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = opened(crowded(tmp_path, 100))
    part = Subset(whole, np.array([1, 2]))
    limit_objects(part, "data.train", 50)
    assert not caplog.messages


def test_training_is_limited_and_validation_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehead.tasks.train.from_config", lambda *_, **__: None)
    root = crowded(tmp_path, 300)
    own = {"images": "train", "annotations": "train.json"}
    raw = {
        "task": "detection",
        "data": {"format": "coco", "root": str(root), "train": own, "val": own, "max_objects": 200},
        "model": {"backbone": {"name": "resnet18", "weights": "none"}, "head": "fcos"},
    }
    _, readers = _open(load_config(raw), None)
    assert [len(readers[split][0].labels) for split in ("train", "val")] == [200, 300]  # type: ignore[arg-type]
    assert "1 images have more than 200 objects" in caplog.text


def test_the_check_names_such_an_image(tmp_path: Path) -> None:
    root = crowded(tmp_path, MOST_OBJECTS + 1)
    found = [one for one in check_data(root, workers=0).findings if one.code == "many_objects"]
    assert [one.file for one in found] == [str(root / "train/a.png")]
    assert found[0].message.startswith(f"{MOST_OBJECTS + 1} objects (train)")

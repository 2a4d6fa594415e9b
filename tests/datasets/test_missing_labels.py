"""An image without a label file is not one whose label file says that there is nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from checked_data import codes, write_format

from rehead.configs.readers import FromTrainSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.before_training import refuse_broken
from rehead.datasets.audit.repair import repair
from rehead.datasets.audit.run import check_data
from rehead.datasets.content import lines
from rehead.datasets.open import Reader, open_reader
from rehead.datasets.write import write
from rehead.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three training images: one with objects, one with an empty label file, one without."""
    root = write_format("yolo", tmp_path)
    (root / "labels/train/b.txt").write_text("")
    (root / "labels/train/c.txt").unlink()
    return root


def opened(root: Path, val: FromTrainSplit | None = None, **options: Any) -> Reader:
    train = YoloSplit(images="images/train", **options)
    return open_reader(DataOptions(format="yolo", root=str(root), train=train, val=val), "train")


def test_background_by_default_and_said_aloud(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = opened(root)
    assert len(reader) == 3
    refuse_broken(reader, "data.train", {"detection"}, learn=True)
    (record,) = (one for one in caplog.records if "background" in one.message)
    assert record.levelno == logging.WARNING
    assert record.message == (
        "data.train: 2 of 3 images count as background: 1 have no label file (missing_labels: skip leaves them out), "
        "1 have no object in their annotation"
    )


def test_of_a_part_only_its_own_images_count(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "val.txt").write_text("c.png\n")
    reader = opened(root, FromTrainSplit(from_train="val.txt"))
    caplog.set_level(logging.INFO, "rehead")
    refuse_broken(reader, "data.train", {"detection"}, learn=True)
    assert "data.train: 1 of 2 images count as background: 1 have no object in their annotation" in caplog.text


def test_skip_leaves_them_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert [sample.path.name for sample in opened(root, missing_labels="skip")] == ["a.png", "b.png"]
    assert "1 of 3 images have no label file and are left out" in caplog.text


def test_error_names_the_first(root: Path) -> None:
    with pytest.raises(DataError, match=r"c\.png: no label file .*labels/train/c\.txt, as for 1 of 3 images"):
        opened(root, missing_labels="error")


def test_a_label_file_that_comes_later_is_seen(root: Path) -> None:
    assert [len(sample.labels) for sample in opened(root) if sample.labels is not None] == [2, 0, 0]
    (root / "labels/train/c.txt").write_text((root / "labels/train/a.txt").read_text())
    assert [len(sample.labels) for sample in opened(root) if sample.labels is not None] == [2, 0, 2]


def test_the_check_has_a_finding_for_each(root: Path, rehead_command: Any) -> None:
    assert codes(root) == {"missing_label_file": 1, "no_objects": 1}
    assert "3 in train (1 without a label file)" in rehead_command("data", "check", root).out
    skipped = {"data.train": {"images": "images/train", "missing_labels": "skip"}}
    assert codes(root, skipped) == {"missing_label_file": 1, "no_objects": 1}


def test_copies_say_that_they_no_longer_tell_them_apart(root: Path, tmp_path: Path) -> None:
    said = repair(check_data(root), tmp_path / "repaired")
    assert "images without a label file, which stay images without objects: 1" in said
    (change,) = json.loads((tmp_path / "repaired/repair.json").read_text())["changes"]
    assert (change["kind"], change["items"][0]["file"]) == ("missing_label_file", str(root / "images/train/c.png"))
    written = write({"train": opened(root)}, "yolo", tmp_path / "converted")
    assert "1 images without a label file are written as images without objects" in lines(written.notes)

"""The annotation store: parsed once, rebuilt when it must be, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.configs.readers import CocoSplit
from rehead.datasets import cache as store
from rehead.datasets.annotations import Texts, ids_of
from rehead.datasets.formats import coco
from rehead.datasets.formats.coco import CocoReader
from rehead.errors import DataError

CONTENT: dict[str, Any] = {
    "images": [{"id": i, "file_name": f"ü{i}.jpg", "width": 12, "height": 8} for i in (5, 2)],
    "annotations": [
        {"id": i, "image_id": 2, "category_id": 3, "bbox": [i, 1, 2, 3], "segmentation": [[0, 0, 4, 0, 4, 4]]}
        for i in range(4)
    ],
    "categories": [{"id": 3, "name": "cat"}],
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "_complained", False)
    return tmp_path / "cache"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was parsed."""
    found: list[Path] = []
    parse = coco.parse

    def counted(path: Path, *others: Any) -> Any:
        found.append(path)
        return parse(path, *others)

    monkeypatch.setattr(coco, "parse", counted)
    return found


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., CocoReader]:
    def write(content: dict[str, Any] = CONTENT, age: float = 10) -> CocoReader:
        path = tmp_path / "a.json"
        path.write_text(json.dumps(content))
        changed = path.stat().st_mtime - age
        os.utime(path, (changed, changed))
        return opened(tmp_path)

    return write


def opened(root: Path) -> CocoReader:
    return CocoReader(CocoSplit(images=".", annotations="a.json"), root)


def told(reader: CocoReader) -> list[Any]:
    return [
        (
            s.image_id,
            s.path.name,
            s.size,
            *(np.asarray(value).tolist() for value in (s.boxes, s.labels, s.areas, s.iscrowd)),
            [code["counts"] for code in reader.segmentations(i, (8, 12))],
        )
        for i, s in enumerate(reader)
    ]


def files(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_file_is_parsed_once(cache: Path, written: Callable[..., CocoReader], parsed: list[Path]) -> None:
    first = written()
    second = opened(first.folder)
    assert len(parsed) == 1
    assert told(first) == told(second)
    assert len(told(second)[1][3]) == 4
    assert first.classes == second.classes


def test_it_is_parsed_again_when_it_changes(
    cache: Path, written: Callable[..., CocoReader], parsed: list[Path]
) -> None:
    written()
    changed = {**CONTENT, "categories": [{"id": 3, "name": "dog"}]}  # of the same size
    assert written(changed, age=9).classes.names == ("dog",)
    assert len(parsed) == 2
    assert len(files(cache)) == 1


def test_a_file_that_has_just_changed_is_not_kept(
    cache: Path, written: Callable[..., CocoReader], parsed: list[Path]
) -> None:
    opened(written(age=0).folder)
    assert len(parsed) == 2
    assert not files(cache)


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"cut", b"header", b"version"])
def test_a_broken_file_of_the_store_is_rebuilt(
    cache: Path, written: Callable[..., CocoReader], parsed: list[Path], damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told(written())
    (path,) = files(cache)
    whole = path.read_bytes()
    if damage == b"version":
        monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    else:
        path.write_bytes({b"cut": whole[:-1], b"header": whole[:30] + b"#" + whole[31:]}.get(damage, damage))
    assert told(opened(path.parents[2])) == expected
    assert len(parsed) == 2
    assert told(opened(path.parents[2])) == expected
    assert len(parsed) == 2


def test_without_a_place_to_write_it_works_and_says_so_once(
    cache: Path, written: Callable[..., CocoReader], parsed: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("not a folder")
    with caplog.at_level(logging.WARNING, "rehead"):
        reader = written()
        assert told(opened(reader.folder)) == told(reader)
    assert len(parsed) == 2
    assert caplog.text.count("cannot be kept") == 1
    assert "REHEAD_CACHE" in caplog.text


def test_a_worker_gets_the_place_and_not_the_arrays(cache: Path, written: Callable[..., CocoReader]) -> None:
    many = {**CONTENT, "annotations": [{**CONTENT["annotations"][0], "id": i} for i in range(5000)]}
    reader = written(many)
    sent = pickle.dumps(reader)
    assert len(sent) < 5000
    received = pickle.loads(sent)
    assert told(received) == told(reader)
    assert not received.columns.boxes.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        received.columns.boxes[0] = 0
    received[1].boxes[0] = 0  # what a sample holds is the reader's no more
    assert told(received) == told(reader)


def test_a_store_that_was_changed_under_a_worker_is_named(cache: Path, written: Callable[..., CocoReader]) -> None:
    sent = pickle.dumps(written())
    written({**CONTENT, "images": CONTENT["images"][1:]})
    with pytest.raises(DataError, match="changed or removed while they were in use"):
        pickle.loads(sent)


def test_what_is_not_in_the_store_crosses_by_value(cache: Path, written: Callable[..., CocoReader]) -> None:
    reader = written(age=0)
    assert told(pickle.loads(pickle.dumps(reader))) == told(reader)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=6))
def test_texts_come_back(texts: list[str]) -> None:
    column = Texts.of(texts)
    assert list(column) == texts
    ids = ids_of(texts)
    assert len(ids) == len(texts)

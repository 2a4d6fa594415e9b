from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.configs.readers import CocoSplit, FoldersSplit
from rehead.datasets.coco_format import ground_truth
from rehead.datasets.formats.coco import CocoReader
from rehead.datasets.formats.folders import FoldersReader
from rehead.errors import DataError
from rehead.evaluation.coco import coco_metrics

CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 4, "name": "cat"}, {"id": 7, "name": "eel"}]
BOXES = st.tuples(*[st.integers(0, 9000)] * 2, *[st.integers(1, 9000)] * 2).map(lambda b: [v / 100 for v in b])
ANNOTATIONS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([90, 4]), BOXES, st.integers(0, 5)), max_size=8)


def original(rows: list[Any]) -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 200, "width": 200} for i in (30, 10, 20)],
        "categories": CATEGORIES,
        "annotations": [
            {
                "id": 100 + n,
                "image_id": (30, 10, 20)[image],
                "category_id": category,
                "bbox": box,
                "iscrowd": int(crowd == 0),
                "area": box[2] * box[3] * 0.6,
            }
            for n, (image, category, box, crowd) in enumerate(rows)
        ],
    }


def reader_of(content: dict[str, Any], folder: Path) -> CocoReader:
    (folder / "a.json").write_text(json.dumps(content))
    return CocoReader(CocoSplit(images=".", annotations="a.json"), folder)


@settings(max_examples=50, deadline=None)
@given(rows=ANNOTATIONS, moves=st.lists(st.integers(-3, 3), min_size=8, max_size=8))
def test_the_twelve_figures_are_those_of_the_original_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], moves: list[int]
) -> None:
    content = original(rows)
    results = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [a["bbox"][0] + move, *a["bbox"][1:]],
            "score": 0.5 + move / 10,
        }
        for a, move in zip(content["annotations"], moves, strict=False)
    ]
    truth = ground_truth(reader_of(content, tmp_path_factory.mktemp("coco")))
    assert coco_metrics(truth, results) == coco_metrics(content, results)


@settings(max_examples=50, deadline=None)
@given(rows=ANNOTATIONS)
def test_boxes_come_back_to_the_decimal(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    content = original(rows)
    truth = ground_truth(reader_of(content, tmp_path_factory.mktemp("coco")))

    def told(annotations: list[dict[str, Any]]) -> list[Any]:
        return sorted((a["image_id"], a["category_id"], a["bbox"], a["iscrowd"]) for a in annotations)

    assert told(truth["annotations"]) == told(content["annotations"])
    assert [a["id"] for a in truth["annotations"]] == list(range(1, len(rows) + 1))
    assert truth["images"] == content["images"]
    assert {(c["id"], c["name"]) for c in truth["categories"]} == {(90, "dog"), (4, "cat"), (7, "eel")}


def test_the_official_example(shared: Path) -> None:
    folder = shared / "data/coco_eval"
    reader = CocoReader(CocoSplit(images=".", annotations="instances_val2014_100.json"), folder)
    results = folder / "instances_val2014_fakebbox100_results.json"
    metrics = coco_metrics(ground_truth(reader), results)
    assert metrics == coco_metrics(folder / "instances_val2014_100.json", results)
    assert round(metrics["AP"], 4) == 0.5046


def test_data_without_boxes(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: has no boxes"):
        ground_truth(FoldersReader(FoldersSplit(images="."), tmp_path))

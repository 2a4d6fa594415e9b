"""Keypoints all the way: from COCO's JSON through training, metrics by OKS, results and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY

from rehead.configs.load import load_config
from rehead.datasets.open import open_data
from rehead.errors import BuildError
from rehead.heads import build_head
from rehead.models.model import build_model
from rehead.tasks import task_named
from rehead.types import Classes, Prediction

POINTS = ["top_left", "top_right", "centre"]
HEAD = {
    **{"name": "keypoint_rcnn", "channels": 8, "representation": 16, "keypoint_convs": 1, "keypoint_channels": 8},
    **{"detections": 5, "score_threshold": 0.0},
}


@pytest.fixture
def config(synthetic: Path, tmp_path: Path) -> dict[str, Any]:
    """Synthetic scenes whose objects have their boxes' upper corners and centre as keypoints."""
    for split in ("train", "val"):
        data = json.loads((synthetic / "scenes" / "annotations" / f"{split}.json").read_text())
        for category in data["categories"]:
            category["keypoints"] = POINTS
        for annotation in data["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["keypoints"] = [x, y, 2, x + w, y, 1, x + w / 2, y + h / 2, 2]
            annotation["num_keypoints"] = 3
        (tmp_path / f"{split}.json").write_text(json.dumps(data))
    return {
        "task": "keypoint_detection",
        "data": {
            "format": "coco",
            "root": str(synthetic / "scenes"),
            "train": {"images": "train", "annotations": str(tmp_path / "train.json")},
            "val": {"images": "val", "annotations": str(tmp_path / "val.json")},
            "resize": {"height": 64, "width": 64},
            "workers": 0,
        },
        "model": {"backbone": TINY.model_dump(), "head": HEAD},
        "train": {"max_steps": 2, "batch_size": 4, "pictures": 2, "log_every": 1},
        "device": "cpu",
        "out": str(tmp_path / "run"),
    }


def test_a_training_its_figures_and_its_predictions(
    config: dict[str, Any], synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    outcome = rehead_command("train", tmp_path / "config.yaml")
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss_keypoint"] > 0
    assert "main.keypoints.AP" in rows[-1]
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) == 2
    image = synthetic / "scenes" / "val" / "00001.png"
    outcome = rehead_command("predict", tmp_path / "run" / "last.safetensors", image, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert results
    assert all(len(result["keypoints"]) == 9 for result in results)


def test_who_predicts_the_truth_has_every_figure_at_one(config: dict[str, Any]) -> None:
    reader = open_data(load_config(config), "val")
    assert reader.classes.keypoints == tuple(POINTS)
    assert reader.classes.flip_pairs == ((0, 1),)
    for error, exact in ((0.0, True), (30.0, False)):
        evaluator = task_named("keypoint_detection").evaluator(reader, reader.classes)
        for index in range(len(reader)):
            truth = reader[index]
            points = torch.from_numpy(truth.keypoints) + torch.tensor([error, error, 0])
            scores = torch.ones(len(points))
            boxes, labels = torch.from_numpy(truth.boxes), torch.from_numpy(truth.labels)
            evaluator.update(truth, Prediction(boxes, scores, labels, keypoints=points))
        metrics = evaluator.metrics()
        assert metrics["bbox"]["AP"] == 1
        assert set(metrics["keypoints"]) == {"AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"}
        assert (metrics["keypoints"]["AR"] == 1) == exact


def test_a_mirror_swaps_left_and_right(config: dict[str, Any]) -> None:
    from rehead.data.transforms.resize import Resize
    from rehead.tasks.images import augment_for

    config["data"]["augment"] = [{"name": "HorizontalFlip", "p": 1}]
    checked = load_config(config)
    reader = open_data(checked, "train")
    assert checked.data.resize is not None
    augment = augment_for(checked, Resize(checked.data.resize), reader)
    before = reader.read(0)
    after, _ = augment(before, 0, 0)
    assert before.keypoints is not None
    assert after.keypoints is not None
    # The upper left corner is still to the left of the upper right one.
    assert (after.keypoints[:, 0, 0] <= after.keypoints[:, 1, 0]).all()
    np.testing.assert_allclose(after.keypoints[:, 2, 0], 64 - before.keypoints[:, 2, 0], atol=1e-3)


def test_as_many_points_as_the_data_have() -> None:
    known = Classes(("thing",), keypoints=tuple(POINTS))
    head: Any = build_model(TINY, HEAD, known).head("main")
    assert head.roi_heads.keypoint_predictor.out_channels == 3
    with pytest.raises(BuildError, match="keypoints=17, but the data's objects have 3"):
        build_head(head.options.model_copy(update={"keypoints": 17}), known, head.specs)

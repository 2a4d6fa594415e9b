"""Several classes per image, from COCO files or folders, through the real commands; alone and beside other heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY

import rehead
from rehead.configs.load import load_config
from rehead.data.sample import Sample
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.scale import ResizedCrop
from rehead.datasets.open import open_data
from rehead.demo.synthetic import SHAPES
from rehead.errors import DataError
from rehead.tasks import task_named
from rehead.tasks.evaluate import evaluate
from rehead.tasks.train import train
from rehead.types import Classes, Prediction
from rehead.visualize.draw import draw_classes

TAGS = {"name": "linear", "multi_label": True}
BOXES = {"name": "faster_rcnn", "channels": 8, "representation": 16}


def settings(synthetic: Path, out: Path, heads: dict[str, dict[str, Any]] | None = None, **data: Any) -> dict[str, Any]:
    heads = heads or {"main": TAGS}
    return {
        "task": "multitask" if len(heads) > 1 else "classification",
        "data": {
            "format": "coco",
            "root": str(synthetic / "scenes"),
            "train": {"images": "train", "annotations": "annotations/train.json"},
            "val": {"images": "val", "annotations": "annotations/val.json"},
            "resize": {"height": 64, "width": 64},
            "workers": 0,
            **data,
        },
        "model": {"backbone": TINY.model_dump(), "heads": heads},
        "train": {"max_steps": 2, "batch_size": 4, "log_every": 1, "pictures": 2, "schedule": {"name": "constant"}},
        "device": "cpu",
        "out": str(out),
    }


def without_annotations(synthetic: Path, split: str, folder: Path) -> Path:
    content = json.loads((synthetic / "scenes" / "annotations" / f"{split}.json").read_text())
    (folder / "none.json").write_text(json.dumps({**content, "annotations": []}))
    return folder / "none.json"


class TestCommands:
    @pytest.fixture
    def run(self, synthetic: Path, tmp_path: Path, rehead_command: Any) -> Path:
        path = tmp_path / "tags.yaml"
        path.write_text(yaml.safe_dump(settings(synthetic, tmp_path / "run")))
        outcome = rehead_command("train", path)
        assert outcome.code == 0, outcome.err
        return tmp_path / "run"

    def test_train_evaluate_predict(self, run: Path, synthetic: Path, tmp_path: Path, rehead_command: Any) -> None:
        assert len(list((run / "pictures").glob("*.png"))) == 2
        outcome = rehead_command("evaluate", run / "last.safetensors", "--json", tmp_path / "metrics.json")
        assert outcome.code == 0, outcome.err
        metrics = json.loads((tmp_path / "metrics.json").read_text())["main"]
        assert list(metrics) == ["mAP", "micro_F1", "macro_F1", "AP"]
        assert list(metrics["AP"]) == list(SHAPES)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["main.mAP"] == pytest.approx(metrics["mAP"])
        assert last["main.AP.ring"] == metrics["AP"]["ring"]

        arguments = ["predict", run / "last.safetensors", synthetic / "scenes" / "val", "--out", tmp_path / "out"]
        assert rehead_command(*arguments).code == 0
        records = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert len(records) == len(list((tmp_path / "out" / "pictures").iterdir())) == 6
        model = rehead.load(run / "last.safetensors")
        for record in records:
            probabilities = model.predict(record["file_name"]).probabilities
            assert probabilities is not None
            best = [(SHAPES[label], float(probabilities[label])) for label in probabilities.argsort(descending=True)]
            assert [(guess["class"], guess["score"]) for guess in record["top"]] == best[:5]
            assert [(guess["class"], guess["score"]) for guess in record["classes"]] == [
                (name, score) for name, score in best if score >= 0.5
            ]

    def test_a_softmax_head_starts_afresh(self, run: Path, synthetic: Path, tmp_path: Path, capsys: Any) -> None:
        config = settings(synthetic, tmp_path / "second")
        config["model"]["init"] = str(run / "last.safetensors")
        train(config)
        assert "head 'main' (linear) taken" in capsys.readouterr().err
        config["model"]["heads"] = {"main": {"name": "linear", "classes": list(SHAPES)}}
        config["data"].update(
            format="folders",
            root=str(synthetic / "shapes"),
            train={"images": "train"},
            val={"images": "val"},
        )
        train(config, overwrite=True)
        assert "starts afresh: other options: multi_label" in capsys.readouterr().err


class TestData:
    def test_folders_give_one_class_each(self, synthetic: Path, tmp_path: Path) -> None:
        folders = {"format": "folders", "root": str(synthetic / "shapes"), "train": {"images": "train"}}
        run = train(settings(synthetic, tmp_path / "run", **folders, val={"images": "val"}))
        metrics = evaluate(run / "last.safetensors")["main"]
        assert None not in metrics["AP"].values()

    def test_a_training_split_without_any_class_is_refused(self, synthetic: Path, tmp_path: Path) -> None:
        none = {"images": "train", "annotations": str(without_annotations(synthetic, "train", tmp_path))}
        with pytest.raises(DataError, match=r"data\.train: none of the 12 images has a class to learn from"):
            train(settings(synthetic, tmp_path / "run", train=none))

    def test_a_validation_split_without_any_class_has_no_figures(self, synthetic: Path, tmp_path: Path) -> None:
        none = {"images": "val", "annotations": str(without_annotations(synthetic, "val", tmp_path))}
        metrics = evaluate(train(settings(synthetic, tmp_path / "run", val=none)) / "last.safetensors")["main"]
        assert metrics["mAP"] is None
        assert set(metrics["AP"].values()) == {None}

    def test_training_cuts_no_class_off(self, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        built: list[Augment] = []

        class Noted(Augment):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                built.append(self)

        monkeypatch.setattr("rehead.tasks.images.Augment", Noted)
        train(settings(synthetic, tmp_path / "several"))
        train(settings(synthetic, tmp_path / "boxes too", {"boxes": BOXES, "tags": TAGS}))
        folders = {"format": "folders", "root": str(synthetic / "shapes"), "train": {"images": "train"}}
        train(settings(synthetic, tmp_path / "one", {"main": {"name": "linear"}}, **folders, val={"images": "val"}))
        crops = [any(isinstance(step, ResizedCrop) for step in augment.steps) for augment in built]
        assert crops == [False, False, True]

    def test_the_whole_image_is_looked_at_unless_someone_crops(self) -> None:
        several, one = (rehead.build_model(TINY, head, ["a"]) for head in (TAGS, "linear"))
        assert several.inputs.resize.options.crop is None
        assert one.inputs.resize.options.crop == 224


class TestBesideOtherHeads:
    def test_boxes_and_classes_come_from_one_reading_of_the_same_file(self, synthetic: Path, tmp_path: Path) -> None:
        config = settings(synthetic, tmp_path / "run", {"boxes": BOXES, "tags": TAGS})
        reader = open_data(load_config(config), "val")
        sample = reader[0]
        assert sample.labels is not None
        assert isinstance(sample.label, np.ndarray)
        assert sorted(set(sample.labels.tolist())) == np.flatnonzero(sample.label).tolist()
        run = train(config)
        metrics = evaluate(run / "last.safetensors")
        assert set(metrics["boxes"]) == {"bbox"}
        assert set(metrics["tags"]["AP"]) == set(SHAPES)
        first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        assert "tags.loss_classifier" in first
        assert "boxes.loss_classifier" in first

    def test_each_head_may_tell_apart_other_classes(self, synthetic: Path, tmp_path: Path) -> None:
        heads = {"boxes": {**BOXES, "classes": ["ring"]}, "tags": {**TAGS, "classes": ["star", "heart", "ring"]}}
        config = settings(synthetic, tmp_path / "run", heads)
        reader = open_data(load_config(config), "val")
        whole = open_data(load_config(settings(synthetic, tmp_path, {"boxes": BOXES, "tags": TAGS})), "val")
        for index in range(len(whole)):
            sample, known = reader[index], whole[index]
            assert sample.labels is not None
            assert isinstance(sample.label, np.ndarray)
            assert isinstance(known.label, np.ndarray)
            assert sample.label.tolist() == [known.label[SHAPES.index(name)] for name in heads["tags"]["classes"]]
            assert len(sample.labels) == (known.labels == SHAPES.index("ring")).sum()
        metrics = evaluate(train(config) / "last.safetensors")
        assert set(metrics["tags"]["AP"]) == {"star", "heart", "ring"}

    def test_images_without_tags_train_the_other_head(self, synthetic: Path, tmp_path: Path) -> None:
        path = synthetic / "scenes" / "annotations" / "train.json"
        content = json.loads(path.read_text())
        content["images"] = content["images"][:3]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
        (tmp_path / "three.json").write_text(json.dumps(content))
        config = settings(synthetic, tmp_path / "run", {"boxes": BOXES, "tags": TAGS})
        own = {key: config["data"][key] for key in ("format", "root", "val")}
        own["train"] = {"images": "train", "annotations": str(tmp_path / "three.json")}
        config["data"]["sources"] = {"tags": own}
        reader = open_data(load_config(config), "train")
        assert len(reader) == 12
        assert sum(reader[index].label is not None for index in range(12)) == 3
        assert all(reader[index].boxes is not None for index in range(12))
        train(config)


def test_pictures_list_the_classes_that_are_present() -> None:
    task, classes = task_named("multi_label_classification"), Classes(("cat", "dog", "eel"))
    image = np.full((200, 200, 3), 90, np.uint8)
    predicted = task.draw(image, Prediction(probabilities=torch.tensor([0.5, 0.2, 0.75])), classes)
    assert np.array_equal(predicted, draw_classes(image, [2, 0], classes.names, [0.75, 0.5]))
    soft, hard = (Sample("a", Path("a"), label=label) for label in (np.array([0, 0.8, 1], np.float32), 1))
    assert np.array_equal(task.draw_truth(image, soft, classes), draw_classes(image, [1, 2], classes.names))
    assert np.array_equal(task.draw_truth(image, hard, classes), draw_classes(image, [1], classes.names))


def test_soft_labels_of_one_class_are_judged_by_the_most_probable() -> None:
    task, classes = task_named("classification"), Classes(("cat", "dog"))
    evaluator = task.evaluator(None, classes)
    probabilities = Prediction(probabilities=torch.tensor([0.4, 0.6]))
    for label in (np.array([0.3, 0.7], np.float32), np.array([0.9, 0.1], np.float32), np.int64(1)):
        evaluator.update(Sample("a", Path("a"), label=label), probabilities)
    assert evaluator.metrics()["top1"] == pytest.approx(2 / 3)

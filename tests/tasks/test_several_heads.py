"""One backbone, several heads at once: one pass, a weighted sum of losses, metrics and predictions by head."""

from __future__ import annotations

import io
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, assert_equal_losses, assert_equal_numbers, batch_of_noise, targets_for
from torch import nn

import rehead
from rehead.configs.load import load_config
from rehead.datasets.open import JoinedReader, open_data
from rehead.demo.synthetic import MASK_CLASSES, SHAPES
from rehead.errors import BuildError, ConfigError, DataError
from rehead.models.model import Model, from_config
from rehead.tasks.evaluate import evaluate
from rehead.tasks.train import train
from rehead.terminal import console
from rehead.types import Classes

HEADS: dict[str, dict[str, Any]] = {
    "boxes": {"name": "faster_rcnn", "channels": 8, "representation": 16},
    "instances": {"name": "mask_rcnn", "channels": 8, "representation": 16, "mask_convs": 1, "mask_channels": 8},
    "scene": {"name": "unet", "decoder_channels": [8, 8, 8, 8, 8]},
}


def model_of(heads: dict[str, dict[str, Any]]) -> Model:
    torch.manual_seed(0)
    config = load_config({"task": "multitask", "model": {"backbone": TINY.model_dump(), "heads": heads}})
    return from_config(config, {key: Classes(("a", "b", "c")) for key in heads})


def settings(synthetic: Path, out: Path) -> dict[str, Any]:
    """Boxes and masks of objects from COCO files, class maps from their own folder."""
    return {
        "task": "multitask",
        "data": {
            "format": "coco",
            "root": str(synthetic / "scenes"),
            "train": {"images": "train", "annotations": "annotations/train.json"},
            "val": {"images": "val", "annotations": "annotations/val.json"},
            "sources": {
                "scene": {
                    "format": "masks",
                    "root": str(synthetic / "scenes"),
                    "train": {"images": "train", "masks": "train_masks"},
                    "val": {"images": "val", "masks": "val_masks"},
                }
            },
            "resize": {"height": 64, "width": 64},
            "workers": 0,
        },
        "model": {
            "backbone": TINY.model_dump(),
            "heads": {**deepcopy(HEADS), "scene": {**HEADS["scene"], "classes": list(MASK_CLASSES)}},
        },
        "train": {"max_steps": 3, "batch_size": 4, "log_every": 1, "pictures": 2, "schedule": {"name": "constant"}},
        "device": "cpu",
        "out": str(out),
    }


class TestModel:
    def test_the_backbone_runs_once_for_all_heads(self) -> None:
        model = model_of(HEADS)
        calls: list[nn.Module] = []
        model.backbone.register_forward_hook(lambda module, inputs, output: calls.append(module))
        batch = batch_of_noise()
        model.train()(batch, targets_for(batch, 3))
        with torch.no_grad():
            found = model.eval()(batch)
        assert len(calls) == 2
        assert list(found) == ["boxes", "instances", "scene"]
        assert found["instances"][0].masks is not None
        assert found["scene"][0].semantic is not None

    @pytest.mark.numeric
    def test_each_loss_is_that_of_its_head_alone_times_its_weight(self) -> None:
        batch = batch_of_noise()
        targets = targets_for(batch, 3)
        weighted = model_of({**HEADS, "scene": {**HEADS["scene"], "weight": 0.25}}).train().double()
        features = weighted.backbone(weighted.normalise(batch))
        losses = {}
        for key in weighted.heads:
            torch.manual_seed(1)  # the sampling of proposals
            losses[key] = weighted._loss_of(key, features, batch.frames, targets)
        for key, weight in (("boxes", 1.0), ("instances", 1.0), ("scene", 0.25)):
            torch.manual_seed(1)
            alone = weighted.head(key).loss(features, batch.frames, targets)
            assert losses[key].keys() == alone.keys()
            assert_equal_losses(losses[key], {name: weight * loss for name, loss in alone.items()})
        together = weighted(batch, targets)
        assert set(together) == {f"{key}.{name}" for key, own in losses.items() for name in own}

    def test_every_head_reaches_the_backbone(self) -> None:
        model = model_of(HEADS).train()
        batch = batch_of_noise()
        torch.stack(list(model(batch, targets_for(batch, 3)).values())).sum().backward()
        assert [name for name, one in model.named_parameters() if one.grad is None] == []

    @pytest.mark.numeric
    def test_a_head_skips_the_images_that_lack_its_target(self) -> None:
        model = model_of(HEADS).train().double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        batch = batch_of_noise()
        targets = targets_for(batch, 3)
        lacking = [targets[0], replace(targets[1], semantic=None)]
        features = model.backbone(model.normalise(batch))
        first = {name: value[:1] for name, value in features.items()}
        alone = model.head("scene").loss(first, batch.frames[:1], targets[:1])
        assert_equal_numbers(model(batch, lacking)["scene.loss_cross_entropy"], alone["loss_cross_entropy"])

    def test_a_head_without_any_target_in_the_batch_gives_no_loss(self) -> None:
        model = model_of(HEADS).train()
        batch = batch_of_noise()
        targets = [replace(target, boxes=None, labels=None, masks=None) for target in targets_for(batch, 3)]
        losses = model(batch, targets)
        assert {name.split(".")[0] for name in losses} == {"scene"}
        torch.stack(list(losses.values())).sum().backward()
        assert [name for name, one in model.named_parameters() if one.grad is None] == []
        assert not any(one.grad.any() for one in model.head("boxes").parameters())
        nothing = [replace(target, semantic=None) for target in targets]
        with pytest.raises(BuildError, match="no head has anything to learn from"):
            model(batch, nothing)


class TestRun:
    @pytest.fixture(scope="class")
    @classmethod
    def said(cls) -> io.StringIO:
        return io.StringIO()

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, synthetic: Path, tmp_path_factory: pytest.TempPathFactory, said: io.StringIO) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(console.rich, "_file", said)  # `file` would be put back as what standard error is now
            return train(settings(synthetic, tmp_path_factory.mktemp("runs") / "several"))

    def test_the_score_of_every_head_is_said_after_an_evaluation(self, run: Path, said: io.StringIO) -> None:
        line = next(line for line in said.getvalue().splitlines() if "evaluated in" in line)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        names = ("boxes.bbox.AP", "instances.segm.AP", "scene.mIoU")
        assert "  ".join(f"{name} {last[name]:.4f}" for name in names) + "  (best)" in line

    def test_losses_are_logged_by_head_and_add_up(self, run: Path) -> None:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        first = rows[0]
        parts = {name: value for name, value in first.items() if "." in name}
        assert {name.split(".")[0] for name in parts} == {"boxes", "instances", "scene"}
        assert first["loss"] == pytest.approx(sum(parts.values()), abs=1e-4)

    def test_every_head_is_judged_by_its_own_data(self, run: Path) -> None:
        metrics = evaluate(run / "last.safetensors")
        assert set(metrics["boxes"]) == {"bbox"}
        assert set(metrics["instances"]) == {"bbox", "segm"}
        assert set(metrics["scene"]["IoU"]) == set(MASK_CLASSES)

    def test_figures_equal_those_of_one_head_alone(self, run: Path, synthetic: Path, tmp_path: Path) -> None:
        """Judging three heads at once changes nothing for any of them."""
        model = rehead.load(run / "last.safetensors")
        raw = settings(synthetic, tmp_path)
        raw["task"], raw["model"]["heads"] = "detection", {"boxes": raw["model"]["heads"]["boxes"]}
        del raw["data"]["sources"]
        alone = from_config(load_config(raw), {"boxes": model.classes["boxes"]})
        alone.backbone.load_state_dict(model.backbone.state_dict())
        alone.head("boxes").load_state_dict(model.head("boxes").state_dict())
        alone.save(tmp_path / "alone.safetensors")
        assert evaluate(tmp_path / "alone.safetensors")["boxes"] == evaluate(run / "last.safetensors")["boxes"]

    def test_a_resumed_run_equals_one_that_was_not_interrupted(
        self, run: Path, synthetic: Path, tmp_path: Path
    ) -> None:
        config = settings(synthetic, tmp_path / "resumed")
        config["train"]["max_steps"] = 2
        train(config)
        config["train"]["max_steps"] = 3
        train(config, resume=True)
        one = rehead.load(run / "last.safetensors").state_dict()
        other = rehead.load(tmp_path / "resumed" / "last.safetensors").state_dict()
        assert all(torch.equal(value, other[name]) for name, value in one.items())

    def test_predictions_lie_under_each_heads_key(
        self, run: Path, synthetic: Path, tmp_path: Path, rehead_command: Any
    ) -> None:
        image = synthetic / "scenes" / "val" / "00001.png"
        outcome = rehead_command("predict", run / "last.safetensors", image, "--out", tmp_path / "out")
        assert outcome.code == 0, outcome.err
        found = json.loads((tmp_path / "out" / "predictions.json").read_text())
        assert list(found) == ["boxes", "instances", "scene"]
        assert found["scene"][0]["file_name"] == str(image)
        assert (tmp_path / "out" / "scene" / found["scene"][0]["mask"]).is_file()
        assert (tmp_path / "out" / "pictures" / "00001.png").is_file()

    def test_swapping_leaves_one_head(self, run: Path, tmp_path: Path, rehead_command: Any) -> None:
        arguments = ["--head", "fcos", "--classes", "a,b", "--out", tmp_path / "new.safetensors"]
        assert rehead_command("swap", run / "last.safetensors", *arguments).code == 0
        assert list(rehead.load(tmp_path / "new.safetensors").heads) == ["main"]


class TestData:
    def test_images_are_joined_by_path(self, synthetic: Path, tmp_path: Path) -> None:
        reader = open_data(load_config(settings(synthetic, tmp_path)), "val")
        assert isinstance(reader, JoinedReader)
        assert len(reader) == 6
        sample = reader.read(2)
        assert sample.boxes is not None
        assert sample.masks is not None
        assert sample.masks.shape == (len(sample.boxes), 64, 64)
        assert sample.semantic is not None
        # The two sources were sampled from the same scene: the objects' masks are where the class map is not 0.
        assert ((sample.masks.max(axis=0) > 0) == (sample.semantic > 0)).mean() > 0.9
        assert reader.of("boxes").classes.names == SHAPES
        assert reader.of("scene").classes.names == MASK_CLASSES

    def test_images_that_one_source_lacks_train_the_other_heads(self, synthetic: Path, tmp_path: Path) -> None:
        config = settings(synthetic, tmp_path / "run")
        masks = tmp_path / "some_masks"
        masks.mkdir()
        for name in ("00001.png", "00003.png"):
            (masks / name).write_bytes((synthetic / "scenes" / "train_masks" / name).read_bytes())
        split = {"images": "train", "masks": str(masks)}
        config["data"]["sources"]["scene"]["train"] = split
        with pytest.raises(DataError, match=r"no mask in .*, as for 10 of 12 images"):
            train(config)
        config["data"]["sources"]["scene"]["train"] = {**split, "partial": True}
        config["train"].update(max_steps=6, batch_size=2)
        reader = open_data(load_config(config), "train")
        assert len(reader) == 12
        assert sum(reader[index].mask_path is not None for index in range(12)) == 2
        rows = [json.loads(line) for line in (train(config) / "metrics.jsonl").read_text().splitlines()]
        with_scene = [row for row in rows if "scene.loss_cross_entropy" in row]
        assert 0 < len(with_scene) < len([row for row in rows if "boxes.loss_classifier" in row])

    def test_two_sources_of_the_same_kind_are_refused(self, synthetic: Path, tmp_path: Path) -> None:
        config = settings(synthetic, tmp_path)
        config["model"]["heads"]["instances"]["classes"] = [SHAPES[0]]
        with pytest.raises(DataError, match="heads 'boxes' and 'instances' both learn from boxes"):
            open_data(load_config(config), "train")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"data.sources.scenes": {"format": "masks"}}, "data.sources.scenes: .*did you mean 'scene'"),
            ({"data.sources.scene.formt": "masks"}, r"data\.sources\.scene\.formt: unknown key; did you mean 'format'"),
            (
                {"data.sources.scene.format": "coco"},
                "but head 'scene' is a segmentation head",
            ),
            ({"data.sources.scene.train.mask": "x"}, r"data\.sources\.scene\.train\.mask: unknown key"),
            ({"data.sources": {}}, "or give head 'scene' a source of its own in data.sources.scene"),
            ({"task": "detection"}, "'unet' is a segmentation head but task is detection; set task=multitask"),
            ({"model.heads.scene.classes": None}, "data.sources.scene.classes: masks hold only numbers"),
            ({"model.heads.scene.weight": 0}, "model.heads.scene.weight: .*greater than 0"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, synthetic: Path, tmp_path: Path, change: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(ConfigError, match=said):
            load_config(settings(synthetic, tmp_path), change)

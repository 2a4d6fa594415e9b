"""Data with other classes than a model has: refused or counted, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checked_data import annotation, content, noise, save, write_coco, write_masks
from helpers import TINY
from PIL import Image

import rehead
from rehead.configs.detection_heads import RetinaNetOptions


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a detector of cats and dogs."""
    torch.manual_seed(0)
    head = RetinaNetOptions(channels=16, convs=1, score_threshold=0.9)
    rehead.build_model(TINY, head, ["cat", "dog"]).save(tmp_path / "cats.safetensors")
    return tmp_path / "cats.safetensors"


def of(root: Path, form: str = "coco") -> list[str]:
    return [
        f"data.format={form}",
        f"data.root={root}",
        "data.val={images: val, annotations: val.json}",
        "data.workers=0",
    ]


def with_classes(root: Path, names: list[str]) -> Path:
    write_coco(root)
    whole = content("val")
    whole["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    if len(names) > 2:
        whole["annotations"] += [annotation(60 + n, 1, category_id=3) for n in range(4)]
    save(root, "val", whole)
    return root


@pytest.fixture
def nothing_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something is computed")

    monkeypatch.setattr("rehead.tasks.evaluate.opened", refuse)


@pytest.mark.usefixtures("nothing_computed")
def test_data_that_lack_classes_are_refused_with_both_lists(checkpoint: Path, tmp_path: Path, rehead_command) -> None:
    root = with_classes(tmp_path / "data", ["cat", "bird"])
    outcome = rehead_command("evaluate", checkpoint, *of(root))
    assert outcome.code == 2
    for said in (
        f"error: data.val: these data cannot judge {checkpoint}",
        "  the checkpoint's 2 classes (cat, dog)",
        f"  {root}/val.json has 2 classes (cat, bird)",
        "  not in the data: 'dog'",
        "  not known to the checkpoint: 'bird'",
        f"rehead train CONFIG model.init={checkpoint}",
    ):
        assert said in outcome.err
    # Nothing that evaluation would refuse is proposed.
    assert "data.classes" not in outcome.err


@pytest.mark.usefixtures("nothing_computed")
def test_a_class_that_is_only_called_otherwise_is_pointed_out(checkpoint: Path, tmp_path: Path, rehead_command) -> None:
    root = tmp_path / "images"
    for name in ("cats", "dogs"):
        (root / "val" / name).mkdir(parents=True)
        Image.fromarray(noise(len(name))).save(root / "val" / name / "a.png")
    torch.manual_seed(0)
    rehead.build_model(TINY, "linear", ["cat", "dog"]).save(tmp_path / "linear.safetensors")
    data = ["data.format=folders", f"data.root={root}", "data.val={images: val}", "data.workers=0"]
    outcome = rehead_command("evaluate", tmp_path / "linear.safetensors", *data, "data.resize={height: 32, width: 32}")
    assert outcome.code == 2
    assert "not known to the checkpoint: 'cats'; did you mean 'cat'?, 'dogs'; did you mean 'dog'?" in outcome.err


@pytest.mark.usefixtures("nothing_computed")
def test_class_maps_of_other_names_are_refused(tmp_path: Path, rehead_command) -> None:
    torch.manual_seed(0)
    rehead.build_model(TINY, "unet", ["sky", "road"]).save(tmp_path / "unet.safetensors")
    root = write_masks(tmp_path / "data")
    data = ["data.format=masks", f"data.root={root}", "data.val={images: val, masks: val_masks}"]
    outcome = rehead_command("evaluate", tmp_path / "unet.safetensors", *data, "data.values={sky: 0, sea: 1}")
    assert outcome.code == 2
    assert "not known to the checkpoint: 'sea'" in outcome.err


def test_objects_of_classes_that_the_checkpoint_does_not_know_are_counted(
    checkpoint: Path, tmp_path: Path, rehead_command
) -> None:
    root = with_classes(tmp_path / "data", ["cat", "dog", "bird"])
    outcome = rehead_command("evaluate", checkpoint, *of(root))
    assert outcome.code == 0, outcome
    assert (
        f"warning: data.val: 4 of 8 objects are of classes that {checkpoint} does not tell apart, and count nowhere: "
        "'bird' (4)" in outcome.err
    )
    same = with_classes(tmp_path / "same", ["cat", "dog"])
    assert "count nowhere" not in rehead_command("evaluate", checkpoint, *of(same)).err


def test_objects_of_classes_that_only_validation_has_are_counted_in_training(tmp_path: Path, rehead_command) -> None:
    root = with_classes(tmp_path / "data", ["cat", "dog", "bird"])
    data = [*of(root), "data.train={images: train, annotations: train.json}", "data.resize={height: 32, width: 32}"]
    model = ["model.backbone.weights=none", "model.backbone.width=8", "model.head.channels=16", "model.head.convs=1"]
    run = ["train.max_steps=1", "train.batch_size=2", f"out={tmp_path}/run", "data.augment=none"]
    outcome = rehead_command("train", "raccoon_retinanet_r18", "data.classes=null", *data, *model, *run)
    assert outcome.code == 0, outcome
    assert (
        "warning: data.val: 4 of 8 objects are of classes that training does not tell apart, and count nowhere: "
        "'bird' (4)" in outcome.err
    )

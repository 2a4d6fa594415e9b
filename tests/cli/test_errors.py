"""Bad input: one clear message, exit code 2, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import TINY

import rehead
from rehead.configs.load import to_yaml


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    rehead.build_model(TINY, "unet", ["sky", "road"]).save(tmp_path / "unet.safetensors")
    return tmp_path / "unet.safetensors"


def refused(outcome, *said: str) -> None:
    assert outcome.code == 2, outcome
    text = " ".join(outcome.err.split())
    assert all(part in text for part in said), text
    assert "Traceback" not in outcome.err


def test_train(rehead_command, tmp_path: Path) -> None:
    refused(rehead_command("train"), "name a CONFIG")
    refused(rehead_command("train", "camvid_unet_r81"), "no such file or recipe", "camvid_unet_r18")
    refused(rehead_command("train", tmp_path / "none.yaml"), "none.yaml", "no such file or recipe")
    recipe = "camvid_unet_r18"
    refused(rehead_command("train", recipe, "train.epoch=1"), "train.epoch: unknown key; did you mean 'epochs'?")
    refused(rehead_command("train", recipe, "train.epochs"), "should read key=value")
    refused(rehead_command("train", recipe, "model.head.name=unett"), "did you mean 'unet'")
    refused(rehead_command("train", recipe, "device=cuda:77"), "device: 'cuda:77'")
    refused(
        rehead_command("train", recipe, f"data.root={tmp_path}/nowhere"), f"data.root: no folder {tmp_path}/nowhere"
    )
    refused(rehead_command("train", "--resume", tmp_path / "no_run"), "no_run")
    (tmp_path / "bad.yaml").write_text("task: [detection")
    refused(rehead_command("train", tmp_path / "bad.yaml"), "bad.yaml", "not YAML")


def test_evaluate(rehead_command, tmp_path: Path, checkpoint: Path, synthetic: Path) -> None:
    refused(rehead_command("evaluate", tmp_path / "no.safetensors"), "no.safetensors: no such checkpoint")
    refused(rehead_command("evaluate", checkpoint), "data.val: missing")
    data = ["data.format=masks", f"data.root={synthetic}/scenes", "data.val={images: val, masks: val_masks}"]
    refused(
        rehead_command("evaluate", checkpoint, *data, "data.classes=[sky, sea]"),
        "data.classes: 2 classes (sky, sea), but this checkpoint tells apart 2 classes (sky, road)",
    )
    # The masks hold more values than the checkpoint has classes.
    refused(rehead_command("evaluate", checkpoint, *data, "data.workers=0"), "_masks", "ignore_index")


def test_predict(rehead_command, tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "out"
    refused(rehead_command("predict", checkpoint, tmp_path / "no.jpg", "--out", out), "no such image", "no.jpg")
    (tmp_path / "empty").mkdir()
    refused(rehead_command("predict", checkpoint, tmp_path / "empty", "--out", out), "no image in")
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    refused(rehead_command("predict", checkpoint, tmp_path / "broken.jpg", "--out", out), "none of the 1 images")
    refused(rehead_command("predict", checkpoint))


def test_predict_goes_on_without_what_is_missing(
    rehead_command, tmp_path: Path, checkpoint: Path, synthetic: Path
) -> None:
    image = next((synthetic / "scenes/val").glob("*.png"))
    missing = tmp_path / "no.jpg"
    outcome = rehead_command("predict", checkpoint, missing, image, tmp_path / "nowhere", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert "1 image predicted: " in outcome.err
    for path in (missing, tmp_path / "nowhere"):
        assert f"skipped: {path}: no such image or folder" in outcome.err
    refused(rehead_command("predict", checkpoint, missing, "--out", tmp_path / "out"), "no such image or folder")


def test_predict_says_how_many_objects_it_is_sure_of(rehead_command, tmp_path: Path, synthetic: Path) -> None:
    torch.manual_seed(0)
    rehead.build_model(TINY, "fcos", ["cat"]).save(tmp_path / "fcos.safetensors")
    images = sorted((synthetic / "scenes/val").glob("*.png"))[:2]
    outcome = rehead_command("predict", tmp_path / "fcos.safetensors", *images, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome
    records = json.loads((tmp_path / "out/predictions.json").read_text())
    sure = sum(record["score"] >= 0.3 for record in records)
    said = (
        f"2 images predicted, {sure} object{'s' * (sure != 1)} of a score of 0.3 or more (of {len(records)} written): "
    )
    assert said in outcome.err


def test_swap(rehead_command, tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "new.safetensors"
    arguments = ["--classes", "a,b", "--out", out]
    refused(rehead_command("swap", checkpoint, "--head", "fasterrcnn", *arguments), "did you mean 'faster_rcnn'")
    refused(rehead_command("swap", checkpoint, "--head", "unet", "--classes", ",", "--out", out), "name at least one")
    refused(rehead_command("swap", checkpoint, "--head", "unet", "--classes", "a,a", "--out", out), "given twice: a")
    refused(rehead_command("swap", tmp_path / "no.safetensors", "--head", "unet", *arguments), "no such checkpoint")
    fcos = ["swap", checkpoint, "--head", "fcos", *arguments]
    refused(rehead_command(*fcos, "model.head.chanels=64"), "chanels: unknown key; did you mean 'channels'?")
    refused(rehead_command(*fcos, "train.epochs=2", "model.head.name=unet"), "train.epochs: only", "model.head.name:")
    assert not out.exists()


def test_what_cannot_be_written(rehead_command, tmp_path: Path, checkpoint: Path, synthetic: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file/below"
    swap = ["swap", checkpoint, "--head", "unet", "--classes", "a", "--out", below / "new.safetensors"]
    refused(rehead_command(*swap), "cannot write")
    refused(rehead_command("predict", checkpoint, synthetic / "scenes/val", "--out", below), "cannot write")
    refused(rehead_command("evaluate", checkpoint, "--json", tmp_path), "is a folder")
    data = [f"data.root={synthetic}/shapes", "data.resize={height: 64, width: 64}", "data.workers=0"]
    model = ["model.backbone.weights=none", "model.backbone.width=8", "train.max_steps=1"]
    refused(rehead_command("train", "imagenette_resnet18", *data, *model, f"out={below}"), "cannot write")


def test_images_that_are_not_there_are_found_before_training(rehead_command, tmp_path: Path, synthetic: Path) -> None:
    content = json.loads((synthetic / "scenes/annotations/val.json").read_text())
    content["images"][3]["file_name"] = "gone.png"
    (tmp_path / "val.json").write_text(json.dumps(content))
    data = [
        f"data.root={synthetic}/scenes",
        "data.train={images: train, annotations: annotations/train.json}",
        f"data.val={{images: val, annotations: {tmp_path}/val.json}}",
    ]
    outcome = rehead_command("train", "coco_faster_rcnn_r50_fpn", *data, f"out={tmp_path}/run")
    refused(outcome, "data.val: 1 of 6 images are not there", "gone.png")
    assert not (tmp_path / "run").exists()


def test_backbones_and_configs(rehead_command) -> None:
    refused(rehead_command("backbones", "resnet43"), "resnet34")
    refused(rehead_command("backbones", "resnet18", "--freeze", "-1"), "freeze")
    refused(rehead_command("configs", "coco"), "recipe")


def test_annotations_that_are_broken_or_empty(rehead_command, tmp_path: Path, synthetic: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        to_yaml(
            rehead.load_config(
                {
                    "task": "detection",
                    "model": {"backbone": TINY.model_dump(), "head": "faster_rcnn"},
                    "data": {
                        "format": "coco",
                        "root": str(synthetic / "scenes"),
                        "train": {"images": "train", "annotations": str(tmp_path / "annotations.json")},
                        "val": {"images": "val", "annotations": "annotations/val.json"},
                        "workers": 0,
                    },
                    "out": str(tmp_path / "run"),
                }
            )
        )
    )
    (tmp_path / "annotations.json").write_text("")
    refused(rehead_command("train", config), "annotations.json")
    (tmp_path / "annotations.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    refused(rehead_command("train", config), "annotations.json")
    assert not (tmp_path / "run").exists()

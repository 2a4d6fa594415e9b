"""`rehead data show` in one process, as a newcomer would use it, right and wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rehead.configs.heads import HEADS
from rehead.demo.synthetic import MASK_CLASSES

COCO = {
    "format": "coco",
    "train": {"images": "train", "annotations": "annotations/train.json"},
    "val": {"images": "val", "annotations": "annotations/val.json"},
}
MASKS = {"format": "masks", "train": {"images": "train", "masks": "train_masks"}, "classes": list(MASK_CLASSES)}


def config(tmp_path: Path, task: str, head: Any, root: Path, data: dict[str, Any], **more: Any) -> Path:
    """YAML is JSON too."""
    path = tmp_path / "config.yaml"
    model = {"heads": head} if task == "multitask" else {"head": head}
    resize = {"height": 64, "width": 64}
    path.write_text(
        json.dumps({"task": task, "data": {"root": str(root), "resize": resize, **data, **more}, "model": model})
    )
    return path


def picture(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_row_shows_an_image_before_and_after(rehead_command, tmp_path: Path, synthetic: Path) -> None:
    wrote = config(tmp_path, "detection", "fcos", synthetic / "scenes", COCO, augment="light")
    sizes = {}
    for count, draws in ((1, 0), (1, 1), (1, 3), (2, 3)):
        out = tmp_path / f"{count}_{draws}.png"
        outcome = rehead_command("data", "show", wrote, "--out", out, "--count", count, "--draws", draws)
        assert outcome.code == 0, outcome.err
        assert f"{count} of 12 images of data.train: {out}" in outcome.err
        sizes[count, draws] = picture(out).shape[:2]
    assert sizes[1, 0][1] < sizes[1, 1][1] < sizes[1, 3][1] == sizes[2, 3][1]
    assert sizes[1, 3][0] < sizes[2, 3][0]
    first = picture(tmp_path / "2_3.png")
    rehead_command("data", "show", wrote, "--out", tmp_path / "again.png", "--count", 2)
    np.testing.assert_array_equal(picture(tmp_path / "again.png"), first)
    outcome = rehead_command("data", "show", wrote, "--out", tmp_path / "val.png", "--split", "val", "--count", 99)
    assert "6 of 6 images of data.val" in outcome.err


@pytest.mark.parametrize("task", ["instance_segmentation", "segmentation", "multitask", "classification"])
def test_every_task_has_its_picture(task: str, rehead_command, tmp_path: Path, synthetic: Path) -> None:
    if task == "classification":
        head = next(entry.name for entry in HEADS if entry.about["task"] == task)
        folders = {"format": "folders", "train": {"images": "train"}}
        wrote = config(tmp_path, task, head, synthetic / "shapes", folders, augment=["resized_crop", "mixup"])
    elif task == "segmentation":
        wrote = config(tmp_path, task, "unet", synthetic / "scenes", MASKS, augment="strong")
    elif task == "instance_segmentation":
        steps = [{"name": "copy_paste", "p": 1}, "RandomRotate90"]
        wrote = config(tmp_path, task, "mask_rcnn", synthetic / "scenes", COCO, augment=steps)
    else:
        heads = {"boxes": "fcos", "scene": {"name": "unet", "classes": list(MASK_CLASSES)}}
        sources = {"scene": {**MASKS, "root": str(synthetic / "scenes")}}
        wrote = config(tmp_path, task, heads, synthetic / "scenes", COCO, sources=sources, augment="strong")
    outcome = rehead_command("data", "show", wrote, "--out", tmp_path / "out.png", "--count", 1, "--draws", 2)
    assert outcome.code == 0, outcome.err
    assert len(np.unique(picture(tmp_path / "out.png"))) > 50


def test_what_is_wrong_is_one_message(rehead_command, tmp_path: Path, synthetic: Path) -> None:
    wrote = config(tmp_path, "detection", "fcos", synthetic / "scenes", COCO)
    out = tmp_path / "out.png"

    def refused(said: str, *arguments: Any) -> None:
        outcome = rehead_command("data", "show", *arguments)
        assert outcome.code == 2
        assert said in outcome.err, outcome.err
        assert "Traceback" not in outcome.err
        assert not out.exists()

    refused("out.text should end in .png, .jpg", wrote, "--out", tmp_path / "out.text")
    refused("no such file or recipe", "coco_fasterrcnn", "--out", out)
    refused("did you mean 'HorizontalFlip'", wrote, "data.augment=[HorizontalFlp]", "--out", out)
    refused("data.augment.0.limit", wrote, "data.augment=[{name: Rotate, limit: a}]", "--out", out)
    refused("data.test: missing", wrote, "--out", out, "--split", "test")
    refused("has no split 'trian'", wrote, "--out", out, "--split", "trian")
    refused("data.root: no folder", wrote, "data.root=nowhere", "--out", out)
    refused("RandomCrop cannot change", wrote, "data.augment=[{name: RandomCrop, height: 99, width: 9}]", "--out", out)
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    refused("empty.json", wrote, f"data.train.annotations={tmp_path}/empty.json", "--out", out)


def test_a_training_with_steps_that_cannot_work_leaves_no_folder(
    rehead_command, tmp_path: Path, synthetic: Path
) -> None:
    wrote = config(tmp_path, "detection", "fcos", synthetic / "scenes", COCO, workers=0)
    more = ["model.backbone={name: resnet18, weights: none, width: 8}", f"out={tmp_path}/run", "device=cpu"]
    outcome = rehead_command("train", wrote, *more, "data.augment=[{name: GaussianBlur, blur_limit: a}, ISONoise]")
    assert outcome.code == 2
    assert "data.augment.0.blur_limit: " in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_training_with_everything(rehead_command, tmp_path: Path, synthetic: Path) -> None:
    data = {"workers": 0, "augment": "strong", "sampling": "repeat_factor", "group_by_aspect": True}
    wrote = config(
        tmp_path, "detection", "fcos", synthetic / "scenes", COCO, **data, resize={"shorter": 64, "longer": 96}
    )
    more = ["model.backbone={name: resnet18, weights: none, width: 8}", f"out={tmp_path}/run", "device=cpu"]
    outcome = rehead_command("train", wrote, *more, "train={max_steps: 3, batch_size: 4, log_every: 1, pictures: 0}")
    assert outcome.code == 0, outcome.err
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) >= 3
    outcome = rehead_command("train", "--resume", tmp_path / "run", "data.augment=light")
    assert outcome.code == 2
    assert "data.augment: 'strong' in this run, now 'light'" in outcome.err


def test_a_training_with_soft_labels(rehead_command, tmp_path: Path, synthetic: Path) -> None:
    head = next(entry.name for entry in HEADS if entry.about["task"] == "classification")
    folders = {"format": "folders", "train": {"images": "train"}, "val": {"images": "val"}, "workers": 0}
    steps = ["resized_crop", {"name": "mixup", "p": 0.5}]
    wrote = config(
        tmp_path, "classification", head, synthetic / "shapes", folders, augment=steps, sampling="class_balanced"
    )
    more = ["model.backbone={name: resnet18, weights: none, width: 8}", f"out={tmp_path}/run", "device=cpu"]
    outcome = rehead_command("train", wrote, *more, "train={max_steps: 2, batch_size: 4, log_every: 1, pictures: 1}")
    assert outcome.code == 0, outcome.err

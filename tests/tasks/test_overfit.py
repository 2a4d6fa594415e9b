"""Each head learns eight fixed images by heart: this catches what "the loss falls" does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import rehead
from rehead.demo.synthetic import MASK_CLASSES, write_classification, write_scenes

SIZE = 96
SMALL_RCNN = {
    "channels": 64,
    "representation": 128,
    "anchor_sizes": [[16], [24], [32], [48], [64]],
    "rpn_post_nms_train": 200,
    "box_sampled": 128,
}


def fit_eight(
    tmp_path: Path,
    task: str,
    data: Mapping[str, Any],
    head: Mapping[str, Any],
    steps: int,
    output_stride: int = 32,
) -> dict[str, Any]:
    """Trains on eight images without augmentation, and judges on the same."""
    rehead.train(
        {
            "task": task,
            "data": {
                **data,
                "root": str(tmp_path / "data"),
                "resize": {"height": SIZE, "width": SIZE},
                "augment": "none",
                "workers": 0,
            },
            "model": {
                "backbone": {"name": "resnet18", "width": 32, "weights": "none", "output_stride": output_stride},
                "head": dict(head),
            },
            "train": {
                "epochs": steps,
                "evaluate_every": steps,
                "batch_size": 8,
                "optimizer": {"name": "adamw", "lr": 2e-3},
                "schedule": {"warmup_steps": 10},
                "clip_norm": 5.0,
                "pictures": 0,
            },
            "out": str(tmp_path / "run"),
        }
    )
    return rehead.evaluate(tmp_path / "run/last.safetensors")["main"]


@pytest.mark.numeric
@pytest.mark.slow
class TestOverfit:
    @pytest.mark.parametrize(
        ("head", "steps"), [({"name": "linear"}, 60), ({"name": "mlp", "hidden": 64}, 30)], ids=["linear", "mlp"]
    )
    def test_classification(self, tmp_path: Path, head: Mapping[str, Any], steps: int) -> None:
        write_classification(tmp_path / "data", "eight", 8, SIZE, seed=0)
        split = {"images": "eight"}
        data = {"format": "folders", "train": split, "val": split}
        metrics = fit_eight(tmp_path, "classification", data, head, steps)
        assert metrics["top1"] == 1

    def test_several_classes_per_image(self, tmp_path: Path) -> None:
        write_scenes(tmp_path / "data", "eight", 8, SIZE, seed=0)
        split = {"images": "eight", "annotations": "annotations/eight.json"}
        data = {"format": "coco", "train": split, "val": split}
        metrics = fit_eight(tmp_path, "classification", data, {"name": "linear", "multi_label": True}, steps=40)
        assert metrics["mAP"] == 1
        assert metrics["micro_F1"] == 1

    def test_faster_rcnn(self, tmp_path: Path) -> None:
        write_scenes(tmp_path / "data", "eight", 8, SIZE, seed=0)
        split = {"images": "eight", "annotations": "annotations/eight.json"}
        head = {**SMALL_RCNN, "name": "faster_rcnn"}
        data = {"format": "coco", "train": split, "val": split}
        metrics = fit_eight(tmp_path, "detection", data, head, steps=200)
        assert metrics["bbox"]["AP50"] > 0.9

    def test_mask_rcnn(self, tmp_path: Path) -> None:
        write_scenes(tmp_path / "data", "eight", 8, SIZE, seed=0)
        split = {"images": "eight", "annotations": "annotations/eight.json"}
        data = {"format": "coco", "train": split, "val": split}
        head = {**SMALL_RCNN, "name": "mask_rcnn", "mask_convs": 1, "mask_channels": 32, "box_sampled": 32}
        metrics = fit_eight(tmp_path, "instance_segmentation", data, head, steps=130)
        assert metrics["bbox"]["AP50"] > 0.9
        assert metrics["segm"]["AP50"] > 0.8

    def test_keypoint_rcnn(self, tmp_path: Path) -> None:
        """The points are the corners and the middle of every box."""
        write_scenes(tmp_path / "data", "eight", 8, SIZE, seed=0)
        file = tmp_path / "data" / "annotations" / "eight.json"
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["keypoints"] = ["left_end", "right_end", "middle"]
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["keypoints"] = [x + 1, y + h / 2, 2, x + w - 1, y + h / 2, 2, x + w / 2, y + h / 2, 2]
            annotation["num_keypoints"] = 3
        file.write_text(json.dumps(content))
        split = {"images": "eight", "annotations": "annotations/eight.json"}
        data = {"format": "coco", "train": split, "val": split}
        head = {**SMALL_RCNN, "name": "keypoint_rcnn", "keypoint_convs": 1, "keypoint_channels": 32, "box_sampled": 32}
        metrics = fit_eight(tmp_path, "keypoint_detection", data, head, steps=180)
        assert metrics["bbox"]["AP50"] > 0.9
        assert metrics["keypoints"]["AP50"] > 0.8

    @pytest.mark.parametrize(
        ("head", "steps"),
        [
            # Four convolutions without norms learn too, in about twice the steps.
            ({"name": "retinanet", "channels": 64, "convs": 2}, 150),
            ({"name": "retinanet", "channels": 64, "norm": "group", "box_loss": "giou", "p6_input": "C5"}, 120),
            ({"name": "fcos", "channels": 64}, 120),
        ],
        ids=["retinanet", "retinanet with giou", "fcos"],
    )
    def test_one_stage_detectors(self, tmp_path: Path, head: Mapping[str, Any], steps: int) -> None:
        write_scenes(tmp_path / "data", "eight", 8, SIZE, seed=0)
        split = {"images": "eight", "annotations": "annotations/eight.json"}
        data = {"format": "coco", "train": split, "val": split}
        metrics = fit_eight(tmp_path, "detection", data, head, steps)
        assert metrics["bbox"]["AP50"] > 0.9

    def test_unet(self, tmp_path: Path) -> None:
        write_scenes(tmp_path / "data", "eight", 8, SIZE, seed=0)
        split = {"images": "eight", "masks": "eight_masks"}
        data = {"format": "masks", "train": split, "val": split, "classes": list(MASK_CLASSES)}
        head = {"name": "unet", "decoder_channels": [128, 64, 32, 16, 16]}
        metrics = fit_eight(tmp_path, "segmentation", data, head, steps=250)
        assert metrics["mIoU"] > 0.9

    @pytest.mark.parametrize(
        ("head", "output_stride", "reached"),
        [
            ({"name": "upernet", "channels": 64, "loss": {"cross_entropy": {}, "dice": {}}}, 32, 0.9),
            ({"name": "segformer", "channels": 64, "loss": {"lovasz": {}}}, 32, 0.9),
            # Scores of stride 8, blown up, cannot follow the edges of shapes of 20 pixels.
            ({"name": "torchvision_fcn", "loss": {"focal": {}}}, 8, 0.8),
        ],
        ids=["upernet with dice", "segformer with lovasz", "torchvision_fcn with focal"],
    )
    def test_segmentation(self, tmp_path: Path, head: Mapping[str, Any], output_stride: int, reached: float) -> None:
        write_scenes(tmp_path / "data", "eight", 8, SIZE, seed=0)
        split = {"images": "eight", "masks": "eight_masks"}
        data = {"format": "masks", "train": split, "val": split, "classes": list(MASK_CLASSES)}
        metrics = fit_eight(tmp_path, "segmentation", data, head, steps=150, output_stride=output_stride)
        assert metrics["mIoU"] > reached

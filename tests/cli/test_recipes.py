"""Every shipped recipe through the real commands: train, evaluate, predict, swap."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers import TINY
from PIL import Image
from safetensors.torch import load_file

import rehead
from rehead.configs.load import load_config, recipes
from rehead.demo.synthetic import MASK_CLASSES

TWELVE = {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}

TEN = {"AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"}

QUICK = [
    "data.workers=0",
    "train.epochs=2",
    "train.max_steps=null",
    "train.global_batch_size=4",
    "train.batch_size=4",
    "train.log_every=2",
    "train.pictures=2",
]
SMALL = ["model.backbone.name=resnet18", "model.backbone.weights=none", "model.backbone.width=8", *QUICK]
FEW_PROPOSALS = ["rpn_post_nms_train=60", "rpn_post_nms_test=20", "box_sampled=16", "representation=32", "channels=16"]
SMALL_HEADS = {
    "faster_rcnn": FEW_PROPOSALS,
    "mask_rcnn": [*FEW_PROPOSALS, "mask_convs=1", "mask_channels=8"],
    "keypoint_rcnn": [*FEW_PROPOSALS, "keypoint_convs=1", "keypoint_channels=8"],
    "retinanet": ["channels=16", "convs=1"],
    "fcos": ["channels=64", "convs=1"],
    "deeplabv3plus": ["channels=16"],
    "upernet": ["channels=16"],
}
BOXES = [
    "data.root={synthetic}/scenes",
    "data.format=coco",
    "data.train={{images: train, annotations: annotations/train.json}}",
    "data.val={{images: val, annotations: annotations/val.json}}",
    "data.resize={{shorter: 64, longer: 96}}",
    "train.schedule={{name: multistep, milestones: [1], warmup_steps: 2}}",
]
DRAWN = {
    "classification": ["data.root={synthetic}/shapes", "data.resize={{height: 64, width: 64}}"],
    "detection": BOXES,
    "keypoint_detection": [
        *BOXES,
        "data.train={{images: train, annotations: annotations/points_train.json}}",
        "data.val={{images: val, annotations: annotations/points_val.json}}",
        "data.sampling.min_keypoints=2",
    ],
    "instance_segmentation": BOXES,
    # Every value of these masks is a class; here it is taken for an object.
    "instance_masks": [
        "data.root={synthetic}/scenes",
        "data.train={{images: train, masks: train_masks}}",
        "data.val={{images: val, masks: val_masks}}",
        "data.resize={{height: 64, width: 64}}",
        "train.schedule={{name: multistep, milestones: [1], warmup_steps: 2}}",
    ],
    "segmentation": [
        "data.root={synthetic}/scenes",
        "data.train={{images: train, masks: train_masks}}",
        "data.val={{images: val, masks: val_masks}}",
        "data.ignore_index=[]",
        "data.values=null",
        f"data.classes=[{', '.join(MASK_CLASSES)}]",
        "data.resize={{height: 64, width: 64}}",
    ],
}
METRICS = {
    "classification": "main.top1",
    "detection": "main.bbox.AP",
    "instance_segmentation": "main.segm.AP",
    "keypoint_detection": "main.keypoints.AP",
    "segmentation": "main.mIoU",
}


@pytest.fixture(scope="module")
def pointed(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data, and `points_train.json` and `points_val.json` with keypoints, one object without."""
    synthetic = Path(shutil.copytree(synthetic, tmp_path_factory.mktemp("pointed") / "synthetic"))
    for split in ("train", "val"):
        data = json.loads((synthetic / f"scenes/annotations/{split}.json").read_text())
        for category in data["categories"]:
            category["keypoints"] = ["left", "right", "top"]
        for number, annotation in enumerate(data["annotations"]):
            x, y, w, h = annotation["bbox"]
            points = [x, y + h / 2, 2, x + w, y + h / 2, 2, x + w / 2, y, 2]
            annotation["keypoints"] = points if number else [0] * 9
            annotation["num_keypoints"] = 3 if number else 0
        (synthetic / f"scenes/annotations/points_{split}.json").write_text(json.dumps(data))
    return synthetic


def on_drawn_data(recipe: str, synthetic: Path, out: Path) -> list[str]:
    """What makes a recipe small and quick, and lets it read synthetic data; the rest of it stays."""
    config = load_config(recipe)
    if recipe.startswith("paper/"):
        # Their networks are what they are about.
        small = [*QUICK, f"data.root={synthetic}/shapes", "model.backbone.width=4", "train.schedule.milestones=[1]"]
        return [*small, f"out={out}"]
    kind = "instance_masks" if config.data.format == "instance_masks" else config.task
    small = [*SMALL, *(item.format(synthetic=synthetic) for item in DRAWN[kind])]
    head = config.model.heads["main"].name
    small += [f"model.head.{item}" for item in SMALL_HEADS.get(head, [])]
    for place, step in enumerate([] if isinstance(config.data.augment, str) else config.data.augment):
        if step.name == "multi_scale":
            small.append(f"data.augment.{place}.shorter=[48, 64]")
        if step.name == "large_scale_jitter":
            small.append(f"data.augment.{place}.canvas=[48, 64]")
    return [*small, f"out={out}"]


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_trains_evaluates_and_predicts_on_drawn_images(
    recipe: str, pointed: Path, tmp_path: Path, rehead_command
) -> None:
    task, synthetic = load_config(recipe).task, pointed
    outcome = rehead_command("train", recipe, *on_drawn_data(recipe, synthetic, tmp_path / "run"))
    assert outcome.code == 0, outcome
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "metrics.csv",
        "metrics.jsonl",
        "best.safetensors",
        "last.safetensors",
        "resume.pt",
        "pictures",
    }
    assert len(list((run / "pictures").glob("*.png"))) == 2
    resolved = load_config(run / "config.yaml")
    assert resolved.model.backbone.mean is not None
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert any(row["loss"] for row in rows)
    assert any(row[METRICS[task]] for row in rows)

    outcome = rehead_command("evaluate", run / "last.safetensors", "--json", tmp_path / "metrics.json")
    assert outcome.code == 0, outcome
    metrics = json.loads((tmp_path / "metrics.json").read_text())["main"]
    with_boxes = task in ("detection", "instance_segmentation", "keypoint_detection")
    if with_boxes:
        assert all(set(own) == (TEN if name == "keypoints" else TWELVE) for name, own in metrics.items())
        assert f"{metrics['bbox']['AP']:.6f}" == f"{float(rows[-1]['main.bbox.AP']):.6f}"
    elif task == "segmentation":
        assert set(metrics["IoU"]) == set(MASK_CLASSES)
        assert metrics["mIoU"] == pytest.approx(float(rows[-1]["main.mIoU"]))
    else:
        assert set(metrics) == {"top1", "top5"}

    image = next((synthetic / ("shapes/val/circle" if task == "classification" else "scenes/val")).glob("*.png"))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    outcome = rehead_command(
        "predict", run / "best.safetensors", image, tmp_path / "broken.png", "--out", tmp_path / "predicted"
    )
    assert outcome.code == 0, outcome
    assert "skipped:" in outcome.err
    assert "broken.png" in outcome.err
    assert [path.stem for path in (tmp_path / "predicted/pictures").iterdir()] == [image.stem]
    records = json.loads((tmp_path / "predicted/predictions.json").read_text())
    if task == "instance_segmentation":
        assert all(record["segmentation"]["size"] == [64, 64] for record in records)
    if with_boxes:
        assert all({"image_id", "category_id", "bbox", "score"} <= set(record) for record in records)
        assert all(record["category_id"] in range(1, 7) for record in records)
    elif task == "segmentation":
        mask = Image.open(tmp_path / "predicted" / records[0]["mask"])
        assert mask.size == (64, 64)
        assert max(mask.tobytes()) < len(MASK_CLASSES)
    else:
        assert [guess["score"] for guess in records[0]["top"]] == sorted(
            (guess["score"] for guess in records[0]["top"]), reverse=True
        )


def test_images_without_objects_are_left_out_of_the_training_and_counted(
    synthetic: Path, tmp_path: Path, rehead_command
) -> None:
    """As the COCO recipes have it. The evaluation has them all."""
    data = json.loads((synthetic / "scenes/annotations/train.json").read_text())
    empty = [image["id"] for image in data["images"][:3]]
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] not in empty]
    (tmp_path / "some.json").write_text(json.dumps(data))
    overrides = on_drawn_data("coco_retinanet_r50_fpn", synthetic, tmp_path / "run")
    overrides += [f"data.train.annotations={tmp_path}/some.json", f"data.val.annotations={tmp_path}/some.json"]
    overrides += ["data.val.images=train", "train.epochs=1", "train.global_batch_size=3"]
    outcome = rehead_command("train", "coco_retinanet_r50_fpn", *overrides)
    assert outcome.code == 0, outcome
    assert "12 training images (3 of them skipped: no object to learn from) and 12 validation images" in outcome.err
    assert "3 images to a step, as train.global_batch_size says" in outcome.err
    with (tmp_path / "run/metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)][-1] == "3"


def test_a_folder_with_a_run_is_not_written_over_unless_asked(synthetic: Path, tmp_path: Path, rehead_command) -> None:
    overrides = [*SMALL, *(item.format(synthetic=synthetic) for item in DRAWN["classification"]), f"out={tmp_path}/run"]
    train = ["train", "imagenette_resnet18", *overrides, "train.max_steps=1"]
    assert rehead_command(*train).code == 0
    before = (tmp_path / "run/last.safetensors").read_bytes()
    outcome = rehead_command(*train, "train.seed=1")
    assert outcome.code == 2
    assert "already holds a run" in outcome.err
    assert (tmp_path / "run/last.safetensors").read_bytes() == before
    assert rehead_command(*train, "train.seed=1", "--overwrite").code == 0
    assert (tmp_path / "run/last.safetensors").read_bytes() != before


def test_a_run_goes_on_from_its_folder_alone(synthetic: Path, tmp_path: Path, rehead_command) -> None:
    """Two epochs, or one and then another with --resume: the same weights and rows."""
    common = [
        *SMALL,
        *(item.format(synthetic=synthetic) for item in DRAWN["segmentation"]),
        "train.schedule.name=constant",
    ]
    recipe = "camvid_unet_r18"
    assert rehead_command("train", recipe, *common, f"out={tmp_path}/whole", "train.epochs=2").code == 0
    assert rehead_command("train", recipe, *common, f"out={tmp_path}/parts", "train.epochs=1").code == 0
    assert rehead_command("train", "--resume", tmp_path / "parts", "train.epochs=2", "data.workers=1").code == 0
    whole, parts = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_resumed_run_refuses_what_would_make_it_another(synthetic: Path, tmp_path: Path, rehead_command) -> None:
    overrides = [*SMALL, *(item.format(synthetic=synthetic) for item in DRAWN["classification"]), f"out={tmp_path}/run"]
    assert rehead_command("train", "imagenette_resnet18", *overrides, "train.epochs=1").code == 0
    before = (tmp_path / "run/config.yaml").read_text()
    outcome = rehead_command(
        "train", "--resume", tmp_path / "run", "model.backbone.width=16", "train.batch_size=2", "train.log_every=1"
    )
    assert outcome.code == 2
    assert "model.backbone.width: 8 in this run, now 16" in outcome.err
    assert "train.batch_size: 4 in this run, now 2" in outcome.err
    assert "log_every" not in outcome.err
    assert (tmp_path / "run/config.yaml").read_text() == before
    outcome = rehead_command("train", "--resume", tmp_path / "run", "train.epochs=2")
    assert outcome.code == 0
    assert "changed on resuming: train.epochs was 1, is 2" in outcome.err


def test_a_resumed_run_notices_that_the_list_of_its_images_has_changed(
    synthetic: Path, tmp_path: Path, rehead_command
) -> None:
    overrides = [*SMALL, *(item.format(synthetic=synthetic) for item in DRAWN["classification"]), f"out={tmp_path}/run"]
    folder = synthetic / "shapes/train"
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.*"))]
    (tmp_path / "val.txt").write_text("\n".join(names[:2]))
    overrides += [f"data.val={{from_train: {tmp_path}/val.txt}}", "train.epochs=1"]
    assert rehead_command("train", "imagenette_resnet18", *overrides).code == 0
    (tmp_path / "val.txt").write_text("\n".join(names[1:3]))
    outcome = rehead_command("train", "--resume", tmp_path / "run", "train.epochs=2")
    assert outcome.code == 2
    assert "as checksum of the training images' ids before" in outcome.err
    (tmp_path / "val.txt").write_text("\n".join(names[:2]))
    assert rehead_command("train", "--resume", tmp_path / "run", "train.epochs=2").code == 0


def test_predictions_of_files_with_the_same_name_are_all_kept(tmp_path: Path, rehead_command) -> None:
    torch.manual_seed(0)
    rehead.build_model(TINY, "unet", ["sky", "road"]).save(tmp_path / "unet.safetensors")
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.png", "a_2.jpg", "007.jpg", "7.jpg"):
        Image.new("RGB", (40, 32)).save(tmp_path / "in" / name)
    assert (
        rehead_command("predict", tmp_path / "unet.safetensors", tmp_path / "in", "--out", tmp_path / "out").code == 0
    )
    records = json.loads((tmp_path / "out/predictions.json").read_text())
    for values in ([record["mask"] for record in records], [record["image_id"] for record in records]):
        assert len(set(values)) == 5
    assert len(list((tmp_path / "out/pictures").iterdir())) == 5


def test_swap_keeps_the_backbone_bit_for_bit_there_and_back(tmp_path: Path, rehead_command) -> None:
    torch.manual_seed(0)
    rehead.build_model(TINY, "unet", ["sky", "road"]).save(tmp_path / "unet.safetensors")
    there, back = tmp_path / "detector.safetensors", tmp_path / "back.safetensors"
    swap = ["swap", tmp_path / "unet.safetensors", "--head", "fcos", "--classes", "cat, dog", "--out", there]
    assert rehead_command(*swap, "model.head.channels=32").code == 0
    assert rehead_command("swap", there, "--head", "unet", "--classes", "sky,road", "--out", back).code == 0
    first, second, third = (load_file(path) for path in (tmp_path / "unet.safetensors", there, back))
    body = {name for name in first if name.startswith("backbone.")}
    assert body
    for name in body:
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], third[name])
    assert rehead.load(there).classes["main"].names == ("cat", "dog")
    assert rehead.load(there).head("main").options.channels == 32


def test_configs_prints_a_recipe_that_can_be_trained(tmp_path: Path, rehead_command) -> None:
    outcome = rehead_command("configs", "camvid_unet_r18")
    assert yaml.safe_load(outcome.out)["task"] == "segmentation"
    (tmp_path / "mine.yaml").write_text(outcome.out)
    assert load_config(tmp_path / "mine.yaml") == load_config("camvid_unet_r18")
    # What it aims at, and what is different, is said with it.
    outcome = rehead_command("configs", "detectron2/coco_retinanet_r50_fpn_1x")
    assert outcome.out.startswith("# RetinaNet on COCO as Detectron2 trains it (1x), aiming at its box AP 37.4")
    assert "Different here" in outcome.out
    listing = rehead_command("configs").out
    assert all(name in listing for name in recipes())


@pytest.mark.slow
class TestRealImages:
    """The recipes on photographs, with the backbone that was trained on photographs."""

    def common(self, shared: Path) -> list[str]:
        return ["model.backbone.name=resnet18", f"model.backbone.weights={shared}/weights/resnet18_photos.pth"]

    @pytest.mark.matrix
    def test_coco(self, shared: Path, tmp_path: Path, rehead_command) -> None:
        run = tmp_path / "run"
        arguments = [f"data.root={shared}/data/coco", *self.common(shared), "train.global_batch_size=2", f"out={run}"]
        # Small images and few proposals: what takes time is judging a detector that knows nothing yet.
        arguments += ["train.max_steps=20", "data.resize={shorter: 256, longer: 427}", "train.log_every=5"]
        arguments += ["model.head.rpn_post_nms_train=300", "model.head.rpn_post_nms_test=100"]
        # In the first twenty steps of the recipe's own warm-up there is little to learn with.
        arguments += ["train.schedule.warmup_steps=500"]
        outcome = rehead_command("train", "configs/coco_faster_rcnn_r50_fpn.yaml", *arguments)
        assert outcome.code == 0, outcome
        outcome = rehead_command("evaluate", run / "best.safetensors", "--json", tmp_path / "metrics.json")
        assert outcome.code == 0, outcome
        assert set(json.loads((tmp_path / "metrics.json").read_text())["main"]["bbox"]) == TWELVE
        with (run / "metrics.csv").open() as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]
        assert len(losses) == 4
        assert losses[-1] < losses[0]

    def test_camvid_and_back_from_a_detector(self, shared: Path, tmp_path: Path, rehead_command) -> None:
        run = tmp_path / "run"
        arguments = [f"data.root={shared}/data/camvid", *self.common(shared), f"out={run}", "train.max_steps=15"]
        # Trained at half the size; judged at the original one.
        arguments += ["data.resize={height: 180, width: 240}", "train.schedule.warmup_steps=2"]
        assert rehead_command("train", "configs/camvid_unet_r18.yaml", *arguments).code == 0
        outcome = rehead_command("evaluate", run / "best.safetensors", "--json", tmp_path / "metrics.json")
        assert outcome.code == 0, outcome
        metrics = json.loads((tmp_path / "metrics.json").read_text())["main"]
        assert len(metrics["IoU"]) == 11
        assert "void" not in metrics["IoU"]
        assert metrics["mIoU"] > 0.1
        there, back = tmp_path / "detector.safetensors", tmp_path / "back.safetensors"
        swap = ["swap", run / "best.safetensors", "--head", "faster_rcnn", "--classes", "car,tree", "--out", there]
        assert rehead_command(*swap).code == 0
        assert rehead_command("swap", there, "--head", "unet", "--classes", "a,b", "--out", back).code == 0
        first, third = load_file(run / "best.safetensors"), load_file(back)
        body = [name for name in first if name.startswith("backbone.")]
        assert all(torch.equal(first[name], third[name]) for name in body)

    def test_imagenette(self, shared: Path, tmp_path: Path, rehead_command) -> None:
        run = tmp_path / "run"
        arguments = [f"data.root={shared}/data/imagenette128", *self.common(shared), f"out={run}", "train.max_steps=20"]
        arguments += ["data.resize={shorter: 96, crop: 96}", "train.schedule.warmup_steps=5"]
        assert rehead_command("train", "configs/imagenette_resnet18.yaml", *arguments).code == 0
        outcome = rehead_command("evaluate", run / "best.safetensors", "--json", tmp_path / "metrics.json")
        assert outcome.code == 0, outcome
        assert json.loads((tmp_path / "metrics.json").read_text())["main"]["top1"] > 0.5

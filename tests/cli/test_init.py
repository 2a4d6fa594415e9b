"""`rehead init`: from a folder to a model that is trained, evaluated and predicted with, by the commands it prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from checked_data import content, noise, save, write_coco, write_format, write_images, write_masks
from PIL import Image

from rehead.configs.load import load_config
from rehead.datasets.audit import images
from rehead.datasets.audit.images import Facts, Job
from rehead.datasets.audit.proposal import Machine, propose
from rehead.datasets.audit.run import check_data
from rehead.demo.synthetic import write_scenes

TINY = [
    "model.backbone.name=resnet18",
    "model.backbone.weights=none",
    "model.backbone.width=8",
    "data.workers=0",
    "train.epochs=1",
    "train.max_steps=2",
    "train.batch_size=2",
    "train.pictures=1",
]
FEW_PROPOSALS = ["rpn_post_nms_train=60", "rpn_post_nms_test=20", "box_sampled=16", "representation=32", "channels=16"]
SMALL_HEADS = {
    "mask_rcnn": [*FEW_PROPOSALS, "mask_convs=1", "mask_channels=8"],
    "keypoint_rcnn": [*FEW_PROPOSALS, "keypoint_convs=1", "keypoint_channels=8"],
    "faster_rcnn": FEW_PROPOSALS,
    "retinanet": ["channels=16", "convs=1"],
}
HEADS = {
    "coco": "retinanet",
    "outlines": "mask_rcnn",
    "voc": "retinanet",
    "yolo": "retinanet",
    "csv": "retinanet",
    "via": "retinanet",
    "folders": "linear",
    "masks": "unet",
    "instance_masks": "mask_rcnn",
    "keypoints": "keypoint_rcnn",
    "huggingface": "linear",
}


def written(name: str, root: Path) -> Path:
    """The same content in a format."""
    if name == "outlines":
        for split in ("train", "val"):
            write_scenes(root, split, 4, size=64, seed=0)
        return root
    if name == "keypoints":
        write_images(root)
        for split in ("train", "val"):
            whole = content(split)
            for category in whole["categories"]:
                category["keypoints"] = ["left", "right"]
            for one in whole["annotations"]:
                x, y, w, h = one["bbox"]
                one |= {"keypoints": [x, y, 2, x + w, y + h, 2], "num_keypoints": 2}
            save(root, split, whole)
        return root
    if name == "huggingface":
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        rows = {"image": [Image.fromarray(noise(seed)) for seed in range(6)], "label": [0, 1, 0, 1, 0, 1]}
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features)}).save_to_disk(str(root / "data"))
        return root
    return write_format(name, root)


@pytest.mark.parametrize("name", HEADS)
def test_the_printed_commands_train_evaluate_and_predict(
    name: str, tmp_path: Path, rehead_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = written(name, tmp_path / "my data")
    monkeypatch.chdir(tmp_path)
    outcome = rehead_command("init", root.relative_to(tmp_path), "--out", "mine.yaml")
    assert outcome.code == 0, outcome
    config = load_config("mine.yaml")
    head = config.model.heads["main"].name
    assert head == HEADS[name]
    commands = [shlex.split(line)[1:] for line in outcome.out.splitlines() if line.startswith("rehead ")]
    assert [command[0] for command in commands] == ["train", "evaluate", "predict"]
    overrides = {"train": [*TINY, *(f"model.head.{item}" for item in SMALL_HEADS.get(head, []))]}
    if name == "huggingface":
        # Its images are inside its tables: the command names a folder of others.
        Path("photos").mkdir()
        Image.fromarray(noise(1)).save("photos/a.png")
    for command in commands:
        outcome = rehead_command(*command, *overrides.get(command[0], []))
        assert outcome.code == 0, outcome
    assert isinstance(json.loads((tmp_path / config.out / "predicted" / "predictions.json").read_text()), list)


def test_a_split_that_is_not_there_is_drawn_and_classes_without_names_are_numbered(
    rehead_command, tmp_path: Path
) -> None:
    root = write_masks(tmp_path / "data", (0, 1, 7, 255))
    for folder in ("val", "val_masks"):
        for path in (root / folder).iterdir():
            path.unlink()
        (root / folder).rmdir()
    out = tmp_path / "mine.yaml"
    assert rehead_command("init", root, "--out", out).code == 0
    raw = yaml.safe_load(out.read_text())
    assert raw["data"]["val"] == {"from_train": 0.2}
    assert raw["data"]["values"] == {"class_0": 0, "class_1": 1, "class_7": 7}
    assert raw["data"]["ignore_index"] == [255]
    assert "# values of the masks and their share of the pixels: 0: 25.0%, 1: 25.0%, 7: 25.0%, 255: 25.0%" in (
        out.read_text()
    )


def test_colours_of_masks_become_classes_but_smoothed_edges_do_not(rehead_command, tmp_path: Path) -> None:
    root = write_masks(tmp_path / "data")
    for path in root.glob("*_masks/*.png"):
        mask = np.zeros((30, 40, 3), np.uint8)
        mask[:, 20:] = 128, 64, 0
        Image.fromarray(mask).save(path)
    assert rehead_command("init", root, "--out", tmp_path / "mine.yaml").code == 0
    config = load_config(tmp_path / "mine.yaml")
    assert config.data.values == {"colour_0_0_0": (0, 0, 0), "colour_128_64_0": (128, 64, 0)}
    mask[0, :, 0] = mask[1, :, 1] = range(40)
    Image.fromarray(mask).save(path)
    outcome = rehead_command("init", root, "--out", tmp_path / "other.yaml")
    assert (outcome.code, (tmp_path / "other.yaml").exists()) == (2, False)
    assert "data.values={sky: [0, 0, 128]" in " ".join(outcome.err.split())


def test_what_the_user_knows_is_kept(rehead_command, tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    classes = "data.classes=[sky,road,tree]"
    assert rehead_command("init", write_masks(tmp_path / "data"), "data.format=masks", classes, "--out", out).code == 0
    config = load_config(out)
    assert (config.data.classes, config.data.values) == (["sky", "road", "tree"], None)


def test_nothing_is_overwritten_unasked(rehead_command, tmp_path: Path) -> None:
    root, out = write_coco(tmp_path / "data"), tmp_path / "mine.yaml"
    out.write_text("mine")
    outcome = rehead_command("init", root, "--out", out)
    assert (outcome.code, out.read_text()) == (2, "mine")
    assert "--overwrite" in outcome.err
    assert rehead_command("init", root, "--out", out, "--overwrite").code == 0
    assert load_config(out).task == "detection"


def test_a_folder_without_data_and_no_folder_are_errors(rehead_command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    for folder, said in (("empty", "no format is detected"), ("none", "no such folder"), ("file.txt", "is a file")):
        outcome = rehead_command("init", tmp_path / folder, "--out", tmp_path / "mine.yaml")
        assert (outcome.code, (tmp_path / "mine.yaml").exists()) == (2, False)
        assert said in " ".join(outcome.err.split())
        assert "Traceback" not in outcome.err


def test_errors_in_the_data_are_counted_with_what_lists_and_mends_them(rehead_command, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    (root / "train" / "b.png").write_bytes(b"no image")
    outcome = rehead_command("init", root, "--out", tmp_path / "mine.yaml")
    assert outcome.code == 0
    said = " ".join(outcome.err.split())
    assert "1 error and " in said
    assert "rehead data check" in said
    assert "--fix" in said


def test_names_stay_names(rehead_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a comment nor a list of YAML ends where a name does."""
    names = ["yes", "a: b", "c]\nout: elsewhere # '\"", "\u202egpj"]
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "a: #b, 'c'"
    write_images(root)
    for split in ("train", "val"):
        whole = content(split)
        whole["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        save(root, split, whole)
    outcome = rehead_command("init", root.name, "--out", "mine.yaml")
    assert outcome.code == 0, outcome
    config = load_config("mine.yaml")
    assert (config.data.classes, config.data.root) == (names, root.name)
    assert config.out == "runs/a___b___c_"


def test_a_gpu_gets_larger_images_batches_and_backbones(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        for number in range(2):
            (root / split / f"class{number}").mkdir(parents=True)
            for image in range(30):
                file = root / split / f"class{number}" / f"{split}{image}.jpg"
                Image.fromarray(noise(60 * number + image, (240, 320))).save(file)
    checked = check_data(root)
    small, large = (load_config(yaml.safe_load(propose(checked, root, Machine(2, memory)))) for memory in (None, 24.0))
    assert small.data.resize is not None
    assert large.data.resize is not None
    assert (small.data.resize.crop, large.data.resize.crop) == (128, 224)
    assert (small.model.backbone.name, large.model.backbone.name) == ("resnet18", "resnet50")
    # Ten steps in an epoch of 60 images.
    assert small.train.batch_size == 4


@pytest.mark.parametrize("name", ["coco", "yolo", "csv", "folders", "masks"])
def test_of_many_images_some_are_decoded_and_that_is_said(
    name: str, tmp_path: Path, rehead_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_format(name, tmp_path / "data")
    known = ["data.format=masks"] if name == "masks" else []
    assert rehead_command("init", root, *known, "--out", tmp_path / "all.yaml").code == 0
    whole = (tmp_path / "all.yaml").read_text()
    assert "All annotations were read" not in whole
    monkeypatch.setattr("rehead.datasets.audit.proposal.DECODED", 2)
    decoded: list[str] = []
    monkeypatch.setattr("rehead.datasets.audit.images.examine", _counted(decoded, images.examine))
    outcome = rehead_command("init", root, *known, "--out", tmp_path / "some.yaml")
    assert outcome.code == 0, outcome
    there = len({*root.rglob("*.png")} - {*root.rglob("*_masks/*.png"), *root.rglob("source/**/*.png")})
    assert len(decoded) == 2
    assert f"2 of {there} images were decoded, evenly; rehead data check decodes all of them" in outcome.err
    some = (tmp_path / "some.yaml").read_text()
    line = f"# All annotations were read, and 2 of {there} images, evenly."
    assert line in some
    # The same choices, but for metrics of what was measured.
    assert load_config(tmp_path / "some.yaml") == load_config(tmp_path / "all.yaml")
    if name in ("coco", "yolo", "csv"):
        assert some.replace(f"{line}\n", "") == whole


def _counted(names: list[str], examine: Callable[[Job], Facts]) -> Callable[[Job], Facts]:
    def counting(job: Job) -> Facts:
        names.append(job.path.name)
        return examine(job)

    return counting


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("raccoon", "retinanet"),
        ("camvid", "unet"),
        ("pennfudan", "mask_rcnn"),
        ("coco", "mask_rcnn"),
        ("imagenette128", "linear"),
    ],
)
def test_real_images(name: str, head: str, shared: Path, tmp_path: Path, rehead_command) -> None:
    out = tmp_path / "mine.yaml"
    assert rehead_command("init", shared / "data" / name, "--out", out).code == 0
    weights = f"model.backbone.weights={shared}/weights/resnet18_photos.pth"
    small = [weights, f"data.resize={{shorter: 64, {'crop: 64' if head == 'linear' else 'longer: 96'}}}"]
    # Evaluation takes as many at a time, and imagenette has thousands to judge.
    small += [
        "train.max_steps=2",
        f"train.batch_size={64 if head == 'linear' else 2}",
        "train.pictures=1",
        "data.workers=0",
        "train.epochs=1",
    ]
    small += [f"model.head.{item}" for item in SMALL_HEADS.get(head, [])]
    outcome = rehead_command("train", out, *small, f"out={tmp_path / 'run'}")
    assert outcome.code == 0, outcome
    assert load_config(out).model.heads["main"].name == head

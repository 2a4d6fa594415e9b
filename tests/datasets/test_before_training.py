"""What training refuses before its first step, without decoding an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked_data import STEMS, content, save, write_coco, write_masks
from PIL import Image

from rehead.configs.readers import CocoSplit, FromTrainSplit, MasksSplit
from rehead.configs.schema import SourceOptions
from rehead.datasets.audit.before_training import refuse_broken
from rehead.datasets.coco_format import ground_truth
from rehead.datasets.open import Reader, open_reader
from rehead.errors import DataError

COCO = CocoSplit(images="train", annotations="train.json")


def coco(root: Path, split: str = "train", **more: Any) -> Reader:
    reader = open_reader(SourceOptions(format="coco", root=str(root), train=COCO, **more), split)
    reader.masks = True
    return reader


def refuse(reader: Reader, task: str = "instance_segmentation") -> None:
    refuse_broken(reader, "data.train", {task}, learn=True)


def test_whole_data_are_let_through_and_the_first_image_alone_is_decoded(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    for stem in STEMS["train"][1:]:
        path = root / "train" / f"{stem}.png"
        path.write_bytes(path.read_bytes()[:-20])  # the head is whole
    refuse(coco(root))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"1 of 3 images are not there, the first is .*b\.png; looked in .*train"),
        (lambda path: path.write_bytes(b""), r"1 of 3 images are empty files, the first is .*b\.png"),
    ],
)
def test_images(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    spoil(root / "train" / "b.png")
    with pytest.raises(DataError, match=rf"data\.train: {message}"):
        refuse(coco(root))


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_masks(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    root = write_masks(tmp_path)
    split = MasksSplit(images="train", masks="train_masks")
    reader = open_reader(SourceOptions(format="masks", root=str(root), train=split, classes=["x", "y", "z"]), "train")
    refuse(reader, "segmentation")
    spoil(root / "train_masks" / "c.png")
    with pytest.raises(DataError, match=r"1 of 3 masks are (not there|empty files), the first is .*c\.png"):
        refuse(reader, "segmentation")


def test_outlines_where_masks_are_wanted_alone(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    whole = content("train")
    whole["annotations"][2]["segmentation"] = [[1, 2, 3, 4]]
    save(root, "train", whole)
    reader = coco(root)
    with pytest.raises(
        DataError, match=r"train\.json: 1 of 6 objects .* annotation 4 of .*b\.png: a polygon is a list"
    ):
        refuse(reader)
    with pytest.raises(DataError, match="annotation 4"):
        refuse(coco(root, "val", val=FromTrainSplit(from_train=0.4)))
    reader.masks = False
    refuse(reader, "detection")
    # Objects of classes that were not asked for may be as they are.
    chosen = open_reader(SourceOptions(format="coco", root=str(root), train=COCO), "train", ["dog"])
    chosen.masks = True
    refuse(chosen)
    del whole["annotations"][2]["segmentation"]
    save(root, "train", whole)
    with pytest.raises(DataError, match=r"annotation 4 of .*b\.png: no segmentation"):
        refuse(coco(root))


@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"bbox": [5, 4, 0, 3]}])
def test_boxes_that_training_leaves_out_are_nothing_to_learn_from(change: dict[str, Any], tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    whole = content("train")
    whole["annotations"] = [{**one, **change} for one in whole["annotations"]]
    save(root, "train", whole)
    with pytest.raises(DataError, match=r"data\.train: none of the 3 images has a box to learn from"):
        refuse(coco(root), "detection")
    refuse_broken(coco(root), "data.val", {"detection"}, learn=False)


def test_an_unreadable_first_image(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    path = root / "train/a.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"data\.train: the first image cannot be used: .*a\.png: .* check` .* --fix"):
        refuse(coco(root))


@pytest.mark.parametrize("channels", [1, 4])
def test_another_number_of_channels_than_the_model_has(channels: int, tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    if channels == 1:
        refuse_broken(coco(root), "data.train", {"detection"}, learn=True, channels=1)
        return
    with pytest.raises(DataError, match=r"data\.val: the first image cannot be used: .*4 channels are wanted"):
        refuse_broken(coco(root), "data.val", {"detection"}, learn=False, channels=4)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_file_that_is_no_image(place: int, tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    (root / "train" / f"{STEMS['train'][place]}.png").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"train: 1 of 3 images cannot be read, the first is .*not an image.*--fix"):
        refuse(coco(root))


def test_an_image_of_another_size_than_its_annotation_says(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    path = root / "train/c.png"
    with Image.open(path) as image:
        height, width = image.height, image.width
        image.resize((2 * width, height)).save(path)
    said = rf"1 of 3 images are of another size .* c\.png: the image is {2 * width}x{height}, its .* {width}x{height}"
    with pytest.raises(DataError, match=said.replace(" c", " .*c")):
        refuse(coco(root))
    # Turned by EXIF, and annotated as stored or upright: either will do.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (width, height)).save(path, exif=exif)
    refuse(coco(root))
    Image.new("RGB", (height, width)).save(path, exif=exif)
    refuse(coco(root))


def test_a_mask_of_another_size_than_its_image(tmp_path: Path) -> None:
    root = write_masks(tmp_path)
    split = MasksSplit(images="train", masks="train_masks")
    reader = open_reader(SourceOptions(format="masks", root=str(root), train=split, classes=["x", "y", "z"]), "train")
    path = root / "train_masks/b.png"
    with Image.open(path) as mask:
        mask.resize((mask.width + 1, mask.height)).save(path)
    with pytest.raises(DataError, match=r"1 of 3 masks are of another size than their image, the first is .*b\.png"):
        refuse(reader, "segmentation")
    path.write_text("no mask")
    with pytest.raises(DataError, match=r"1 of 3 masks cannot be read, the first is .*b\.png: not an image"):
        refuse(reader, "segmentation")


def test_sizes_that_the_file_does_not_say_are_those_of_the_images(tmp_path: Path) -> None:
    """Run-length codes are of a size, and masks are judged in one."""
    root = write_coco(tmp_path)
    whole = content("train")
    sizes = {image["id"]: [image.pop("height"), image.pop("width")] for image in whole["images"]}
    one = whole["annotations"][2]
    height, width = sizes[one["image_id"]]
    one["segmentation"] = {"size": [height, width], "counts": [0, 4, height * width - 4]}
    save(root, "train", whole)
    refuse(coco(root))
    assert {(image["height"], image["width"]) for image in ground_truth(coco(root), masks=True)["images"]} == {
        (height, width) for height, width in sizes.values()
    }
    one["segmentation"] = {"size": [height + 1, width], "counts": [0, 4, (height + 1) * width - 4]}
    save(root, "train", whole)
    with pytest.raises(DataError, match="annotation 4 of"):
        refuse(coco(root))


def test_numbers_that_are_far_from_those_of_eight_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_coco(tmp_path)
    whole = content("train")
    for image in whole["images"]:
        image["file_name"] = image["file_name"].replace(".png", ".npy")
        shape = (image["height"], image["width"], 3)
        np.save(root / "train" / image["file_name"], np.random.default_rng(0).random(shape, dtype=np.float32))
    save(root, "train", whole)
    refuse(coco(root))
    assert "numbers of the first image" in caplog.text
    assert "`rehead data stats` proposes a data.scale" in caplog.text
    caplog.clear()
    reader = coco(root)
    reader.scale = 1
    refuse(reader)
    assert "numbers" not in caplog.text

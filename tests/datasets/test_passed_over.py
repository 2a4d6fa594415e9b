"""Files among the images that are not read are counted and named, whatever reads the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked_data import codes, noise, write_format
from PIL import Image

from rehead.configs.readers import FoldersSplit, MasksSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.run import check_data
from rehead.datasets.open import open_reader
from rehead.datasets.passed_over import passed_over
from rehead.errors import DataError
from rehead.tasks.predict import find_images


def spoil(folder: Path) -> None:
    """Pictures that are none by their suffix."""
    (folder / "drawn.psd").write_bytes(b"8BPS\0\1")
    Image.fromarray(noise(2)).save(folder / "web.image", format="JPEG")
    Image.fromarray(noise(3)).save(folder / "bare", format="PNG")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "notes.txt").write_text("nothing to say of")
    (folder / ".hidden.psd").write_bytes(b"GIF89a")


PICTURES = {"drawn.psd", "web.image", "bare", "phone.heic"}


def test_pictures_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    spoil(tmp_path)
    Image.fromarray(noise(4)).save(tmp_path / "read.JPG")
    found = passed_over(tmp_path)
    assert found.keys() == PICTURES
    assert found["web.image"] == "holds a JPEG, but its suffix is .image; rename it"
    assert found["bare"] == "holds a PNG, but its suffix is missing; rename it"
    assert found["drawn.psd"] == ".psd is not read; convert it to PNG or JPEG"
    assert passed_over(tmp_path, everything=True).keys() == PICTURES | {"notes.txt"}


def test_in_the_folder_of_a_class_every_file_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_format("folders", tmp_path)
    spoil(root / "train/class0")
    Image.fromarray(noise(5)).save(root / "train/nowhere.png")
    data = DataOptions(format="folders", root=str(root), train=FoldersSplit(images="train"))
    assert len(open_reader(data, "train")) == 2
    (line,) = caplog.messages
    assert line.startswith(f"{root}/train: 6 files are not read: ")
    assert all(f"1 {part}" in line for part in (".psd (class0/drawn.psd)", ".png (nowhere.png)", ".txt (class0/notes"))
    found = [one for one in check_data(root).findings if one.code == "passed_over"]
    assert {Path(one.file).name for one in found} == PICTURES | {"notes.txt", "nowhere.png"}
    assert all(one.severity == "warning" for one in found)


@pytest.mark.parametrize("name", ["yolo", "masks", "coco", "voc", "csv", "via"])
def test_among_other_images_pictures_count(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_format(name, tmp_path)
    folder = {"yolo": "images/train", "voc": "JPEGImages"}.get(name, "train")
    spoil(root / folder)
    options: dict[str, Any] = {"data.format": "masks"} if name == "masks" else {}
    assert codes(root, options) == {"passed_over": 4}
    if name == "yolo":
        data = DataOptions(format="yolo", root=str(root), train=YoloSplit(images="images/train"))
    elif name == "masks":
        masks = MasksSplit(images="train", masks="train_masks")
        data = DataOptions(format="masks", root=str(root), train=masks, classes=["a", "b", "c"])
    else:
        return  # whose annotations say which images there are
    open_reader(data, "train")
    assert f"{root / folder}: 4 files are not read: " in caplog.text


def test_masks_without_an_image_and_images_without_a_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_format("masks", tmp_path)
    (root / "train/a.png").unlink()
    (root / "train_masks/b.png").unlink()
    masks = MasksSplit(images="train", masks="train_masks", partial=True)
    caplog.set_level("INFO", "rehead")
    open_reader(DataOptions(format="masks", root=str(root), train=masks, classes=["a", "b", "c"]), "train")
    assert "1 masks are not read, since no image has their name: 1 .png (a.png)" in caplog.text
    assert "1 of 2 images have no mask and are left out" in caplog.text


def test_predict_says_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError, match="no image in"):
        find_images([tmp_path])
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    assert find_images([tmp_path]) == ([tmp_path / "a.png"], {})
    assert "5 files are not read" in caplog.text

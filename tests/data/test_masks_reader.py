from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from rehead.configs.readers import MasksSplit
from rehead.configs.schema import DataOptions
from rehead.data.readers import open_reader
from rehead.data.readers.masks import MasksReader
from rehead.errors import DataError
from rehead.types import IGNORE

NAMES = ["sky", "road", "car"]
SPLIT = MasksSplit(images="images", masks="masks")


def write(root: Path, name: str, mask: np.ndarray | Image.Image, image: np.ndarray | None = None) -> None:
    for folder in ("images", "masks"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    if image is None:
        image = np.zeros((picture.size[1], picture.size[0], 3), np.uint8)
    Image.fromarray(image).save(root / "images" / f"{name}.jpg")
    picture.save(root / "masks" / f"{name}.png")


MASKS = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16]),
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.sampled_from([0, 1, 2, 11, 200]),
)


@settings(max_examples=60, deadline=None)
@given(mask=MASKS, ignored=st.lists(st.sampled_from([0, 11, 200, 300]), unique=True))
def test_values_become_classes_or_ignored_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, ignored: list[int]
) -> None:
    root = tmp_path_factory.mktemp("masks")
    write(root, "a", mask)
    reader = MasksReader(SPLIT, root, NAMES, ignored)
    unknown = set(mask.ravel().tolist()) - {0, 1, 2} - set(ignored)
    if unknown:
        with pytest.raises(DataError, match=r"a\.png: values? .*data\.ignore_index.*data\.classes") as caught:
            reader.read(0)
        for value in unknown:
            assert str(value) in str(caught.value)
    else:
        semantic = reader.read(0).semantic
        assert semantic is not None
        assert semantic.dtype == np.uint8
        np.testing.assert_array_equal(semantic, np.where(np.isin(mask, ignored), IGNORE, mask))


def test_a_palette_gives_indices_and_not_colours(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    mask = Image.fromarray(indices)
    mask.putpalette([200, 30, 30, 10, 250, 10, 0, 0, 90])
    assert mask.mode == "P"
    write(tmp_path, "a", mask)
    np.testing.assert_array_equal(MasksReader(SPLIT, tmp_path, NAMES).semantic(0), indices)


def test_masks_of_one_bit_hold_two_classes(tmp_path: Path) -> None:
    bits = np.array([[True, False], [False, False]])
    write(tmp_path, "a", bits)
    np.testing.assert_array_equal(MasksReader(SPLIT, tmp_path, NAMES).semantic(0), bits)


def test_images_and_masks_are_matched_by_name_at_any_depth(tmp_path: Path) -> None:
    for number, name in enumerate(["b", "a.v1", "town/c"]):
        write(tmp_path, name, np.full((2, 3), number, np.uint8))
    Image.new("L", (1, 1)).save(tmp_path / "masks" / "without_image.png")
    reader = MasksReader(SPLIT, tmp_path, NAMES)
    assert [sample.image_id for sample in reader] == ["a.v1", "b", "town/c"]
    assert [int(reader.semantic(i)[0, 0]) for i in range(3)] == [1, 0, 2]
    assert reader[2].mask_path == tmp_path / "masks/town/c.png"


def test_images_without_masks_are_listed(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write(tmp_path, name, np.zeros((2, 2), np.uint8))
    for name in "bcdefgh":
        (tmp_path / "masks" / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"no mask for 7 of 8 images: b\.jpg, c\.jpg, .* and 2 more"):
        MasksReader(SPLIT, tmp_path, NAMES)


def test_two_images_of_one_name_cannot_share_a_mask(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((2, 2), np.uint8))
    Image.new("RGB", (2, 2)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"a\.jpg and a\.png have the same name"):
        MasksReader(SPLIT, tmp_path, NAMES)


def test_a_mask_of_another_size_than_its_image(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((2, 3), np.uint8), image=np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: the mask is 3x2 but its image .*a\.jpg is 6x4"):
        MasksReader(SPLIT, tmp_path, NAMES).read(0)


def test_the_mask_decides_the_orientation_of_its_image(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((2, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3, 2)).save(tmp_path / "images" / "a.jpg", exif=exif)
    assert MasksReader(SPLIT, tmp_path, NAMES).read(0).pixels.shape == (2, 3, 3)


def test_what_is_wrong_with_a_mask_is_said(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((8, 8), np.uint8))
    reader = MasksReader(SPLIT, tmp_path, NAMES)
    mask = tmp_path / "masks" / "a.png"
    Image.new("RGB", (8, 8)).save(mask)
    with pytest.raises(DataError, match=r"a\.png: the mask is in colour \(RGB\)"):
        reader.read(0)
    mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.png: the mask cannot be read"):
        reader.read(0)
    mask.unlink()
    with pytest.raises(DataError, match=r"a\.png: no such file"):
        reader.read(0)


def test_a_lossy_mask_is_recognised(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((8, 8), np.uint8))
    (tmp_path / "masks" / "a.png").unlink()
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "masks" / "a.jpg")
    with pytest.raises(DataError, match="JPEG does not keep values"):
        MasksReader(SPLIT, tmp_path, NAMES).read(0)


def test_names_are_required(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match=r"data\.classes: masks hold only numbers"):
        MasksReader(SPLIT, tmp_path, None)


def test_a_missing_mask_folder_names_its_key(tmp_path: Path) -> None:
    write(tmp_path, "a", np.zeros((2, 2), np.uint8))
    data = DataOptions(format="masks", root=str(tmp_path), classes=NAMES, val=MasksSplit(images="images", masks="mask"))
    with pytest.raises(DataError, match=r"data\.val\.masks: no folder .*/mask; did you mean 'masks'"):
        open_reader(data, "val")


def test_camvid(shared: Path) -> None:
    data = DataOptions(
        format="masks",
        root=str(shared / "data/camvid"),
        classes=[f"class {i}" for i in range(11)],
        ignore_index=[11],
        train=MasksSplit(images="train", masks="trainannot"),
    )
    reader = open_reader(data, "train")
    assert len(reader) == 367
    sample = reader.read(0)
    assert sample.image_id == "0001TP_006690"
    assert sample.semantic is not None
    assert sample.semantic.shape == sample.pixels.shape[:2] == (360, 480)
    assert set(np.unique(sample.semantic)) <= {*range(11), IGNORE}
    with pytest.raises(DataError, match=r"value 11, .*data\.ignore_index"):
        open_reader(data.model_copy(update={"ignore_index": []}), "train").read(0)

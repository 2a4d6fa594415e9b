from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from rehead.configs.readers import MasksSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.run import check_data
from rehead.datasets.detect_format import detect_format
from rehead.datasets.formats.masks import MasksReader
from rehead.datasets.mask_values import read_mask
from rehead.datasets.open import open_reader
from rehead.datasets.write import write as write_data
from rehead.errors import DataError
from rehead.tasks import task_named
from rehead.types import IGNORE, Prediction

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


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(0, 300), min_size=1, max_size=5, unique=True),
    chosen=st.integers(1, 5),
    data=st.data(),
)
def test_ids_with_gaps_become_classes_and_those_not_chosen_do_not_count(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], chosen: int, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("masks")
    by_name = {f"class {value}": value for value in values}
    names = list(by_name)[:chosen]
    dtype = np.uint16 if max(values) > 255 else np.uint8
    mask = data.draw(hnp.arrays(dtype, (2, 3), elements=st.sampled_from(values)))
    write(root, "a", mask)
    reader = MasksReader(SPLIT, root, names, values=by_name)
    assert reader.classes.ids == tuple(by_name[name] for name in names)
    label_of = {by_name[name]: label for label, name in enumerate(names)}
    expected = [[label_of.get(value, IGNORE) for value in row] for row in mask.tolist()]
    np.testing.assert_array_equal(reader.semantic(0), expected)


COLOURS = {"sky": (0, 0, 128), "road": (128, 64, 128), "car": (0, 0, 142), "void": (0, 0, 0)}


@settings(max_examples=40, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, (3, 4), elements=st.integers(0, 3)),
    kind=st.sampled_from(["RGB", "RGBA", "P"]),
    order=st.permutations(NAMES),
)
def test_colours_become_classes(
    tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray, kind: str, order: list[str]
) -> None:
    root = tmp_path_factory.mktemp("masks")
    picture = Image.fromarray(np.array(list(COLOURS.values()), np.uint8)[labels])
    if kind == "P":
        picture = Image.fromarray(labels)
        picture.putpalette([part for colour in COLOURS.values() for part in colour])
    write(root, "a", picture.convert("RGBA") if kind == "RGBA" else picture)
    semantic = MasksReader(SPLIT, root, order, values=COLOURS).read(0).semantic
    label_of = [order.index(name) if name in order else IGNORE for name in COLOURS]
    np.testing.assert_array_equal(semantic, np.array(label_of)[labels])
    assert MasksReader(SPLIT, root, None, values=COLOURS).classes.names == tuple(COLOURS)


def test_a_colour_that_nothing_has_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a", np.array([[[0, 0, 128], [1, 2, 3]]], np.uint8))
    with pytest.raises(DataError, match=r"a\.png: colour \[1, 2, 3\], which data\.values does not list"):
        MasksReader(SPLIT, tmp_path, None, values=COLOURS).read(0)
    with pytest.raises(DataError, match=r"data\.classes: .*masks has no class 'sea'; did you mean|no class 'sea'"):
        MasksReader(SPLIT, tmp_path, ["sea"], values=COLOURS)


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    write(tmp_path, "a", np.array([[0, 255]], np.uint8))
    with pytest.raises(DataError, match=r"value 255, .* set data\.values: \{ground: 0, thing: 255\}"):
        MasksReader(SPLIT, tmp_path, ["ground", "thing"]).read(0)
    reader = MasksReader(SPLIT, tmp_path, None, values={"ground": 0, "thing": 255})
    assert reader.semantic(0).tolist() == [[0, 1]]
    assert reader.classes.ids == (0, 255)


def test_predictions_are_written_with_the_users_values(tmp_path: Path) -> None:
    write(tmp_path, "a", np.array([[0, 255, 7]], np.uint8))
    reader = MasksReader(SPLIT, tmp_path, None, values={"thing": 255, "other": 7, "ground": 0})
    prediction = Prediction(semantic=torch.tensor(reader.semantic(0)))
    task_named("segmentation").records(prediction, reader.classes, "a", "a", tmp_path / "out")
    assert np.asarray(Image.open(tmp_path / "out/masks/a.png")).tolist() == [[0, 255, 7]]


def test_images_and_masks_are_matched_by_name_at_any_depth(tmp_path: Path) -> None:
    for number, name in enumerate(["b", "a.v1", "town/c"]):
        write(tmp_path, name, np.full((2, 3), number, np.uint8))
    Image.new("L", (1, 1)).save(tmp_path / "masks" / "without_image.png")
    reader = MasksReader(SPLIT, tmp_path, NAMES)
    assert [sample.image_id for sample in reader] == ["a.v1", "b", "town/c"]
    assert [int(reader.semantic(i)[0, 0]) for i in range(3)] == [1, 0, 2]
    assert reader[2].mask_path == tmp_path / "masks/town/c.png"


def test_images_without_masks_are_counted(tmp_path: Path) -> None:
    for name in "abcdefgh":
        write(tmp_path, name, np.zeros((2, 2), np.uint8))
    for name in "bcdefgh":
        (tmp_path / "masks" / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"b\.jpg: no mask in .*masks, as for 7 of 8 images"):
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
    with pytest.raises(DataError, match=r"a\.png: the mask is in colour \(RGB\).*data\.values: \{sky"):
        reader.read(0)
    mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.png: not an image of a known kind"):
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


class TestEndings:
    """Cityscapes: `aachen_1_leftImg8bit.png`, and beside `aachen_1_gtFine_labelIds.png` others that are no masks."""

    SPLIT = MasksSplit(images="images", masks="masks", image_ending="_leftImg8bit", mask_ending="_gtFine_labelIds")

    def write(self, root: Path) -> None:
        for number in (1, 2):
            write(root, f"aachen/aachen_{number}_x", np.full((4, 6), number, np.uint8))
            (root / f"images/aachen/aachen_{number}_x.jpg").rename(
                root / f"images/aachen/aachen_{number}_leftImg8bit.jpg"
            )
            (root / f"masks/aachen/aachen_{number}_x.png").rename(
                root / f"masks/aachen/aachen_{number}_gtFine_labelIds.png"
            )
            Image.new("RGB", (6, 4)).save(root / f"masks/aachen/aachen_{number}_gtFine_color.png")

    def test_masks_are_matched_by_what_is_before_them(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        reader = MasksReader(self.SPLIT, tmp_path, NAMES)
        assert len(reader) == 2
        for index in range(2):
            semantic = reader.read(index).semantic
            assert semantic is not None
            assert (semantic == index + 1).all()

    def test_an_image_without_its_mask_is_an_error_that_says_what_was_looked_for(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        (tmp_path / "masks/aachen/aachen_2_gtFine_labelIds.png").unlink()
        with pytest.raises(DataError, match="_gtFine_labelIds in place of _leftImg8bit at its end") as caught:
            MasksReader(self.SPLIT, tmp_path, NAMES)
        assert "aachen_2_leftImg8bit" in str(caught.value)

    def test_other_files_among_the_masks_are_not_reported(self, tmp_path: Path, rehead_command) -> None:
        self.write(tmp_path)
        (tmp_path / "check.yaml").write_text(
            f"""
task: segmentation
data:
  format: masks
  root: {tmp_path}
  train: {{images: images, masks: masks, image_ending: _leftImg8bit, mask_ending: _gtFine_labelIds}}
  classes: [sky, road, car]
model: {{head: unet}}
"""
        )
        outcome = rehead_command("data", "check", tmp_path / "check.yaml")
        assert "gtFine_color" not in outcome.out + outcome.err
        (tmp_path / "masks/aachen/aachen_3_gtFine_labelIds.png").write_bytes(
            (tmp_path / "masks/aachen/aachen_1_gtFine_labelIds.png").read_bytes()
        )
        outcome = rehead_command("data", "check", tmp_path / "check.yaml")
        assert "aachen_3_gtFine_labelIds" in outcome.out + outcome.err


def one_bit(root: Path, stem: str, mask: NDArray[np.bool_], suffix: str = ".png") -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(root / "images" / f"{stem}.png")
    Image.fromarray(mask).save(root / "masks" / f"{stem}{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("values", [{"no": 0, "yes": 255}, {"no": 0, "yes": 1}, None])
def test_the_white_of_one_bit_is_the_class_that_is_meant(
    suffix: str, values: dict[str, int] | None, tmp_path: Path
) -> None:
    mask = np.random.default_rng(0).random((12, 20)) < 0.5
    one_bit(tmp_path, "a", mask, suffix)
    reader = MasksReader(SPLIT, tmp_path, None if values else ["no", "yes"], values=values)
    np.testing.assert_array_equal(reader.semantic(0), mask)
    more = {"data.values": values} if values else {"data.classes": ["no", "yes"]}
    checked = check_data(tmp_path, {"data.format": "masks", **more})
    assert not checked.findings.errors
    assert checked.counts["yes"] == {"train": mask.sum()}


def test_one_bit_and_eight_are_one_data_set(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((12, 20)) < 0.5
    one_bit(tmp_path, "a", mask)
    one_bit(tmp_path, "b", mask)
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "masks/b.png")
    found = detect_format(tmp_path, {"segmentation"})
    assert found.more == {"values": {"background": 0, "foreground": 255}}
    reader = MasksReader(SPLIT, tmp_path, **found.more)
    for row in range(2):
        np.testing.assert_array_equal(reader.semantic(row), mask)


@pytest.mark.parametrize("grey", [True, False])
def test_gifs_hold_the_indices_of_their_palette(grey: bool, tmp_path: Path) -> None:
    """As Carvana's do: car_mask.gif."""
    mask = np.random.default_rng(0).integers(0, 3, (12, 20), dtype=np.uint8)
    picture = Image.fromarray(mask)
    if not grey:
        picture.putpalette([9, 8, 7, 200, 100, 50, 0, 0, 255])
    one_bit(tmp_path, "a", mask > 1)
    (tmp_path / "masks/a.png").unlink()
    picture.save(tmp_path / "masks/a_mask.gif", optimize=False)
    reader = MasksReader(SPLIT, tmp_path, ["x", "y", "z"])
    np.testing.assert_array_equal(reader.semantic(0), mask)
    assert reader.read(0).pixels.shape == (12, 20, 3)


def test_copies_of_one_bit_masks_hold_the_values_that_are_meant(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((12, 20)) < 0.5
    one_bit(tmp_path, "a", mask)
    values: dict[str, int | tuple[int, int, int]] = {"no": 0, "yes": 255}
    written = write_data({"train": MasksReader(SPLIT, tmp_path, values=values)}, "masks", tmp_path / "copy")
    split = MasksSplit(**written.options["train"])
    copied = MasksReader(split, tmp_path / "copy", values=written.options["values"])
    np.testing.assert_array_equal(copied.semantic(0), mask)
    assert set(np.unique(read_mask(tmp_path / "copy" / split.masks / "a.png")).tolist()) == {0, 255}

"""A validation split from the training images."""

from __future__ import annotations

import os
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rehead.configs.load import load_config
from rehead.configs.readers import FoldersSplit, FromTrainSplit, VocSplit
from rehead.configs.schema import DataOptions
from rehead.datasets import remembered
from rehead.datasets.near_duplicates import fingerprint_of
from rehead.datasets.open import open_data, open_reader
from rehead.datasets.subset import stratified
from rehead.errors import ConfigError, DataError
from rehead.files import cache_folder

SPLITS = ("train", "val", "test")


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(
        st.tuples(st.integers(0, 8), st.frozensets(st.integers(0, 3), max_size=3)), min_size=9, max_size=60
    ),
    shares=st.sampled_from([(0.8, 0.2), (0.5, 0.5), (0.6, 0.2, 0.2)]),
    seed=st.integers(0, 5),
)
def test_groups_stay_together_and_no_part_is_empty(
    images: list[tuple[int, frozenset[int]]], shares: tuple[float, ...], seed: int
) -> None:
    groups = [group for group, _ in images]
    present = [classes for _, classes in images]
    drawn = stratified(groups, present, shares, seed)
    np.testing.assert_array_equal(drawn, stratified(groups, present, shares, seed))
    for group in set(groups):
        assert len({int(drawn[i]) for i, own in enumerate(groups) if own == group}) == 1
    if len(set(groups)) >= len(shares):
        assert set(drawn.tolist()) == set(range(len(shares)))


@settings(max_examples=30, deadline=None)
@given(
    present=st.lists(st.frozensets(st.integers(0, 4), max_size=2), min_size=40, max_size=120),
    share=st.sampled_from([0.1, 0.25, 0.5]),
    seed=st.integers(0, 5),
)
def test_every_class_is_split_in_the_same_proportion(present: list[frozenset[int]], share: float, seed: int) -> None:
    drawn = stratified(range(len(present)), present, (1 - share, share), seed)
    assert abs((drawn == 1).sum() - share * len(present)) <= 5
    total = Counter(c for own in present for c in own)
    taken = Counter(c for own, number in zip(present, drawn, strict=True) if number == 1 for c in own)
    for c, count in total.items():
        # The method is greedy; data made to mislead it get it as far as five images off, ordinary ones not two.
        assert abs(taken[c] - share * count) <= 6


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_data_are_split_in_the_same_proportion_to_the_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = [frozenset(rng.choice(5, rng.integers(0, 3), replace=False).tolist()) for _ in range(100)]
    drawn = stratified(range(100), present, (0.75, 0.25), seed)
    assert (drawn == 1).sum() == 25
    for c in range(5):
        own = np.array([c in classes for classes in present])
        assert abs((own & (drawn == 1)).sum() - 0.25 * own.sum()) < 2


def folders(root: Path, **splits: Any) -> DataOptions:
    for number in range(40):
        name = "cat" if number < 30 else "dog"
        (root / "all" / name).mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number // 2 if number >= 36 else number).save(root / "all" / name / f"{number}.png")
    return DataOptions(format="folders", root=str(root), train=FoldersSplit(images="all"), **splits)


def names(data: DataOptions, split: str) -> list[str]:
    return [str(sample.image_id) for sample in open_reader(data, split)]


def test_the_splits_are_a_partition_that_depends_on_the_seed_alone(tmp_path: Path) -> None:
    data = folders(tmp_path, val=FromTrainSplit(from_train=0.2), test=FromTrainSplit(from_train=0.1))
    parts = {split: names(data, split) for split in SPLITS}
    assert {split: len(own) for split, own in parts.items()} == {"train": 28, "val": 8, "test": 4}
    assert sorted(name for own in parts.values() for name in own) == sorted(
        str(path.relative_to(tmp_path / "all")) for path in tmp_path.rglob("*.png")
    )
    assert {split: Counter(name[:3] for name in own) for split, own in parts.items()} == {
        "train": {"cat": 21, "dog": 7},
        "val": {"cat": 6, "dog": 2},
        "test": {"cat": 3, "dog": 1},
    }
    # Images 36 and 37 have the same bytes, and so have 38 and 39.
    for pair in ((36, 37), (38, 39)):
        assert len({split for split, own in parts.items() for one in pair if f"dog/{one}.png" in own}) == 1
    moved = tmp_path / "moved"
    (tmp_path / "all").rename(moved)
    again = data.model_copy(update={"train": FoldersSplit(images="moved")})
    assert {split: names(again, split) for split in SPLITS} == parts
    other = data.model_copy(
        update={"train": FoldersSplit(images="moved"), "val": FromTrainSplit(from_train=0.2, seed=1)}
    )
    assert names(other, "val") != parts["val"]
    assert open_reader(again, "val").read(0).pixels.shape == (4, 4, 3)


def photographs(root: Path, count: int) -> DataOptions:
    """Blobs, as no two numbers have them."""
    (root / "all/cat").mkdir(parents=True)
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).save(root / f"all/cat/{number:02}.png")
    return DataOptions(
        format="folders", root=str(root), train=FoldersSplit(images="all"), val=FromTrainSplit(from_train=0.5)
    )


def test_near_duplicates_stay_on_one_side(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rehead")
    data = photographs(tmp_path, 12)
    (tmp_path / "all/cat/broken.jpg").touch()
    for number in range(5):
        with Image.open(tmp_path / f"all/cat/{number:02}.png") as image:
            image.resize((70, 60)).save(tmp_path / f"all/cat/{number:02}_small.jpg", quality=60)
    held = names(data, "val")
    for number in range(5):
        assert (f"cat/{number:02}.png" in held) == (f"cat/{number:02}_small.jpg" in held)
    assert "val: 5 groups of near-duplicate images (10 images) are kept on one side each" in caplog.text


def test_a_film_is_parted_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = photographs(tmp_path, 4)
    with Image.open(tmp_path / "all/cat/00.png") as image:
        for frame in range(30):
            still = np.asarray(image).astype(int)
            still[frame : frame + 30, 30:60] += 20
            Image.fromarray(still.clip(0, 255).astype(np.uint8)).save(tmp_path / f"all/cat/film{frame:02}.png")
    sides = {name in names(data, "val") for name in names(data, "train") + names(data, "val") if "film" in name}
    assert sides == {True, False}
    assert "as the frames of a film are" in caplog.text


def test_the_second_start_looks_at_changed_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = photographs(tmp_path, 8)
    for path in tmp_path.rglob("*.png"):
        os.utime(path, (1, 1))
    asked: list[str] = []
    module = import_module("rehead.datasets.subset")
    monkeypatch.setattr(module, "fingerprint_of", lambda path: asked.append(path.name) or fingerprint_of(path))
    first = names(data, "val")
    assert len(asked) == 8
    for _ in range(2):
        remembered._of_this_run.clear()
        assert names(data, "val") == first
    assert len(asked) == 8
    os.utime(tmp_path / "all/cat/03.png", (2, 2))
    names(data, "val")
    assert asked[8:] == ["03.png"]
    for broken in (cache_folder() / "files").iterdir():
        broken.write_text("{")
    remembered._of_this_run.clear()
    assert names(data, "val") == first


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "all/cat").mkdir(parents=True)
    for number in range(3):
        Image.new("L", (4, 4)).save(tmp_path / f"all/cat/{number}.png")
    split = FoldersSplit(images="all")
    data = DataOptions(format="folders", root=str(tmp_path), train=split, val=FromTrainSplit(from_train=0.5))
    with pytest.raises(DataError, match="1 different images cannot be split in 2 parts"):
        open_reader(data, "val")


def segmentation(root: Path) -> dict[str, Any]:
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for number in range(10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / f"images/{number}.png")
        Image.new("RGB", (4, 4), (9, 9, 9) if number < 5 else (0, 0, 255)).save(root / f"masks/{number}.png")
    return {
        "task": "segmentation",
        "model": {"head": "unet"},
        "data": {
            "format": "masks",
            "root": str(root),
            "values": {"sky": [0, 0, 255], "road": [9, 9, 9]},
            "train": {"images": "images", "masks": "masks"},
            "val": {"from_train": 0.4},
        },
    }


def test_class_maps_are_looked_into(tmp_path: Path) -> None:
    config = load_config(segmentation(tmp_path))
    assert load_config(config.model_dump(mode="json")) == config
    for split, count in (("train", 3), ("val", 2)):
        reader = open_data(config, split)
        assert reader.classes.names == ("sky", "road")
        found = [reader.read(index).semantic for index in range(len(reader))]
        assert Counter(int(semantic.mean()) for semantic in found if semantic is not None) == {0: count, 1: count}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"val": {"from_train": 1.5}}, r"data\.val\.from_train: .*less than 1"),
        ({"val": {"from_train": 0.5, "sed": 1}}, r"data\.val\.sed: unknown key; did you mean 'seed'"),
        ({"val": {"from_train": 0.5}, "test": {"from_train": 0.5}}, "leave some"),
        ({"train": None}, "train: missing, which val"),
        ({"train": {"from_train": 0.5}}, r"data\.train"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, data: dict[str, Any], said: str) -> None:
    raw = segmentation(tmp_path)
    with pytest.raises(ConfigError, match=said):
        load_config({**raw, "data": {**raw["data"], **data}})


def test_several_sources_are_refused(tmp_path: Path) -> None:
    raw = segmentation(tmp_path)
    raw["data"]["sources"] = {"main": dict(raw["data"])}
    with pytest.raises(ConfigError, match=r"data\.sources\.main: from_train draws from one source"):
        load_config(raw)


def test_raccoons(shared: Path) -> None:
    split = VocSplit(images="images", annotations="annotations")
    data = DataOptions(
        format="voc", root=str(shared / "data/raccoon"), train=split, val=FromTrainSplit(from_train=0.25)
    )
    train, val = (open_reader(data, split) for split in ("train", "val"))
    assert len(train) + len(val) == 200
    assert 48 <= len(val) <= 52
    contents = [{sample.path.read_bytes() for sample in reader} for reader in (train, val)]
    assert not contents[0] & contents[1]
    assert sum(map(len, contents)) < 200
    # What is asked of a part is asked of the whole.
    val.presence, val.boxes = True, False
    assert (val[0].label, val[0].boxes) == ([1], None)

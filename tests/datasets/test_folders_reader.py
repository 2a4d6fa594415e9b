from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.configs.readers import FoldersSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.formats.folders import FoldersReader
from rehead.datasets.open import open_reader
from rehead.errors import DataError

WORDS = st.text(alphabet="abcXYZ019 _-é", min_size=1, max_size=6).filter(lambda word: word.strip() == word)


def fill(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 6, 3), len(name), np.uint8))


def reader(root: Path, classes: list[str] | None = None) -> FoldersReader:
    return FoldersReader(FoldersSplit(images="."), root, classes)


@settings(max_examples=40, deadline=None)
@given(
    content=st.dictionaries(
        WORDS, st.lists(WORDS, min_size=1, max_size=4, unique_by=str.casefold), min_size=1, max_size=5
    )
)
def test_every_image_comes_once_under_its_folder_in_sorted_order(content: dict[str, list[str]]) -> None:
    if len({name.casefold() for name in content}) < len(content):
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, images in content.items():
            (root / name).mkdir()
            for image in images:
                (root / name / f"{image}.png").touch()
        found = reader(root)
        assert found.classes.names == tuple(sorted(content))
        samples = [found[i] for i in range(len(found))]
        assert [sample.image_id for sample in samples] == [
            f"{name}/{image}" for name in sorted(content) for image in sorted(f"{image}.png" for image in content[name])
        ]
        for sample in samples:
            assert sample.path.is_file()
            assert sample.label is not None
            assert found.classes.names[sample.label] == sample.path.parent.name


def test_pixels_come_when_asked(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png", "dog/b.png")
    found = reader(tmp_path)
    assert found[1].image is None
    sample = found.read(1)
    assert sample.label == 1
    assert sample.pixels.shape == (4, 6, 3)
    with pytest.raises(DataError, match="not read yet"):
        _ = found[1].pixels


def test_hidden_files_and_other_files_are_skipped_and_deep_ones_found(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.PNG", "cat/deep/er/b.jpg", "cat/.c.png", "cat/.hidden/d.png", ".git/e.png")
    (tmp_path / "cat" / "notes.txt").touch()
    (tmp_path / "list.csv").touch()
    assert [sample.image_id for sample in reader(tmp_path)] == ["cat/a.PNG", "cat/deep/er/b.jpg"]


def test_listed_classes_decide_the_labels_and_may_be_empty(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "eel").mkdir()
    found = reader(tmp_path, ["dog", "eel", "cat"])
    assert found.classes.names == ("dog", "eel", "cat")
    assert [(sample.label, sample.image_id) for sample in found] == [(0, "dog/b.png"), (2, "cat/a.png")]


def test_classes_and_folders_that_differ_are_named_with_near_matches(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png", "dogs/b.png")
    with pytest.raises(DataError, match=r"no folder of class 'dog'; did you mean 'dogs'\?") as caught:
        reader(tmp_path, ["cat", "dog"])
    assert "not among the classes: folder 'dogs'; did you mean 'dog'?" in str(caught.value)


def test_a_folder_without_images_is_no_class(tmp_path: Path) -> None:
    fill(tmp_path, "cat/a.png")
    (tmp_path / "results").mkdir()
    with pytest.raises(DataError, match=r"no images in results .*data\.classes"):
        reader(tmp_path)


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no folders; there should be one per class"):
        reader(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no images in cat"):
        reader(tmp_path, ["cat"])


def options(root: Path, images: str) -> DataOptions:
    return DataOptions(format="folders", root=str(root), train=FoldersSplit(images=images))


def test_a_missing_folder_names_the_key_the_path_and_the_near_match(tmp_path: Path) -> None:
    fill(tmp_path, "training/cat/a.png")
    with pytest.raises(DataError) as caught:
        open_reader(options(tmp_path, "trainning"), "train")
    assert str(caught.value) == f"data.train.images: no folder {tmp_path / 'trainning'}; did you mean 'training'?"


def test_the_first_missing_part_of_a_path_is_what_is_compared(tmp_path: Path) -> None:
    fill(tmp_path, "images/train/cat/a.png")
    with pytest.raises(DataError, match=r"data\.train\.images: no folder .*/image/train; did you mean 'images'\?"):
        open_reader(options(tmp_path, "image/train"), "train")
    with pytest.raises(DataError, match=r"zzz; .* holds images"):
        open_reader(options(tmp_path, "zzz"), "train")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "train").touch()
    with pytest.raises(DataError, match=r"data\.train\.images: .*train is not a folder"):
        open_reader(options(tmp_path, "train"), "train")


def test_a_split_that_is_not_configured_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.val: missing; the configuration has train"):
        open_reader(options(tmp_path, "train"), "val")
    with pytest.raises(DataError, match=r"no split 'vall'; did you mean 'val'\?"):
        open_reader(options(tmp_path, "train"), "vall")
    with pytest.raises(DataError, match=r"data\.root: no folder .*nowhere"):
        open_reader(options(tmp_path / "nowhere", "train"), "train")


def test_classes_given_to_open_reader_win_over_those_of_the_configuration(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/a.png", "train/dog/b.png")
    data = DataOptions(format="folders", root=str(tmp_path), classes=["cat", "dog"], train=FoldersSplit(images="train"))
    assert open_reader(data, "train").classes.names == ("cat", "dog")
    assert open_reader(data, "train", ["dog", "cat"]).classes.names == ("dog", "cat")


def test_imagenette(shared: Path) -> None:
    data = DataOptions(format="folders", root=str(shared / "data/imagenette128"), train=FoldersSplit(images="train"))
    found = open_reader(data, "train")
    assert (len(found), len(found.classes)) == (9469, 10)
    assert found.read(4000).pixels.shape == (128, 128, 3)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rehead.configs.load import dump, load_config
from rehead.configs.readers import CocoSplit
from rehead.configs.schema import Config, DataOptions
from rehead.datasets.audit.run import check_data
from rehead.datasets.coco_format import ground_truth
from rehead.datasets.formats.coco import CocoReader
from rehead.datasets.open import open_data, open_reader
from rehead.datasets.subset import unused_classes
from rehead.errors import DataError
from rehead.tasks.evaluate import evaluate
from rehead.tasks.train import train as run_training
from rehead.types import Classes

SPLIT = CocoSplit(images="images", annotations="a.json")
CATEGORIES = [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "eel"}]


def annotation(number: int, image: int | str, category: int = 3, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": [1, 2, 3.5, 4], "area": 9.25, **more}


def write(root: Path, annotations: list[dict[str, Any]], images: list[int | str] | None = None, **more: Any) -> Path:
    (root / "images").mkdir(exist_ok=True)
    listed = [{"id": i, "file_name": f"{i}.png", "width": 12, "height": 8} for i in images or [5, 2]]
    content = {"images": listed, "annotations": annotations, "categories": CATEGORIES, "info": {}, **more}
    (root / "a.json").write_text(json.dumps(content))
    return root


def reader(root: Path, classes: list[str] | None = None) -> CocoReader:
    return CocoReader(SPLIT, root, classes)


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True),
    rows=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from([3, 7, 90]),
            st.booleans(),
            st.tuples(*[st.integers(0, 1000).map(lambda v: v / 100)] * 4),
        ),
        max_size=12,
    ),
    classes=st.sampled_from([None, ["eel", "cat"], ["dog"]]),
)
def test_samples_say_what_the_file_says(
    tmp_path_factory: pytest.TempPathFactory, images: list[int], rows: list[Any], classes: list[str] | None
) -> None:
    annotations = [
        {**annotation(i, images[place % len(images)], category), "iscrowd": int(crowd), "bbox": list(box)}
        for i, (place, category, crowd, box) in enumerate(rows)
    ]
    found = reader(write(tmp_path_factory.mktemp("coco"), annotations, images), classes)
    ids = {"cat": 3, "dog": 7, "eel": 90}
    names = classes or ["cat", "dog", "eel"]
    assert found.classes.names == tuple(names)
    assert found.classes.ids == tuple(ids[name] for name in names)
    assert [sample.image_id for sample in found] == images
    for sample in found:
        mine = [a for a in annotations if a["image_id"] == sample.image_id and a["category_id"] in found.classes.ids]
        assert sample.labels is not None
        assert [found.classes.ids[label] for label in sample.labels] == [a["category_id"] for a in mine]
        assert sample.iscrowd is not None
        assert sample.iscrowd.tolist() == [bool(a["iscrowd"]) for a in mine]
        boxes = [[a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]] for a in mine]
        assert sample.boxes is not None
        assert sample.boxes.dtype == np.float32
        np.testing.assert_allclose(sample.boxes, np.reshape(boxes, (-1, 4)), rtol=1e-6)


def test_the_classes_of_an_image_are_those_of_its_annotations_crowds_too(tmp_path: Path) -> None:
    annotations = [annotation(1, 5), annotation(2, 5, 90, iscrowd=1), annotation(3, 5), annotation(4, 2, 7)]
    found = reader(write(tmp_path, annotations, [5, 2, 8]))
    assert found[0].label is None
    found.presence = True
    labels = [sample.label for sample in found]
    assert all(isinstance(label, np.ndarray) and label.dtype == np.float32 for label in labels)
    assert [label.tolist() for label in labels if isinstance(label, np.ndarray)] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert found[0].boxes is not None
    found.boxes = False
    assert found[0].boxes is found[0].labels is found[0].iscrowd is found[0].areas is None
    chosen = reader(tmp_path, ["eel", "dog"])
    chosen.presence = True
    assert [sample.label.tolist() for sample in chosen if isinstance(sample.label, np.ndarray)] == [
        [1, 0],
        [0, 1],
        [0, 0],
    ]


def test_an_area_that_is_missing_is_the_box(tmp_path: Path) -> None:
    found = reader(write(tmp_path, [annotation(1, 5), annotation(2, 5, area=None)]))
    np.testing.assert_allclose(found[0].areas, [9.25, 14])


def test_images_without_annotations_and_empty_annotations_are_kept(tmp_path: Path) -> None:
    found = reader(write(tmp_path, []))
    assert len(found) == 2
    assert found[0].boxes is not None
    assert found[0].boxes.shape == (0, 4)
    assert found[0].size == (8, 12)
    assert found[-1].image_id == 2


def test_image_ids_may_be_words_but_not_both(tmp_path: Path) -> None:
    found = reader(write(tmp_path, [annotation(1, "b")], ["a", "b"]))
    assert [len(sample.labels) for sample in found if sample.labels is not None] == [0, 1]
    with pytest.raises(DataError, match="some image ids are numbers and some are text"):
        reader(write(tmp_path, [], ["a", 1]))


def test_pixels_and_missing_images(tmp_path: Path) -> None:
    found = reader(write(tmp_path, []))
    cv2.imwrite(str(tmp_path / "images/5.png"), np.zeros((8, 12, 3), np.uint8))
    assert found.read(0).pixels.shape == (8, 12, 3)
    with pytest.raises(DataError, match=r"images/2\.png: no such file"):
        found.read(1)


def test_an_image_of_another_size_than_its_annotation_says(tmp_path: Path) -> None:
    found = reader(write(tmp_path, []))
    cv2.imwrite(str(tmp_path / "images/5.png"), np.zeros((16, 24, 3), np.uint8))
    with pytest.raises(DataError, match=r"5\.png: the image is 24x16 but its annotation says 12x8"):
        found.read(0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"annotation 41: .*length 4"),
        ({"bbox": [1, 2, "x", 3]}, r"annotation 41: .*float.*str.*bbox\[2\]"),
        ({"bbox": None}, r"annotation 41: .*bbox"),
        ({"bbox": [5, 5, -2, 3]}, r"annotation 41: bbox \[5.0, 5.0, -2.0, 3.0\] has a negative or infinite side"),
        ({"bbox": [5, 5, float("inf"), 3]}, "broken JSON"),
        ({"category_id": 4}, "annotation 41: category_id 4, which categories does not list"),
        ({"image_id": 77}, "annotation 41: image_id 77, which images does not list"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
        reader(write(tmp_path, [annotation(40, 5), {**annotation(41, 5), **bad}]))


def test_ids_may_be_any_numbers_and_super_categories_unused(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "animal"}, {"id": -3, "name": "none"}, {"id": 2**40, "name": "eel"}]
    found = reader(write(tmp_path, [annotation(1, 5, 2**40), annotation(2, 2, 0)], categories=categories))
    assert found.classes.ids == (-3, 0, 2**40)
    assert [sample.labels.tolist() for sample in found if sample.labels is not None] == [[2], [1]]
    truth = ground_truth(found)
    assert [a["category_id"] for a in truth["annotations"]] == [2**40, 0]
    assert truth["categories"] == sorted(categories, key=lambda category: category["id"])


class TestKeypoints:
    CATEGORIES: ClassVar = [
        {"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"]},
        {"id": 2, "name": "chair"},
    ]
    POINTS: ClassVar = [1.5, 2, 2, 3, 4, 1, 0, 0, 0]

    def test_they_come_with_their_names_and_pairs(self, tmp_path: Path) -> None:
        rows = [annotation(1, 2, 1, keypoints=self.POINTS, num_keypoints=2), annotation(2, 5, 2), annotation(3, 2, 1)]
        found = reader(write(tmp_path, rows, categories=self.CATEGORIES))
        assert found.classes.keypoints == ("nose", "left_eye", "right_eye")
        assert found.classes.flip_pairs == ((1, 2),)
        assert Classes.from_json(json.loads(json.dumps(found.classes.to_json()))) == found.classes
        points = found[1].keypoints
        assert points is not None
        assert points.tolist() == [[[1.5, 2, 2], [3, 4, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
        chosen = reader(tmp_path, ["person"])
        assert chosen.classes.flip_pairs == ((1, 2),)
        assert chosen[1].keypoints is not None
        assert chosen[0].keypoints is not None
        assert (len(chosen[1].keypoints), len(chosen[0].keypoints)) == (2, 0)

    def test_a_ground_truth_has_them(self, tmp_path: Path) -> None:
        categories = self.CATEGORIES[:1]
        found = reader(write(tmp_path, [annotation(1, 5, 1, keypoints=self.POINTS)], categories=categories))
        truth = ground_truth(found)
        assert truth["annotations"][0]["keypoints"] == self.POINTS
        assert truth["annotations"][0]["num_keypoints"] == 2
        assert truth["categories"] == categories

    def test_a_wrong_number_of_them_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="annotation 41: 8 numbers in keypoints, but its category names 3 points"):
            reader(
                write(tmp_path, [annotation(41, 2, 1, keypoints=self.POINTS[:8])], categories=self.CATEGORIES),
            )

    def test_files_without_them_have_none(self, tmp_path: Path) -> None:
        assert reader(write(tmp_path, [annotation(1, 2)]))[1].keypoints is None


def test_broken_json_and_other_json_name_the_file(tmp_path: Path) -> None:
    write(tmp_path, [])
    path = tmp_path / "a.json"
    whole = path.read_text()
    for text, message in (
        (whole[:-20], "broken JSON"),
        ("", "broken JSON"),
        ("[]", ".*found list; is it a results file"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "the list of images is empty"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "image 1: .*file_name"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=rf"a\.json: {message}"):
            reader(tmp_path)


def test_ids_and_names_that_occur_twice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json: image id 5 occurs more than once"):
        reader(write(tmp_path, [], [5, 2, 5]))
    with pytest.raises(DataError, match=r"a\.json: class name given twice: cat"):
        reader(write(tmp_path, [], categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]))


def test_an_unknown_class_has_near_matches(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.classes: .*a\.json has no class 'cats'; did you mean 'cat'\?"):
        reader(write(tmp_path, []), ["dog", "cats"])


def test_a_missing_file_names_its_key(tmp_path: Path) -> None:
    write(tmp_path, [])
    data = DataOptions(format="coco", root=str(tmp_path), val=CocoSplit(images="images", annotations="b.json"))
    with pytest.raises(DataError, match=r"data\.val\.annotations: no file .*/b\.json; did you mean 'a\.json'\?"):
        open_reader(data, "val")


def test_coco(shared: Path) -> None:
    data = DataOptions(
        format="coco",
        root=str(shared / "data/coco"),
        train=CocoSplit(images="train2017", annotations="annotations/instances_train2017.json"),
    )
    found = open_reader(data, "train")
    assert (len(found), len(found.classes), max(found.classes.ids)) == (238, 80, 90)
    assert sum(len(sample.labels) for sample in found if sample.labels is not None) == 2243
    sample = found.read(0)
    assert sample.pixels.shape[:2] == sample.size


class TestClassesThatNothingIsAnExampleOf:
    """Roboflow's super-category, id 0, is listed by some exports of a data set and not by others."""

    def write(self, root: Path, split: str, names: list[str], used: list[str]) -> None:
        (root / split).mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(root / split / "a.png")
        categories = [{"id": number, "name": name} for number, name in enumerate(names)]
        rows = [
            {"id": n, "image_id": 1, "category_id": names.index(name), "bbox": [1, 1, 9, 9], "area": 81}
            for n, name in enumerate(used)
        ]
        images = [{"id": 1, "file_name": "a.png", "width": 20, "height": 20}]
        (root / f"{split}.json").write_text(
            json.dumps({"images": images, "annotations": rows, "categories": categories})
        )

    def config(self, root: Path) -> Config:
        splits = {split: {"images": split, "annotations": f"{split}.json"} for split in ("train", "val")}
        data = {"format": "coco", "root": str(root), **splits}
        return load_config({"task": "detection", "data": data, "model": {"head": "fcos"}})

    def test_they_need_not_be_listed_by_validation(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.write(tmp_path, "train", ["animals", "cat", "dog"], ["cat", "dog"])
        self.write(tmp_path, "val", ["dog", "cat"], ["cat", "dog"])
        config = self.config(tmp_path)
        train = open_data(config, "train")
        assert unused_classes(train) == {"animals"}
        names = {"main": train.classes.names}
        for optional in ({"main": unused_classes(train)}, {"main": None}):
            val = open_data(config, "val", names, optional)
            assert val.classes.names == ("animals", "cat", "dog")
            assert val.classes.ids[1:] == (1, 0)
            assert val[0].labels is not None
            assert val[0].labels.tolist() == [1, 2]
            assert "val.json lists no class 'animals'" in caplog.text
        (finding,) = (one for one in check_data(tmp_path).findings if "class" in one.code)
        assert (finding.code, finding.severity) == ("class_without_examples", "warning")

    def test_a_class_that_is_trained_must_be_and_the_cure_is_an_override(self, tmp_path: Path) -> None:
        self.write(tmp_path, "train", ["animals", "cat", "big dog"], ["cat", "big dog"])
        self.write(tmp_path, "val", ["Big dog", "cat"], ["cat"])
        config = self.config(tmp_path)
        train = open_data(config, "train")
        names = {"main": train.classes.names}
        cure = r"'big dog'; did you mean 'Big dog'\?.* to do without, in training too: data\.classes='\[cat\]'"
        for optional in ({"main": unused_classes(train)}, {"main": None}):
            with pytest.raises(DataError, match=cure):
                open_data(config, "val", names, optional)
        (finding,) = (one for one in check_data(tmp_path).findings if one.code == "classes_differ")
        assert finding.message == "lacks big dog, which train has; to train without: data.classes='[cat]'"
        # What is said works.
        chosen = load_config(dump(config), {"data.classes": ["cat"]})
        assert len(open_data(chosen, "val")) == 1
        assert not any(one.severity == "error" for one in check_data(tmp_path, {"data.classes": ["cat"]}).findings)

    def test_they_never_stop_a_training(self, tmp_path: Path) -> None:
        self.write(tmp_path, "train", ["animals", "cat"], ["cat"])
        self.write(tmp_path, "val", ["cat"], ["cat"])
        small = {
            "model.backbone": {"name": "resnet18", "weights": "none"},
            "data.resize": {"height": 64, "width": 64},
            "data.workers": 0,
            "train": {"epochs": 1, "batch_size": 1, "pictures": 0, "optimizer": {"name": "sgd", "lr": 0.001}},
            "out": str(tmp_path / "run"),
        }
        folder = run_training(dump(load_config(dump(self.config(tmp_path)), small)))
        assert evaluate(folder / "last.safetensors")["main"]["bbox"]["AP"] >= 0

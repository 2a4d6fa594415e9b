"""From one format to another and back: what both can hold is what it was, and what is lost is said."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import read, same, there
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rehead.data.instance_masks import code_of, decode, encode, to_json
from rehead.data.reader import Reader
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.coco_format import ground_truth
from rehead.datasets.content import lines
from rehead.datasets.outlines import joined, outlines
from rehead.datasets.write import write
from rehead.errors import DataError, OutputError
from rehead.evaluation.coco import coco_metrics

NAMES = {4: "cat", 7: "Ünd <so> & {weiter}", 90: "zebra"}


def coco(root: Path, pictures: list[dict[str, Any]], points: int = 0) -> AnnotationReader:
    """Writes a COCO data set of `{"size", "things"}` by hand; ids are not the numbers of rows."""
    (root / "in").mkdir(exist_ok=True)
    images, annotations = [], []
    for number, picture in enumerate(pictures):
        height, width = picture["size"]
        image = {"id": 1000 - number, "file_name": f"sub/{number}.png", "height": height, "width": width}
        images.append(image)
        (root / "in/sub").mkdir(exist_ok=True)
        Image.new("L", (width, height)).save(root / "in" / str(image["file_name"]))
        for thing in picture["things"]:
            row = {"id": 7 + 3 * len(annotations), "image_id": image["id"], **thing}
            annotations.append({"area": thing["bbox"][2] * thing["bbox"][3], "iscrowd": 0, **row})
    more = {"keypoints": [f"left_{n}" if n % 2 else f"right_{n - n % 2 + 1}" for n in range(points)]} if points else {}
    categories = [{"id": number, "name": name, **more} for number, name in NAMES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "in/a.json").write_text(json.dumps(content))
    return read({"format": "coco", "root": str(root / "in"), "train": {"images": ".", "annotations": "a.json"}})


HUNDREDTHS = st.integers(0, 4000).map(lambda n: n / 100)


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int]) -> list[float]:
    """xywh with two decimals, as COCO has them, inside the image."""
    x1, x2 = sorted(draw(st.tuples(*[st.integers(0, 100 * size[1])] * 2)))
    y1, y2 = sorted(draw(st.tuples(*[st.integers(0, 100 * size[0])] * 2)))
    return [x1 / 100, y1 / 100, (x2 - x1) / 100, (y2 - y1) / 100]


@st.composite
def outlined(draw: st.DrawFn, size: tuple[int, int]) -> dict[str, Any]:
    """An object with polygons, one or several, and the box and the area that follow from them."""
    place = st.tuples(st.integers(0, 10 * size[1]), st.integers(0, 10 * size[0]))
    parts = draw(st.lists(st.lists(place, min_size=3, max_size=6, unique=True), min_size=1, max_size=3))
    points = [np.array(part) / 10 for part in parts]
    low, high = np.concatenate(points).min(axis=0), np.concatenate(points).max(axis=0)
    return {
        "bbox": [*low.tolist(), *(high - low).round(3).tolist()],
        "segmentation": [part.ravel().tolist() for part in points],
        "area": draw(HUNDREDTHS),
    }


@st.composite
def things(draw: st.DrawFn, size: tuple[int, int], kinds: tuple[str, ...]) -> dict[str, Any]:
    kind = draw(st.sampled_from(kinds))
    thing: dict[str, Any] = {"category_id": draw(st.sampled_from(list(NAMES))), "bbox": draw(boxes(size))}
    if kind == "crowd":
        thing["iscrowd"] = 1
    if kind == "polygons":
        thing |= draw(outlined(size))
    if kind in ("codes", "uncompressed"):
        mask = np.random.default_rng(draw(st.integers(0, 99))).random((1, *size)) < 0.4
        mask[0, 0, 0] = True
        code = to_json(encode(mask)[0])
        thing |= {"segmentation": code, "area": int(mask.sum())}
        if kind == "uncompressed":
            inside = int(mask.sum())
            thing |= {"segmentation": {"size": list(size), "counts": [0, inside, size[0] * size[1] - inside]}}
            thing |= {"iscrowd": 1}
    if kind == "points":
        number = st.tuples(st.integers(0, 10 * size[1]), st.integers(0, 10 * size[0]), st.integers(0, 2))
        drawn = draw(st.lists(number, min_size=3, max_size=3))
        thing["keypoints"] = [value for x, y, seen in drawn for value in (x / 10, y / 10, seen)]
    return thing


@st.composite
def data_sets(draw: st.DrawFn, *kinds: str) -> list[dict[str, Any]]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(2, 30), st.integers(2, 30)))
        found.append({"size": size, "things": draw(st.lists(things(size, kinds), max_size=3))})
    return found


EVERYTHING = ("box", "crowd", "polygons", "codes", "uncompressed")


@settings(max_examples=25, deadline=None)
@given(pictures=data_sets(*EVERYTHING))
def test_coco_keeps_everything(pictures: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = coco(Path(folder), pictures)
        again, written = there(first, Path(folder), "coco")
        assert not lines(written[0].notes)
        assert again.classes == first.classes
        for name, array in first.columns.arrays().items():
            np.testing.assert_array_equal(again.columns.arrays()[name], array, err_msg=name)
        # As text: 73.35 and not 73.3499984741211.
        before, after = (json.loads(Path(reader.annotations).read_text()) for reader in (first, again))
        for row, other in zip(before["annotations"], after["annotations"], strict=True):
            np.testing.assert_allclose(other["bbox"], row["bbox"], atol=1e-9)
            assert {key: other[key] for key in ("id", "image_id", "category_id", "iscrowd")} == {
                key: row[key] for key in ("id", "image_id", "category_id", "iscrowd")
            }
            assert other.get("segmentation") == row.get("segmentation")


@settings(max_examples=15, deadline=None)
@given(pictures=data_sets("box", "crowd"))
def test_voc_keeps_boxes_and_what_is_difficult(pictures: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = coco(Path(folder), pictures)
        again, _ = there(first, Path(folder), "voc", "coco", "voc")
        # An area is the box's own there: 1.11 * 1.11 is, in float32, not quite that of x2 - x1 and y2 - y1.
        same(first, again, "ids", "areas", "masks", atol=2e-6)


@settings(max_examples=15, deadline=None)
@given(pictures=data_sets("box"))
def test_yolo_keeps_boxes(pictures: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = coco(Path(folder), pictures)
        again, _ = there(first, Path(folder), "yolo", "voc", "yolo", "coco")
        same(first, again, "ids", "areas", "masks", atol=2e-6)
        assert set(again.classes.names) <= set(first.classes.names)


@settings(max_examples=15, deadline=None)
@given(pictures=data_sets("points"))
def test_yolo_keeps_keypoints(pictures: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first = coco(Path(folder), pictures, points=3)
        again, _ = there(first, Path(folder), "yolo")
        same(first, again, "ids", "areas", "masks", atol=2e-6)
        assert again.classes.flip_pairs == first.classes.flip_pairs == ((0, 1),)
        third, _ = there(again, Path(folder) / "more", "coco")
        same(again, third, "masks")


@settings(max_examples=15, deadline=None)
@given(pictures=data_sets("codes"))
def test_yolo_keeps_the_pixels_of_masks(pictures: list[dict[str, Any]]) -> None:
    """With holes and parts that do not touch, as random pixels have them."""
    with tempfile.TemporaryDirectory() as folder:
        first = coco(Path(folder), pictures)
        again, _ = there(first, Path(folder), "yolo")
        same(first, again, "ids", "boxes", atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), share=st.floats(0.05, 1), seed=st.integers(0, 999))
def test_outlines_hold_a_mask_to_the_pixel(shape: tuple[int, int], share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    parts = outlines(mask)
    if not mask.any():
        assert parts == []
        return
    polygon = joined(parts, holes=True)
    np.testing.assert_array_equal(decode([code_of([polygon.ravel().tolist()], shape)], shape)[0], mask)
    x, y = polygon.T
    assert abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(mask.sum())


def test_several_parts_are_one_polygon_in_yolo(tmp_path: Path) -> None:
    # One clockwise, one counter-clockwise: areas add up all the same.
    parts = [[1, 1, 9, 1, 9, 9, 1, 9], [12, 12, 12, 18, 18, 18, 18, 12]]
    thing = {"category_id": 4, "bbox": [1, 1, 17, 17], "segmentation": parts, "area": 100}
    first = coco(tmp_path, [{"size": (20, 20), "things": [thing]}])
    again, (written,) = there(first, tmp_path, "yolo")
    same(first, again, "ids", atol=1e-3)
    assert "1 objects of several parts are joined to one polygon by lines of no width" in lines(written.notes)


LOSSY = [
    {"category_id": 4, "bbox": [1, 1, 4, 4], "iscrowd": 1, "segmentation": {"size": [20, 20], "counts": [40, 9, 351]}},
    {"category_id": 4, "bbox": [-2, 3, 9, 9]},
    {"category_id": 90, "bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "area": 11},
]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            "voc",
            [
                "2 images have an id that is not their name, which VOC has no place for",
                "2 masks or outlines are left out: VOC's objects are boxes",
                "1 areas that are not the box's are left out: VOC has none",
                "1 boxes begin left of or above their image, and are read from its edge on",
                "1 classes without an object are named in the configuration only",
                "3 classes lose their ids: VOC's classes are names",
            ],
        ),
        (
            "yolo",
            [
                "no val: YOLO's tools want one; see rehead data split",
                "3 classes get other numbers, 0, 1, 2, ..., as YOLO's own tools want them",
                "2 images have an id that is not their name, which YOLO has no place for",
                "1 crowds (or difficult objects) are left out: YOLO would take each for an object",
                "1 boxes reach outside their image and are cut at its edge",
            ],
        ),
    ],
)
def test_what_a_format_cannot_hold_is_counted(form: str, said: list[str], tmp_path: Path) -> None:
    first = coco(tmp_path, [{"size": (20, 20), "things": LOSSY}, {"size": (9, 9), "things": []}])
    again, (written,) = there(first, tmp_path, form)
    assert lines(written.notes) == said
    assert [len(sample.labels) for sample in again if sample.labels is not None] == [3 - (form == "yolo"), 0]


def test_objects_are_painted_the_smaller_one_in_front(tmp_path: Path) -> None:
    def square(category: int, x1: int, x2: int, **more: Any) -> dict[str, Any]:
        outline = [[x1, x1, x2, x1, x2, x2, x1, x2]]
        box = [x1, x1, x2 - x1, x2 - x1]
        return {"category_id": category, "bbox": box, "segmentation": outline, **more}

    pictures = [{"size": (20, 20), "things": [square(4, 5, 8), square(90, 2, 12), square(4, 0, 4, iscrowd=1)]}]
    again, (written,) = there(coco(tmp_path, pictures), tmp_path, "masks")
    semantic = again.semantic(0)
    assert again.classes.names == ("background", *NAMES.values())
    expected = np.zeros((20, 20), int)
    expected[:4, :4] = 255
    expected[2:12, 2:12] = 3
    expected[5:8, 5:8] = 1
    np.testing.assert_array_equal(semantic, expected)
    assert "1 objects lie partly over others, which are hidden there (the smaller one is in front)" in lines(
        written.notes
    )
    with Image.open(tmp_path / "0_masks/masks/train/sub/0.png") as image:
        assert image.mode == "P"
        colours = image.convert("RGB")
    assert len({colours.getpixel((x, x)) for x in (15, 6, 10, 0)}) == 4
    with pytest.raises(DataError, match="has a box only, and no outline"):
        there(coco(tmp_path, [{"size": (9, 9), "things": [LOSSY[1]]}]), tmp_path / "b", "masks")
    assert not (tmp_path / "b/0_masks").exists()


@pytest.mark.parametrize(
    "more",
    [
        {"classes": ["sky", "road", "tree"], "ignore_index": 7},
        {"values": {"sky": 0, "tree": 255, "road": 1, "car": 2, "void": 7}},
        {"values": {"sky": 0, "big": 3000, "road": 1, "tree": 2, "void": 7}, "classes": ["big", "sky", "tree", "road"]},
        {
            "values": {"sky": (0, 0, 0), "road": (1, 1, 1), "tree": (2, 2, 2), "void": (7, 7, 7)},
            "classes": ["road", "sky", "tree"],
        },
    ],
)
def test_class_maps_stay_what_they_are(more: dict[str, Any], tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        values = np.random.default_rng(number).choice(np.array([0, 1, 2, 7], np.uint8), (6, 9))
        Image.new("RGB", (9, 6)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(values).save(tmp_path / f"masks/{number}_mask.png")
    own = {"images": "images", "masks": "masks"}
    first = read({"format": "masks", "root": str(tmp_path), "train": own, **more})
    again, written = there(first, tmp_path, "masks", "masks")
    assert [again.classes.names, written[1].options["values"]] == [first.classes.names, written[0].options["values"]]
    if "values" not in more or isinstance(more["values"]["sky"], int):
        assert again.classes.ids == first.classes.ids
    for index in range(3):
        np.testing.assert_array_equal(again.semantic(index), first.semantic(index))
    with pytest.raises(DataError, match="holds class maps, which voc has no place for; use --to masks"):
        write({"train": first}, "voc", tmp_path / "no")


@pytest.mark.parametrize(
    ("more", "there_are", "ignored"),
    [
        ({"values": {"background": 0, "lesion": 255}}, [0, 255], None),
        ({"values": {"a": 0, "b": 255}, "ignore_index": 7}, [0, 7, 255], [7]),
        ({"classes": ["a", "b"], "ignore_index": [7, 255]}, [0, 1, 7, 255], [7, 255]),
        ({"values": {"a": 0, "b": 1, "c": 7}, "classes": ["a", "b"]}, [0, 1, 7], [7]),
        ({"values": {"a": 0, "b": 3000}}, [0], None),
    ],
)
def test_values_are_written_as_they_came_in_and_in_no_more_bits(
    more: dict[str, Any], there_are: list[int], ignored: list[int] | None, tmp_path: Path
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    values = np.random.default_rng(0).choice(np.array(there_are, np.uint8), (6, 9))
    Image.new("RGB", (9, 6)).save(tmp_path / "images/a.png")
    Image.fromarray(values).save(tmp_path / "masks/a.png")
    own = {"images": "images", "masks": "masks"}
    written = write(
        {"train": read({"format": "masks", "root": str(tmp_path), "train": own, **more})}, "masks", tmp_path / "copy"
    )
    assert written.options.get("ignore_index") == ignored
    with Image.open(tmp_path / "copy/masks/train/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), values)
        assert (image.mode == "P") == (3000 not in written.options["values"].values())


@pytest.mark.parametrize(
    ("categories", "said"),
    [
        ([{"id": 7, "name": "cat"}], r"val\.json: class 'cat' has id 7 in val, 1 in train"),
        ([{"id": 1, "name": "dog"}], r"val\.json: id 1 is class 'dog' in val, 'cat' in train"),
    ],
)
def test_ids_that_mean_other_classes_in_another_split_are_said_by_split(
    categories: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 9, "width": 9}
    parts: dict[str, Any] = {}
    for split, own in (("train", [{"id": 1, "name": "cat"}]), ("val", categories)):
        whole = {"images": [image], "annotations": [], "categories": own}
        (tmp_path / f"{split}.json").write_text(json.dumps(whole))
        parts[split] = {"images": ".", "annotations": f"{split}.json"}
    options = {"format": "coco", "root": str(tmp_path), **parts}
    with pytest.raises(DataError, match=said):
        write({split: read(options, split) for split in parts}, "coco", tmp_path / "copy")


def test_splits_and_names_that_would_meet(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    parts: dict[str, Any] = {}
    for split in ("train", "val"):
        rows = [{"id": n, "file_name": name, "height": 4, "width": 6} for n, name in enumerate(("a.png", "a.bmp"))]
        (tmp_path / split).mkdir()
        for row in rows:
            Image.new("L", (6, 4), 50 if split == "val" else 0).save(tmp_path / split / str(row["file_name"]))
        categories = [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
        boxes = [{"id": n, "image_id": n, "category_id": 9, "bbox": [n, 1, 2, 2]} for n in (0, 1)]
        content = {"images": rows, "annotations": boxes, "categories": categories}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
        parts[split] = {"images": split, "annotations": f"{split}.json"}
    options = {"format": "coco", "root": str(tmp_path), **parts}
    readers: dict[str, Reader] = {split: read(options, split) for split in parts}
    for form in ("coco", "voc", "yolo"):
        written = write(readers, form, tmp_path / form)
        for split, shade in (("train", 0), ("val", 50)):
            found = read(written.options, split)
            assert len(found) == 2
            assert found.read(0).pixels.max() == shade
            left = sorted(sample.boxes[0, 0] for sample in found if sample.boxes is not None)
            assert left == pytest.approx([0, 1], abs=1e-6)
            assert all(sample.labels is not None for sample in found)
            names = {found.classes.names[label] for sample in found for label in np.ravel(sample.labels)}  # type: ignore[arg-type]
            assert names == {"dog"}


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path: Path) -> None:
    reader = coco(tmp_path, [{"size": (9, 9), "things": []}, {"size": (9, 9), "things": []}])
    (tmp_path / "empty").mkdir()
    write({"train": reader}, "voc", tmp_path / "empty")
    for taken in ("empty", "in/a.json"):
        with pytest.raises(OutputError, match="nothing is overwritten"):
            write({"train": reader}, "voc", tmp_path / taken)
    (tmp_path / "in/sub/1.png").unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"1\.png: no such file"):
        write({"train": reader}, "voc", tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


def test_links_take_no_room(tmp_path: Path) -> None:
    reader = coco(tmp_path, [{"size": (9, 9), "things": []}])
    write({"train": reader}, "coco", tmp_path / "linked", link=True)
    assert (tmp_path / "linked/images/train/sub/0.png").samefile(tmp_path / "in/sub/0.png")
    write({"train": reader}, "coco", tmp_path / "copied")
    assert not (tmp_path / "copied/images/train/sub/0.png").samefile(tmp_path / "in/sub/0.png")


def evaluated(tmp_path: Path, shared: Path) -> tuple[AnnotationReader, dict[str, Any], list[dict[str, Any]]]:
    """COCO's own example; its photographs are not here, so black ones of their sizes are."""
    folder = shared / "data/coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    (tmp_path / "images").mkdir()
    for image in truth["images"]:
        Image.new("L", (image["width"], image["height"])).save(tmp_path / "images" / image["file_name"])
    options = {"format": "coco", "root": "/", "train": {"images": str(tmp_path / "images"), "annotations": ""}}
    options["train"]["annotations"] = str(folder / "instances_val2014_100.json")  # type: ignore[index]
    return read(options), truth, results


@pytest.mark.slow
def test_the_twelve_figures_are_unchanged_by_coco(tmp_path: Path, shared: Path) -> None:
    reader, truth, results = evaluated(tmp_path, shared)
    again, _ = there(reader, tmp_path, "coco")
    expected = coco_metrics(truth, results)
    assert expected["AP"] == pytest.approx(0.5046, abs=1e-4)
    assert coco_metrics(Path(again.annotations), results) == expected
    segm = json.loads((shared / "data/coco_eval/instances_val2014_fakesegm100_results.json").read_text())
    assert coco_metrics(Path(again.annotations), segm, "segm") == coco_metrics(truth, segm, "segm")


@pytest.mark.slow
@pytest.mark.parametrize("formats", [("voc", "coco"), ("yolo", "coco")])
def test_the_twelve_figures_of_boxes_are_unchanged_by_other_formats(
    formats: tuple[str, ...], tmp_path: Path, shared: Path
) -> None:
    """Without what they cannot hold: areas of masks become those of boxes, and YOLO's truth goes without crowds."""
    reader, truth, results = evaluated(tmp_path, shared)
    again, _ = there(reader, tmp_path, *formats)
    number_of = {sample.path.stem: sample.image_id for sample in again}
    stems = {image["id"]: Path(image["file_name"]).stem for image in truth["images"]}
    id_of = dict(zip(again.classes.names, again.classes.ids, strict=True))
    name_of = {category["id"]: category["name"] for category in truth["categories"]}
    moved = [
        {**one, "image_id": number_of[stems[one["image_id"]]], "category_id": id_of[name_of[one["category_id"]]]}
        for one in results
        if name_of[one["category_id"]] in id_of
    ]
    got = ground_truth(again)
    if formats[0] == "yolo":
        truth["annotations"] = [one for one in truth["annotations"] if not one["iscrowd"]]
    for one in truth["annotations"]:
        one["area"] = one["bbox"][2] * one["bbox"][3]
    for one in got["annotations"]:
        one["area"] = one["bbox"][2] * one["bbox"][3]
    expected = coco_metrics(truth, results)
    assert coco_metrics(got, moved) == pytest.approx(expected, abs=1e-3 if formats[0] == "yolo" else 1e-9)

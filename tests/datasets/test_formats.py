"""Boxes and outlines in every format: what was written is read."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rehead.configs.readers import CocoSplit, CsvSplit, ViaSplit, VocSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.open import Reader, open_reader
from rehead.errors import DataError

CLASSES = ["cat", "dog", "Ünd so <weiter> & mehr"]


@dataclass
class Thing:
    name: str
    box: tuple[int, int, int, int]
    crowd: bool


@dataclass
class Picture:
    stem: str
    size: tuple[int, int]
    things: list[Thing]


NAMES = st.text(st.characters(categories=["L", "N"], include_characters=" -_.&'"), min_size=1, max_size=6).filter(
    lambda name: name.strip(" .") == name and Path(f"{name}.png").stem == name
)


@st.composite
def pictures(draw: st.DrawFn) -> list[Picture]:
    stems = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=lambda s: s.casefold()))
    found = []
    for stem in stems:
        height, width = draw(st.integers(2, 40)), draw(st.integers(2, 40))
        things = []
        for _ in range(draw(st.integers(0, 3))):
            x1, y1 = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
            x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
            things.append(Thing(draw(st.sampled_from(CLASSES)), (x1, y1, x2, y2), draw(st.booleans())))
        found.append(Picture(stem, (height, width), things))
    return found


def draw_images(root: Path, truth: list[Picture]) -> None:
    (root / "images").mkdir()
    for picture in truth:
        Image.new("L", picture.size[::-1]).save(root / "images" / f"{picture.stem}.png")


def write_coco(root: Path, truth: list[Picture]) -> DataOptions:
    ids = {name: 7 * number for number, name in enumerate(CLASSES)}
    annotations = [
        {
            "id": f"{picture.stem} {number}",
            "image_id": picture.stem,
            "category_id": ids[thing.name],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": int(thing.crowd),
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        for picture in truth
        for number, thing in enumerate(picture.things)
        for x1, y1, x2, y2 in [thing.box]
    ]
    images = [{"id": p.stem, "file_name": f"{p.stem}.png", "height": p.size[0], "width": p.size[1]} for p in truth]
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return DataOptions(format="coco", root=str(root), train=CocoSplit(images="images", annotations="a.json"))


def write_voc(root: Path, truth: list[Picture]) -> DataOptions:
    (root / "xml").mkdir()
    for picture in truth:
        objects = "".join(
            f"<object><name>{escape(thing.name)}</name><difficult>{int(thing.crowd)}</difficult><bndbox>"
            f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for thing in picture.things
            for x1, y1, x2, y2 in [thing.box]
        )
        size = f"<size><width>{picture.size[1]}</width><height>{picture.size[0]}</height></size>"
        text = f"<annotation><filename>an old name.jpg</filename>{size}{objects}</annotation>"
        (root / "xml" / f"{picture.stem}.xml").write_text(text, encoding="utf-8")
    (root / "set.txt").write_text("\n".join(f"{picture.stem}  -1" for picture in truth), encoding="utf-8")
    split = VocSplit(images="images", annotations="xml", image_set="set.txt")
    return DataOptions(format="voc", root=str(root), train=split)


def write_yolo(root: Path, truth: list[Picture]) -> DataOptions:
    (root / "labels").mkdir()
    (root / "data.yaml").write_text(yaml.safe_dump({"names": dict(enumerate(CLASSES))}))
    for picture in truth:
        height, width = picture.size
        lines = []
        for number, thing in enumerate(picture.things):
            x1, y1, x2, y2 = thing.box
            shares = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            if number % 2:
                corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
                shares = [share for x, y in corners for share in (x / width, y / height)]
            lines.append(" ".join(map(str, [CLASSES.index(thing.name), *shares])))
        if lines or picture is truth[0]:
            (root / "labels" / f"{picture.stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "labels" / "another.txt").touch()
    return DataOptions(format="yolo", root=str(root), train=YoloSplit(images="images", labels="labels"))


def write_csv(root: Path, truth: list[Picture]) -> DataOptions:
    with (root / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["File Name", "Label", "x1", "y1", "x2", "y2", "width", "height", "difficult"])
        for picture in truth:
            end = [picture.size[1], picture.size[0]]
            name = f"C:\\old\\{picture.stem}.png"
            for thing in picture.things:
                table.writerow([name, thing.name, *thing.box, *end, int(thing.crowd)])
            if not picture.things:
                table.writerow([name, "", "", "", "", "", *end, ""])
    return DataOptions(format="csv", root=str(root), train=CsvSplit(annotations="boxes.csv", images="images"))


def write_via(root: Path, truth: list[Picture]) -> DataOptions:
    def region(number: int, thing: Thing) -> dict[str, Any]:
        x1, y1, x2, y2 = thing.box
        shape: dict[str, Any] = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        if number % 2:
            shape = {"name": "polygon", "all_points_x": [x1, x2, x2, x1], "all_points_y": [y1, y1, y2, y2]}
        label: Any = thing.name if number % 3 else {name: name == thing.name for name in CLASSES}
        return {"shape_attributes": shape, "region_attributes": {"class": label, "note": ""}}

    content = {}
    for place, picture in enumerate(truth):
        regions: Any = [region(number, thing) for number, thing in enumerate(picture.things)]
        if place % 2:
            regions = {str(number): one for number, one in enumerate(regions)}
        content[f"{picture.stem}.png123"] = {"filename": f"{picture.stem}.png", "size": 123, "regions": regions}
    (root / "via.json").write_text(json.dumps({"_via_img_metadata": content, "_via_settings": {}}))
    return DataOptions(format="via", root=str(root), train=ViaSplit(images="images", annotations="via.json"))


WRITERS: dict[str, Callable[[Path, list[Picture]], DataOptions]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "csv": write_csv,
    "via": write_via,
}
MASKED = ["coco", "yolo", "via"]


def check(reader: Reader, truth: list[Picture], crowds: bool) -> None:
    found = {sample.path.stem: sample for sample in reader}
    assert set(found) == {picture.stem for picture in truth}
    for picture in truth:
        sample = found[picture.stem]
        assert sample.path.is_file()
        assert sample.size == picture.size
        assert sample.boxes is not None
        assert sample.labels is not None
        assert sample.iscrowd is not None
        assert sample.areas is not None
        assert (sample.boxes.dtype, sample.labels.dtype) == (np.float32, np.int64)
        boxes = np.reshape([thing.box for thing in picture.things], (-1, 4))
        np.testing.assert_allclose(sample.boxes, boxes, atol=1e-3)
        np.testing.assert_allclose(sample.areas, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), rtol=1e-3)
        assert [reader.classes.names[label] for label in sample.labels] == [thing.name for thing in picture.things]
        assert sample.iscrowd.tolist() == [thing.crowd and crowds for thing in picture.things]
    reader.presence = True
    for sample in reader:
        assert isinstance(sample.label, np.ndarray)
        assert set(np.flatnonzero(sample.label)) == set(found[sample.path.stem].labels)


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=25, deadline=None)
@given(truth=pictures())
def test_what_was_written_is_read(name: str, truth: list[Picture]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_images(root, truth)
        data = WRITERS[name](root, truth)
        check(open_reader(data, "train", CLASSES), truth, crowds=name in ("coco", "voc", "csv"))
        if any(picture.things for picture in truth):
            check(open_reader(data, "train"), truth, crowds=name in ("coco", "voc", "csv"))
            chosen = open_reader(data, "train", [truth[0].things[0].name]) if truth[0].things else None
            if chosen is not None:
                fewer = [
                    Picture(p.stem, p.size, [t for t in p.things if t.name in chosen.classes.names]) for p in truth
                ]
                check(chosen, fewer, crowds=name in ("coco", "voc", "csv"))


@pytest.mark.parametrize("name", MASKED)
def test_outlines_become_masks(name: str, tmp_path: Path) -> None:
    # YOLO's boxes are no outlines: its second object is a polygon.
    truth = [
        Picture("a", (20, 30), [Thing("cat", (1, 2, 3, 4), False), Thing("dog", (5, 6, 25, 16), False)]),
        Picture("b", (20, 30), []),
    ]
    draw_images(tmp_path, truth)
    if name == "yolo":
        truth[0].things[0] = Thing("cat", (0, 0, 0, 0), False)
    reader = open_reader(WRITERS[name](tmp_path, truth), "train", ["dog"])
    reader.masks = True
    masks = reader.read(0).masks
    assert masks is not None
    assert masks.shape == (1, 20, 30)
    assert masks[0, 6:16, 5:25].all()
    assert masks.sum() == 200
    masks = reader.read(1).masks
    assert masks is not None
    assert masks.shape == (0, 20, 30)


def test_a_listed_class_that_does_not_occur_is_kept_but_a_typing_error_is_not(tmp_path: Path) -> None:
    truth = [Picture("a", (9, 9), [Thing("cat", (1, 1, 3, 3), False)])]
    draw_images(tmp_path, truth)
    data = write_voc(tmp_path, truth)
    assert open_reader(data, "train", ["dog", "cat"])[0].labels == [1]
    with pytest.raises(DataError, match=r"data\.classes: .*xml has no class 'dog', 'cats'; did you mean 'cat'\?"):
        open_reader(data, "train", ["dog", "cats"])


def test_raccoons(shared: Path) -> None:
    split = VocSplit(images="images", annotations="annotations")
    found = open_reader(DataOptions(format="voc", root=str(shared / "data/raccoon"), train=split), "train")
    assert (len(found), found.classes.names) == (200, ("raccoon",))
    samples = list(found)
    assert sum(len(sample.boxes) for sample in samples if sample.boxes is not None) == 217
    for index in (0, 57, 199):
        assert found.read(index).pixels.shape[:2] == samples[index].size
    for sample in samples:
        assert sample.path.is_file()
        assert sample.size is not None
        assert sample.boxes is not None
        assert (sample.boxes >= 0).all()
        assert (sample.boxes[:, 2:] <= np.array(sample.size[::-1]) + 1).all()

"""Encodings and names: what other machines and tools write is read, or said to be what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rehead.configs.readers import CocoSplit, CsvSplit, FromTrainSplit, SplitOptions, ViaSplit, VocSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.detect_format import detect_format
from rehead.datasets.open import Reader, open_reader
from rehead.errors import DataError

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
BOX = [2, 3, 10, 8]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path)


def coco(name: str, label: str) -> dict[str, str]:
    content = {
        "images": [{"id": 1, "file_name": name, "width": 32.0, "height": 24}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX}],
        "categories": [{"id": 1, "name": label}],
    }
    return {"a.json": json.dumps(content, ensure_ascii=False)}


def via(name: str, label: str) -> dict[str, str]:
    shape = {"name": "rect", "x": 2, "y": 3, "width": 10, "height": 8}
    region = {"shape_attributes": shape, "region_attributes": {"class": label}}
    return {"v.json": json.dumps({"k": {"filename": name, "regions": [region]}}, ensure_ascii=False)}


def csv(name: str, label: str) -> dict[str, str]:
    return {"b.csv": f"filename,class,xmin,ymin,xmax,ymax\n{name},{label},2,3,12,11\n"}


def voc(name: str, label: str) -> dict[str, str]:
    box = "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>11</ymax></bndbox>"
    objects = f"<object><name>{label}</name>{box}</object>"
    return {"xml/other.xml": f"<annotation><filename>{name}</filename>{objects}</annotation>"}


def yolo(name: str, label: str) -> dict[str, str]:
    stem = Path(name.replace("\\", "/").replace("%20", " ")).stem
    return {
        "data.yaml": f"names: ['{label}']\n",
        "list.txt": f"images\\{name}\n" if "\\" in name else f"images/{name}\n",
        f"labels/{'in/' if 'in' in name else ''}{stem}.txt": "0 0.21875 0.2916667 0.3125 0.3333333\n",
    }


FORMATS: dict[str, tuple[Callable[[str, str], dict[str, str]], SplitOptions]] = {
    "coco": (coco, CocoSplit(images="images", annotations="a.json")),
    "via": (via, ViaSplit(images="images", annotations="v.json")),
    "csv": (csv, CsvSplit(images="images", annotations="b.csv")),
    "voc": (voc, VocSplit(images="images", annotations="xml")),
    "yolo": (yolo, YoloSplit(images="list.txt")),
}


def written(root: Path, form: str, name: str, label: str, encoding: str) -> Reader:
    write, split = FORMATS[form]
    for file, text in write(name, label).items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(text.encode(encoding))
    return open_reader(DataOptions(format=form, root=str(root), train=split), "train")


def boxes(reader: Reader) -> list[list[int]]:
    found = reader.read(0).boxes
    assert found is not None
    return found.round(3).tolist()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_unicode_is_read(form: str, encoding: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    reader = written(tmp_path, form, "a.png", "café 猫", encoding)
    assert reader.classes.names == ("café 猫",)
    assert boxes(reader) == [[2, 3, 12, 11]]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("encoding", ["latin-1", "gbk"])
def test_other_encodings_are_refused_with_the_line_and_the_cure(form: str, encoding: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    with pytest.raises(
        DataError, match=r"(a\.json|v\.json|b\.csv|other\.xml|data\.yaml): .*line \d: not UTF-8.*would read '"
    ):
        written(tmp_path, form, "a.png", "café" if encoding == "latin-1" else "猫狗", encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "windows-1252", "utf-16"])
def test_xml_is_read_in_the_encoding_that_it_declares(encoding: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/other.png")
    label = "猫狗" if encoding in ("gbk", "utf-16") else "café"
    (text,) = voc("other.png", label).values()
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml/other.xml").write_bytes(f"<?xml version='1.0' encoding='{encoding}'?>\n{text}".encode(encoding))
    data = DataOptions(format="voc", root=str(tmp_path), train=FORMATS["voc"][1])
    assert open_reader(data, "train").classes.names == (label,)


@pytest.mark.parametrize("form", ["coco", "via"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_auto_sees_json_in_any_unicode(form: str, encoding: str, tmp_path: Path) -> None:
    picture(tmp_path / "train/a.png")
    ((file, text),) = FORMATS[form][0]("a.png", "café").items()
    (tmp_path / file).write_bytes(text.encode(encoding))
    found = detect_format(tmp_path, {"detection"})
    assert (found.format, found.splits["train"]["images"]) == (form, "train")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["in\\a b.png", "in/a%20b.png", "in\\a%20b.png"])
def test_names_from_windows_and_from_addresses_lead_to_their_files(form: str, name: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/in/a b.png")
    assert boxes(written(tmp_path, form, name, "cat", "utf-8")) == [[2, 3, 12, 11]]


@pytest.mark.parametrize("form", FORMATS)
def test_a_per_cent_sign_in_a_real_name_stays(form: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/a%20b.png")
    if form == "yolo":
        pytest.skip("its label file has the name of the image in any case")
    picture(tmp_path / "images/a b.png")
    assert written(tmp_path, form, "a%20b.png", "cat", "utf-8")[0].path.name == "a%20b.png"


def test_lists_of_a_split_may_have_back_slashes_and_any_unicode(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"images/in/ü{number}.png")
    rows = "".join(f"in/ü{number}.png,cat,2,3,12,11\n" for number in range(3))
    (tmp_path / "b.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n" + rows)
    (tmp_path / "val.txt").write_bytes("in\\ü1.png\r\n".encode("utf-16"))
    data = DataOptions(
        format="csv", root=str(tmp_path), train=FORMATS["csv"][1], val=FromTrainSplit(from_train="val.txt")
    )
    assert open_reader(data, "val")[0].path.name == "ü1.png"
    (tmp_path / "xml/in").mkdir(parents=True)
    for number in range(3):
        (text,) = voc(f"ü{number}.png", "cat").values()
        (tmp_path / f"xml/in/ü{number}.xml").write_text(text)
    (tmp_path / "set.txt").write_bytes("in\\ü2\r\n".encode("utf-8-sig"))
    split = VocSplit(images="images", annotations="xml", image_set="set.txt")
    reader = open_reader(DataOptions(format="voc", root=str(tmp_path), train=split), "train")
    assert [reader[row].path.name for row in range(len(reader))] == ["ü2.png"]


@pytest.mark.parametrize(
    "header", ["class_id,class_name", "class_name,class_id", "label_id,Label", "category,category_id"]
)
def test_the_name_of_a_class_comes_before_its_number(header: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    values = ",".join("7" if "id" in word else "cat" for word in header.split(","))
    (tmp_path / "b.csv").write_text(f"filename,{header},xmin,ymin,xmax,ymax\na.png,{values},2,3,12,11\n")
    data = DataOptions(format="csv", root=str(tmp_path), train=FORMATS["csv"][1])
    assert open_reader(data, "train").classes.names == ("cat",)


def test_a_number_alone_is_the_class(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "b.csv").write_text("image_id,filename,class_id,xmin,ymin,xmax,ymax\n9,a.png,7,2,3,12,11\n")
    reader = open_reader(DataOptions(format="csv", root=str(tmp_path), train=FORMATS["csv"][1]), "train")
    assert (reader.classes.names, reader.classes.ids, reader[0].path.name) == (("7",), (7,), "a.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": -3}, "image 1: it is -3.0 wide"),
        ({"width": 12.5}, "image 1: it is 12.5 wide"),
        ({"height": 1e30}, "image 1: it is 32.0 wide and 1e\\+30 high"),
        ({"file_name": ""}, "image 1: its file_name '' is empty"),
        ({"file_name": "a\0.png"}, "image 1: its file_name .* holds a NUL"),
        ({"file_name": "a" * 300}, "image 1: its file_name .* is too long"),
        ({"id": 10**30}, "image 10+: "),
    ],
)
def test_what_no_image_can_be_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    content = json.loads(coco("a.png", "cat")["a.json"])
    content["images"][0] |= change
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"a\.json: {said}"):
        open_reader(DataOptions(format="coco", root=str(tmp_path), train=FORMATS["coco"][1]), "train")

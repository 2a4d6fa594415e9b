"""Formats that are known and not read are named with the way out; and the file that made it a format is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from rehead.configs.load import load_config
from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.sources import open_all
from rehead.datasets.detect_format import detect_format
from rehead.datasets.every_split import source_of
from rehead.errors import ConfigError, DataError

CVAT = '<?xml version="1.0"?>\n<annotations><image id="0" name="a.png"><box/></image></annotations>'
LABELME = json.dumps({"shapes": [{"label": "cat", "points": [[0, 0], [1, 1]]}], "imagePath": "a.png"})
STUDIO = json.dumps([{"annotations": [{"result": [{"from_name": "label", "value": {}}]}], "data": {"image": "a.png"}}])
SUPERVISELY = json.dumps({"size": {"height": 9, "width": 9}, "objects": [{"classTitle": "cat", "points": {}}]})
DOTA = "imagesource:GoogleEarth\ngsd:0.1\n1 1 9 2 8 9 0 8 plane 0\n"
SLANTED = "0 0.3 0.2 0.6 0.3 0.5 0.6 0.2 0.5\n"
UPRIGHT = "0 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6\n"


def put(root: Path, name: str, text: str | None = None) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        Image.new("RGB", (32, 24)).save(root / name)
    else:
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("annotations.xml", CVAT, r"CVAT's XML in annotations\.xml is not read: export it from CVAT as COCO"),
        ("images/a.json", LABELME, r"labelme's JSON in images/a\.json is not read: convert it to COCO"),
        (
            "export.json",
            STUDIO,
            r"Label Studio's JSON in export\.json is not read: export it from Label Studio",
        ),
        ("ds/ann/a.png.json", SUPERVISELY, r"Supervisely's JSON in ds/ann/a\.png\.json is not read: export it"),
        ("labelTxt/a.txt", DOTA, r"DOTA's oriented boxes \(OBB\) in labelTxt/a\.txt is not read: convert it"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_the_way_out(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    put(tmp_path, "images/a.png")
    put(tmp_path, "train/b.png")  # which could be a folder of a class
    put(tmp_path, name, text)
    for read in (lambda: open_all(tmp_path, {}, Findings()), lambda: source_of(tmp_path)):
        with pytest.raises(DataError, match=message):
            read()
    raw = {"task": "detection", "model": {"head": "faster_rcnn"}, "data": {"format": "auto", "root": str(tmp_path)}}
    with pytest.raises(ConfigError, match=message):
        load_config(raw)


def test_not_where_there_is_a_format_that_is_read(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png")
    put(tmp_path, "images/a.json", LABELME)
    put(tmp_path, "masks/a.png")
    with pytest.raises(DataError, match=r"labelme's JSON .*; or say data\.format=instance_masks for the images with"):
        detect_format(tmp_path, ())
    assert detect_format(tmp_path, (), "instance_masks").format == "instance_masks"
    put(tmp_path, "boxes.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,cat,0,0,4,4\n")
    assert detect_format(tmp_path, ()).format == "csv"


class TestOrientedBoxes:
    def root(self, tmp_path: Path, label: str) -> Path:
        put(tmp_path, "images/train/a.png")
        put(tmp_path, "labels/train/a.txt", label)
        put(tmp_path, "data.yaml", "{train: images/train, val: images/train, names: [cat]}")
        return tmp_path

    def test_are_named_and_read_as_outlines_where_that_is_said(self, tmp_path: Path) -> None:
        root = self.root(tmp_path, UPRIGHT + SLANTED)
        with pytest.raises(DataError, match=r"\(OBB: .*labels/train/a\.txt and others .*: say data\.format=yolo to"):
            open_all(root, {}, Findings())
        found = open_all(root, {"data.format": "yolo"}, Findings())
        assert found.sources[0].reader[0].boxes is not None
        assert len(found.sources[0].reader[0].boxes) == 2

    @pytest.mark.parametrize(
        "label",
        [
            UPRIGHT,
            "0 0.5 0.5 0.2 0.2\n" + SLANTED,
            "0 0.3 0.2 0.6 0.3 0.5 0.6 0.1 0.4\n",
            SLANTED + "0 0.1 0.1 0.9 0.1 0.5 0.9\n",
        ],
    )
    def test_are_not_upright_boxes_and_outlines(self, label: str, tmp_path: Path) -> None:
        assert detect_format(self.root(tmp_path, label), ()).format == "yolo"


def test_the_file_that_made_it_choose_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    put(tmp_path, "voc/images/a.png")
    put(tmp_path, "voc/xml/a.xml", f"<annotation><object><name>a</name>{box}</object></annotation>")
    put(tmp_path, "classes/cat/a.png")
    put(tmp_path, "classes/dog/b.png")
    put(tmp_path, "masks/images/a.png")
    put(tmp_path, "masks/masks/a_mask.png")
    put(tmp_path, "yolo/images/a.png")
    put(tmp_path, "yolo/labels/a.txt", UPRIGHT)
    for folder, file in (
        ("voc", "xml/a.xml"),
        ("classes", "cat/a.png"),
        ("masks", "masks/a_mask.png"),
        ("yolo", "labels/a.txt"),
    ):
        open_all(tmp_path / folder, {"data.classes": ["a"]} if folder == "yolo" else {}, Findings())
        assert f"(as {file}):" in capsys.readouterr().err

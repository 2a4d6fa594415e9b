"""What the formats' files look like in the wild, and what is said of those that are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rehead.configs.readers import CsvSplit, ViaSplit, VocSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.open import Reader, open_reader
from rehead.errors import DataError


def xml(objects: str = "", size: str = "") -> str:
    return f"<annotation>{size}{objects}</annotation>"


def thing(**more: object) -> str:
    sides = {"xmin": 1, "ymin": 1, "xmax": 4, "ymax": 4, **more}
    inside = "".join(f"<{side}>{value}</{side}>" for side, value in sides.items() if value is not None)
    return f"<object><name>cat</name><bndbox>{inside}</bndbox></object>"


class TestVoc:
    def reader(self, root: Path, *texts: str, **split: Any) -> Reader:
        for folder in ("xml", "images"):
            (root / folder).mkdir(exist_ok=True)
        for number, text in enumerate(texts):
            (root / "xml" / f"{number}.xml").write_text(text)
        options = VocSplit(images="images", annotations="xml", **split)
        return open_reader(DataOptions(format="voc", root=str(root), train=options), "train")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("<annotation>", r"1\.xml: broken XML: no element found: line 1"),
            ("", r"1\.xml: broken XML"),
            ("<?xml version='1.0' encoding='klingon'?><annotation/>", r"1\.xml: broken XML: unknown encoding: klingon"),
            ("<svg/>", r"1\.xml: its outermost element is <svg>"),
            (xml(thing() + "<object><bndbox/></object>"), r"1\.xml: object 2: no <name>"),
            (xml("<object><name>cat</name></object>"), r"1\.xml: object 1: <bndbox> has no <xmin>"),
            (xml(thing(xmax=None)), "object 1: <bndbox> has no <xmax>"),
            (xml(thing(xmax="wide")), "object 1: <xmax> is 'wide', not a number"),
            (xml(thing(xmax="nan")), "object 1: <xmax> is 'nan', not a number"),
            (xml(thing(ymax=-3)), r"object 1: its box is \[1.0, 1.0, 4.0, -3.0\] .* a side is negative"),
        ],
    )
    def test_what_is_broken_is_named(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(DataError, match=said):
            self.reader(tmp_path, xml(thing()), text)

    def test_the_first_pixel_is_1_and_the_last_is_inside(self, tmp_path: Path) -> None:
        whole = xml(thing(xmax=4, ymax=3), "<size><width>4</width><height>3</height></size>")
        counted_from_0 = xml(thing(xmin=0, ymin=0, xmax=4, ymax=3))
        found = self.reader(tmp_path, whole, counted_from_0)
        assert [sample.boxes.tolist() for sample in found if sample.boxes is not None] == [[[0, 0, 4, 3]]] * 2
        assert [sample.size for sample in found] == [(3, 4), None]

    def test_an_image_set_selects_and_orders(self, tmp_path: Path) -> None:
        (tmp_path / "set.txt").write_text("2\n0  1\n\n")
        found = self.reader(tmp_path, *[xml(thing())] * 3, image_set="set.txt")
        assert [sample.image_id for sample in found] == ["2", "0"]
        (tmp_path / "set.txt").write_text("2\n77\n")
        with pytest.raises(DataError, match=r"set\.txt: 77 has no file in .*xml"):
            self.reader(tmp_path, image_set="set.txt")
        with pytest.raises(DataError, match=r"data\.train\.image_set: no file .*sets\.txt; did you mean 'set\.txt'"):
            self.reader(tmp_path, image_set="sets.txt")

    def test_images_that_are_not_there_keep_the_name_they_were_given(self, tmp_path: Path) -> None:
        found = self.reader(tmp_path, "<annotation><filename>b.jpg</filename></annotation>", xml(thing()))
        assert [sample.path.name for sample in found] == ["b.jpg", "1.jpg"]

    def test_class_maps_for_a_segmentation_head(self, tmp_path: Path) -> None:
        for folder in ("JPEGImages", "SegmentationClass"):
            (tmp_path / folder).mkdir()
        mask = Image.fromarray(np.array([[0, 1, 255], [20, 20, 15]], np.uint8))
        mask.putpalette(list(range(256)) * 3)
        mask.save(tmp_path / "SegmentationClass/a.png")
        for name in "ab":
            Image.new("RGB", (3, 2)).save(tmp_path / f"JPEGImages/{name}.jpg")
        data = DataOptions(format="voc", root=str(tmp_path), train=VocSplit())
        found = open_reader(data, "train", task="segmentation")
        assert len(found) == 1
        assert (len(found.classes), found.classes.names[20]) == (21, "tvmonitor")
        semantic = found.read(0).semantic
        assert semantic is not None
        assert semantic.tolist() == [[0, 1, 255], [20, 20, 15]]


class TestYolo:
    def reader(self, root: Path, label: str, **split: Any) -> Reader:
        for folder in ("images/train", "labels/train"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(root / "images/train/a.png")
        (root / "labels/train/a.txt").write_text(label)
        (root / "data.yaml").write_text("names: [cat, dog]")
        options = YoloSplit(**{"images": "images/train", **split})
        return open_reader(DataOptions(format="yolo", root=str(root), train=options), "train")

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("2 0.5 0.5 0.1 0.1", "class 2, but the classes are 0, 1"),
            ("0.5 0.5 0.5 0.1 0.1", r"class 0\.5"),
            ("cat 0.5 0.5 0.1 0.1", "'cat 0.5 0.5 0.1 0.1' is not a class number"),
            ("0 0.5 0.5 0.1", "3 coordinates; a box has 4"),
            ("0 0.5 0.5 0.1 0.1 0.2", "5 coordinates"),
            ("0 5 5 4 4", "coordinates 5.0, 5.0, 4.0, 4.0; they are shares"),
            ("0 0.5 0.5 nan 0.1", "they are shares"),
            ("0 0.5 0.5 -0.005 0.1", "a box of -0.005 by 0.1"),
        ],
    )
    def test_what_is_broken_is_named(self, tmp_path: Path, line: str, said: str) -> None:
        with pytest.raises(DataError, match=rf"labels/train/a\.txt: line 3: .*{said}"):
            self.reader(tmp_path, f"0 0.5 0.5 0.1 0.1\n\n{line}\n")

    def test_shares_are_of_the_upright_image(self, tmp_path: Path) -> None:
        self.reader(tmp_path, "1 0.5 0.5 1 0.5")
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (20, 10)).save(tmp_path / "images/train/a.png", exif=exif)
        found = self.again(tmp_path)
        assert found[0].size == (20, 10)
        assert found[0].boxes is not None
        assert found[0].boxes.tolist() == [[0, 5, 10, 15]]
        assert found.read(0).pixels.shape == (20, 10, 3)

    def again(self, root: Path, **split: Any) -> Reader:
        options = YoloSplit(**{"images": "images/train", **split})
        return open_reader(DataOptions(format="yolo", root=str(root), train=options), "train")

    def test_images_may_be_listed_in_a_text_file(self, tmp_path: Path) -> None:
        self.reader(tmp_path, "1 0.5 0.5 1 0.5")
        (tmp_path / "lists").mkdir()
        for path in ("images/train/a.png", "./../images/train/a.png", tmp_path / "images/train/a.png"):
            (tmp_path / "lists/train.txt").write_text(f"{path}\n")
            found = self.again(tmp_path, images="lists/train.txt")
            assert [len(sample.labels) for sample in found if sample.labels is not None] == [1]
            assert found.read(0).image_id == "images/train/a"

    def test_poses(self, tmp_path: Path) -> None:
        self.reader(tmp_path, "1 0.5 0.5 1 0.5")
        label = tmp_path / "labels/train/a.txt"
        label.write_text("0 0.5 0.5 1 0.5 0.5 0.5 2 0 0 0 1 0.2 1")
        names = "names: [person]\nkpt_shape: [3, 3]\n"
        (tmp_path / "data.yaml").write_text(names + "flip_idx: [0, 2, 1]")
        found = self.again(tmp_path)
        assert (found.classes.keypoints, found.classes.flip_pairs) == (("0", "1", "2"), ((1, 2),))
        assert found[0].keypoints is not None
        assert found[0].keypoints.tolist() == [[[10, 5, 2], [0, 0, 0], [20, 2, 1]]]
        label.write_text("0 0.5 0.5 1 0.5 0.5 0.5 0 0 1 0.2")
        found = self.again(tmp_path)
        assert found[0].keypoints is not None
        assert found[0].keypoints.tolist() == [[[10, 5, 2], [0, 0, 0], [20, 2, 2]]]
        label.write_text("0 0.5 0.5 1 0.5 0.5 0.5 0 0 1")
        with pytest.raises(DataError, match=r"a\.txt: line 1: 9 numbers after the class; a box has 4, its 3 points 2"):
            self.again(tmp_path)
        (tmp_path / "data.yaml").write_text(names + "flip_idx: [0, 7, 1]")
        with pytest.raises(DataError, match=r"data\.yaml: kpt_shape \[3, 3\] with flip_idx \[0, 7, 1\]"):
            self.again(tmp_path)

    def test_two_images_of_one_name_would_share_their_labels(self, tmp_path: Path) -> None:
        self.reader(tmp_path, "1 0.5 0.5 1 0.5")
        Image.new("RGB", (20, 10)).save(tmp_path / "images/train/a.jpg")
        with pytest.raises(DataError, match="images/train: image 'a' occurs more than once"):
            self.again(tmp_path)

    def test_labels_that_are_elsewhere(self, tmp_path: Path) -> None:
        self.reader(tmp_path, "1 0.5 0.5 1 0.5")
        (tmp_path / "labels").rename(tmp_path / "text")
        with pytest.raises(DataError, match=r"no image has a label file, such as .*labels/train/a\.txt; set labels"):
            self.again(tmp_path)
        assert len(self.again(tmp_path, labels="text/train")) == 1

    def test_names_are_needed(self, tmp_path: Path) -> None:
        self.reader(tmp_path, "1 0.5 0.5 1 0.5")
        (tmp_path / "data.yaml").write_text("nc: 2")
        with pytest.raises(DataError, match=r"data\.yaml: no names"):
            self.again(tmp_path)
        (tmp_path / "data.yaml").unlink()
        with pytest.raises(DataError, match=r"data\.yaml: no such file to name the classes"):
            self.again(tmp_path)
        options = DataOptions(
            format="yolo", root=str(tmp_path), classes=["a", "b"], train=YoloSplit(images="images/train")
        )
        assert open_reader(options, "train").classes.names == ("a", "b")


class TestCsv:
    def reader(self, root: Path, text: str) -> Reader:
        (root / "boxes.csv").write_text(text)
        return open_reader(DataOptions(format="csv", root=str(root), train=CsvSplit(annotations="boxes.csv")), "train")

    @pytest.mark.parametrize(
        "text",
        [
            "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,9,9,cat,1,2,4,6",
            "a.png,1,2,4,6,cat\nb.png,,,,,",
            "ImageID;LabelName;XMin;YMin;XMax;YMax\na.png;cat;1;2;4;6",
            "image_path\tlabel\tx\ty\tw\th\na.png\tcat\t1\t2\t3\t4",
            'image_id,width,height,bbox,label\na,9,9,"[1.0, 2, 3, 4]",cat',
            "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\ncat,1,2,3,4,a.png,9,9",
            "﻿image,x,y,width,height,label\r\n/home/me/a.png,1,2,3,4,cat\r\n",
            "File,Left,Top,Right,Bottom,Category\na.png,1,2,4,6,cat\n",
        ],
    )
    def test_dialects(self, tmp_path: Path, text: str) -> None:
        Image.new("L", (9, 9)).save(tmp_path / "a.png")
        found = self.reader(tmp_path, text)
        assert found[0].boxes is not None
        assert found[0].boxes.tolist() == [[1, 2, 4, 6]]
        assert found.classes.names == ("cat",)
        assert found[0].path == tmp_path / "a.png"
        assert len(found) == 1 + text.count("b.png")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "holds no lines"),
            ("image,xmin,ymin,xmax,ymax\n", "holds no lines"),
            ("picture,a,b\nx,1,2", r"columns picture, a, b; there should be one for the image"),
            ("image,xmin,ymin,xmax,ymax\na.png,1,2,3,4\n,1,2,3,4", "line 3: names no image"),
            ("image,xmin,ymin,xmax,ymax\na.png,1,,3,4", "line 2: ymin '': not a number"),
            ("image,xmin,ymin,xmax,ymax\n\na.png,1,inf,3,x", "line 3: ymin 'inf', ymax 'x': not a number"),
            ("image,xmin,ymin,xmax,ymax\na.png,9,2,3,4", "line 2: xmin 9, ymin 2, xmax 3, ymax 4: a side is negative"),
            ('image,bbox\na.png,"[1, 2, 3]"', r"line 2: bbox is '\[1, 2, 3\]', not \[x, y, w, h\]"),
            ("image,class,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\na.png,,1,2,3,4", "line 3: a box without a class"),
            ("image,xmin,ymin,xmax,ymax\na.png,0.1,0.2,0.3,0.4", "all .* they should be pixels"),
        ],
    )
    def test_what_is_broken_is_named(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(DataError, match=rf"boxes\.csv: {said}"):
            self.reader(tmp_path, text)

    def test_numbers_are_the_classes_own_ids(self, tmp_path: Path) -> None:
        found = self.reader(tmp_path, "image,xmin,ymin,xmax,ymax,class_id\na.png,1,2,3,4,10\na.png,1,2,3,4,2")
        assert (found.classes.names, found.classes.ids) == (("2", "10"), (2, 10))
        assert found[0].labels is not None
        assert found[0].labels.tolist() == [1, 0]


class TestVia:
    def reader(self, root: Path, *regions: Any, attribute: str | None = None) -> Reader:
        content = {"a.png1": {"filename": "a.png", "size": 1, "regions": list(regions)}}
        (root / "via.json").write_text(json.dumps(content))
        split = ViaSplit(images=".", annotations="via.json", attribute=attribute)
        return open_reader(DataOptions(format="via", root=str(root), train=split), "train")

    RECT = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}  # noqa: RUF012

    def test_circles_and_ellipses_are_polygons(self, tmp_path: Path) -> None:
        Image.new("L", (100, 80)).save(tmp_path / "a.png")
        circle = {"name": "circle", "cx": 30, "cy": 40, "r": 20}
        ellipse = {"name": "ellipse", "cx": 50, "cy": 40, "rx": 30, "ry": 10, "theta": np.pi / 2}
        found = self.reader(tmp_path, {"shape_attributes": circle}, {"shape_attributes": ellipse})
        assert found.classes.names == ("object",)
        assert found[0].boxes is not None
        np.testing.assert_allclose(found[0].boxes, [[10, 20, 50, 60], [40, 10, 60, 70]], atol=1e-4)
        assert found[0].areas is not None
        np.testing.assert_allclose(found[0].areas, [np.pi * 400, np.pi * 300], rtol=0.01)

    @pytest.mark.parametrize(
        ("shape", "attributes", "said"),
        [
            ({"name": "point", "cx": 1, "cy": 2}, {}, "a point encloses nothing"),
            ({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}, {}, "polygon of 2 points"),
            ({"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}, {}, "3 numbers .*, but 2"),
            ({"name": "polygon", "all_points_x": [1, 2, 3]}, {}, "a polygon that lacks 'all_points_y'"),
            ({"name": "rect", "x": 1, "y": 2, "width": -3, "height": 4}, {}, "rectangle of -3 by 4"),
            (RECT, {"class": ""}, "attribute 'class', its class, is missing or empty"),
            (RECT, {"class": {"a": True, "b": True}}, "attribute 'class' has a, b ticked"),
        ],
    )
    def test_what_is_broken_is_named(self, tmp_path: Path, shape: Any, attributes: Any, said: str) -> None:
        good = {"shape_attributes": self.RECT, "region_attributes": {"class": "a"}}
        with pytest.raises(DataError, match=rf"via\.json: a\.png: region 2: .*{said}"):
            self.reader(tmp_path, good, {"shape_attributes": shape, "region_attributes": {"class": "a", **attributes}})

    def test_other_json_is_refused_and_the_attribute_is_asked_for(self, tmp_path: Path) -> None:
        region = {"shape_attributes": self.RECT, "region_attributes": {"species": "eel", "sex": "?"}}
        with pytest.raises(DataError, match=r"attributes sex, species; set attribute"):
            self.reader(tmp_path, region)
        assert self.reader(tmp_path, region, attribute="species").classes.names == ("eel",)
        split = ViaSplit(images=".", annotations="via.json")
        for text, said in (("{", "broken JSON"), ('{"images": []}', "not of the VGG Image Annotator"), ("{}", "no im")):
            (tmp_path / "via.json").write_text(text)
            with pytest.raises(DataError, match=rf"via\.json: {said}"):
                open_reader(DataOptions(format="via", root=str(tmp_path), train=split), "train")

"""Annotations that no program should have written: a named error in training, a finding in the check, which goes on.

What stands here was found by hand; `test_fuzz.py` looks for more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from rehead.configs.readers import CocoSplit, CsvSplit, SplitOptions, ViaSplit, VocSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.before_training import refuse_broken
from rehead.datasets.audit.proposal import Machine, propose
from rehead.datasets.audit.run import Checked, check_data
from rehead.datasets.every_split import open_every_split, source_of
from rehead.datasets.open import open_reader
from rehead.datasets.write import write
from rehead.errors import DataError

LONGEST = 2500
"""Characters of a message, with its paths."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(("a", "b")):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.effect_noise((32, 24), 20 + 40 * number).convert("RGB").save(tmp_path / f"images/{name}.png")
    return tmp_path


FILES: dict[str, tuple[str, SplitOptions]] = {
    "coco": ("a.json", CocoSplit(images="images", annotations="a.json")),
    "via": ("v.json", ViaSplit(images="images", annotations="v.json")),
    "csv": ("b.csv", CsvSplit(images="images", annotations="b.csv")),
    "voc": ("xml/a.xml", VocSplit(images="images", annotations="xml")),
    "yolo": ("labels/a.txt", YoloSplit(images="images")),
}


def training(root: Path, form: str) -> None:
    _, split = FILES[form]
    reader = open_reader(DataOptions(format=form, root=str(root), train=split), "train", task="instance_segmentation")
    reader.masks = form in ("coco", "via")
    refuse_broken(reader, "data.train", {"instance_segmentation"}, learn=True)


def check(root: Path, form: str) -> Checked:
    _, split = FILES[form]
    return check_data(root, {"data.format": form, "data.train": split.model_dump(exclude_defaults=True)}, workers=0)


def objects(checked: Checked) -> int:
    return sum(len(one.reader.columns.labels) for one in checked.data.sources if one.reader.columns.labels is not None)


def coco_text(key: str, value: str) -> str:
    """Two images with an object each; a key of the first object, or a dotted one of the file, is given a raw value."""
    objects = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [2, 3, 10, 8], "area": 80, "iscrowd": 0}
        | {"segmentation": [[2, 3, 12, 3, 12, 11, 2, 11]]}
        for n in (1, 2)
    ]
    images: list[Any] = [
        {"id": n, "file_name": f"{name}.png", "width": 32, "height": 24} for n, name in ((1, "a"), (2, "b"))
    ]
    file: dict[str, Any] = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    *path, last = key.split(".")
    here: Any = file
    for part in path:
        here = here[int(part) if part.isdecimal() else part]
    here[int(last) if last.isdecimal() else last] = "@@"
    return json.dumps(file).replace('"@@"', value)


NUMBERS = ["1e400", "-1e400", "9" * 30, "9" * 5000, "1" + "0" * 400, "NaN", "Infinity", '"x"', "null", "{}", "[[]]"]


class TestCoco:
    @pytest.mark.parametrize("value", NUMBERS)
    @pytest.mark.parametrize("key", ["bbox.0", "area", "image_id", "category_id", "segmentation.0.0", "segmentation"])
    def test_a_value_that_is_none_is_of_its_annotation(self, key: str, value: str, root: Path) -> None:
        if (key, value) in {("area", "null"), ("segmentation", "[[]]")}:
            pytest.skip("which says that there is none")
        (root / "a.json").write_text(coco_text(f"annotations.0.{key}", value))
        with pytest.raises(DataError) as caught:
            training(root, "coco")
        assert str(root / "a.json") in str(caught.value)
        assert "annotation 1" in str(caught.value) or "broken JSON" in str(caught.value)
        assert len(str(caught.value)) < LONGEST
        checked = check(root, "coco")
        assert any("annotation 1" in one.message for one in checked.findings)
        assert max(len(one.message) for one in checked.findings) < LONGEST
        assert objects(checked) in (1, 2)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("images.0.file_name", json.dumps(name)) for name in ("a\0b", "x" * 5000, "", "\ud800", "a/" * 3000)),
            *(("images.0.id", value) for value in ("1e400", "9" * 30, "null", "{}")),
        ],
    )
    def test_an_image_that_is_none_is_left_out_of_a_check(self, key: str, value: str, root: Path) -> None:
        (root / "a.json").write_text(coco_text(key, value))
        with pytest.raises(DataError, match=r"a\.json: "):
            training(root, "coco")
        checked = check(root, "coco")
        assert checked.findings.errors
        assert len(checked.data.sources[0].reader) == 1

    @pytest.mark.parametrize(
        "text",
        [
            *(b"", b"\0" * 100, b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"\xff\xfe\xff", b"[]", b'"x"'),
            *(coco_text("categories.0.name", '"k\xe4t"').encode("latin-1"), coco_text("images", "[]").encode()),
            *(coco_text("annotations.0", "[" * 5000 + "]" * 5000).encode(), coco_text("images", "5").encode()[:60]),
        ],
    )
    def test_a_file_that_is_none_is_one_finding_and_the_other_split_goes_on(self, text: bytes, root: Path) -> None:
        (root / "train.json").write_bytes(text)
        (root / "val.json").write_text(coco_text("annotations.0.id", "1"))
        splits = {name: {"images": "images", "annotations": f"{name}.json"} for name in ("train", "val")}
        with pytest.raises(DataError, match=r"train\.json: "):
            open_reader(DataOptions(format="coco", root=str(root), train=CocoSplit(**splits["train"])), "train")
        checked = check_data(root, {"data.format": "coco", **{f"data.{k}": v for k, v in splits.items()}}, workers=0)
        assert [one.split for one in checked.data.sources] == ["val"]
        assert any("train.json" in f"{one.file} {one.message}" for one in checked.findings)

    def test_an_id_given_twice_is_a_finding(self, root: Path) -> None:
        (root / "a.json").write_text(coco_text("annotations.0.id", "2"))
        training(root, "coco")
        (said,) = (one for one in check(root, "coco").findings if one.code == "duplicate_id")
        assert said.message == "annotation id 2 occurs 2 times"


VOC = (
    "<annotation><filename>a.png</filename><size><width>32</width><height>24</height></size><object><name>cat</name>"
    "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
ENTITIES = '<!ENTITY a "{}">'.format("l" * 100) + "".join(
    f'<!ENTITY {chr(98 + level)} "{f"&{chr(97 + level)};" * 10}">' for level in range(12)
)


class TestXml:
    @pytest.mark.parametrize(
        "text",
        [
            f"<!DOCTYPE x [{ENTITIES}]>" + VOC.replace("cat", "&m;"),
            '<!DOCTYPE x [<!ENTITY a "{}">]>'.format("l" * 50_000) + VOC.replace("cat", "&a;" * 50_000),
            '<!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + VOC.replace("cat", "&x;"),
            *(f'<?xml version="1.0" encoding="{name}"?>{VOC}' for name in ("klingon", "hex", "undefined")),
            "<annotation>" + "<object>" * 100_000,
            VOC.replace("cat", "c\0t"),
            "",
        ],
        ids=["entities", "large entity", "file", "klingon", "hex", "undefined", "deep", "NUL", "empty"],
    )
    def test_what_is_no_xml_is_named_and_the_other_files_go_on(self, text: str, root: Path) -> None:
        (root / "xml").mkdir()
        (root / "xml/a.xml").write_text(text)
        (root / "xml/b.xml").write_text(VOC.replace("a.png", "b.png"))
        with pytest.raises(DataError, match=r"a\.xml: "):
            training(root, "voc")
        checked = check(root, "voc")
        (said,) = (one for one in checked.findings if one.code == "broken_annotation")
        assert said.file == str(root / "xml/a.xml")
        assert objects(checked) == 1

    @pytest.mark.parametrize(
        ("tags", "expected"),
        [
            ("<name>cat</name>", "cat"),
            ("<class_name>cat</class_name>", "cat"),
            ("<class_id>7</class_id>", "7"),
            ("<class_id>7</class_id><class_name>cat</class_name>", "cat"),
            ("<name>7</name><class_name>cat</class_name>", "cat"),
            ("<name>cat</name><class_id>7</class_id>", "cat"),
            ("<name> </name><label>cat</label>", "cat"),
            ("<name>7</name>", "7"),
        ],
    )
    def test_a_class_has_its_name_wherever_tools_write_it(self, tags: str, expected: str, root: Path) -> None:
        (root / "xml").mkdir()
        (root / "xml/a.xml").write_text(VOC.replace("<name>cat</name>", tags))
        _, split = FILES["voc"]
        reader = open_reader(DataOptions(format="voc", root=str(root), train=split), "train")
        assert reader.classes.names == (expected,)

    def test_two_names_of_one_object_are_none(self, root: Path) -> None:
        (root / "xml").mkdir()
        (root / "xml/a.xml").write_text(VOC.replace("</name>", "</name><class_name>dog</class_name>"))
        with pytest.raises(
            DataError, match="object 1: its class is not clear: <name> is 'cat' and <class_name> is 'dog'"
        ):
            training(root, "voc")


HEADER = "filename,class,xmin,ymin,xmax,ymax\n"
GOOD = "b.png,cat,1,2,3,4\nb.png,cat,5,6,7,8\n"


class TestTables:
    @pytest.mark.parametrize(
        "line",
        [
            'a.png,"cat,1,2,3,4',
            'a.png,"' + "c" * 500_000 + '",1,2,3,4',
            "a.png,cat,1e400,2,3,4",
            "a.png,cat,1,2," + "9" * 5000 + ",4",
            "a.png,cat,1,2",
            "a.png,cat,x,2,3,4",
            "a\0.png,cat,1,2,3,4",
            "x" * 5000 + ",cat,1,2,3,4",
            ",cat,1,2,3,4",
        ],
    )
    def test_a_line_that_is_none_hides_no_other(self, line: str, root: Path) -> None:
        (root / "b.csv").write_text(f"{HEADER}{line}\n{GOOD}")
        with pytest.raises(DataError, match=r"b\.csv: ") as caught:
            training(root, "csv")
        assert len(str(caught.value)) < LONGEST
        checked = check(root, "csv")
        assert objects(checked) == 2
        assert any(one.file == str(root / "b.csv") for one in checked.findings if one.severity == "error")

    def test_quotes_that_are_closed_are_read(self, root: Path) -> None:
        (root / "b.csv").write_text(HEADER + 'a.png,"cat, ""big""",1,2,3,4\n"b.png" ,"dog" ,5,6,7,8\n')
        _, split = FILES["csv"]
        reader = open_reader(DataOptions(format="csv", root=str(root), train=split), "train")
        assert reader.classes.names == ('cat, "big"', "dog")

    @pytest.mark.parametrize("name", [".", "/", "..", "C:", "/dev/zero", "%00", "../../../etc/passwd"])
    def test_names_that_are_no_images_are_named(self, name: str, root: Path) -> None:
        (root / "b.csv").write_text(f"{HEADER}{name},cat,1,2,3,4\n{GOOD}")
        with pytest.raises(DataError):
            training(root, "csv")
        checked = check(root, "csv")
        assert checked.findings.errors

    def test_a_class_that_no_configuration_can_name_is_said_by_init(self, root: Path) -> None:
        (root / "b.csv").write_text(HEADER + f"a.png,{'c' * 200_000},1,2,3,4\n" + GOOD)
        checked = check_data(root, workers=0)
        with pytest.raises(DataError, match=r"no configuration can be written of it: .* a value of 200000 characters"):
            propose(checked, root, Machine(2))


class TestVia:
    @pytest.mark.parametrize(
        "entry", ["5", "null", "{}", '{"filename": "a.png", "regions": 5}', '{"filename": "a.png"}']
    )
    def test_an_image_that_is_none_is_named_and_the_others_go_on(self, entry: str, root: Path) -> None:
        region = {
            "shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 9, "height": 9},
            "region_attributes": {},
        }
        good = json.dumps({"filename": "b.png", "regions": [region]})
        (root / "v.json").write_text(f'{{"bad": {entry}, "good": {good}}}')
        with pytest.raises(DataError, match=r"v\.json: image 'bad': not of the VGG"):
            training(root, "via")
        checked = check(root, "via")
        assert [one.message.partition(":")[0] for one in checked.findings[: checked.read]] == ["image 'bad'"]
        assert objects(checked) == 1

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(
        "shape",
        [
            {"name": "circle", "cx": 1e308, "cy": 1, "r": 1e308},
            {"name": "ellipse", "cx": 1, "cy": 1, "rx": 1e300, "ry": 1, "theta": 1e300},
            {"name": "rect", "x": 1e308, "y": 1, "width": 1e308, "height": 1},
            {"name": "polygon", "all_points_x": [1e300, 2, 3], "all_points_y": [1, 2, 1e300]},
        ],
    )
    def test_numbers_beyond_any_image_are_of_their_region(self, shape: dict[str, Any], root: Path) -> None:
        regions = [{"shape_attributes": shape, "region_attributes": {}}]
        (root / "v.json").write_text(json.dumps({"a": {"filename": "a.png", "regions": regions}}))
        with pytest.raises(DataError, match="region 1: a number that no image is large enough for"):
            training(root, "via")


class TestYolo:
    @pytest.mark.parametrize(
        "text",
        [
            "names: 5",
            "names: [a]\nkpt_shape: [99999999999, 3]",
            "names: [a]\nkpt_shape: [-1, 3]",
            "names: {a: b}",
            "\0",
        ],
    )
    def test_a_yaml_file_that_is_none_is_named(self, text: str, root: Path) -> None:
        (root / "labels").mkdir()
        (root / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5")
        (root / "data.yaml").write_text(text)
        with pytest.raises(DataError, match=r"data\.yaml: "):
            training(root, "yolo")

    def test_findings_have_the_numbers_of_the_file_beside_pixels(self, root: Path) -> None:
        (root / "labels").mkdir()
        (root / "data.yaml").write_text("names: [cat]")
        (root / "labels/a.txt").write_text("0 0.5 0.5 0.25 0\n0 0.1 0.25 0.5 0.25 0.5 0.251\n")
        said = {one.code: one.message for one in check(root, "yolo").findings}
        assert said["empty_box"] == "a.txt line 1: box 12 12 20 12 (in the file 0.5 0.5 0.25 0)"
        assert said["tiny_box"].startswith("a.txt line 2: box 3.2 6 16 6.024 (in the file 0.1 0.25 0.5 0.251)")


class TestUnreadable:
    """A file that may not be read, and a folder in its place; as root, too."""

    MAKE: ClassVar[dict[str, Callable[[Path], object]]] = {
        "coco": lambda path: path.write_text(coco_text("annotations.0.id", "1")),
        "csv": lambda path: path.write_text(HEADER + GOOD),
        "voc": lambda path: (path.write_text(VOC), path.with_name("b.xml").write_text(VOC.replace("a.png", "b.png"))),
        "yolo": lambda path: (
            path.write_text("0 0.5 0.5 0.5 0.5"),
            path.with_name("b.txt").write_text("0 0.5 0.5 0.5 0.5"),
            (path.parents[1] / "data.yaml").write_text("names: [cat]"),
        ),
    }

    @pytest.mark.parametrize("form", MAKE)
    def test_a_file_that_may_not_be_read(self, form: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = root / FILES[form][0]
        path.parent.mkdir(exist_ok=True)
        self.MAKE[form](path)
        opener = os.open

        def refusing(name: Any, flags: int, *more: Any, **others: Any) -> int:
            if Path(os.fspath(name)) == path:
                raise PermissionError(13, "Permission denied", str(name))
            return opener(name, flags, *more, **others)

        monkeypatch.setattr(os, "open", refusing)
        with pytest.raises(DataError, match=f"{path.name}: cannot be read: Permission denied"):
            training(root, form)
        checked = check(root, form)
        assert any(one.file == str(path) and "Permission denied" in one.message for one in checked.findings)
        assert objects(checked) == (1 if form in ("voc", "yolo") else 0)
        # Looking for the format, too.
        try:
            said = [one.file for one in check_data(root, workers=0).findings]
        except DataError as error:
            said = [str(error)]
        assert any(path.name in one for one in said)

    @pytest.mark.parametrize("form", ["voc", "yolo"])
    def test_a_folder_in_its_place(self, form: str, root: Path) -> None:
        path = root / FILES[form][0]
        path.parent.mkdir(exist_ok=True)
        self.MAKE[form](path)
        path.unlink()
        path.mkdir()
        if form == "yolo":
            with pytest.raises(DataError, match=f"{path.name}: (is a folder|cannot be read: Is a directory)"):
                training(root, form)
        assert objects(check(root, form)) == 1


class TestCopies:
    @pytest.mark.parametrize("name", ["../../../a/secret.png", "{root}/a/secret.png", "..\\..\\..\\a\\secret.png"])
    def test_no_name_leads_out_of_what_is_written(self, name: str, tmp_path: Path) -> None:
        data = tmp_path / "x/y/data"
        (data / "images").mkdir(parents=True)
        (tmp_path / "a").mkdir()
        for path in (tmp_path / "a/secret.png", data / "images/b.png"):
            Image.new("RGB", (32, 24)).save(path)
        (data / "a.json").write_text(coco_text("images.0.file_name", json.dumps(name.format(root=tmp_path))))
        (data / "a.json").rename(data / "train.json")
        for form in ("coco", "yolo", "voc"):
            out = tmp_path / f"deep/er/{form}"
            before = set(tmp_path.rglob("*"))
            said = {"data.train.images": "images", "data.val": None}
            try:
                write(open_every_split(*source_of(data, said)), form, out)
            except DataError:
                continue
            assert all(path.is_relative_to(tmp_path / "deep") for path in set(tmp_path.rglob("*")) - before)

    def test_names_with_line_breaks_have_no_place_in_lists(self, root: Path) -> None:
        (root / "images/a.png").rename(root / "images/a\nb.png")
        (root / "train.json").write_text(coco_text("images.0.file_name", '"a\\nb.png"'))
        with pytest.raises(DataError, match=r"image 'a\nb\.png' holds .* rename it"):
            write(open_every_split(*source_of(root, {"data.val": None})), "voc", root / "out")

    def test_classes_that_cannot_stand_in_xml_are_refused(self, root: Path) -> None:
        (root / "train.json").write_text(coco_text("categories.0.name", '"c\\u0000t"'))
        with pytest.raises(DataError, match=r"class 'c\x00t' holds control characters"):
            write(open_every_split(*source_of(root, {"data.val": None})), "voc", root / "out")

    def test_an_outline_that_is_none_is_named(self, root: Path) -> None:
        (root / "train.json").write_text(coco_text("annotations.0.segmentation.0.0", "1e400"))
        with pytest.raises(DataError, match=r"a\.png: a segmentation cannot be read"):
            write(open_every_split(*source_of(root, {"data.val": None})), "yolo", root / "out")

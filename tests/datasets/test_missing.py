"""Images that are not there: what the message says, and `images_match`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from PIL import Image

from rehead.configs.load import load_config
from rehead.configs.readers import CocoSplit, InstanceMasksSplit, MasksSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.before_training import refuse_broken
from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.run import check_data
from rehead.datasets.audit.sources import open_all
from rehead.datasets.detect_format import detect_format
from rehead.datasets.missing import similar_files
from rehead.datasets.open import open_reader
from rehead.datasets.write import write
from rehead.errors import DataError


def images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24)).save(root / name)


def coco(file: Path, *names: str) -> None:
    content = {
        "images": [{"id": n, "file_name": name, "width": 32, "height": 24} for n, name in enumerate(names)],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 0, 9, 9]} for n in range(len(names))],
        "categories": [{"id": 1, "name": "cat"}],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def options(root: Path, folder: str = "images", **more: Any) -> DataOptions:
    return DataOptions(format="coco", root=str(root), train=CocoSplit(images=folder, annotations="train.json"), **more)


@pytest.mark.parametrize(
    ("name", "file", "how", "kind"),
    [
        ("a.jpg", "a.png", "stem", "the suffix"),
        ("street_png.jpg", "street_png.rf.0123456789abcdef0123456789abcdef.jpg", "loose", r"Roboflow's \.rf\.<hash>"),
        ("street.png", "street_png.jpg", "loose", r"a suffix inside the name \(_png\.jpg\)"),
        ("IMG_7.JPG", "img_7.jpg", "loose", "case"),
        ("frame_7.jpg", "frame_0007.jpg", "loose", "zero padding"),
        ("gr%C3%BCn.jpg", "grün2.jpg", None, ""),
        ("my photo.jpg", "my%20photo.jpg", "loose", "URL encoding"),
    ],
)
def test_names_that_match_but_for_something_are_said_with_the_option_that_takes_them(
    name: str, file: str, how: str | None, kind: str, tmp_path: Path
) -> None:
    images(tmp_path, f"images/{file}")
    coco(tmp_path / "train.json", name)
    reader = open_reader(options(tmp_path), "train")
    if how is None:
        with pytest.raises(DataError, match=r"looked in .*images, which has 1 images; `rehead"):
            refuse_broken(reader, "data.train", {"detection"}, learn=True)
        return
    said = rf"looked in .*images, which has 1 images; 1 of them have a file of the same name up to {kind} .*"
    with pytest.raises(DataError, match=rf"{said}: data\.images_match={how}; "):
        refuse_broken(reader, "data.train", {"detection"}, learn=True)
    matched = open_reader(options(tmp_path, images_match=how), "train")
    assert matched[0].path.name == file
    refuse_broken(matched, "data.train", {"detection"}, learn=True)


def test_no_file_is_given_to_two_images_nor_one_of_two_files_to_an_image(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "B.png", "b.jpg", "sub/c.png", "d.png")
    names = ["a.jpg", "A.bmp", "b.bmp", "c.jpg", "other/c.jpg", "d.png", "d.jpg"]
    assert similar_files(tmp_path, names, "loose") == {"c.jpg": "sub/c.png"}
    assert similar_files(tmp_path, names, "stem") == {"a.jpg": "a.png", "b.bmp": "b.jpg", "c.jpg": "sub/c.png"}


class TestWhereTheyAre:
    def message(self, root: Path, folder: str = "images") -> str:
        with pytest.raises(DataError) as error:
            refuse_broken(open_reader(options(root, folder), "train"), "data.train", {"detection"}, learn=True)
        return str(error.value)

    def test_another_folder_has_them(self, tmp_path: Path) -> None:
        images(tmp_path, "images/x.png", "deep/photos/sub/a.png", "deep/photos/sub/b.png", "old/a.png")
        coco(tmp_path / "train.json", "sub/a.png", "sub/b.png")
        assert f"2 of them are in {tmp_path}/deep/photos: data.train.images=deep/photos;" in self.message(tmp_path)

    def test_under_other_names(self, tmp_path: Path) -> None:
        images(tmp_path, "images/x.png", "photos/a_png.jpg")
        coco(tmp_path / "train.json", "a.png")
        cure = "data.train.images=photos data.images_match=loose"
        assert f"1 of them have names like those in {tmp_path}/photos: {cure};" in self.message(tmp_path)
        data = options(tmp_path, "photos", images_match="loose")
        assert open_reader(data, "train")[0].path == tmp_path / "photos/a_png.jpg"

    def test_else_folders_of_images_that_nobody_lists(self, tmp_path: Path) -> None:
        images(tmp_path, "images/x.png", "photos/1.png", "photos/2.png", "other/3.png")
        coco(tmp_path / "train.json", "x.png", "a.png")
        said = "images that no annotation lists are in photos (2 images), other (1 images);"
        assert said in self.message(tmp_path)

    def test_of_all_annotation_files_of_the_data_set(self, tmp_path: Path) -> None:
        images(tmp_path, "images/x.png", "photos/1.png", "photos/2.png", "other/3.png")
        coco(tmp_path / "train.json", "x.png", "a.png")
        coco(tmp_path / "val.json", "photos/1.png", "photos/2.png")
        own = {"images": "images", "annotations": "train.json"}
        data = DataOptions(
            format="coco",
            root=str(tmp_path),
            train=CocoSplit(**own),
            val=CocoSplit(images=".", annotations="val.json"),
        )
        with pytest.raises(DataError, match=r"images that no annotation lists are in other \(1 images\);"):
            refuse_broken(open_reader(data, "train"), "data.train", {"detection"}, learn=True)

    def test_the_check_says_it_once(self, tmp_path: Path) -> None:
        images(tmp_path, "images/x.png", "images/a_png.jpg")
        coco(tmp_path / "train.json", "x.png", "a.png", "b.png")
        found = [one.message for one in check_data(tmp_path).findings if one.code == "missing_image"]
        assert ["looked in" in message for message in found] == [True, False]
        assert "data.images_match=loose" in found[0]
        cured = check_data(tmp_path, {"data.images_match": "loose"}).findings
        assert [Path(one.file).name for one in cured if one.code == "missing_image"] == ["b.png"]

    def test_a_conversion_says_it_too(self, tmp_path: Path) -> None:
        images(tmp_path, "images/a_png.jpg")
        coco(tmp_path / "train.json", "a.png")
        with pytest.raises(DataError, match=r"a\.png: no such file; looked in .*: data\.images_match=loose"):
            write({"train": open_reader(options(tmp_path), "train")}, "yolo", tmp_path / "out")
        write({"train": open_reader(options(tmp_path, images_match="loose"), "train")}, "yolo", tmp_path / "out")
        assert (tmp_path / "out/labels/train/a_png.txt").is_file()


class TestFoldersOfImages:
    def test_are_looked_for_at_any_depth(self, tmp_path: Path) -> None:
        images(tmp_path, "a/b/c/d/e/f/1.png")
        coco(tmp_path / "a/b/c/d/e/train.json", "1.png")
        (tmp_path / "a/b/back").symlink_to(tmp_path)
        found = detect_format(tmp_path, {"detection"}).splits["train"]
        assert found == {"images": "a/b/c/d/e/f", "annotations": "a/b/c/d/e/train.json"}

    @pytest.mark.parametrize("form", ["coco", "csv", "voc", "via"])
    def test_hold_images_even_where_none_of_the_names_is_there(self, form: str, tmp_path: Path) -> None:
        images(tmp_path, "masks/1.png", "photos/1_png.jpg", "spare/7.png", "spare/8.png")
        if form == "coco":
            coco(tmp_path / "annotations/train.json", "1.png")
        else:
            shape = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}
            region = {"shape_attributes": shape, "region_attributes": {"class": "cat"}}
            box = "<xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax>"
            name, text = {
                "csv": ("train.csv", "filename,class,xmin,ymin,xmax,ymax\n1.jpeg,cat,0,0,4,4\n"),
                "voc": ("01.xml", f"<annotation><object><name>a</name><bndbox>{box}</bndbox></object></annotation>"),
                "via": ("via.json", json.dumps({"1": {"filename": "1.jpeg", "regions": [region]}})),
            }[form]
            (tmp_path / "annotations").mkdir()
            (tmp_path / "annotations" / name).write_text(text)
        (tmp_path / "masks/1.png").unlink()
        assert detect_format(tmp_path, {"detection"}, form).splits["train"]["images"] == "photos"

    def test_without_any_image_it_is_said(self, tmp_path: Path) -> None:
        coco(tmp_path / "annotations/train.json", "1.png")
        with pytest.raises(DataError, match=r"train\.json is of images, but there is no image in any of 2 folders"):
            detect_format(tmp_path, {"detection"})


class TestAFolderInsideADataSet:
    def test_of_yolo_finds_the_names(self, tmp_path: Path) -> None:
        root = tmp_path / "data"
        for split in ("train", "valid"):
            images(root, f"{split}/images/a.png")
            (root / split / "labels").mkdir()
            (root / split / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5")
        (root / "data.yaml").write_text("{train: ../train/images, val: ../valid/images, names: [cat]}")
        for folder in ("valid", "valid/images"):
            (source,) = open_all(root / folder, {}, Findings()).sources
            assert (source.split, source.reader.classes.names) == ("val", ("cat",))
            assert source.reader[0].labels is not None
            assert len(source.reader[0].labels) == 1

    def test_of_coco_finds_the_file(self, tmp_path: Path) -> None:
        images(tmp_path, "data/images/train/a.png", "data/images/val/b.png")
        coco(tmp_path / "data/annotations/train.json", "a.png")
        coco(tmp_path / "data/annotations/val.json", "b.png")
        (source,) = open_all(tmp_path / "data/images/val", {}, Findings()).sources
        assert source.reader[0].path.resolve() == (tmp_path / "data/images/val/b.png").resolve()
        raw = {"task": "detection", "model": {"head": "faster_rcnn"}}
        data = {"format": "auto", "root": str(tmp_path / "data/images/train")}
        assert len(open_reader(load_config({**raw, "data": {**data, "val": None}}).data, "train")) == 1


class TestLabelsAndMasks:
    """Those of YOLO and of class maps and instance maps are matched as images are."""

    NAMES: ClassVar = {"stem": ("a.png", "a.png.txt"), "loose": ("a.png", "a_png.rf.0123456789ab.txt")}

    @pytest.mark.parametrize("how", ["stem", "loose"])
    def test_labels(self, how: Literal["stem", "loose"], tmp_path: Path) -> None:
        image, label = self.NAMES[how]
        images(tmp_path, f"images/{image}", "images/b.png")
        for name in (label, "b.txt"):
            (tmp_path / "labels").mkdir(exist_ok=True)
            (tmp_path / "labels" / name).write_text("0 0.5 0.5 0.5 0.5\n" * (1 + (name == label)))
        (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images\n")
        found = {
            match: open_reader(
                DataOptions(format="yolo", root=str(tmp_path), train=YoloSplit(images="images"), images_match=match),
                "train",
            )
            for match in ("exact", how)
        }
        assert [len(sample.boxes) for sample in found["exact"] if sample.boxes is not None] == [0, 1]
        assert [len(sample.boxes) for sample in found[how] if sample.boxes is not None] == [2, 1]
        codes = [one.code for one in check_data(tmp_path, {"data.images_match": how}).findings]
        assert not {"missing_label_file", "label_without_image"} & set(codes)

    def test_labels_of_none_say_what_would_match(self, tmp_path: Path) -> None:
        images(tmp_path, "images/a.png")
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/A.txt").write_text("0 0.5 0.5 0.5 0.5")
        (tmp_path / "data.yaml").write_text("names: [cat]")
        data = DataOptions(format="yolo", root=str(tmp_path), train=YoloSplit(images="images"))
        with pytest.raises(DataError, match=r"no image has a label file.*data\.images_match=loose finds those of 1"):
            open_reader(data, "train")

    @pytest.mark.parametrize(("form", "split"), [("masks", MasksSplit), ("instance_masks", InstanceMasksSplit)])
    def test_masks(self, form: str, split: type[MasksSplit | InstanceMasksSplit], tmp_path: Path) -> None:
        images(tmp_path, "images/a.png", "images/b.png", "masks/A.rf.0123456789ab.png", "masks/b_mask.png")
        for path in (tmp_path / "masks").iterdir():
            Image.new("L", (32, 24), 1).save(path)
        own = split(images="images", masks="masks")
        more = {"classes": ["x", "y"]} if form == "masks" else {}
        data = DataOptions(format=form, root=str(tmp_path), train=own, **more)
        with pytest.raises(DataError, match=r"a\.png: no mask.*data\.images_match=loose finds those of 1"):
            open_reader(data, "train")
        reader = open_reader(data.model_copy(update={"images_match": "loose"}), "train")
        assert [Path(sample.path).name for sample in reader] == ["a.png", "b.png"]

    def test_two_that_fit_one_are_given_to_none(self, tmp_path: Path) -> None:
        images(tmp_path, "images/a.png", "images/A.png", "masks/a.rf.0123456789ab.png")
        data = DataOptions(
            format="masks",
            root=str(tmp_path),
            train=MasksSplit(images="images", masks="masks"),
            images_match="loose",
            classes=["x"],
        )
        with pytest.raises(DataError, match=r"no mask .*, as for 2 of 2 images"):
            open_reader(data, "train")

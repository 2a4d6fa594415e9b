"""Which image a record is of, by the name that it goes by; and that no two records share one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rehead.configs.readers import CsvSplit, MasksSplit, ViaSplit, VocSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.findings import Findings
from rehead.datasets.matching import matching_files
from rehead.datasets.open import Reader, open_reader, open_whole
from rehead.errors import DataError

BOXES = {"cam1": (1, 1, 20, 20), "cam2": (5, 3, 9, 6)}
FORMATS = ["csv", "voc", "via"]


def images(root: Path, *names: str) -> Path:
    for name in names:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 30)).save(path)
    return root / "images"


def box_of(name: str) -> tuple[int, int, int, int]:
    return BOXES["cam2" if "cam2" in name else "cam1"]


def options(kind: str, root: Path, names: list[str], images: str = "images") -> DataOptions:
    """A record for each name, in a format."""
    split: Any
    if kind == "csv":
        lines = [",".join(map(str, (name, *box_of(name), "a"))) for name in names]
        (root / "boxes.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax,class", *lines]))
        split = CsvSplit(images=images, annotations="boxes.csv")
    elif kind == "voc":
        for name in names:
            file = root / "xml" / Path(name).with_suffix(".xml")
            file.parent.mkdir(parents=True, exist_ok=True)
            corners = zip(("xmin", "ymin", "xmax", "ymax"), box_of(name), strict=True)
            box = "".join(f"<{side}>{value}</{side}>" for side, value in corners)
            thing = f"<object><name>a</name><bndbox>{box}</bndbox></object>"
            file.write_text(f"<annotation><filename>{Path(name).name}</filename>{thing}</annotation>")
        split = VocSplit(images=images, annotations="xml")
    else:
        entries = {}
        for name in names:
            x, y, w, h = box_of(name)
            shape = {"name": "rect", "x": x, "y": y, "width": w, "height": h}
            regions = [{"shape_attributes": shape, "region_attributes": {"class": "a"}}]
            entries[name] = {"filename": name, "size": 1, "regions": regions}
        (root / "via.json").write_text(json.dumps(entries))
        split = ViaSplit(images=images, annotations="via.json")
    return DataOptions(format=kind, root=str(root), train=split)


def files(reader: Reader, root: Path) -> list[str]:
    return [str(sample.path.relative_to(root)) for sample in reader]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_that_is_not_there_is_not_one_of_the_same_name_in_another_folder(kind: str, tmp_path: Path) -> None:
    images(tmp_path, "cam1/0001.jpg")
    both = open_reader(options(kind, tmp_path, ["cam1/0001.jpg", "cam2/0001.jpg"]), "train")
    assert files(both, tmp_path / "images") == ["cam1/0001.jpg", "cam2/0001.jpg"]


@pytest.mark.parametrize("kind", FORMATS)
def test_nor_where_it_is_the_only_record(kind: str, tmp_path: Path) -> None:
    images(tmp_path, "cam1/0001.jpg")
    alone = open_reader(options(kind, tmp_path, ["cam2/0001.jpg"]), "train")
    assert files(alone, tmp_path / "images") == ["cam2/0001.jpg"]
    if kind != "voc":  # whose files name images without a folder
        inside = open_reader(options(kind, tmp_path, ["cam2/0001.jpg"], "images/cam1"), "train")
        assert files(inside, tmp_path / "images/cam1") == ["cam2/0001.jpg"]


@pytest.mark.parametrize(
    ("names", "there", "expected"),
    [
        (["a.jpg", "sub/b.jpg"], ["a.jpg", "sub/b.jpg"], ["a.jpg", "sub/b.jpg"]),
        (["a", "sub/b"], ["a.jpg", "sub/b.png"], ["a.jpg", "sub/b.png"]),
        (["./a.jpg", "sub\\b.jpg"], ["a.jpg", "sub/b.jpg"], ["a.jpg", "sub/b.jpg"]),
        # A name alone is that of a file at any depth.
        (["a.jpg"], ["deep/down/a.jpg"], ["deep/down/a.jpg"]),
        (["a.jpg"], ["one/a.jpg", "two/a.jpg"], [None]),
        # The end of the real path, which is .../images/....
        (["images/a.jpg", "../images/sub/b"], ["a.jpg", "sub/b.jpg"], ["a.jpg", "sub/b.jpg"]),
        (["photos/a.jpg"], ["a.jpg"], [None]),
        # Another machine's paths.
        (["/home/me/a.jpg", "/home/me/b.jpg"], ["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["C:\\x\\cam1\\a.jpg", "C:\\x\\cam2\\a.jpg"], ["cam1/a.jpg", "cam2/a.jpg"], ["cam1/a.jpg", "cam2/a.jpg"]),
        (["/x/cam1/a.jpg", "/x/cam2/b.jpg"], ["a.jpg", "b.jpg"], [None, None]),
        (["/x/cam1/a.jpg"], ["cam2/a.jpg"], [None]),
    ],
)
def test_names(names: list[str], there: list[str], expected: list[str | None], tmp_path: Path) -> None:
    found = matching_files(images(tmp_path, *there), [[name] for name in names])
    assert [one.file for one in found] == expected


def test_of_two_records_that_fit_one_file_the_surer_gets_it_and_of_equals_none(tmp_path: Path) -> None:
    folder = images(tmp_path, "a.jpg", "sub/b.jpg")
    by_path, by_stem = matching_files(folder, [["a.jpg"], ["a"]])
    assert (by_path.file, by_stem.file, by_stem.contested, by_stem.by) == ("a.jpg", None, "a.jpg", "a.jpg")
    found = matching_files(folder, [["b.jpg"], ["images/sub/b.jpg"]])
    assert [(one.file, one.contested) for one in found] == [(None, "sub/b.jpg")] * 2
    # The same path twice: the file says so.
    assert [one.file for one in matching_files(folder, [["a.jpg"], ["a.jpg"]])] == ["a.jpg", "a.jpg"]


def test_an_xml_file_that_names_the_image_of_another_is_named(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    data = options("voc", tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "xml/b.xml").write_text((tmp_path / "xml/a.xml").read_text())
    with pytest.raises(DataError, match=r"b\.xml: a\.jpg and a both fit a\.jpg in .*images"):
        open_reader(data, "train")
    notes = Findings()
    assert files(open_whole(data, "train", None, "data", "", notes), tmp_path / "images") == ["a.jpg"]
    assert [(one.code, Path(one.file).name) for one in notes] == [("contested_file", "b.xml")]


def test_xml_files_in_folders_may_name_images_right_in_theirs(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    data = options("voc", tmp_path, ["one/a.jpg", "two/b.jpg"])
    assert files(open_reader(data, "train"), tmp_path / "images") == ["a.jpg", "b.jpg"]
    data = options("voc", tmp_path, ["one/a.jpg", "two/b.jpg", "two/a.jpg"])
    with pytest.raises(DataError, match=r"one/a\.xml: a\.jpg and two/a both fit a\.jpg"):
        open_reader(data, "train")


def test_lines_of_one_image_belong_together_however_its_path_is_written(tmp_path: Path) -> None:
    images(tmp_path, "sub/a.jpg")
    found = open_reader(options("csv", tmp_path, ["sub/a.jpg", "./sub/a.jpg", "sub\\a.jpg"]), "train")
    assert [len(sample.labels) for sample in found if sample.labels is not None] == [3]


def test_listed_images_of_the_same_name_do_not_share_a_label_file(tmp_path: Path) -> None:
    images(tmp_path, "cam1/a.png", "cam2/a.png", "cam2/b.png")
    (tmp_path / "data.yaml").write_text("names: [x]")
    (tmp_path / "list.txt").write_text("images/cam1/a.png\nimages/cam2/a.png\nimages/cam2/b.png\n")
    for name in ("cam1/a.txt", "b.txt", "a.txt"):
        (tmp_path / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "text" / name).write_text("0 0.5 0.5 0.1 0.1\n" * (2 if name == "cam1/a.txt" else 1))
    split = YoloSplit(images="list.txt", labels="text")
    counts = [
        len(sample.labels)
        for sample in open_reader(DataOptions(format="yolo", root=str(tmp_path), train=split), "train")
        if sample.labels is not None
    ]
    assert counts == [2, 1, 1]
    (tmp_path / "text/cam1/a.txt").unlink()
    with pytest.raises(DataError, match=r"text/a\.txt: would be the labels of 2 images, images/cam1/a\.png"):
        open_reader(DataOptions(format="yolo", root=str(tmp_path), train=split), "train")


def test_two_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "a_mask.png"):
        Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "masks" / name)
    data = DataOptions(
        format="masks", root=str(tmp_path), classes=["x"], train=MasksSplit(images="images", masks="masks")
    )
    with pytest.raises(DataError, match=r"a\.png and a_mask\.png are both masks of a"):
        open_reader(data, "train")

"""A few of the shared photographs through every format that can take them: nothing is lost, or it is said."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from converted import read, same, there
from PIL import Image

from rehead.data.instance_masks import decode
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.content import lines
from rehead.datasets.subset import Subset
from rehead.datasets.write import write
from rehead.errors import DataError


def coco(tmp_path: Path, shared: Path) -> AnnotationReader:
    """Crowds (run-length codes), objects of several polygons, and of one."""
    root = shared / "data/coco"
    whole = json.loads((root / "annotations/instances_val2017.json").read_text())
    of_image: Mapping[int, list[dict[str, Any]]] = defaultdict(list)
    for one in whole["annotations"]:
        of_image[one["image_id"]].append(one)
    kinds = {
        "crowds": lambda one: one["iscrowd"],
        "parts": lambda one: not one["iscrowd"] and len(one["segmentation"]) > 1,
        "one": lambda one: not one["iscrowd"] and len(one["segmentation"]) == 1,
    }
    chosen: set[int] = set()
    for test in kinds.values():
        chosen.update([image for image, own in of_image.items() if any(map(test, own))][:2])
    for key, by in (("images", "id"), ("annotations", "image_id")):
        whole[key] = [one for one in whole[key] if one[by] in chosen]
    assert all(any(map(test, whole["annotations"])) for test in kinds.values())
    (tmp_path / "few.json").write_text(json.dumps(whole))
    own = {"images": str(root / "val2017"), "annotations": str(tmp_path / "few.json")}
    return read({"format": "coco", "root": "/", "train": own})


def penn(shared: Path) -> AnnotationReader:
    own = {"images": "images", "masks": "masks", "part": (0, 0.03)}
    return read({"format": "instance_masks", "root": str(shared / "data/pennfudan"), "train": own})


def raccoon(tmp_path: Path, shared: Path) -> AnnotationReader:
    root = shared / "data/raccoon"
    (tmp_path / "few.txt").write_text("".join(f"raccoon-{number}\n" for number in (1, 10, 63, 150, 152)))
    own = {"images": "images", "annotations": "annotations", "image_set": str(tmp_path / "few.txt")}
    return read({"format": "voc", "root": str(root), "train": own})


def masks_of(reader: AnnotationReader, stem: str) -> Any:
    """(N, H, W) of an image."""
    index = next(index for index, sample in enumerate(reader) if sample.path.stem == stem)
    sample = reader[index]
    size = sample.size or reader.read(index).pixels.shape[:2]
    return decode(reader.segmentations(index, size), size)


class TestCoco:
    def test_everything_stays_in_coco(self, tmp_path: Path, shared: Path) -> None:
        first = coco(tmp_path, shared)
        again, written = there(first, tmp_path, "coco", "coco")
        same(first, again)
        assert first.classes == again.classes
        assert [lines(one.notes) for one in written] == [[], []]

    def test_boxes_and_crowds_stay_in_voc(self, tmp_path: Path, shared: Path) -> None:
        first = coco(tmp_path, shared)
        again, (there_, _) = there(first, tmp_path, "voc", "coco")
        same(first, again, "ids", "areas", "masks", atol=1e-5)
        said = "\n".join(lines(there_.notes))
        assert f"{sum(len(one.labels) for one in first)} masks or outlines are left out" in said  # type: ignore[arg-type]

    def test_all_but_crowds_stays_in_yolo(self, tmp_path: Path, shared: Path) -> None:
        first = coco(tmp_path, shared)
        again, (there_, _) = there(first, tmp_path, "yolo", "coco")
        crowds = parts = 0
        twins = {sample.path.stem: sample for sample in again}
        for index, sample in enumerate(first):
            twin = twins[sample.path.stem]
            assert sample.labels is not None
            assert sample.boxes is not None
            assert sample.iscrowd is not None
            assert twin.labels is not None
            assert twin.boxes is not None
            kept = ~sample.iscrowd
            crowds += int(sample.iscrowd.sum())
            names = [first.classes.names[label] for label in sample.labels[kept]]
            assert names == [again.classes.names[label] for label in twin.labels]
            np.testing.assert_allclose(twin.boxes, sample.boxes[kept], atol=0.02)
            before = masks_of(first, sample.path.stem)[kept]
            after = masks_of(again, sample.path.stem)
            # Joined parts are drawn with the line that joins them; all else is the same to the pixel.
            different = (before != after).sum(axis=(1, 2))
            rows = np.flatnonzero(kept) + int(first.columns.starts[index])  # type: ignore[index]
            several = np.array([len(json.loads(first.columns.segmentations.raw(row))) > 1 for row in rows])  # type: ignore[union-attr]
            parts += int(several.sum())
            assert (different[~several] == 0).all()
            assert (different <= 0.05 * before.sum(axis=(1, 2)) + 20).all()
        said = lines(there_.notes)
        assert f"{crowds} crowds (or difficult objects) are left out: YOLO would take each for an object" in said
        assert f"{parts} objects of several parts are joined to one polygon by lines of no width" in said

    def test_class_maps_hold_the_smallest_object_of_every_pixel(self, tmp_path: Path, shared: Path) -> None:
        first = coco(tmp_path, shared)
        again, (written,) = there(first, tmp_path, "masks")
        for index, sample in enumerate(first):
            masks = masks_of(first, sample.path.stem)
            assert sample.labels is not None
            assert sample.areas is not None
            assert sample.iscrowd is not None
            (place,) = [row for row, twin in enumerate(again) if twin.path.stem == sample.path.stem]
            found = again.semantic(place)
            front = np.where(masks != 0, np.where(sample.iscrowd, np.inf, sample.areas)[:, None, None], np.inf).argmin(
                0
            )
            expected = np.where((masks != 0)[~sample.iscrowd].any(0), sample.labels[front] + 1, 0)
            only_crowd = (masks != 0)[sample.iscrowd].any(0) & (expected == 0)
            np.testing.assert_array_equal(found[~only_crowd], expected[~only_crowd], err_msg=str(index))
            assert (found[only_crowd] >= len(again.classes)).all()
        assert any("does not tell them apart" in line for line in lines(written.notes))


class TestPennFudan:
    @pytest.mark.parametrize("form", ["coco", "yolo"])
    def test_masks_stay_to_the_pixel(self, form: str, tmp_path: Path, shared: Path) -> None:
        first = penn(shared)
        again, _ = there(first, tmp_path, form, "coco")
        assert len(again) == 5
        same(first, again, "ids", atol=1e-3)
        for sample in first:
            np.testing.assert_array_equal(masks_of(first, sample.path.stem), masks_of(again, sample.path.stem))

    def test_boxes_stay_in_voc(self, tmp_path: Path, shared: Path) -> None:
        first = penn(shared)
        again, (written,) = there(first, tmp_path, "voc")
        same(first, again, "ids", "areas", "masks", atol=1e-5)
        assert any("masks or outlines are left out" in line for line in lines(written.notes))

    def test_class_maps_are_the_union_of_the_objects(self, tmp_path: Path, shared: Path) -> None:
        first = penn(shared)
        again, _ = there(first, tmp_path, "masks")
        for index, sample in enumerate(again):
            union = masks_of(first, sample.path.stem).any(axis=0)
            np.testing.assert_array_equal(again.semantic(index), union)


class TestRaccoons:
    @pytest.mark.parametrize("formats", [("voc",), ("coco", "voc"), ("coco", "coco")])
    def test_boxes_stay_as_they_are(self, formats: tuple[str, ...], tmp_path: Path, shared: Path) -> None:
        first = raccoon(tmp_path, shared)
        again, written = there(first, tmp_path, *formats)
        assert len(again) == 5
        same(first, again)
        assert [lines(one.notes) for one in written] == [[] for _ in formats]

    def test_boxes_stay_in_yolo(self, tmp_path: Path, shared: Path) -> None:
        first = raccoon(tmp_path, shared)
        again, _ = there(first, tmp_path, "yolo", "voc")
        same(first, again, "ids", "areas", atol=1e-3)

    def test_boxes_are_no_class_maps(self, tmp_path: Path, shared: Path) -> None:
        with pytest.raises(DataError, match=r"raccoon-1\.jpg: an object has a box only, and no outline to paint"):
            there(raccoon(tmp_path, shared), tmp_path, "masks")


def test_camvids_class_maps_stay_as_they_are(tmp_path: Path, shared: Path) -> None:
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
        for path in sorted((shared / "data/camvid" / folder).iterdir())[:4]:
            (tmp_path / folder / path.name).symlink_to(path)
    options = {"format": "masks", "root": str(tmp_path), "train": {"images": "val", "masks": "valannot"}}
    names = [f"class{number}" for number in range(11)]
    first = read({**options, "classes": names, "ignore_index": 11})
    again, written = there(first, tmp_path, "masks", "masks")
    assert (again.classes.names, again.classes.ids) == (tuple(names), tuple(range(11)))
    assert [lines(one.notes) for one in written] == [[], []]
    assert [sample.path.name for sample in again] == [sample.path.name for sample in first]
    for index in range(4):
        np.testing.assert_array_equal(again.semantic(index), first.semantic(index))
        np.testing.assert_array_equal(again.read(index).pixels, first.read(index).pixels)
    for form in ("coco", "yolo", "voc"):
        with pytest.raises(DataError, match=f"holds class maps, which {form} has no place for; use --to masks"):
            write({"train": first}, form, tmp_path / "no")


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "masks"])
def test_classes_of_images_are_in_no_other_format(form: str, tmp_path: Path, shared: Path) -> None:
    options = {"format": "folders", "root": str(shared / "data/imagenette128"), "train": {"images": "val"}}
    with pytest.raises(DataError, match=r"holds classes of images, which .* has no place for; use --to folders"):
        write({"train": read(options)}, form, tmp_path / "no")


def test_a_folder_per_class_is_converted_with_its_splits(tmp_path: Path) -> None:
    shades = {"cat/day/1.png": 10, "cat/2.png": 60, "dog/1.png": 110, "dog/2.png": 160, "dog/3.png": 210}
    for name, shade in shades.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (shade, 0, 255 - shade)).save(tmp_path / "in" / name)
    whole = read({"format": "folders", "root": str(tmp_path / "in"), "train": {"images": "."}})
    first, held = (Subset(whole, np.array(rows)) for rows in ([0, 1, 2, 3], [4]))
    written = write({"train": first, "val": held}, "folders", tmp_path / "out").options
    assert written["classes"] == ["cat", "dog"]
    for split, before in (("train", first), ("val", held)):
        again = read(written, split)
        assert again.classes.names == ("cat", "dog")
        assert [(one.image_id, one.label) for one in again] == [(one.image_id, one.label) for one in before]
        for index in range(len(again)):
            np.testing.assert_array_equal(again.read(index).pixels, before.read(index).pixels)
    with pytest.raises(DataError, match=r"holds classes of images, which .* has no place for; use --to folders"):
        write({"train": first}, "coco", tmp_path / "no")

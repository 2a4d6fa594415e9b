"""Instance masks from files to batches, and from predictions to metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from rehead.configs.readers import CocoSplit, InstanceMasksSplit
from rehead.configs.resize import ResizeOptions
from rehead.data.collate import collate
from rehead.data.instance_masks import code_of, decode, encode, wrong_codes, wrong_segmentation
from rehead.data.reader import Reader
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext
from rehead.datasets.audit.before_training import refuse_broken
from rehead.datasets.coco_format import ground_truth
from rehead.datasets.formats.coco import CocoReader
from rehead.datasets.formats.instance_masks import InstanceMasksReader
from rehead.datasets.write import write
from rehead.errors import DataError
from rehead.evaluation.coco import coco_metrics
from rehead.tasks import task_named
from rehead.types import Prediction

SEGMENTATIONS: list[Any] = [
    [[1, 1, 9, 1, 9, 6, 1, 6]],
    [[0, 0, 4, 0, 4, 4], [10, 5, 11, 5, 11, 7, 10, 7]],
    {"size": [8, 12], "counts": [8, 4, 4, 4, 76]},
    {"size": [8, 12], "counts": "84d2"},
]


@pytest.fixture
def coco(tmp_path: Path) -> CocoReader:
    """One image of 12x8 with polygons and both kinds of run-length codes, and one without objects."""
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        noise = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
    annotations = [
        {"id": 1 + row, "image_id": 1, "category_id": 3, "bbox": [1, 1, 8, 5], "area": 9, "segmentation": segmentation}
        for row, segmentation in enumerate(SEGMENTATIONS)
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": 12, "height": 8} for i in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    reader = CocoReader(CocoSplit(images="images", annotations="a.json"), tmp_path)
    reader.masks = True
    return reader


@pytest.fixture
def numbered(tmp_path: Path) -> InstanceMasksReader:
    """Four images; the first mask has the numbers 2 and 5, the others nothing."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(4):
        Image.new("RGB", (12, 8), (number, 9, 9)).save(tmp_path / "images" / f"{number}.jpg")
        mask = np.zeros((8, 12), np.uint8)
        if number == 0:
            mask[1:3, 2:6] = 5
            mask[4:8, 7:12] = 2
        # Penn-Fudan's names, and plain ones.
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}{'_mask' if number % 2 else ''}.png")
    reader = InstanceMasksReader(InstanceMasksSplit(images="images", masks="masks"), tmp_path, ["person"])
    reader.masks = True
    return reader


class TestCoco:
    def test_masks_are_those_of_pycocotools(self, coco: CocoReader) -> None:
        judge = COCO(str(coco.annotations))
        masks = coco.read(0).masks
        assert masks is not None
        assert masks.shape == (4, 8, 12)
        for row, mask in enumerate(masks):
            assert mask.any()
            np.testing.assert_array_equal(mask, judge.annToMask(judge.anns[1 + row]))

    def test_an_image_without_objects_has_no_mask(self, coco: CocoReader) -> None:
        masks = coco.read(1).masks
        assert masks is not None
        assert masks.shape == (0, 8, 12)

    def test_masks_are_read_only_when_asked_for(self, coco: CocoReader) -> None:
        coco.masks = False
        assert coco.read(0).masks is None

    @pytest.mark.parametrize(
        ("segmentation", "message"),
        [
            (None, "no segmentation|list of polygons"),
            ([[1, 2, 3, 4]], "at least three points"),
            ({"size": [9, 12], "counts": [108]}, "the image has"),
        ],
    )
    def test_a_broken_segmentation_is_named(self, coco: CocoReader, segmentation: Any, message: str) -> None:
        content = json.loads(coco.annotations.read_text())
        content["annotations"][2]["segmentation"] = segmentation
        coco.annotations.write_text(json.dumps(content))
        reader = CocoReader(CocoSplit(images="images", annotations="a.json"), coco.annotations.parent)
        reader.masks = True
        with pytest.raises(DataError, match=f"a.json: annotation 3: .*({message})"):
            reader.read(0)


class TestNumbered:
    def test_boxes_areas_and_masks_in_the_order_of_the_numbers(self, numbered: InstanceMasksReader) -> None:
        sample = numbered.read(0)
        assert sample.boxes is not None
        assert sample.areas is not None
        assert sample.masks is not None
        assert sample.boxes.tolist() == [[7, 4, 12, 8], [2, 1, 6, 3]]
        assert sample.areas.tolist() == [20, 8]
        assert sample.masks[0, 4:8, 7:12].all()
        assert sample.masks.sum(axis=(1, 2)).tolist() == [20, 8]

    def test_parts_are_a_partition(self, numbered: InstanceMasksReader) -> None:
        root = numbered.folder.parent
        found = []
        for part in ((0, 0.5), (0.5, 1)):
            reader = InstanceMasksReader(InstanceMasksSplit(images="images", masks="masks", part=part), root)
            found += [reader[index].path.name for index in range(len(reader))]
        assert found == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]

    def test_one_class_only(self, numbered: InstanceMasksReader) -> None:
        with pytest.raises(DataError, match="2 classes"):
            InstanceMasksReader(
                InstanceMasksSplit(images="images", masks="masks"), numbered.folder.parent, ["cat", "dog"]
            )


@pytest.mark.parametrize("kind", ["coco", "numbered"])
def test_masks_stay_with_their_boxes(kind: str, request: pytest.FixtureRequest) -> None:
    """Resized, flipped and batched, a mask lies in its box and every other row of it belongs to another."""
    reader: Reader = request.getfixturevalue(kind)
    resize = Resize(ResizeOptions(height=32, width=48))
    augment = Augment("light", AugmentContext("instance_segmentation", resize))
    plain = resize(reader.read(0))[0].masks
    assert plain is not None
    flips = 0
    for epoch in range(8):
        sample, frame = augment(reader.read(0), epoch, 0)
        assert sample.masks is not None
        same, mirrored = np.array_equal(sample.masks, plain), np.array_equal(sample.masks, plain[:, :, ::-1])
        assert same or mirrored
        flips += mirrored
        (target,) = collate([(sample, frame)], divisor=40)[1]
        assert target.masks is not None
        assert target.masks.shape == (len(sample.masks), 40, 80)
        assert target.masks.dtype == torch.bool
        assert not target.masks[:, 32:].any()
    assert 0 < flips < 8


def test_what_is_annotated_has_perfect_figures(numbered: InstanceMasksReader) -> None:
    task = task_named("instance_segmentation")
    evaluator = task.evaluator(numbered, numbered.classes)
    for index in range(len(numbered)):
        truth = numbered.read(index)
        assert truth.boxes is not None
        assert truth.masks is not None
        evaluator.update(
            truth,
            Prediction(
                boxes=torch.tensor(truth.boxes),
                scores=torch.ones(len(truth.boxes)),
                labels=torch.zeros(len(truth.boxes), dtype=torch.int64),
                masks=torch.tensor(truth.masks) > 0,
            ),
        )
    metrics = evaluator.metrics()
    assert metrics["bbox"]["AP"] == pytest.approx(1)
    assert metrics["segm"]["AP"] == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(
    mask=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.integers(0, 4),
    ),
    gap=st.sampled_from([1, 60]),
)
def test_what_was_numbered_is_read(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray, gap: int) -> None:
    root = tmp_path_factory.mktemp("numbered")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    Image.new("RGB", mask.shape[::-1]).save(root / "images/ü.jpg")
    Image.fromarray(mask * gap).save(root / "masks/ü.png")
    reader = InstanceMasksReader(InstanceMasksSplit(images="images", masks="masks"), root)
    reader.masks = True
    sample = reader.read(0)
    numbers = [number for number in np.unique(mask) if number]
    assert sample.masks is not None
    np.testing.assert_array_equal(sample.masks, np.reshape([mask == n for n in numbers], (-1, *mask.shape)))
    assert sample.boxes is not None
    assert sample.areas is not None
    for own, (x1, y1, x2, y2), area in zip(sample.masks, sample.boxes.astype(int), sample.areas, strict=True):
        assert own[y1:y2, x1:x2].sum() == own.sum() == area
        assert own[y1:y2, [x1, x2 - 1]].any(axis=0).all()
        assert own[[y1, y2 - 1], x1:x2].any(axis=1).all()


class TestRunLengthCodes:
    """pycocotools takes whatever it is given; what a code leaves open is then memory that nobody has set."""

    @given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)))
    @settings(max_examples=50, deadline=None)
    def test_whole_codes_are_right_and_shortened_or_doubled_ones_are_not(self, mask: np.ndarray[Any, Any]) -> None:
        (code,) = encode(mask[None])
        counts, size = code["counts"], mask.shape
        assert wrong_segmentation({"size": [*size], "counts": counts}, size) == ""
        assert wrong_segmentation({"size": [*size], "counts": counts.decode()}, size) == ""
        for broken in (counts[:-1], counts * 2, counts + b" ", b""):
            assert wrong_segmentation({"size": [*size], "counts": broken}, size)

    def test_a_code_that_ends_early_is_refused_wherever_it_ends(self) -> None:
        size = (40, 56)
        for seed, share in enumerate((0.02, 0.3, 0.9)):
            mask = (np.random.default_rng(seed).random(size) < share).astype(np.uint8)
            counts = encode(mask[None])[0]["counts"]
            for end in range(len(counts)):
                cut = {"size": [*size], "counts": counts[:end].decode()}
                # Only what covers every pixel passes: a last count of 0 may be missing.
                if not wrong_segmentation(cut, size):
                    np.testing.assert_array_equal(decode([code_of(cut, size)], size)[0], mask)

    @given(st.lists(hnp.arrays(np.uint8, (5, 7), elements=st.integers(0, 1)), max_size=6), st.data())
    @settings(max_examples=30, deadline=None)
    def test_many_at_once_are_judged_as_each_alone(
        self, masks: list[np.ndarray[Any, Any]], data: st.DataObject
    ) -> None:
        cut = st.integers(0, 2)
        codes = [encode(mask[None])[0]["counts"] for mask in masks]
        codes = [code[: len(code) - data.draw(cut)] for code in codes]
        sizes = [(5, 7)] * len(codes)
        assert wrong_codes(codes, sizes) == [wrong_codes([code], [(5, 7)])[0] for code in codes]

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ({"size": [8, 12], "counts": ["8", "88"]}, "something else than whole numbers"),
            ({"size": [8, 12], "counts": [8.0, 88]}, "something else than whole numbers"),
            ({"size": [8, 12], "counts": [100, -4]}, "something else than whole numbers"),
            ({"size": [8, 12], "counts": [8, 8]}, "counts 16 pixels; there are 96"),
            ({"size": [8, 12], "counts": ""}, "is empty"),
            ({"size": [8, 12], "counts": "84d"}, "ends in the middle of a number"),
            ({"size": [8, 12], "counts": "84T2"}, "counts 80 pixels; there are 96"),
            ({"size": [8, 12], "counts": "8\u00e94"}, "characters that stand for nothing"),
            ({"size": [8, 12], "counts": "PPPPPPP04d2"}, "too large"),
            ({"size": [8, 12], "counts": "T3O1"}, "negative"),
            ({"size": [8, 12], "counts": None}, "are NoneType"),
            ({"size": "8x12", "counts": [96]}, "should be height and width"),
            ({"size": [8.0, 12], "counts": [96]}, "should be height and width"),
            ({"size": [8, 12], "counts": [96]}, "empty mask"),
            ([[1, 1, 9, 1, 9, 1e9]], "where no pixels are"),
            ([[20, 1, 29, 1, 29, 6]], "nothing of its outline is inside 12x8"),
        ],
    )
    def test_what_is_broken_is_said_by_all_who_read_it(self, coco: CocoReader, code: Any, said: str) -> None:
        content = json.loads(coco.annotations.read_text())
        content["annotations"][2]["segmentation"] = code
        coco.annotations.write_text(json.dumps(content))
        reader = CocoReader(CocoSplit(images="images", annotations="a.json"), coco.annotations.parent)
        reader.masks = True
        with pytest.raises(DataError, match=f"annotation 3: .*{said}"):
            reader.read(0)
        with pytest.raises(DataError, match=f"annotation 3 of .*{said}"):
            refuse_broken(reader, "data.train", {"instance_segmentation"}, learn=True)
        with pytest.raises(DataError, match=f"annotation 3: .*{said}"):
            ground_truth(reader, masks=True)

    @pytest.mark.parametrize("counts", ["", "84d", "84T2", "\u00e9", ["8", "88"], [-8, 104]])
    @pytest.mark.parametrize("side", ["ground truth", "results"])
    def test_figures_of_broken_codes_are_refused(self, coco: CocoReader, side: str, counts: Any) -> None:
        truth = ground_truth(coco, masks=True)
        results = [{"image_id": 1, "category_id": 3, "score": 0.5, "segmentation": SEGMENTATIONS[3]}]
        coco_metrics(truth, results, "segm")
        broken = {"size": [8, 12], "counts": counts}
        if side == "results":
            results[0]["segmentation"] = broken
        else:
            truth["annotations"][1]["segmentation"] = broken
        with pytest.raises(DataError, match="image 1: a mask cannot be judged: "):
            coco_metrics(truth, results, "segm")


def test_outlines_are_looked_at_once_before_training_and_not_at_every_reading(
    coco: CocoReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = coco.read(0).masks
    refuse_broken(coco, "data.train", {"instance_segmentation"}, learn=True)
    monkeypatch.setattr("rehead.data.instance_masks.wrong_segmentation", None)
    np.testing.assert_array_equal(coco.read(0).masks, before)


class TestNoOutline:
    """What Roboflow and others write beside a box: no mask, rather than one without a pixel."""

    @pytest.mark.parametrize("outline", [[], None, [[]], [[20, 1, 29, 1, 29, 6]], [[-9, 1, -1, 1, -1, 6]]])
    def test_it_is_missing_where_masks_are_wanted_and_nothing_where_they_are_not(
        self, coco: CocoReader, outline: Any
    ) -> None:
        content = json.loads(coco.annotations.read_text())
        content["annotations"][2]["segmentation"] = outline
        coco.annotations.write_text(json.dumps(content))
        reader = CocoReader(CocoSplit(images="images", annotations="a.json"), coco.annotations.parent)
        boxes = reader.read(0).boxes
        assert boxes is not None
        assert len(boxes) == 4
        refuse_broken(reader, "data.train", {"detection"}, learn=True)
        reader.masks = True
        with pytest.raises(DataError, match=r"annotation 3: (no segmentation|nothing of its outline is inside)"):
            reader.read(0)
        with pytest.raises(DataError, match=r"1 of 4 objects have no outline .*annotation 3"):
            refuse_broken(reader, "data.train", {"instance_segmentation"}, learn=True)
        with pytest.raises(DataError, match="annotation 3"):
            ground_truth(reader, masks=True)

    def test_what_lies_between_the_middles_of_pixels_is_not_learned_and_said(
        self, coco: CocoReader, caplog: pytest.LogCaptureFixture
    ) -> None:
        content = json.loads(coco.annotations.read_text())
        content["annotations"][2]["segmentation"] = [[5.6, 4.6, 5.9, 4.6, 5.9, 4.9]]
        coco.annotations.write_text(json.dumps(content))
        reader = CocoReader(CocoSplit(images="images", annotations="a.json"), coco.annotations.parent)
        reader.masks = True
        refuse_broken(reader, "data.train", {"instance_segmentation"}, learn=True)
        assert "1 of 4 objects have an outline in which no pixel is; they are not trained on" in caplog.text
        sample = reader.read(0)
        assert sample.masks is not None
        assert sample.boxes is not None
        assert (len(sample.masks), len(sample.boxes)) == (3, 3)
        assert sample.masks.any(axis=(1, 2)).all()
        # Judged as pycocotools judges it.
        assert len(ground_truth(reader, masks=True)["annotations"]) == 4


def test_an_area_that_is_missing_is_the_masks(tmp_path: Path) -> None:
    Image.new("RGB", (320, 240)).save(tmp_path / "a.png")
    stripe = [20, 20, 24, 20, 220, 220, 216, 220]
    code = mask_api.merge(mask_api.frPyObjects([stripe], 240, 320))
    whole = {
        "images": [{"id": 1, "file_name": "a.png", "width": 320, "height": 240}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 200, 200], "segmentation": [stripe]},
        ],
        "categories": [{"id": 1, "name": "crack"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(whole))
    reader = CocoReader(CocoSplit(images=".", annotations="a.json"), tmp_path)
    truth = ground_truth(reader, masks=True)
    assert truth["annotations"][0]["area"] == mask_api.area(code) < 32**2
    results = [{"image_id": 1, "category_id": 1, "segmentation": code, "score": 0.9}]
    for judged in (truth, whole):
        metrics = coco_metrics(judged, results, "segm")
        assert [metrics[name] for name in ("APs", "APm", "APl")] == [pytest.approx(1), -1, -1]
    # Where boxes alone are judged, by the box.
    assert ground_truth(reader)["annotations"][0]["area"] == 200 * 200
    # A copy says no more than the original did.
    write({"train": reader}, "coco", tmp_path / "copy")
    assert "area" not in json.loads((tmp_path / "copy/annotations/instances_train.json").read_text())["annotations"][0]

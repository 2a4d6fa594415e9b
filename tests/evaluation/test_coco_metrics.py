from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.errors import DataError
from rehead.evaluation.coco import METRICS, coco_metrics

BOX = [10.0, 10.0, 50.0, 50.0]


def truth(*boxes: list[float], **more: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 5, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 5, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **more}
            for n, box in enumerate(boxes)
        ],
    }


def found(box: list[float], score: float = 0.9, image: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": 5, "bbox": box, "score": score}


def test_perfect_boxes_are_perfect_even_where_ids_start_at_0() -> None:
    """pycocotools by itself counts annotation 0 as missed."""
    metrics = coco_metrics(truth(BOX, [100, 100, 50, 50]), [found(BOX), found([100, 100, 50, 50])])
    assert tuple(metrics) == METRICS
    assert {name: metrics[name] for name in ("AP", "AP50", "AP75", "APm", "AR10", "AR100")} == dict.fromkeys(
        ("AP", "AP50", "AP75", "APm", "AR10", "AR100"), pytest.approx(1.0)
    )
    assert metrics["AR1"] == 0.5
    assert metrics["APs"] == metrics["APl"] == metrics["ARs"] == metrics["ARl"] == -1


def test_overlap_decides_at_which_thresholds_a_box_counts() -> None:
    # 50x50 against 50x35 inside it: IoU 0.7, right at 0.5 to 0.7, five of ten thresholds.
    metrics = coco_metrics(truth(BOX), [found([10, 10, 50, 35.0001])])
    assert metrics["AP"] == pytest.approx(0.5)
    assert (metrics["AP50"], metrics["AP75"]) == (pytest.approx(1), 0)


def test_no_results_are_zeros() -> None:
    metrics = coco_metrics(truth(BOX), [])
    assert metrics["AP"] == metrics["AP50"] == metrics["APm"] == metrics["AR100"] == 0
    assert metrics["APs"] == -1


@pytest.mark.parametrize("results", [[], [found(BOX)]])
def test_no_ground_truth_is_minus_one(results: list[Any]) -> None:
    assert set(coco_metrics(truth(), results).values()) == {-1.0}


def test_crowds_and_images_without_objects() -> None:
    assert coco_metrics(truth(BOX, iscrowd=1), [found(BOX)])["AP"] == -1
    with_false_alarm = coco_metrics(truth(BOX), [found(BOX, 0.5), found(BOX, 0.9, image=2)])
    assert with_false_alarm["AP"] == pytest.approx(0.5)


def test_area_and_iscrowd_may_be_missing() -> None:
    bare = truth(BOX)
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    assert coco_metrics(bare, [found(BOX)]) == coco_metrics(truth(BOX), [found(BOX)])


@settings(max_examples=30, deadline=None)
@given(scores=st.lists(st.sampled_from([0.1, 0.5, 0.9]), max_size=6), shift=st.integers(0, 30))
def test_what_the_caller_gave_stays_as_it_was(scores: list[float], shift: int) -> None:
    ground_truth, results = truth(BOX), [found([10 + shift, 10, 50, 50], score) for score in scores]
    before = deepcopy((ground_truth, results))
    first = coco_metrics(ground_truth, results)
    assert (ground_truth, results) == before
    assert coco_metrics(ground_truth, results) == first


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    coco_metrics(truth(BOX), [found(BOX)])
    assert capsys.readouterr() == ("", "")


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    for name, content in (("truth.json", truth(BOX)), ("results.json", [found(BOX)])):
        (tmp_path / name).write_text(json.dumps(content))
    assert coco_metrics(tmp_path / "truth.json", tmp_path / "results.json")["AP"] == pytest.approx(1)
    with pytest.raises(DataError, match=r"results\.json: no list of images"):
        coco_metrics(tmp_path / "results.json", [])
    with pytest.raises(DataError, match=r"truth\.json: should be a list of detections, found dict"):
        coco_metrics(truth(BOX), tmp_path / "truth.json")
    with pytest.raises(DataError, match=r"none\.json: the results cannot be read: No such file"):
        coco_metrics(truth(BOX), tmp_path / "none.json")
    (tmp_path / "results.json").write_text("[{")
    with pytest.raises(DataError, match=r"results\.json: broken JSON"):
        coco_metrics(truth(BOX), tmp_path / "results.json")


def test_results_of_other_images_or_without_scores() -> None:
    with pytest.raises(DataError, match=r"results: 1 images are not in the ground truth, first: 77"):
        coco_metrics(truth(BOX), [found(BOX), found(BOX, image=77), found(BOX, image=77)])
    with pytest.raises(DataError, match="results: detection 0 lacks score, bbox"):
        coco_metrics(truth(BOX), [{"image_id": 1, "category_id": 5}])


@pytest.mark.parametrize(("kind", "ap"), [("bbox", 0.5046), ("segm", 0.3195)])
def test_the_official_example(shared: Path, kind: Any, ap: float) -> None:
    folder = shared / "data/coco_eval"
    name = (
        "instances_val2014_fakebbox100_results.json" if kind == "bbox" else "instances_val2014_fakesegm100_results.json"
    )
    metrics = coco_metrics(folder / "instances_val2014_100.json", folder / name, kind)
    assert round(metrics["AP"], 4) == ap
    official = (folder / "val2014_fake_eval_res.txt").read_text().split(f"type={kind}")[1].splitlines()
    wanted = [float(line.rsplit("=", 1)[1]) for line in official if line.startswith(" Average")][:12]
    assert [round(value, 3) for value in metrics.values()] == wanted


@pytest.mark.parametrize("box", [[10.0, 10.0, 50.0], [10.0, 10.0, 50.0, 50.0, 1.0], [], None])
def test_boxes_that_are_not_four_numbers_are_named(box: Any) -> None:
    with pytest.raises(DataError, match=r"image 1: bbox should be 4 numbers, found "):
        coco_metrics(truth(BOX), [found(BOX), found(box)])
    wrong = truth(BOX)
    wrong["annotations"][0]["bbox"] = box
    with pytest.raises(DataError, match=r"image 1: bbox should be 4 numbers, found "):
        coco_metrics(wrong, [found(BOX)])


def test_keypoints_that_are_not_all_there_are_named() -> None:
    points = {"keypoints": [20.0, 20.0, 2, 30.0, 30.0, 2], "num_keypoints": 2}
    wrong = {"image_id": 1, "category_id": 5, "score": 0.5, "keypoints": [20.0, 20.0, 1]}
    with pytest.raises(DataError, match=r"image 1: keypoints should be 6 numbers, found \[20.0, 20.0, 1\]"):
        coco_metrics(truth(BOX, **points), [wrong], "keypoints")


def test_scoring_imports_no_torch() -> None:
    code = (
        "import sys, rehead.evaluation.coco as c, rehead.evaluation.segmentation, rehead.evaluation.classification;"
        "import rehead.evaluation.multi_label;"
        "import rehead.datasets.coco_format, rehead.datasets.formats.coco, rehead.datasets.formats.masks;"
        "import rehead.datasets.formats.folders, rehead.data.transforms.resize;"
        "import rehead.data.transforms.augment, rehead.visualize.draw;"
        "c.coco_metrics({'images': [], 'annotations': [], 'categories': []}, []);"
        "print('torch' in sys.modules, 'albumentations' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

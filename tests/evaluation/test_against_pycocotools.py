"""Every figure equals pycocotools' to the last bit, on data made to mislead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from coco_oracle import pycocotools_figures
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as code

from rehead.evaluation.coco import Kind, coco_metrics

SIZE = 200


def world(seed: int, kind: Kind) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images, objects and results with everything that rules are made for.

    Few places and scores, so that many overlaps and scores are equal; crowds; objects at the borders of the areas;
    more results than count; classes and images without any; results of a class that nobody asked for.
    """
    rng = np.random.default_rng(seed)
    images = [{"id": int(one), "height": SIZE, "width": SIZE} for one in rng.permutation(50)[: rng.integers(1, 6)]]
    classes = [int(one) for one in rng.permutation(20)[: rng.integers(1, 4)]]
    sides = np.array([4, 8, 32, 33, 96, 97, 150])
    spread = int(rng.integers(1, 60))

    def place() -> list[float]:
        return [float(value) for value in (*rng.integers(0, spread, 2), *rng.choice(sides, 2))]

    def picture(box: list[float]) -> Any:
        drawn = np.zeros((SIZE, SIZE), np.uint8, order="F")
        x, y, w, h = (int(value) for value in box)
        drawn[y : y + h, x : x + w] = rng.random((len(drawn[y : y + h]), len(drawn[0, x : x + w]))) < 0.9
        encoded = cast(dict[str, Any], code.encode(drawn))
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}

    def points(box: list[float]) -> list[float]:
        x, y, w, h = box
        spots = rng.integers(0, 5, (17, 2)) / 4 * (w, h) + (x, y)
        seen = rng.integers(0, 3, 17) * rng.integers(0, 2)
        return [float(value) for spot in zip(*spots.T, seen, strict=True) for value in spot]

    annotations: list[dict[str, Any]] = []
    for _ in range(rng.integers(1, 25)):
        box = place()
        one = {"image_id": images[rng.integers(len(images))]["id"], "category_id": int(rng.choice(classes))}
        one |= {"bbox": box, "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.15)}
        if kind == "segm":
            one["segmentation"] = picture(box)
            if rng.random() < 0.3 and not one["iscrowd"]:
                x, y, w, h = box
                one["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        elif kind == "keypoints":
            one["keypoints"] = points(box)
            one["num_keypoints"] = sum(value > 0 for value in one["keypoints"][2::3])
        annotations.append({**one, "id": len(annotations)})
    results = []
    for _ in range(rng.integers(1, 400 if rng.random() < 0.2 else 40)):
        near = annotations[rng.integers(len(annotations))]
        box = (
            [float(value) for value in np.array(near["bbox"]) + rng.integers(-2, 3, 4)]
            if rng.random() < 0.7
            else place()
        )
        box = [max(box[0], 0.0), max(box[1], 0.0), max(box[2], 1.0), max(box[3], 1.0)]
        image = near["image_id"] if rng.random() < 0.8 else images[rng.integers(len(images))]["id"]
        category = int(rng.choice([near["category_id"], *classes, 99]))
        one = {"image_id": image, "category_id": category, "score": float(rng.integers(0, 6) / 5)}
        if kind == "bbox":
            one["bbox"] = box
        elif kind == "segm":
            one["segmentation"] = near["segmentation"] if rng.random() < 0.3 else picture(box)
            if isinstance(one["segmentation"], list):
                one["segmentation"] = picture(box)
        else:
            one["keypoints"] = near["keypoints"] if rng.random() < 0.3 else points(box)
        results.append(one)
    truth = {"images": images, "annotations": annotations, "categories": [{"id": one} for one in classes]}
    return truth, results


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_figure_is_pycocotools(kind: Kind, seed: int) -> None:
    truth, results = world(seed, kind)
    assert list(coco_metrics(truth, results, kind).values()) == pycocotools_figures(truth, results, kind)


def test_masks_with_boxes_are_sized_by_their_boxes_as_pycocotools_does() -> None:
    truth, results = world(5, "segm")
    results = [{**one, "bbox": [0.0, 0.0, 20.0, 20.0]} for one in results]
    assert list(coco_metrics(truth, results, "segm").values()) == pycocotools_figures(truth, results, "segm")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_official_results(shared: Path, kind: Kind) -> None:
    folder = shared / "data/coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    assert list(coco_metrics(truth, results, kind).values()) == pycocotools_figures(truth, results, kind)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.errors import DataError
from rehead.evaluation.segmentation import ConfusionMatrix
from rehead.types import IGNORE, IGNORE_16, ignore_of, map_type


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Classes, and images of (prediction, truth); some classes never occur."""
    classes = draw(st.sampled_from([1, 2, 3, 15, 16, 200, 255, 256, 1203]))
    used = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=5, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    images = []
    for _ in range(draw(st.integers(1, 3))):
        shape = (draw(st.integers(0, 6)), draw(st.integers(1, 6)))
        dtype = map_type(classes)
        truth = rng.choice([*used, IGNORE if dtype == "uint8" else IGNORE_16], shape).astype(dtype)
        images.append((rng.choice(used, shape).astype(dtype), truth))
    return classes, images


def naive(classes: int, images: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The definitions, by sets of pixels."""
    truth: list[set[Any]] = [set() for _ in range(classes)]
    prediction: list[set[Any]] = [set() for _ in range(classes)]
    for number, (predicted, true) in enumerate(images):
        for (y, x), value in np.ndenumerate(true):
            if value != ignore_of(true):
                truth[value].add((number, y, x))
                prediction[predicted[y, x]].add((number, y, x))
    pairs = list(zip(truth, prediction, strict=True))
    iou = [len(t & p) / len(t | p) if t | p else None for t, p in pairs]
    occurring = [value for value in iou if value is not None]
    recalls = [len(t & p) / len(t) for t, p in pairs if t]
    total = sum(len(t) for t in truth)
    return {
        "mIoU": sum(occurring) / len(occurring) if occurring else 0,
        "pixel_accuracy": sum(len(t & p) for t, p in pairs) / total if total else 0,
        "mean_accuracy": sum(recalls) / len(recalls) if recalls else 0,
        "IoU": {str(label): value for label, value in enumerate(iou)},
    }


@settings(max_examples=150, deadline=None)
@given(data=data_sets())
def test_figures_are_what_their_definitions_say(data: tuple[int, list[tuple[np.ndarray, np.ndarray]]]) -> None:
    classes, images = data
    matrix = ConfusionMatrix(classes)
    for prediction, truth in images:
        matrix.update(prediction, truth)
    metrics = matrix.metrics([str(label) for label in range(classes)])
    wanted = naive(classes, images)
    assert metrics["IoU"] == pytest.approx(wanted.pop("IoU"))
    assert {name: metrics[name] for name in wanted} == pytest.approx(wanted)


def test_a_case_worked_out_by_hand() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([[0, 1, 1, 2]], np.uint8), np.array([[0, 0, 1, IGNORE]], np.uint8))
    metrics = matrix.metrics(["a", "b", "c", "d"])
    assert metrics["IoU"] == {"a": 0.5, "b": 0.5, "c": None, "d": None}
    assert metrics["mIoU"] == 0.5
    assert metrics["pixel_accuracy"] == pytest.approx(2 / 3)
    assert metrics["mean_accuracy"] == 0.75


def test_a_class_that_is_only_predicted_counts_as_wrong() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8))
    assert matrix.metrics(["a", "b"])["IoU"] == {"a": 0.5, "b": 0}
    assert matrix.metrics(["a", "b"])["mean_accuracy"] == 0.5


def test_nothing_counted_is_zero() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.zeros((2, 2), np.uint8), np.full((2, 2), IGNORE, np.uint8))
    assert matrix.metrics(["a", "b"]) == {
        "mIoU": 0,
        "pixel_accuracy": 0,
        "mean_accuracy": 0,
        "IoU": {"a": None, "b": None},
    }


def test_counts_of_processes_add_up() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 3, (4, 2, 5, 5)).astype(np.uint8)
    together, first, second = (ConfusionMatrix(3) for _ in range(3))
    for number, (prediction, truth) in enumerate(maps):
        together.update(prediction, truth)
        (first, second)[number % 2].update(prediction, truth)
    np.testing.assert_array_equal(first.counts + second.counts, together.counts)
    assert together.counts.sum() == 100


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), r"\(2, 3\) but the truth \(3, 2\)"),
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8), "found int64 .prediction., uint8"),
        (np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8), "prediction has class 3; classes are 0..2"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 3, np.uint8), r"neither 0\.\.2 nor 255"),
    ],
)
def test_maps_that_cannot_be_compared(prediction: Any, truth: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ConfusionMatrix(3).update(prediction, truth)


def test_more_classes_than_a_map_holds() -> None:
    with pytest.raises(DataError, match="32768 classes"):
        ConfusionMatrix(32768)

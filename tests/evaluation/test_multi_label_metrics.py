from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.evaluation.multi_label import MultiLabel, average_precision


def spelled_out(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """scikit-learn's definition: the sum of precision times the gain in recall, over every threshold."""
    if not truth.any():
        return None
    total = recall_before = 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        precision = (chosen & truth).sum() / chosen.sum()
        recall = (chosen & truth).sum() / truth.sum()
        total += precision * (recall - recall_before)
        recall_before = recall
    return total


def f1(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    right = int((predicted & truth).sum())
    if not predicted.any() and not truth.any():
        return None
    if not right:
        return 0.0
    precision, recall = right / int(predicted.sum()), right / int(truth.sum())
    return 2 * precision * recall / (precision + recall)


@settings(max_examples=100, deadline=None)
@given(images=st.integers(0, 9), classes=st.integers(1, 5), ties=st.booleans(), seed=st.integers(0, 2**31))
def test_figures_are_what_their_definitions_say(images: int, classes: int, ties: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random((images, classes), np.float32)
    if ties:
        scores = (scores * 4).round() / np.float32(4)
    # Some classes never occur, some nearly always.
    truth = rng.random((images, classes)) < rng.choice([0, 0.3, 0.9], classes)
    collected = MultiLabel(classes)
    for row, present in zip(scores, truth, strict=True):
        collected.update(row, present)
    names = [f"class {label}" for label in range(classes)]
    metrics = collected.metrics(names)
    precisions = [spelled_out(scores[:, label], truth[:, label]) for label in range(classes)]
    assert metrics["AP"] == pytest.approx(dict(zip(names, precisions, strict=True)))
    measured = [value for value in precisions if value is not None]
    assert metrics["mAP"] == (pytest.approx(sum(measured) / len(measured)) if measured else None)
    predicted = scores >= 0.5
    single = [f1(predicted[:, label], truth[:, label]) for label in range(classes)]
    counted = [value for value in single if value is not None]
    assert metrics["macro_F1"] == (pytest.approx(sum(counted) / len(counted)) if counted else None)
    assert metrics["micro_F1"] == (pytest.approx(f1(predicted, truth)) if counted else None)


def test_numbers_worked_out_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.2], np.float32)
    assert average_precision(scores, np.array([1, 0, 1, 0, 1], bool)) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(np.full(5, 0.5, np.float32), np.array([1, 0, 1, 0, 1], bool)) == pytest.approx(3 / 5)
    assert average_precision(scores, np.ones(5, bool)) == 1


def test_the_order_of_the_images_decides_nothing() -> None:
    scores = np.array([0.5, 0.5, 0.9, 0.5], np.float32)
    truth = np.array([1, 0, 0, 1], bool)
    assert average_precision(scores, truth) == average_precision(scores[::-1], truth[::-1]) == pytest.approx(1 / 2)

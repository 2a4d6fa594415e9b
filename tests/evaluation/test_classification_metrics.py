from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rehead.data.sample import Sample
from rehead.evaluation.classification import Accuracy
from rehead.tasks.classification import LabelEvaluator
from rehead.types import Prediction


@given(data=st.data(), classes=st.integers(1, 9), count=st.integers(1, 12))
def test_accuracy_is_the_share_of_images_whose_class_is_among_the_best(
    data: st.DataObject, classes: int, count: int
) -> None:
    accuracy = Accuracy()
    first = five = 0
    for _ in range(count):
        scores = data.draw(st.permutations(range(classes)))
        label = data.draw(st.integers(0, classes - 1))
        accuracy.update(np.array(scores, np.float32) / classes, label)
        better = sum(score > scores[label] for score in scores)
        first += better == 0
        five += better < 5
    metrics = accuracy.metrics()
    assert metrics == {"top1": first / count, "top5": five / count}
    assert classes > 5 or metrics["top5"] == 1


def test_between_equals_the_lower_class_comes_first() -> None:
    accuracy = Accuracy()
    for label in range(10):
        accuracy.update(np.full(10, 0.1), label)
    assert accuracy.metrics() == {"top1": 0.1, "top5": 0.5}


def test_no_images_are_zero() -> None:
    assert Accuracy().metrics() == {"top1": 0, "top5": 0}


def test_the_best_five_of_five_are_not_worth_a_figure() -> None:
    for classes, expected in ((5, {"top1"}), (6, {"top1", "top5"})):
        evaluator = LabelEvaluator(classes)
        sample = Sample("a", Path("a"), label=1)
        evaluator.update(sample, Prediction(probabilities=torch.eye(classes)[1]))
        assert evaluator.metrics().keys() == expected

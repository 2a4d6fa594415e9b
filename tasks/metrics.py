"""Metrics of one's own, measured beside those of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rehead.configs.tasks import TASKS, unknown_task
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.errors import ConfigError
from rehead.tasks.base import Evaluator, Metrics
from rehead.types import Classes, Prediction

Make = Callable[[Reader, Classes], Evaluator]

METRICS: dict[str, tuple[str, Make]] = {}
"""By name: the task, and what makes an empty evaluator."""


def register_metric(name: str, *, task: str) -> Callable[[Make], Make]:
    """Registers metrics of one's own: a decorator on a subclass of `rehead.Evaluator`.

    It is built as `Mine(reader, classes)`. What its `metrics` gives stands under `name` in the metrics of every head of
    the task: in `rehead evaluate`, and in the metric files of a training.

    Args:
        name: under which its metrics stand.
        task: a name of `rehead.configs.tasks.TASKS`.

    Raises:
        ConfigError: for a name that is there, or a task that is not known.
    """
    if name in METRICS:
        raise ConfigError([f"metric '{name}' is registered twice"], "registry")
    if task not in TASKS:
        raise ConfigError([unknown_task(task)], f"metric '{name}'")

    def add(make: Make) -> Make:
        METRICS[name] = (task, make)
        return make

    return add


class WithMetrics(Evaluator):
    """The evaluator of a task, and those that were registered for it.

    Args:
        own: the task's.
        others: by name.
    """

    def __init__(self, own: Evaluator, others: Mapping[str, Evaluator]) -> None:
        self.own, self.others = own, others

    def update(self, truth: Sample, prediction: Prediction) -> None:
        """Adds an image to each."""
        for one in (self.own, *self.others.values()):
            one.update(truth, prediction)

    def collected(self) -> Any:
        """What each of them collected."""
        return self.own.collected(), {name: one.collected() for name, one in self.others.items()}

    def merge(self, collected: Any) -> None:
        """Hands each of them its own."""
        own, others = collected
        self.own.merge(own)
        for name, one in self.others.items():
            one.merge(others[name])

    def metrics(self) -> Metrics:
        """The task's, then the others under their names."""
        return {**self.own.metrics(), **{name: one.metrics() for name, one in self.others.items()}}


def with_metrics(task: str, own: Evaluator, reader: Reader, classes: Classes) -> Evaluator:
    """A task's evaluator with what is registered for the task."""
    others = {name: make(reader, classes) for name, (wanted, make) in METRICS.items() if wanted == task}
    return WithMetrics(own, others) if others else own

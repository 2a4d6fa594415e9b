"""What a task adds to a model: how it is judged, what its predictions look like, how they are written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.types import Classes, Prediction

Metrics = dict[str, Any]
Picture = np.ndarray[Any, np.dtype[np.uint8]]


class Evaluator(ABC):
    """Collects predictions image by image, then gives the metrics."""

    @abstractmethod
    def update(self, truth: Sample, prediction: Prediction) -> None:
        """Adds one image: its annotation in original pixels, and a prediction on the CPU."""

    @abstractmethod
    def collected(self) -> Any:
        """What `update` made of its images, to be sent to another process."""

    @abstractmethod
    def merge(self, collected: Any) -> None:
        """Takes what the evaluator of another process collected, as if this one had seen its images."""

    @abstractmethod
    def metrics(self) -> Metrics:
        """What `evaluate --json` writes for a head."""


class Task(ABC):
    """One task, without state; its row is in `rehead.configs.tasks`."""

    @abstractmethod
    def evaluator(self, reader: Reader, classes: Classes) -> Evaluator:
        """An empty evaluator for a reader's images."""

    @abstractmethod
    def has_ground_truth(self, truth: Sample) -> bool:
        """Whether an image has the annotation that this task is judged by."""

    @abstractmethod
    def draw(self, image: Picture, prediction: Prediction, classes: Classes) -> Picture:
        """The image with what was predicted."""

    @abstractmethod
    def draw_truth(self, image: Picture, truth: Sample, classes: Classes) -> Picture:
        """The image with its annotation."""

    @abstractmethod
    def records(
        self, prediction: Prediction, classes: Classes, image_id: int | str, stem: str, out: Path
    ) -> list[Metrics]:
        """What `predictions.json` says of an image; files that belong to it are written under `out`."""


def flat(metrics: Metrics, prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name, in order."""
    named: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            named |= flat(value, f"{prefix}{name}.")
        else:
            named[f"{prefix}{name}"] = value
    return named

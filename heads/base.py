"""What a head is: features in, losses or predictions out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from rehead.configs.base import HeadOptions
from rehead.configs.heads import task_of
from rehead.errors import BuildError
from rehead.types import Classes, FeatureSpec, Frame, Prediction, Target

Features = dict[str, Tensor]
Item = TypeVar("Item")


class Head(nn.Module, ABC):
    """A head is built from feature specs alone, and chooses its features by order and stride, never by name.

    Args:
        options: its checked options.
        classes: what it tells apart; background is not one of them.
        specs: the backbone's `feature_specs`.
    """

    divisor: ClassVar[int] = 1
    """Batches are padded to a multiple of this many pixels."""

    def __init__(self, options: HeadOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__()
        if not specs:
            raise BuildError(f"head '{options.name}' needs features, and the backbone gives none")
        self.options = options
        self.classes = classes
        self.specs = dict(specs)

    @property
    def task(self) -> str:
        """The task that this head serves."""
        return task_of(self.options)

    @abstractmethod
    def learns_from(self, target: Target) -> bool:
        """Whether an image's target holds what this head needs; where several heads learn, it skips the others."""

    @abstractmethod
    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses by name, each () float32, to be added up.

        Args:
            features: the backbone's maps by name, each (B, C, H, W).
            frames: B of them.
            targets: B of them, in batch pixels.
        """

    @abstractmethod
    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """Predictions in original image pixels, one per frame."""


def one_per_stride(specs: Mapping[str, FeatureSpec], finest: int = 1) -> dict[str, FeatureSpec]:
    """The deepest feature of every stride from `finest` up, finest first.

    A dilated network has several stages of one stride and a ViT nothing else; of maps that see the
    image equally finely, the deepest knows most.
    """
    deepest = {spec.stride: name for name, spec in specs.items() if spec.stride >= finest}
    return {deepest[stride]: specs[deepest[stride]] for stride in sorted(deepest)}


def level(stride: int) -> int:
    """The level of a stride in a feature pyramid: P2 has stride 4, P3 8, ..."""
    return round(math.log2(stride))


def described(specs: Mapping[str, FeatureSpec]) -> str:
    """Specs in one line, for errors."""
    return ", ".join(f"{name} (stride {spec.stride}, {spec.channels} channels)" for name, spec in specs.items())

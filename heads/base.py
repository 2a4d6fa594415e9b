"""What a head is: features in, losses or predictions out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rehead.configs.base import HeadOptions
from rehead.configs.heads import task_of
from rehead.errors import BuildError
from rehead.types import Classes, FeatureSpec, Frame, Prediction, Target

Features = dict[str, Tensor]
"""A backbone's maps by name, (B, C, H, W) each, in the order of its `feature_specs`."""
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

    @property
    def reads(self) -> Collection[str]:
        """The names of the features that it may read; all of them unless a head says otherwise."""
        return self.specs

    @abstractmethod
    def has_targets(self, target: Target) -> bool:
        """Whether an image's target holds what this head needs; where several heads learn, it skips the others."""

    @abstractmethod
    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses by name, each () float32, to be added up.

        Args:
            features: the backbone's maps by name, each (B, C, H, W).
            frames: B of them.
            targets: B of them, in batch pixels.
        """

    def skip_batch(self, device: torch.device) -> None:
        """Stands for `loss` where no image of this process has anything for this head, while others may have some.

        A head whose `loss` calls `loss_normalizer` calls it here as often, with nothing counted: every process must, or
        those that do would wait for ever.
        """

    @abstractmethod
    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """Predictions in original image pixels, one per frame."""


def at_least_float32(value: Tensor) -> Tensor:
    """float32 in mixed precision, where sums and coordinates need it; float64, in which parity is proved, stays."""
    return value if value.dtype == torch.float64 else value.float()


def loss_normalizer(count: Tensor) -> Tensor:
    """What to divide a sum by for the mean over the batches of all processes.

    The gradients of several processes are averaged, which makes of the processes' own means the mean of all only
    where each counts equally much. A sum divided by the average count makes it so always: with S_r and n_r of
    process r of W, (1/W) sum(S_r / (sum(n_r) / W)) = sum(S_r) / sum(n_r).

    Args:
        count: () of any type, what this process's sum is over: pixels, objects or images. Every process must come
            here equally often, those that count nothing too.

    Returns:
        () the average over the processes; alone, the count itself. At least what makes all processes together
        divide by 1.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return count.where(count > 0, 1)
    total = count.detach().clone()
    dist.all_reduce(total)
    return total.where(total > 0, 1) / dist.get_world_size()


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

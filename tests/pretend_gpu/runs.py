"""What the tests on the pretend GPU train and count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import torch
from helpers import TINY, batch_of_noise, targets_for
from pretend_gpu.pretend_device import CUDA
from torch import Tensor, nn

from rehead.configs.base import HeadOptions
from rehead.configs.schema import TrainOptions
from rehead.models.model import Model, build_model
from rehead.training.loop import Batch
from rehead.training.run import fit
from rehead.types import Classes

CLASSES = Classes(("a", "b", "c"))


class OneProcess:
    """What the loop asks of Accelerate, on the pretend GPU."""

    device, is_main_process, process_index = CUDA, True, 0

    def __init__(self, scaler: torch.amp.GradScaler | None = None) -> None:
        self.scaler = scaler

    def backward(self, loss: Tensor) -> None:
        # The tensor's own method would leave the pretence.
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def prepare_model(self, model: nn.Module, evaluation_mode: bool = False) -> nn.Module:
        return model

    def no_sync(self, model: nn.Module) -> Any:
        return nullcontext()


class Steps:
    """A job of the same batch at every step.

    Attributes:
        poison: the step in whose backward pass a gradient becomes infinite, as one that overflows in fp16.
    """

    conditions: Mapping[str, int] = {}

    def __init__(self, model: Model, batch: Batch, steps_per_epoch: int = 2, poison: int | None = None) -> None:
        self.model, self.batch, self.steps_per_epoch, self.poison = model, batch, steps_per_epoch, poison

    def batches(self, epoch: int, start: int) -> Iterable[Batch]:
        if self.poison is not None and (epoch, start) == (0, 0):
            weight = next(one for one in self.model.parameters() if one.requires_grad)
            passes = count()
            weight.register_hook(lambda gradient: gradient * (float("inf") if next(passes) == self.poison else 1))
        for _ in range(start, self.steps_per_epoch):
            yield self.batch

    def evaluate(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        return {"main.score": 0.0}, {"main.score": 0.0}

    def metadata(self, steps: int, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
        return self.model.metadata([])


def small_model(head: HeadOptions) -> Model:
    torch.manual_seed(0)
    return build_model(TINY, head, CLASSES)


def small_batch(images: int = 4, side: int = 96) -> Batch:
    batch = batch_of_noise((side, side), images=images)
    return batch, targets_for(batch, len(CLASSES), (4, 6, 60, 90))


def train(
    job: Any, folder: Path, scaler: torch.amp.GradScaler | None = None, resumed: Any = None, **options: Any
) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    given = {"epochs": 1, "log_every": 100, "optimizer": {"lr": 0.001}, "schedule": {"name": "constant"}, **options}
    fit(job, TrainOptions.model_validate(given), folder, OneProcess(scaler), resumed)  # type: ignore[arg-type]

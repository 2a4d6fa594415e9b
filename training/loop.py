"""What a step and an epoch of training are. The loop knows a module that returns losses, and no task and no file.

Everything random in a step is a function of (seed, step, rank), and the data of a step is a function
of (seed, epoch, index): so the weights, the optimizer and the counters are all that a run consists of.
`rehead.training.run` keeps them in files, resumes from them, and reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, nn

from rehead.configs.schema import TrainOptions
from rehead.errors import OtherProcessError, TrainingError, listed
from rehead.training import sharding
from rehead.training.averaging import WeightAverage
from rehead.training.copying import copied_ahead
from rehead.training.distributed import all_reduce_max
from rehead.training.engine import seed_step
from rehead.training.schedule import build_optimizer, rate
from rehead.types import ImageBatch, Target

Batch = tuple[ImageBatch, list[Target]]
Scores = dict[str, float | None]


class Job(Protocol):
    """What the loop asks of the task that it trains.

    Attributes:
        steps_per_epoch: steps that an epoch has, each of as many batches as `accumulate` says.
        conditions: numbers by name that may not differ when a run is resumed, since the order of its images
            depends on them.
    """

    steps_per_epoch: int
    conditions: Mapping[str, int]

    @property
    def model(self) -> nn.Module:
        """Called with images and targets in training mode, it returns losses by name."""

    def batches(self, epoch: int, start: int) -> Iterable[Batch]:
        """The batches of an epoch from step `start` on."""

    def evaluate(self) -> tuple[Scores, Scores]:
        """The scores, whose mean `best.safetensors` maximises, and every metric; both by dotted name."""

    def metadata(self, steps: int, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """What a model checkpoint of these tensors says of itself after so many steps."""


@dataclass
class LoopState:
    """Where a run stands: the counters that `resume.pt` holds."""

    step: int = 0
    best: float | None = None
    best_step: int = -1
    not_better: int = 0
    """Evaluations since the best one."""
    due: bool = False
    """Whether the evaluation of this step is still to be done: it was interrupted, or its data could not be read."""


class Loop:
    """A training: model, optimizer, counters.

    A subclass does its own with each step, epoch and evaluation (`after_step`, `after_epoch`, `evaluate`).

    Args:
        job: the model, its batches and its evaluation.
        options: of the training.
        accelerator: from `build_accelerator`.
        total: steps in all.
    """

    def __init__(self, job: Job, options: TrainOptions, accelerator: Accelerator, total: int) -> None:
        self.job, self.options, self.accelerator, self.total = job, options, accelerator, total
        self.memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
        job.model.to(accelerator.device)
        if options.sharding == "fsdp2":
            sharding.shard(job.model, accelerator.device)
        else:
            job.model.to(memory_format=self.memory_format)
        self.sharded = sharding.is_sharded(job.model)
        # Not wrapped by Accelerate, whose wrapper looks for installed packages at every step.
        self.optimizer = build_optimizer(job.model, options.optimizer)
        self.average = WeightAverage(job.model, options.ema.decay) if options.ema is not None else None
        self.state = LoopState()
        self.asked = 0
        """The number of the signal that reached a process before this step, 0 for none."""
        # Summed since they were last taken; they wait on the device until a row of metrics is due.
        self.sums: dict[str, Tensor] = {}
        self.summed: dict[str, int] = {}

    def train(self, model: nn.Module) -> None:
        """Trains from where the run stands to its end.

        Args:
            model: the job's, as Accelerate wraps it for several processes.
        """
        if self.state.due:
            self.evaluate()
        while not self.ended():
            epoch, start = divmod(self.state.step, self.job.steps_per_epoch)
            model.train()
            batches = copied_ahead(self.job.batches(epoch, start), self._on_device, self.accelerator.device)
            while step := list(islice(batches, self.options.accumulate)):
                with self.guarded(step):
                    loss = self.step(model, step)
                self.after_step(epoch, loss)
                if self.state.step == self.total:
                    break
            if self.evaluation_is_due():
                self.evaluate()
            else:
                self.after_epoch()

    def step(self, model: nn.Module, batches: Sequence[Batch]) -> Tensor:
        """Forward and backward for every batch, one update; returns the mean loss."""
        options = self.options
        factor = rate(options.schedule, self.state.step, self.total, self.job.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = options.optimizer.lr * factor

        self.optimizer.zero_grad(set_to_none=True)
        passes = []
        for number, (batch, targets) in enumerate(batches):
            seed_step(options.seed, self.state.step * options.accumulate + number, self.accelerator.process_index)
            # The gradients of a step travel between the processes once, with its last batch.
            with nullcontext() if number == len(batches) - 1 else self._gradients_stay(model):
                losses = self._losses(model, batch, targets)
                loss = torch.stack(list(losses.values())).sum()
                self.accelerator.backward(loss / len(batches))
            passes.append(
                {"loss": loss.detach().float(), **{name: one.detach().float() for name, one in losses.items()}}
            )
        self._agree_to_go_on(passes, [batch for batch, _ in batches])
        for losses in passes:
            for name, value in losses.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
                # Not every batch has every loss: a head among several skips one that has nothing for it.
                self.summed[name] = self.summed.get(name, 0) + 1
        self._update(model)
        if self.average is not None:
            self.average.update()
        self.state.step += 1
        return torch.stack([losses["loss"] for losses in passes]).mean()

    def evaluate(self) -> tuple[Scores, Scores]:
        """The scores and every metric, of the weights that are saved for use; notes whether they are the best yet."""
        with self.average.in_place() if self.average is not None else nullcontext():
            scores, metrics = self.job.evaluate()
        state = self.state
        score = sum(-1.0 if value is None else value for value in scores.values()) / len(scores)
        state.due = False
        state.not_better += 1
        if state.best is None or score > state.best:
            state.best, state.best_step, state.not_better = score, state.step, 0
        return scores, metrics

    def ended(self) -> bool:
        """Whether all steps are done, or too many evaluations in a row were not better."""
        patience = self.options.early_stopping
        return self.state.step >= self.total or (patience is not None and self.state.not_better >= patience)

    def evaluation_is_due(self) -> bool:
        """Whether this step is the last, or ends an epoch that is evaluated."""
        epochs, left = divmod(self.state.step, self.job.steps_per_epoch)
        return self.state.step == self.total or (left == 0 and epochs % self.options.evaluate_every == 0)

    def guarded(self, step: Sequence[Batch]) -> AbstractContextManager[None]:
        """What a step is done in, such as something that explains its errors."""
        return nullcontext()

    def after_step(self, epoch: int, loss: Tensor) -> None:
        """Called after every step, with its mean loss on the device."""

    def after_epoch(self) -> None:
        """Called after an epoch without an evaluation."""

    def not_finite(self, losses: Mapping[str, Tensor], batch: ImageBatch) -> str:
        """What is said of a loss that is no number."""
        values = ", ".join(f"{name} {float(value):g}" for name, value in losses.items() if name != "loss")
        images = listed(frame.image_id for frame in batch.frames)
        return f"the loss is not finite at step {self.state.step} ({values}). Images of this batch: {images}."

    def _update(self, model: nn.Module) -> None:
        """One step of the optimizer; in fp16 the scaler leaves it out where a gradient is not finite."""
        scaler, most = self.accelerator.scaler, self.options.clip_norm
        if most is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), most)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()

    @contextmanager
    def _gradients_stay(self, model: nn.Module) -> Iterator[None]:
        """Inside, a backward pass leaves its gradients on its own process."""
        if not self.sharded:
            with self.accelerator.no_sync(model):
                yield
            return
        sharding.set_synchronised(model, False)
        yield
        sharding.set_synchronised(model, True)

    def _on_device(self, batch: Batch) -> Batch:
        """A batch where the model is; masks that are read there go with the result."""
        device = self.accelerator.device
        images, targets = batch
        return images.to(device, self.memory_format), [target.to(device) for target in targets]

    def _losses(self, model: nn.Module, batch: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        """The losses of one batch by name."""
        try:
            losses: dict[str, Tensor] = model(*self._on_device((batch, targets)))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainingError(
                f"batch normalisation cannot learn from a single value per channel ({error}); use a larger "
                "train.batch_size or data.resize, or model.backbone.norm=frozen or group"
            ) from error
        return losses

    def _agree_to_go_on(self, passes: Sequence[Mapping[str, Tensor]], batches: Sequence[ImageBatch]) -> None:
        """Ends all processes where a loss of one is no number: an update with it would lose the weights.

        A signal to one is a signal to all, noted at the same step.

        Args:
            passes: the losses of every pass of this step, their sum as `loss`.
            batches: what each pass saw.
        """
        # The one wait for the device in a step, when all of its work but the update is queued; and where there are
        # several processes, one message.
        good = torch.isfinite(torch.stack([losses["loss"] for losses in passes])).tolist()
        bad, self.asked = all_reduce_max([not all(good), self.signal()])
        if not all(good):
            first = good.index(False)
            raise TrainingError(self.not_finite(passes[first], batches[first]))
        if bad:
            raise OtherProcessError(f"the loss of another process is not finite at step {self.state.step}")

    def signal(self) -> int:
        """The number of a signal that this process was sent, 0 for none."""
        return 0

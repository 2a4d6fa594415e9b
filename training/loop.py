"""The whole training loop. It knows a module that returns losses, and no task.

Everything random in a step is a function of (seed, step, rank), and the data of a step is a function
of (seed, epoch, index): so what `resume.pt` holds (weights, optimizer, counters) is all there is.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from signal import Signals
from typing import Any, Protocol

import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, nn

from rehead.configs.schema import TrainOptions
from rehead.errors import OtherProcessError, OutputError, RunStoppedError, TrainingError, listed
from rehead.files import json_text
from rehead.progress import Progress
from rehead.terminal import say
from rehead.training import sharding
from rehead.training.averaging import WeightAverage
from rehead.training.checkpoints import on_cpu, save_model, says, tensors_of
from rehead.training.copying import copied_ahead
from rehead.training.distributed import all_gather, all_reduce_max, fail_together, is_rank_failure, wait_for_all, world
from rehead.training.engine import repeatable, seed_step
from rehead.training.memory import explain_oom
from rehead.training.metrics import MetricsLog
from rehead.training.resume import restore, save_resume
from rehead.training.schedule import build_optimizer, rate
from rehead.training.stopping import StopNow, StopSignals
from rehead.types import ImageBatch, Target

Batch = tuple[ImageBatch, list[Target]]

SAVE_AFTER = 30.0
"""Seconds since the last checkpoint from which the end of an epoch is worth another: epochs may be tiny."""


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

    def evaluate(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        """The scores, whose mean `best.safetensors` maximises, and every figure; both by dotted name."""

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


def fit(
    job: Job,
    options: TrainOptions,
    folder: Path,
    accelerator: Accelerator,
    resumed: Mapping[str, Any] | None = None,
) -> None:
    """Trains to the end of `options.epochs` or `options.max_steps`, whichever comes first.

    Leaves `best.safetensors`, `last.safetensors`, `resume.pt` and the metric files in `folder`.

    Args:
        job: the model, its batches and its evaluation.
        options: the training options.
        folder: the run's.
        accelerator: from `build_accelerator`.
        resumed: what `resume.pt` held, to go on from there.

    Raises:
        RunStoppedError: after SIGTERM or Ctrl-C, when the step is saved.
        TrainingError: if the loss is not finite or the disk is full; the last good checkpoint stays.
    """
    total = options.epochs * job.steps_per_epoch
    if options.max_steps is not None:
        total = min(total, options.max_steps)
    with repeatable(options, accelerator.device):
        Loop(job, options, folder, accelerator, total).run(resumed)


def conditions_of(job: Job) -> dict[str, int]:
    """Numbers by name that the order of a run's images depends on."""
    return {**job.conditions, "processes": world()}


def refuse_other_conditions(job: Job, folder: Path, resumed: Mapping[str, Any]) -> None:
    """Raises `TrainingError` where a resumed run would see its images in another order."""
    before, now = resumed["conditions"], conditions_of(job)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        said = listed(f"{before.get(name)} {name} before, {now.get(name)} now" for name in changed)
        raise TrainingError(
            f"{folder}: {said}; the order of the images depends on that, so the run cannot go on as the same. "
            f"Put it back as it was, or start a new run from its weights by model.init={folder}/last.safetensors"
        )


class Loop:
    """One run: its model, optimizer, files and counters."""

    def __init__(self, job: Job, options: TrainOptions, folder: Path, accelerator: Accelerator, total: int) -> None:
        self.job, self.options, self.folder, self.accelerator, self.total = job, options, folder, accelerator, total
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
        self.signals = StopSignals()
        self.asked = 0
        # Summed since the last row of the metric files; they wait on the device until a row is due.
        self.sums: dict[str, Tensor] = {}
        self.summed: dict[str, int] = {}
        self.saved_at = time.monotonic()

    def run(self, resumed: Mapping[str, Any] | None) -> None:
        """Trains from the beginning, or from what `resume.pt` held."""
        with fail_together():
            if resumed is not None:
                self._restore(resumed)
            if self.accelerator.is_main_process:
                self.metrics = MetricsLog(self.folder, self.state.step)
        with warnings.catch_warnings():
            # Accelerate knows the name that an option of DDP had before torch 2.15.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            # What is sharded already must not be wrapped a second time.
            model = self.accelerator.prepare_model(self.job.model, evaluation_mode=self.sharded)
        if resumed is not None:
            self._publish(self._tensors(), only_missing=True)
            if self._ended() and not self.state.due:
                say(f"{self.folder}: this run ended at step {self.state.step}, there is nothing left to do")
                return
            say(f"going on with {self.folder} at step {self.state.step} of {self.total}")
        with self.signals:
            try:
                self._train(model)
            except StopNow:
                signal = self.signals.received
                assert signal is not None
                raise RunStoppedError(
                    f"stopped by {signal.name} and saved at step {self.state.step} of {self.total}; go on with: "
                    f"rehead train --resume {self.folder}",
                    signal,
                ) from None
            except RuntimeError as error:
                if not is_rank_failure(error):
                    raise
                raise OtherProcessError(
                    f"another of the {world()} processes of this run is gone. {self._kept()} Go on with: the same "
                    f"launcher and rehead train --resume {self.folder}"
                ) from error
        if self.state.step < self.total:
            say(f"stopped early: {self.state.not_better} evaluations in a row were not better than {self.state.best}")

    def _asked_to_stop(self) -> bool:
        """Whether a signal came: to this process, or where there are several, to any of them before this step."""
        if world() == 1:
            return self.signals.received is not None
        if self.asked:
            self.signals.received = Signals(self.asked)
        return self.asked > 0

    def _ended(self) -> bool:
        patience = self.options.early_stopping
        return self.state.step >= self.total or (patience is not None and self.state.not_better >= patience)

    def _train(self, model: nn.Module) -> None:
        steps_per_epoch = self.job.steps_per_epoch
        quiet = not self.accelerator.is_main_process
        if self.state.due:
            self._evaluate_and_save()
        with Progress("training", self.total, done=self.state.step, quiet=quiet) as progress:
            while not self._ended():
                epoch, start = divmod(self.state.step, steps_per_epoch)
                model.train()
                batches = copied_ahead(self.job.batches(epoch, start), self._on_device, self.accelerator.device)
                while step := list(islice(batches, self.options.accumulate)):
                    stated = self.options.global_batch_size is not None
                    with explain_oom(len(step[0][1]), self.state.step, self._kept, stated=stated):
                        loss = self._step(model, step)
                    at_end = self.state.step == self.total
                    if self.state.step % self.options.log_every == 0 or at_end:
                        self._log(epoch)
                        progress.advance(f"epoch {epoch + 1}/{self.options.epochs}  loss {float(loss):.4f}")
                    else:
                        progress.advance()
                    if at_end:
                        break
                    at_epoch_end = self.state.step % steps_per_epoch == 0
                    if self._asked_to_stop():
                        self.state.due = at_epoch_end and (epoch + 1) % self.options.evaluate_every == 0
                        self._checkpoint()
                        wait_for_all()
                        raise StopNow
                    every = self.options.checkpoint_every
                    if every is not None and self.state.step % every == 0 and not at_epoch_end:
                        self._checkpoint()
                at_end = self.state.step == self.total
                if at_end or (epoch + 1) % self.options.evaluate_every == 0:
                    self._evaluate_and_save()
                elif all_reduce_max([int(time.monotonic() - self.saved_at > SAVE_AFTER)]) == [1]:
                    self._checkpoint()

    def _step(self, model: nn.Module, batches: Sequence[Batch]) -> Tensor:
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
        bad, number = all_reduce_max([not all(good), self.signals.received or 0])
        if not all(good):
            first = good.index(False)
            raise TrainingError(self._not_finite(passes[first], batches[first]))
        if bad:
            raise OtherProcessError(f"the loss of another process is not finite at step {self.state.step}")
        self.asked = number

    def _log(self, epoch: int) -> None:
        """A row of mean losses of all processes since the last one."""
        sums, summed = Counter[str](), Counter[str]()
        for own_sums, own_summed in all_gather(
            ({name: float(value) for name, value in self.sums.items()}, self.summed)
        ):
            sums.update(own_sums)
            summed.update(own_summed)
        means = {name: round(value / summed[name], 6) for name, value in sums.items()}
        self.sums, self.summed = {}, {}
        if self.accelerator.is_main_process:
            lr = self.optimizer.param_groups[0]["lr"]
            row = {"step": self.state.step, "epoch": epoch + 1, "lr": lr, **means}
            self._write(lambda: self.metrics.write(row))

    def _evaluate_and_save(self) -> None:
        """An evaluation that fails or is interrupted must not cost the training before it."""
        self.state.due = True
        if world() > 1:
            # When one process has failed it is too late to save: that takes all of them.
            self._checkpoint()
        try:
            with self.signals.at_once():
                scores, metrics, seconds = self._evaluate()
        except BaseException:
            if world() == 1:
                self._checkpoint()
            raise
        state = self.state
        score = sum(-1.0 if value is None else value for value in scores.values()) / len(scores)
        state.due = False
        state.not_better += 1
        better = state.best is None or score > state.best
        if better:
            state.best, state.best_step, state.not_better = score, state.step, 0
        if self.accelerator.is_main_process:
            epoch = (state.step - 1) // self.job.steps_per_epoch + 1
            self._write(lambda: self.metrics.write({"step": state.step, "epoch": epoch, **metrics}))
            best = "  (best)" if better else ""
            say(f"epoch {epoch}, step {state.step}: {_shown(scores, metrics)}{best}  evaluated in {seconds:.0f} s")
        self._checkpoint()

    def _evaluate(self) -> tuple[dict[str, float | None], dict[str, float | None], float]:
        """The scores, every figure, and the seconds it took, of the weights that are saved for use."""
        started = time.monotonic()
        with self._weights_for_use():
            scores, metrics = self.job.evaluate()
        return scores, metrics, time.monotonic() - started

    def _weights_for_use(self) -> AbstractContextManager[None]:
        return self.average.in_place() if self.average is not None else nullcontext()

    def _checkpoint(self) -> None:
        """Commits this step: the rename of `resume.pt` does. Everything else can be made from it again.

        All processes come here together; the first one writes.
        """
        tensors, optimizer = self._tensors(), self._optimizer_state()
        sums = {name: value.cpu() for name, value in self.sums.items()}
        unlogged = all_gather({"sums": sums, "summed": self.summed})
        self.saved_at = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        average = self.average
        metadata = self.job.metadata(self.state.step, tensors)
        state = {
            "model": self._finite(tensors),
            "average": {"tensors": average.tensors, "updates": average.updates} if average is not None else None,
            "optimizer": optimizer,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "state": vars(self.state),
            "unlogged": unlogged,
            "conditions": conditions_of(self.job),
            "metadata": json_text(metadata),
        }
        self._write(self.metrics.sync)
        self._write(lambda: save_resume(self.folder / "resume.pt", state))
        self._publish(tensors)

    def _publish(self, tensors: Mapping[str, Tensor], only_missing: bool = False) -> None:
        """Writes the weights of the committed step for use: as the last, and as the best where they are.

        Args:
            tensors: the model's, of the first process; their average is taken where there is one.
            only_missing: leave a file alone that says the same of itself; a kill may have come before it was written.
        """
        if not self.accelerator.is_main_process:
            return
        if self.average is not None:
            tensors = on_cpu(self.average.tensors)
        metadata = self.job.metadata(self.state.step, tensors)
        names = ["last.safetensors", *(["best.safetensors"] if self.state.best_step == self.state.step else [])]
        for name in names:
            if only_missing and says(self.folder / name, metadata):
                continue
            self._write(partial(save_model, self.folder / name, tensors, metadata))

    def _restore(self, resumed: Mapping[str, Any]) -> None:
        refuse_other_conditions(self.job, self.folder, resumed)
        restore(self.job.model, self.optimizer, self.average, resumed, self.folder / "resume.pt")
        if resumed["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(resumed["scaler"])
        self.state = LoopState(**resumed["state"])
        own = resumed["unlogged"][self.accelerator.process_index]
        self.sums = {name: value.to(self.accelerator.device) for name, value in own["sums"].items()}
        self.summed = dict(own["summed"])

    def _tensors(self) -> dict[str, Tensor]:
        """The model's tensors on the CPU, those of the first process."""
        if self.sharded:
            return sharding.whole_tensors(self.job.model)
        return tensors_of(self.job.model) if self.accelerator.is_main_process else {}

    def _optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state, on the first process."""
        if self.sharded:
            return sharding.whole_optimizer(self.job.model, self.optimizer)
        return self.optimizer.state_dict() if self.accelerator.is_main_process else {}

    def _finite(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights, if they are worth keeping."""
        bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if bad:
            raise TrainingError(
                f"{len(bad)} tensors of the model are not finite at step {self.state.step} ({listed(bad)}); they were "
                f"not saved. {self._kept()} Lower train.optimizer.lr, or set train.clip_norm or a longer warm-up."
            )
        return tensors

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OutputError as error:
            raise TrainingError(
                f"{error}. The last whole checkpoint is untouched; make room and go on with: "
                f"rehead train --resume {self.folder}"
            ) from error

    def _not_finite(self, losses: Mapping[str, Tensor], batch: ImageBatch) -> str:
        values = ", ".join(f"{name} {float(value):g}" for name, value in losses.items() if name != "loss")
        images = listed(frame.image_id for frame in batch.frames)
        return (
            f"the loss is not finite at step {self.state.step} ({values}). Images of this batch: {images}. "
            f"{self._kept()} Look at these images, or lower train.optimizer.lr, or set train.clip_norm or a longer "
            "warm-up."
        )

    def _kept(self) -> str:
        kept = self.folder / "last.safetensors"
        return f"The last good checkpoint is {kept}." if kept.exists() else "There is no checkpoint yet."


def _shown(scores: Mapping[str, float | None], metrics: Mapping[str, float | None]) -> str:
    """Every score, and the first of the other metrics where there is room; a dash where nothing could be measured."""
    named = {**scores, **metrics}
    return "  ".join(
        f"{name} -" if value is None or value < 0 else f"{name} {value:.4f}"
        for name, value in list(named.items())[: max(len(scores), 3)]
    )

"""A run: the loop, with its files, its checkpoints, resuming, signals, and what is said about it."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from accelerate.accelerator import Accelerator
from torch import Tensor, nn

from rehead.configs.schema import TrainOptions
from rehead.errors import OtherProcessError, OutputError, RunStoppedError, TrainingError, listed
from rehead.files import json_text
from rehead.progress import Progress
from rehead.terminal import say
from rehead.training import sharding
from rehead.training.checkpoints import on_cpu, save_model, says, tensors_of
from rehead.training.distributed import all_gather, all_reduce_max, fail_together, is_rank_failure, wait_for_all, world
from rehead.training.engine import repeatable
from rehead.training.loggers import Callback, CallbackLogger, FileLogger, Logger
from rehead.training.loop import Batch, Job, Loop, LoopState, Scores
from rehead.training.memory import explain_oom
from rehead.training.resume import restore, save_resume
from rehead.training.stopping import StopNow, StopSignals
from rehead.types import ImageBatch

SAVE_AFTER = 30.0
"""Seconds since the last checkpoint from which the end of an epoch is worth another: epochs may be tiny."""


def fit(
    job: Job,
    options: TrainOptions,
    folder: Path,
    accelerator: Accelerator,
    resumed: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Trains to the end of `options.epochs` or `options.max_steps`, whichever comes first.

    Leaves `best.safetensors`, `last.safetensors`, `resume.pt` and the metric files in `folder`.

    Args:
        job: the model, its batches and its evaluation.
        options: the training options.
        folder: the run's.
        accelerator: from `build_accelerator`.
        resumed: what `resume.pt` held, to go on from there.
        callbacks: each is called with every row of the metric files, on the first process.

    Raises:
        RunStoppedError: after SIGTERM or Ctrl-C, when the step is saved.
        TrainingError: if the loss is not finite or the disk is full; the last good checkpoint stays.
    """
    total = options.epochs * job.steps_per_epoch
    if options.max_steps is not None:
        total = min(total, options.max_steps)
    with repeatable(options, accelerator.device):
        Run(job, options, folder, accelerator, total, callbacks).run(resumed)


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


class Run(Loop):
    """The loop in a folder of its own."""

    def __init__(
        self,
        job: Job,
        options: TrainOptions,
        folder: Path,
        accelerator: Accelerator,
        total: int,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__(job, options, accelerator, total)
        self.folder, self.callbacks = folder, callbacks
        self.loggers: list[Logger] = []
        self.signals = StopSignals()
        self.saved_at = time.monotonic()
        self.progress: Progress | None = None

    def run(self, resumed: Mapping[str, Any] | None) -> None:
        """Trains from the beginning, or from what `resume.pt` held."""
        with fail_together():
            if resumed is not None:
                self._restore(resumed)
            if self.accelerator.is_main_process:
                self.files = FileLogger(self.folder, keep=0 if resumed is None else resumed["rows"])
                self.loggers = [self.files, *map(CallbackLogger, self.callbacks)]
        with warnings.catch_warnings():
            # Accelerate knows the name that an option of DDP had before torch 2.15.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            # What is sharded already must not be wrapped a second time.
            model = self.accelerator.prepare_model(self.job.model, evaluation_mode=self.sharded)
        if resumed is not None:
            self._publish(self._tensors(), only_missing=True)
            if self.ended() and not self.state.due:
                say(f"{self.folder}: this run ended at step {self.state.step}, there is nothing left to do")
                return
            say(f"going on with {self.folder} at step {self.state.step} of {self.total}")
        with self.signals:
            try:
                self.train(model)
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

    def train(self, model: nn.Module) -> None:
        """The same with a bar."""
        if self.state.due:
            self.evaluate()
        quiet = not self.accelerator.is_main_process
        with Progress("training", self.total, done=self.state.step, quiet=quiet) as self.progress:
            super().train(model)

    def guarded(self, step: Sequence[Batch]) -> AbstractContextManager[None]:
        """Says what to lower where memory is short."""
        stated = self.options.global_batch_size is not None
        return explain_oom(len(step[0][1]), self.state.step, self._kept, stated=stated)

    def after_step(self, epoch: int, loss: Tensor) -> None:
        """Rows of metrics, the bar, and the checkpoints that are due within an epoch, or because of a signal."""
        assert self.progress is not None
        at_end = self.state.step == self.total
        if self.state.step % self.options.log_every == 0 or at_end:
            self._log(epoch)
            self.progress.advance(f"epoch {epoch + 1}/{self.options.epochs}  loss {float(loss):.4f}")
        else:
            self.progress.advance()
        if at_end:
            return
        at_epoch_end = self.state.step % self.job.steps_per_epoch == 0
        if self._asked_to_stop():
            self.state.due = self.evaluation_is_due()
            self._checkpoint()
            wait_for_all()
            raise StopNow
        every = self.options.checkpoint_every
        if every is not None and self.state.step % every == 0 and not at_epoch_end:
            self._checkpoint()

    def after_epoch(self) -> None:
        """A checkpoint, unless there was one just now."""
        if all_reduce_max([int(time.monotonic() - self.saved_at > SAVE_AFTER)]) == [1]:
            self._checkpoint()

    def evaluate(self) -> tuple[Scores, Scores]:
        """An evaluation and a checkpoint. One that fails or is interrupted must not cost the training before it."""
        self.state.due = True
        if world() > 1:
            # When one process has failed it is too late to save: that takes all of them.
            self._checkpoint()
        started = time.monotonic()
        try:
            with self.signals.at_once():
                scores, metrics = super().evaluate()
        except BaseException:
            if world() == 1:
                self._checkpoint()
            raise
        state = self.state
        if self.accelerator.is_main_process:
            epoch = (state.step - 1) // self.job.steps_per_epoch + 1
            self._write_row({"step": state.step, "epoch": epoch, **metrics})
            best = "  (best)" if state.best_step == state.step else ""
            seconds = time.monotonic() - started
            say(f"epoch {epoch}, step {state.step}: {_shown(scores, metrics)}{best}  evaluated in {seconds:.0f} s")
        self._checkpoint()
        return scores, metrics

    def signal(self) -> int:
        """The number of the signal that this process was sent, 0 for none."""
        return self.signals.received or 0

    def _asked_to_stop(self) -> bool:
        """Whether a signal came: to this process, or where there are several, to any of them before this step."""
        if world() == 1:
            return self.signals.received is not None
        if self.asked:
            self.signals.received = Signals(self.asked)
        return self.asked > 0

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
            self._write_row({"step": self.state.step, "epoch": epoch + 1, "lr": lr, **means})

    def _write_row(self, row: Mapping[str, Any]) -> None:
        for logger in self.loggers:
            self._write(partial(logger.write, row))

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
            "rows": len(self.files.rows),
            "conditions": conditions_of(self.job),
            "metadata": json_text(metadata),
        }
        for logger in self.loggers:
            self._write(logger.sync)
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

    def not_finite(self, losses: Mapping[str, Tensor], batch: ImageBatch) -> str:
        """What is said of a loss that is no number, and what is left."""
        return (
            f"{super().not_finite(losses, batch)} {self._kept()} Look at these images, or lower train.optimizer.lr, or "
            "set train.clip_norm or a longer warm-up."
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

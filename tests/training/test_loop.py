"""The loop on a module that returns losses and knows no task."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from rehead.configs.schema import OptimizerOptions, TrainOptions
from rehead.errors import DataError, RunStoppedError, TrainingError
from rehead.training import checkpoints, stopping
from rehead.training.averaging import WeightAverage
from rehead.training.checkpoints import read_metadata, read_tensors
from rehead.training.engine import build_accelerator, repeatable
from rehead.training.loggers import FileLogger
from rehead.training.loop import Batch, Loop
from rehead.training.resume import read_resume, save_resume
from rehead.training.run import fit
from rehead.training.stopping import StopSignals
from rehead.types import Frame, ImageBatch, Target


class Toy(nn.Module):
    """Dropout draws from the global generator, as proposal sampling does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, batch: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        out = self.drop(self.norm(self.conv(batch.pixels.float() / 255)))
        wanted = torch.stack([target.label for target in targets]).float()
        return {"loss_a": (out.mean((1, 2, 3)) - wanted).square().mean(), "loss_b": out.square().mean() * 0.1}


class OneValue(Toy):
    """What batch normalisation says to one image whose map is one pixel."""

    def forward(self, batch: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        return {"loss": self.norm(self.conv(batch.pixels[:1].float())[:, :, :1, :1]).sum()}


class ToyJob:
    """Batches are a function of (epoch, index); the score is given."""

    steps_per_epoch = 4
    conditions: Mapping[str, int] = {"training images": 8}

    def __init__(
        self,
        scores: list[float] | None = None,
        poison: int | None = None,
        stop_at: int | None = None,
        poison_gradient: int | None = None,
        fail_evaluation: int | None = None,
        signal_at: int | None = None,
        evaluated: int = 0,
    ) -> None:
        torch.manual_seed(0)
        self.poison_gradient, self.fail_evaluation = poison_gradient, fail_evaluation
        self.model: nn.Module = Toy()
        self.scores = scores or [0.0] * 100
        self.poison, self.stop_at = poison, stop_at
        self.evaluations = evaluated
        self.signal_at = signal_at

    def batches(self, epoch: int, start: int) -> Iterable[Batch]:
        for index in range(start, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + index
            if step == self.stop_at:
                raise KeyboardInterrupt
            if step == self.signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            if step == self.poison_gradient:
                next(self.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
            generator = torch.Generator().manual_seed(step)
            pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
            frames = [Frame((8, 8), (8, 8), image_id=f"{step}-{place}.jpg") for place in range(2)]
            label = torch.tensor(float("nan") if step == self.poison else 1.0)
            yield ImageBatch(pixels, frames), [Target(frame.image_id, label=label) for frame in frames]

    def evaluate(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        self.evaluations += 1
        if self.evaluations == self.fail_evaluation:
            raise DataError("val/1.jpg: gone")
        if self.signal_at is not None and self.signal_at < 0 and self.evaluations == -self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        score = self.scores[self.evaluations - 1]
        torch.rand(7)  # whatever an evaluation draws must not change the training
        return {"main.score": score}, {"main.score": score, "main.absent": None}

    def metadata(self, steps: int, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
        return {"config": {"a": 1}, "evaluations": self.evaluations}


def run(job: ToyJob, folder: Path, resume: bool = False, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    train = TrainOptions(**{"epochs": 3, "log_every": 3, "optimizer": OptimizerOptions(lr=0.1), **options})
    resumed = read_resume(folder / "resume.pt") if resume else None
    fit(job, train, folder, build_accelerator(torch.device("cpu"), "fp32"), resumed)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def evaluated(folder: Path) -> int:
    """Evaluations that the metric files know of."""
    return sum("main.score" in row for row in rows(folder))


def same(one: Path, other: Path) -> bool:
    """Whether two runs left the same tensors and rows."""
    for name in ("best.safetensors", "last.safetensors"):
        tensors, others = read_tensors(one / name), read_tensors(other / name)
        if any(not torch.equal(tensors[key], others[key]) for key in tensors):
            return False
    return all((one / name).read_text() == (other / name).read_text() for name in ("metrics.csv", "metrics.jsonl"))


def test_a_run_leaves_everything_even_when_every_score_is_zero(tmp_path: Path) -> None:
    run(ToyJob(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "metrics.csv",
        "metrics.jsonl",
        "resume.pt",
    }
    assert read_resume(tmp_path / "resume.pt")["state"] == {
        **{"step": 12, "best": 0.0, "best_step": 4, "not_better": 2, "due": False}
    }


def test_the_best_checkpoint_is_that_of_the_best_score(tmp_path: Path) -> None:
    run(ToyJob(scores=[0.2, 0.9, 0.5]), tmp_path)
    assert read_metadata(tmp_path / "best.safetensors")["evaluations"] == 2
    assert read_metadata(tmp_path / "last.safetensors")["evaluations"] == 3


@pytest.mark.parametrize(("max_steps", "evaluations"), [(1, 1), (4, 1), (6, 2), (100, 3)])
def test_the_run_ends_at_whichever_limit_comes_first_and_evaluates_there(
    tmp_path: Path, max_steps: int, evaluations: int
) -> None:
    job = ToyJob()
    run(job, tmp_path, max_steps=max_steps)
    assert read_resume(tmp_path / "resume.pt")["state"]["step"] == min(max_steps, 12)
    assert job.evaluations == evaluations


def test_evaluation_every_other_epoch_and_at_the_end(tmp_path: Path) -> None:
    run(ToyJob(), tmp_path, evaluate_every=2)
    assert [row["epoch"] for row in rows(tmp_path) if "main.score" in row] == [2, 3]


@pytest.mark.parametrize("stop_at", [5, 8, 11])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(tmp_path: Path, stop_at: int) -> None:
    scores = [0.2, 0.9, 0.5]
    run(ToyJob(scores), tmp_path / "whole", checkpoint_every=2, clip_norm=0.5)
    with pytest.raises(KeyboardInterrupt):
        run(ToyJob(scores, stop_at=stop_at), tmp_path / "stopped", checkpoint_every=2, clip_norm=0.5)
    job = ToyJob(scores, evaluated=evaluated(tmp_path / "stopped"))
    run(job, tmp_path / "stopped", resume=True, checkpoint_every=2, clip_norm=0.5)
    assert same(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("signal_at", [0, 5, 7, 11, -1, -3])
def test_a_signal_ends_the_step_or_breaks_off_the_evaluation_and_saves(tmp_path: Path, signal_at: int) -> None:
    """In a step, in the last of an epoch, in the last of all, in an evaluation: nothing is lost or done twice."""
    scores, options = [0.2, 0.9, 0.5], {"ema": {"decay": 0.9}}
    run(ToyJob(scores), tmp_path / "whole", **options)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(RunStoppedError) as stopped:
        run(ToyJob(scores, signal_at=signal_at), tmp_path / "stopped", **options)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    step = {-1: 4, -3: 12}.get(signal_at, signal_at + 1)
    name = "SIGTERM" if signal_at >= 0 else "SIGINT"
    assert f"stopped by {name} and saved at step {step} of 12" in str(stopped.value)
    assert f"rehead train --resume {tmp_path}/stopped" in str(stopped.value)
    assert stopped.value.exit_code == (143 if signal_at >= 0 else 130)
    assert read_resume(tmp_path / "stopped/resume.pt")["state"]["step"] == step
    run(ToyJob(scores, evaluated=evaluated(tmp_path / "stopped")), tmp_path / "stopped", resume=True, **options)
    assert same(tmp_path / "whole", tmp_path / "stopped")


def test_a_second_signal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        # The echo of a launcher is no second one.
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received is signal.SIGINT
        monkeypatch.setattr(stopping, "ONE", 0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_finished_run_says_so_and_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(ToyJob(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    job = ToyJob(evaluated=3)
    run(job, tmp_path, resume=True)
    said = capsys.readouterr().err
    assert "this run ended at step 12, there is nothing left to do" in said
    assert "going on" not in said
    assert job.evaluations == 3
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_made_from_a_commit_is_made_again_if_a_kill_came_between(tmp_path: Path) -> None:
    scores = [0.2, 0.9, 0.5]
    run(ToyJob(scores), tmp_path / "whole", max_steps=8)
    run(ToyJob(scores), tmp_path / "killed", max_steps=8)
    (tmp_path / "killed/best.safetensors").unlink()
    (tmp_path / "killed/last.safetensors").write_bytes((tmp_path / "whole/last.safetensors").read_bytes()[:100])
    run(ToyJob(scores), tmp_path / "killed", resume=True, max_steps=8)
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_other_data_under_a_resumed_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(ToyJob(stop_at=5), tmp_path)
    job = ToyJob()
    job.conditions = {"training images": 9}
    with pytest.raises(TrainingError, match="8 training images before, 9 now"):
        run(job, tmp_path, resume=True)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_scaled_loss_trains_as_one_that_is_not(tmp_path: Path, clip: float | None) -> None:
    """The scaler of fp16, on a CPU: a power of two changes no bit, and its state goes on with the run."""
    run(ToyJob(), tmp_path / "plain", clip_norm=clip)
    options = TrainOptions(epochs=3, log_every=3, clip_norm=clip, optimizer=OptimizerOptions(lr=0.1))
    (tmp_path / "scaled").mkdir()
    for job in (ToyJob(stop_at=7), ToyJob(evaluated=1)):
        accelerator = build_accelerator(torch.device("cpu"), "fp32")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=5)
        resumed = None if job.stop_at else read_resume(tmp_path / "scaled/resume.pt")
        with pytest.raises(KeyboardInterrupt) if job.stop_at else nullcontext():
            fit(job, options, tmp_path / "scaled", accelerator, resumed)
    assert accelerator.scaler.get_scale() == 16.0  # doubled after 5 and 10 of the 12 steps
    assert same(tmp_path / "plain", tmp_path / "scaled")


def test_a_step_without_finite_gradients_is_left_out_in_fp16(tmp_path: Path) -> None:
    job = ToyJob(poison_gradient=0)
    start = {name: tensor.clone() for name, tensor in job.model.named_parameters()}
    accelerator = build_accelerator(torch.device("cpu"), "fp32")
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    fit(job, TrainOptions(max_steps=1), tmp_path, accelerator)
    assert accelerator.scaler.get_scale() == 2.0
    assert all(torch.equal(tensor, start[name]) for name, tensor in job.model.named_parameters())


def test_training_ends_early_where_the_score_rises_no_more_and_a_resumed_run_counts_on(tmp_path: Path) -> None:
    scores, options = [0.5, 0.4, 0.3, 0.6, 0.1], {"epochs": 5, "early_stopping": 2}
    job = ToyJob(scores)
    run(job, tmp_path / "whole", **options)
    assert job.evaluations == 3
    with pytest.raises(KeyboardInterrupt):
        run(ToyJob(scores, stop_at=9), tmp_path / "parts", **options)
    job = ToyJob(scores, evaluated=2)
    run(job, tmp_path / "parts", resume=True, **options)
    assert job.evaluations == 3
    assert same(tmp_path / "whole", tmp_path / "parts")
    # More patience, and it goes on: the fourth score is the best.
    run(job, tmp_path / "parts", resume=True, epochs=5, early_stopping=3)
    assert read_resume(tmp_path / "parts/resume.pt")["state"]["best_step"] == 16


class TestAverage:
    def test_it_is_the_formula(self) -> None:
        model = nn.Linear(1, 1, bias=False)
        average = WeightAverage(model, 0.5)
        expected = model.weight.item()
        for update, value in enumerate((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0), start=1):
            nn.init.constant_(model.weight, value)
            average.update()
            keep = min(0.5, (1 + update) / (10 + update))
            expected = keep * expected + (1 - keep) * value
        assert float(average.tensors["weight"]) == pytest.approx(expected)

    def test_checkpoints_for_use_hold_it_with_its_statistics_and_evaluation_sees_it(self, tmp_path: Path) -> None:
        job = ToyJob()
        seen: list[dict[str, Tensor]] = []
        evaluate = job.evaluate
        job.evaluate = lambda: (seen.append({k: v.clone() for k, v in job.model.state_dict().items()}), evaluate())[1]  # type: ignore[method-assign]
        run(job, tmp_path, ema={"decay": 0.9}, epochs=1)
        state = read_resume(tmp_path / "resume.pt")
        last = read_tensors(tmp_path / "last.safetensors")
        assert state["average"]["updates"] == 4
        for name, tensor in last.items():
            assert torch.equal(tensor, state["average"]["tensors"][name])
            assert torch.equal(tensor, seen[0][name])
            assert torch.equal(job.model.state_dict()[name], state["model"][name])
        assert not torch.equal(last["conv.weight"], state["model"]["conv.weight"])
        assert not torch.equal(last["norm.running_mean"], state["model"]["norm.running_mean"])
        assert int(last["norm.num_batches_tracked"]) == 4


def test_checkpoints_come_between_epochs_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(ToyJob(stop_at=3), tmp_path, checkpoint_every=2)
    assert read_resume(tmp_path / "resume.pt")["state"]["step"] == 2


def test_a_loss_that_is_no_number_stops_names_the_images_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        run(ToyJob(poison=6), tmp_path)
    assert "6-0.jpg, 6-1.jpg" in str(caught.value)
    assert "loss_a nan" in str(caught.value)
    assert str(tmp_path / "last.safetensors") in str(caught.value)
    assert read_resume(tmp_path / "resume.pt")["state"]["step"] == 4
    assert all(torch.isfinite(value).all() for value in read_tensors(tmp_path / "last.safetensors").values())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    """The loss of the last step is still finite; what the update makes of the weights is not."""
    with pytest.raises(TrainingError, match="tensors of the model are not finite at step 5"):
        run(ToyJob(poison_gradient=4), tmp_path, max_steps=5)
    assert read_resume(tmp_path / "resume.pt")["state"]["step"] == 4


def test_an_evaluation_that_fails_does_not_cost_the_training(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(ToyJob([0.1, 0.2, 0.3]), whole)
    job = ToyJob([0.1, 0.2, 0.3], fail_evaluation=2)
    with pytest.raises(DataError):
        run(job, broken)
    state = read_resume(broken / "resume.pt")["state"]
    assert state == {"step": 8, "best": 0.1, "best_step": 4, "not_better": 0, "due": True}
    run(ToyJob([0.1, 0.2, 0.3], evaluated=1), broken, resume=True)
    assert (whole / "metrics.csv").read_text() == (broken / "metrics.csv").read_text()


def test_one_value_per_channel_is_explained(tmp_path: Path) -> None:
    job = ToyJob()
    job.model = OneValue()
    with pytest.raises(TrainingError, match=r"larger train\.batch_size"):
        run(job, tmp_path)


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def save_until_full(tensors: Any, path: Path, metadata: Any) -> None:
        saved.append(path)
        if len(saved) > 2:
            Path(path).write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoints, "save_file", save_until_full)
    with pytest.raises(TrainingError, match=r"No space left on device.*make room and go on with"):
        run(ToyJob(), tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert read_tensors(tmp_path / "last.safetensors")
    # The step that could not be copied for use was already committed.
    assert read_resume(tmp_path / "resume.pt")["state"]["step"] == 8


def test_a_disk_that_is_full_for_the_commit_is_said_by_the_system_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own error of a write that fails is about positions in the file."""
    run(ToyJob(stop_at=None), tmp_path, max_steps=4)
    before = (tmp_path / "resume.pt").read_bytes()
    genuine = Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        # The device that is always full.
        return genuine(Path("/dev/full") if self.suffix == ".pt" and mode == "wb" else self, mode, *arguments, **named)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(TrainingError, match=r"resume\.pt: No space left on device.*make room and go on with"):
        run(ToyJob(), tmp_path, resume=True, max_steps=8)
    assert (tmp_path / "resume.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_an_error_that_is_no_full_disk_is_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed by signal"):
        save_resume(tmp_path / "resume.pt", {"model": Stopping()})


class Stopping:
    """As if a worker were found dead while a checkpoint is written."""

    def __reduce__(self) -> Any:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")


def test_resuming_without_a_run_or_from_a_broken_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file"):
        read_resume(tmp_path / "resume.pt")
    (tmp_path / "resume.pt").write_bytes(b"half a file")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_resume(tmp_path / "resume.pt")


def test_the_metric_files_hold_the_same_rows(tmp_path: Path) -> None:
    run(ToyJob(scores=[0.25, 0.5, 0.75]), tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    lines = rows(tmp_path)
    assert len(table) == len(lines)
    assert list(table[0]) == ["step", "epoch", "lr", "loss", "loss_a", "loss_b", "main.score", "main.absent"]
    for cells, row in zip(table, lines, strict=True):
        assert {name: cell for name, cell in cells.items() if cell} == {
            name: str(value) for name, value in row.items() if value is not None
        }
    assert [row["step"] for row in lines if "loss" in row] == [3, 6, 9, 12]
    trained = next(row for row in lines if "loss" in row)
    assert trained["loss"] == pytest.approx(trained["loss_a"] + trained["loss_b"], abs=2e-6)


def test_rows_after_the_checkpoint_and_half_a_line_are_dropped(tmp_path: Path) -> None:
    log = FileLogger(tmp_path)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": step / 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    FileLogger(tmp_path, keep=2)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,0.5\n2,1.0\n"


def test_an_evaluation_whose_row_was_written_and_not_committed_has_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes commit before an evaluation as well as after it; a kill between is an evaluation done twice."""
    monkeypatch.setattr("rehead.training.run.world", lambda: 2)
    run(ToyJob(), tmp_path / "whole")

    def killed(path: Path, state: Mapping[str, Any]) -> None:
        if state["state"]["step"] == 8 and not state["state"]["due"]:
            raise KeyboardInterrupt
        save_resume(path, state)

    with monkeypatch.context() as patch:
        patch.setattr("rehead.training.run.save_resume", killed)
        with pytest.raises(KeyboardInterrupt):
            run(ToyJob(), tmp_path / "killed")
    assert [row["step"] for row in rows(tmp_path / "killed") if "main.score" in row] == [4, 8]
    run(ToyJob(evaluated=1), tmp_path / "killed", resume=True)
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_a_callback_is_given_every_row_and_changes_none(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = []

    def note(row: Any) -> None:
        given.append(dict(row))
        row.clear()

    folder = tmp_path / "called"
    folder.mkdir()
    options = TrainOptions(epochs=3, log_every=3, optimizer=OptimizerOptions(lr=0.1))
    fit(ToyJob(), options, folder, build_accelerator(torch.device("cpu"), "fp32"), callbacks=[note])
    run(ToyJob(), tmp_path / "alone")
    assert given == rows(folder)
    assert same(folder, tmp_path / "alone")


def test_the_bare_loop_trains_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job, options = ToyJob(), TrainOptions(epochs=3, optimizer=OptimizerOptions(lr=0.1))
    accelerator = build_accelerator(torch.device("cpu"), "fp32")
    with repeatable(options, accelerator.device):
        loop = Loop(job, options, accelerator, total=12)
        loop.train(job.model)
    assert (loop.state.step, job.evaluations) == (12, 3)
    assert not list(tmp_path.iterdir())
    run(ToyJob(), tmp_path / "run")
    tensors = read_tensors(tmp_path / "run/last.safetensors")
    assert all(torch.equal(value, tensors[name]) for name, value in job.model.state_dict().items())

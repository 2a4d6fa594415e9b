"""What runs on a GPU gives what it gives on a CPU. `pytest -m gpu`; `REHEAD_TEST_DEVICE=cpu` tries the tests out."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import SMALL_HEADS, TINY, batch_of_noise, targets_for
from torch import Tensor, nn

from rehead.configs.base import HeadOptions
from rehead.configs.classification_heads import LinearOptions
from rehead.configs.detection_heads import FCOSOptions
from rehead.configs.schema import AverageOptions, OptimizerOptions, ScheduleOptions, TrainOptions
from rehead.demo.synthetic import write_scenes
from rehead.models.model import Model, build_model
from rehead.tasks.train import train
from rehead.training.checkpoints import read_tensors
from rehead.training.engine import build_accelerator, compile_for_training, repeatable, seed_step
from rehead.training.loop import Batch
from rehead.training.resume import read_resume
from rehead.training.run import fit
from rehead.training.schedule import build_optimizer

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
NAMES = ("a", "b", "c")
FCOS = FCOSOptions(channels=32, convs=1)


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    if given := os.environ.get("REHEAD_TEST_DEVICE"):
        return torch.device(given)
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here (`rehead doctor` says why)")
    return torch.device("cuda", 0)


@pytest.fixture
def cuda(gpu: torch.device) -> torch.device:
    if gpu.type != "cuda":
        pytest.skip("this is about CUDA alone: fp16 and its scaler, memory of its own")
    return gpu


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TF32 in convolutions, and samples are drawn on the CPU: each device has a generator with other numbers."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    drawn = torch.randperm

    def randperm(count: int, *, device: Any = None, **options: Any) -> Tensor:
        return drawn(count, **options).to(device or CPU)

    monkeypatch.setattr(torch, "randperm", randperm)


def model_of(head: HeadOptions = FCOS) -> Model:
    torch.manual_seed(0)
    model = build_model(TINY, head, list(NAMES))
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0  # whose draws are the device's own
    return model


def batch() -> Batch:
    images = batch_of_noise((128, 128), images=4)
    return images, targets_for(images, len(NAMES), (4, 6, 60, 90))


def two_steps(model: Model, device: torch.device) -> list[dict[str, float]]:
    """The losses of two steps of the optimizer."""
    model.to(device, memory_format=torch.channels_last).train()
    images, targets = batch()
    optimizer = build_optimizer(model, OptimizerOptions(lr=0.01))
    found = []
    with repeatable(TrainOptions(), device):
        for step in range(2):
            seed_step(0, step, 0)
            losses = model(images.to(device, torch.channels_last), [target.to(device) for target in targets])
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            found.append({name: float(loss.detach()) for name, loss in losses.items()})
    return found


@pytest.mark.parametrize("head", SMALL_HEADS, ids=lambda head: head.name)
def test_every_head_trains_two_steps_and_predicts_as_on_the_cpu(head: HeadOptions, gpu: torch.device) -> None:
    here, there = model_of(head), model_of(head)
    for (step, wanted), found in zip(enumerate(two_steps(here, CPU)), two_steps(there, gpu), strict=True):
        assert found.keys() == wanted.keys()
        for name, loss in wanted.items():
            assert found[name] == pytest.approx(loss, rel=0.02, abs=1e-3), f"{name}, step {step}"
    # From the same weights: those of the CPU.
    there.load_state_dict(here.state_dict())
    images, _ = batch()
    predictions = []
    for model, device in ((here, CPU), (there, gpu)):
        with torch.inference_mode():
            found_here = model.eval()(images.to(device, torch.channels_last))["main"]
        predictions.append([one.to(CPU) for one in found_here])
    for mine, theirs in zip(*predictions, strict=True):
        for name, value in vars(mine).items():
            other = getattr(theirs, name)
            assert (value is None) == (other is None), name
            if name == "scores" and value is not None:
                few = min(5, len(value), len(other))
                assert abs(len(value) - len(other)) <= 0.05 * len(value)
                torch.testing.assert_close(other[:few], value[:few], rtol=0.02, atol=1e-3)
            if name == "probabilities" and value is not None:
                torch.testing.assert_close(other, value, rtol=0.02, atol=1e-3)
            if name == "semantic" and value is not None:
                assert (other == value).float().mean() > 0.98


class Job:
    """Every step has the same batch; the gradient of one may be poisoned."""

    conditions: Mapping[str, int] = {}

    def __init__(self, model: Model, steps: int = 4, poison_at: int | None = None) -> None:
        self.model: nn.Module = model
        self.steps_per_epoch, self.poison_at = steps, poison_at

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for step in range(start, self.steps_per_epoch):
            handle = None
            if step == self.poison_at:
                first = next(parameter for parameter in self.model.parameters() if parameter.requires_grad)
                handle = first.register_hook(lambda gradient: gradient * float("inf"))
            yield batch()
            if handle is not None:
                handle.remove()

    def evaluate(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        return {"score": 0.0}, {}

    def metadata(self, steps: int, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
        return {"config": {}}


def run(job: Job, device: torch.device, folder: Path, resume: bool = False, **options: Any) -> dict[str, Tensor]:
    """The weights for use after a training."""
    folder.mkdir(exist_ok=True)
    constant = ScheduleOptions(name="constant")
    own = TrainOptions(**{"epochs": 1, "precision": "fp32", "log_every": 1, "schedule": constant, **options})
    accelerator = build_accelerator(device, own.precision, deterministic=own.deterministic is True)
    fit(job, own, folder, accelerator, read_resume(folder / "resume.pt") if resume else None)
    return read_tensors(folder / "last.safetensors")


def assert_near(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], share: float) -> None:
    """Each tensor within a share of its largest value."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if value.is_floating_point():
            torch.testing.assert_close(
                found[name], value, rtol=share, atol=share * max(float(value.abs().max()), 1e-2), msg=name
            )


def test_a_training_with_an_average_ends_as_on_the_cpu(gpu: torch.device, tmp_path: Path) -> None:
    options = {"ema": AverageOptions(), "clip_norm": 10.0}
    wanted = run(Job(model_of()), CPU, tmp_path / "cpu", **options)
    assert_near(run(Job(model_of()), gpu, tmp_path / "gpu", **options), wanted, 0.02)


def test_bf16_stays_near_fp32(gpu: torch.device, tmp_path: Path) -> None:
    exactly = run(Job(model_of()), gpu, tmp_path / "fp32")
    assert_near(run(Job(model_of()), gpu, tmp_path / "bf16", precision="bf16"), exactly, 0.1)


def test_fp16_leaves_out_a_step_without_finite_gradients_and_halves_its_scale(
    cuda: torch.device, tmp_path: Path
) -> None:
    # The first steps may be left out anyway: the scale begins high. The last is poisoned.
    well = run(Job(model_of(), steps=8), cuda, tmp_path / "well", precision="fp16")
    scale = read_resume(tmp_path / "well/resume.pt")["scaler"]["scale"]
    skipped = run(Job(model_of(), steps=8, poison_at=7), cuda, tmp_path / "skipped", precision="fp16")
    assert all(torch.isfinite(tensor).all() for tensor in skipped.values())
    assert read_resume(tmp_path / "skipped/resume.pt")["scaler"]["scale"] == scale / 2
    assert any(not torch.equal(skipped[name], tensor) for name, tensor in well.items())


@pytest.mark.parametrize("head", [LinearOptions(), FCOS], ids=lambda head: head.name)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_resumed_run_equals_one_that_was_not_interrupted(
    head: HeadOptions, precision: str, gpu: torch.device, tmp_path: Path
) -> None:
    if precision == "fp16" and gpu.type != "cuda":
        pytest.skip("fp16 needs a GPU")
    options = {"precision": precision, "deterministic": True, "ema": AverageOptions()}
    whole = run(Job(model_of(head)), gpu, tmp_path / "whole", **options)
    run(Job(model_of(head)), gpu, tmp_path / "parts", **options, max_steps=2)
    parts = run(Job(model_of(head)), gpu, tmp_path / "parts", resume=True, **options)
    for name, tensor in whole.items():
        assert torch.equal(parts[name], tensor), name


def test_a_swapped_head_is_on_the_device_of_its_backbone(gpu: torch.device) -> None:
    model = model_of().to(gpu).swap_head("unet", ["sky", "road"])
    assert {one.device for one in model.parameters()} == {next(model_of().to(gpu).parameters()).device}
    with torch.inference_mode():
        (found,) = model.eval()(batch_of_noise((64, 64), images=1).to(gpu))["main"]
    assert found.semantic.shape == (64, 64)


def test_a_compiled_backbone_has_eager_s_losses(gpu: torch.device) -> None:
    if gpu.type != "cuda":
        pytest.skip("tests/training/test_compile.py compiles for CPUs")
    eager, compiled = model_of(), model_of()
    compile_for_training(compiled.backbone, gpu, fixed_size=False)
    for wanted, found in zip(two_steps(eager, gpu), two_steps(compiled, gpu), strict=True):
        for name, loss in wanted.items():
            assert found[name] == pytest.approx(loss, rel=0.01, abs=1e-3), name


@pytest.fixture
def little_memory(cuda: torch.device) -> Iterable[None]:
    """A GPU of two gigabytes."""
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2 * 1024**3 / total), cuda)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, cuda)


@pytest.mark.usefixtures("little_memory")
def test_the_batch_that_is_found_trains_and_much_more_does_not_fit(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", "train", 8, size=256, seed=0)
    split = {"images": "train", "annotations": "annotations/train.json"}
    config = {
        "task": "detection",
        "data": {
            "format": "coco",
            "root": str(tmp_path / "scenes"),
            "train": split,
            "val": split,
            "resize": {"height": 256, "width": 256},
            "workers": 0,
        },
        "model": {"backbone": {"name": "resnet18", "weights": "none"}, "head": {"name": "fcos"}},
        "train": {"batch_size": "auto", "max_steps": 1, "pictures": 0, "precision": "fp32"},
        "device": "cuda:0",
        "out": str(tmp_path / "run"),
    }
    train(copy.deepcopy(config))
    found = int((tmp_path / "run/config.yaml").read_text().split("batch_size: ")[1].split()[0])
    assert 1 <= found < 1024

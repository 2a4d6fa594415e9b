"""What the engine makes of a device: precision, determinism, tuned convolutions, pinned memory."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import TINY

from rehead.configs.heads import HEADS
from rehead.configs.load import load_config
from rehead.configs.schema import Config, TrainOptions
from rehead.datasets.open import open_data
from rehead.errors import ConfigError
from rehead.heads import build_head
from rehead.models.model import Model, build_model, from_config, head_options
from rehead.tasks import prepare as preparing
from rehead.tasks import train as training
from rehead.tasks.images import has_fixed_batches
from rehead.training.engine import build_accelerator, choose_device, repeatable, resolve_precision, tuned_convolutions
from rehead.types import Classes

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """As torch answers for such a GPU: it says of emulated bf16 that it is supported, unless asked precisely."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or capability >= (8, 0)
    )


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
    ids=["H100", "A100", "T4", "V100", "P40"],
)
def test_auto_is_the_fastest_precision_that_the_gpu_itself_computes(
    capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, capability)
    assert resolve_precision("auto", CUDA) == precision
    assert resolve_precision("bf16", CUDA) == "bf16"
    assert resolve_precision("auto", CPU) == "fp32"


def test_auto_does_not_scale_the_loss_of_sharded_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (7, 5))
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(
        "rehead.training.engine.Accelerator", lambda mixed_precision, **_: asked.append(mixed_precision)
    )
    for sharded in (False, True):
        build_accelerator(CUDA, "auto", sharded=sharded)
    assert asked == ["fp16", "no"]


def test_deterministic_on_a_gpu_warns_of_what_has_no_deterministic_form(monkeypatch: pytest.MonkeyPatch) -> None:
    with repeatable(TrainOptions(deterministic=True), CUDA):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    # On a CPU everything has one, and what had none would be an error.
    with repeatable(TrainOptions(), CPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    with repeatable(TrainOptions(), CUDA):
        assert not torch.are_deterministic_algorithms_enabled()


def test_cublas_is_told_before_anything_is_computed_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr("rehead.training.engine.Accelerator", lambda **_: None)
    build_accelerator(CUDA, "fp32")
    build_accelerator(CPU, "fp32", deterministic=True)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    build_accelerator(CUDA, "fp32", deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    build_accelerator(CUDA, "fp32", deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize("before", [False, True])
def test_cudnn_is_tuned_for_one_size_alone_and_left_as_it_was(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    for fixed, options, device, tuned in (
        (True, TrainOptions(), CUDA, True),
        (False, TrainOptions(), CUDA, False),
        (True, TrainOptions(deterministic=True), CUDA, False),
        (True, TrainOptions(), CPU, False),
    ):
        with tuned_convolutions(fixed, options, device):
            assert torch.backends.cudnn.benchmark is tuned
        assert torch.backends.cudnn.benchmark is before


FIXED = {"height": 64, "width": 64}


@pytest.mark.parametrize(
    ("head", "data", "fixed"),
    [
        ("unet", {"resize": FIXED}, True),
        ("linear", {"resize": {"shorter": 80, "crop": 64}}, True),
        ("faster_rcnn", {"resize": FIXED}, True),
        ("unet", {"resize": {"shorter": 64}}, False),
        ("faster_rcnn", {}, False),
        ("mask_rcnn", {"resize": FIXED}, False),
        ("faster_rcnn", {"resize": FIXED, "augment": ["large_scale_jitter"]}, False),
        ("faster_rcnn", {"resize": FIXED, "augment": ["HorizontalFlip"]}, True),
        ("unet", {"resize": FIXED, "augment": [{"name": "RandomCrop", "height": 32, "width": 32}]}, False),
    ],
)
def test_which_trainings_have_batches_of_one_size(head: str, data: dict[str, object], fixed: bool) -> None:
    config = load_config(
        {
            "task": HEADS.get(head).about["task"],
            "data": data,
            "model": {"backbone": TINY.model_dump(exclude_unset=True), "head": head},
        }
    )
    assert has_fixed_batches(from_config(config, {"main": Classes.of(["a", "b"])})) is fixed


def of_several_heads(model: Model, *heads: str) -> Model:
    classes, specs = Classes.of(["a", "b"]), model.backbone.feature_specs
    return Model(model.backbone, {name: build_head(head_options(name), classes, specs) for name in heads}, model.config)


def test_no_head_waits_for_the_statistics_of_one_that_sits_out(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A head without images in a process is not run there, and a norm of it that is synchronised would wait."""
    monkeypatch.setattr(preparing, "world", lambda: 2)
    sync = TINY.model_copy(update={"norm": "sync"})

    def synchronised(model: Model) -> tuple[bool, bool]:
        preparing.prepare(model, CUDA)
        return tuple(  # type: ignore[return-value]
            any(isinstance(module, torch.nn.SyncBatchNorm) for module in part.modules())
            for part in (model.backbone, model.heads)
        )

    alone = build_model(sync, "unet", ["a", "b"])
    several = of_several_heads(build_model(sync, "unet", ["a", "b"]), "unet", "linear")
    assert synchronised(alone) == (True, True)
    assert synchronised(several) == (True, False)
    assert "of several heads each keeps statistics per process" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "pinned"), [(CPU, False), (CUDA, True)])
def test_batches_are_pinned_for_the_device_that_they_go_to(
    device: torch.device, pinned: bool, synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a GPU is there, whoever uses it
    config: Config = load_config(
        {
            "task": "classification",
            "data": {"format": "folders", "root": str(synthetic / "shapes"), "train": {"images": "train"}},
            "model": {"backbone": TINY.model_dump(exclude_unset=True), "head": "linear"},
            "train": {"batch_size": 4},
        }
    )
    reader = open_data(config, "train")
    model = from_config(config, {"main": reader.classes})
    asked: list[bool] = []
    loader = SimpleNamespace(batches=[])
    monkeypatch.setattr(training, "make_loader", lambda *_, pin_memory, **__: asked.append(pin_memory) or loader)
    training.TrainingJob(model, {"train": reader}, Path(), device).batches(0, 0)
    assert asked == [pinned]


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        build_accelerator(torch.device("cpu"), "fp16")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "mps"])
def test_a_device_that_is_not_there_is_a_clear_error(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigError, match="device: "):
        choose_device(name)

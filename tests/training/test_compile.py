"""`train.compile: backbone`: the same network, faster; nothing of it in a checkpoint."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, batch_of_noise, randomise_norms, targets_for, total
from safetensors.torch import load_file

from rehead.configs.detection_heads import FCOSOptions
from rehead.configs.load import load_config
from rehead.configs.schema import TrainOptions
from rehead.errors import ConfigError
from rehead.models.model import Model, build_model
from rehead.tasks import train as training
from rehead.tasks.evaluate import run_evaluation
from rehead.tasks.train import train
from rehead.training import engine
from rehead.training.engine import compile_for_training, uncompiled

CPU = torch.device("cpu")
HEAD = FCOSOptions(channels=32, convs=1)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the generated code: graphs, guards and symbols, in a hundredth of the time."""
    monkeypatch.setattr(engine, "COMPILER", "aot_eager")
    torch.compiler.reset()


def graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def small_model() -> Model:
    torch.manual_seed(0)
    model = build_model(TINY, HEAD, ["a", "b", "c"]).train()
    randomise_norms(model.backbone)
    # The stem is frozen and norms are folded, as in a fine-tuning.
    model.backbone.freeze(1)
    model.backbone.freeze_norms()
    return model.to(memory_format=torch.channels_last)


def compare(sizes: list[tuple[int, int]]) -> int:
    """Losses and gradients against eager for batches of these sizes; how many graphs it took."""
    eager = small_model()
    compiled = copy.deepcopy(eager)
    before = graphs()
    compile_for_training(compiled.backbone, CPU, fixed_size=False)
    probe = graphs() - before
    assert list(compiled.state_dict()) == list(eager.state_dict())
    for size in sizes:
        batch = batch_of_noise(size).to(CPU, torch.channels_last)
        losses = []
        for model in (eager, compiled):
            model.zero_grad()
            found = model(batch, targets_for(batch, 3))
            total(found).backward()
            losses.append(found)
        for name, loss in losses[0].items():
            torch.testing.assert_close(losses[1][name], loss, rtol=1e-4, atol=1e-5, msg=name)
        for (name, one), other in zip(eager.named_parameters(), compiled.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None), name
            if one.grad is not None:
                torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4 * float(one.grad.abs().max()))
    return graphs() - before - probe


SIZES = [(64, 96), (96, 64), (64, 128), (128, 96), (96, 160)]


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_losses_and_gradients_are_eager_s_and_batches_of_other_sizes_compile_nothing_anew() -> None:
    assert compare(SIZES) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is here, which inductor needs on a CPU")
def test_what_inductor_generates_gives_the_same() -> None:
    torch.compiler.reset()
    assert compare(SIZES) == 1


@pytest.mark.usefixtures("traced")
def test_a_copy_of_a_compiled_network_is_an_ordinary_one_with_weights_of_its_own() -> None:
    model = small_model()
    compile_for_training(model.backbone, CPU, fixed_size=False)
    other = model.swap_head("unet", ["a", "b"])
    pixels = torch.randn(1, 3, 64, 64)
    before = other.eval().backbone(pixels)["C2"]
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()
    torch.testing.assert_close(other.backbone(pixels)["C2"], before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_a_compiled_training_with_an_average_goes_on_where_it_stopped(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are those of an eager training, and its evaluations, in another mode, compile nothing."""
    judged: list[int] = []

    def evaluated(*arguments: Any, **options: Any) -> Any:
        before = graphs()
        metrics = run_evaluation(*arguments, **options)
        judged.append(graphs() - before)
        return metrics

    monkeypatch.setattr(training, "run_evaluation", evaluated)
    split = {"images": "train", "annotations": "annotations/train.json"}
    data = {
        "format": "coco",
        "root": str(synthetic / "scenes"),
        "train": split,
        "val": split,
        "resize": {"shorter": 64},
    }
    config: dict[str, Any] = {
        "task": "detection",
        "data": {**data, "workers": 0},
        "model": {
            "backbone": TINY.model_dump(exclude_unset=True),
            "head": {"name": "fcos", "channels": 32, "convs": 1},
        },
        "train": {"batch_size": 4, "ema": {}, "pictures": 0, "checkpoint_every": 1},
        "device": "cpu",
    }
    found = {}
    for kind in ("none", "backbone"):
        out = str(tmp_path / kind)
        train(config, {"out": out, "train.compile": kind, "train.max_steps": 2})
        train(f"{out}/config.yaml", {"train.compile": kind, "train.max_steps": 3}, resume=True)
        found[kind] = load_file(f"{out}/last.safetensors")
    assert found["backbone"].keys() == found["none"].keys()
    for name, tensor in found["backbone"].items():
        torch.testing.assert_close(tensor, found["none"][name], rtol=1e-3, atol=1e-4, msg=name)
    assert judged == [0] * 4


def test_evaluation_is_that_of_the_network_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "COMPILER", "eager")
    model = small_model().eval()
    compile_for_training(model.backbone, CPU, fixed_size=False)
    before = graphs()
    with uncompiled():
        model.backbone(torch.randn(1, 3, 64, 64))
    assert graphs() == before
    model.backbone(torch.randn(1, 3, 64, 64))
    assert graphs() > before


def test_without_a_compiler_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(engine, "COMPILER", broken)
    torch.compiler.reset()
    with pytest.raises(ConfigError, match=r"train\.compile: .*No working C\+\+ compiler.*leave train\.compile out"):
        compile_for_training(torch.nn.Linear(1, 1), CPU, fixed_size=True)


@pytest.mark.parametrize("other", [{"sharding": "fsdp2"}, {"activation_checkpointing": True}])
def test_what_does_not_go_with_it_is_refused(other: dict[str, object]) -> None:
    train = {"compile": "backbone", **other}
    with pytest.raises(ConfigError, match="compile: backbone goes neither"):
        load_config({"task": "detection", "model": {"head": "fcos"}, "train": train})
    assert TrainOptions().compile == "none"

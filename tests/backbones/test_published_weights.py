"""Published weights: from the hub once, from its cache afterwards, and a way out without either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rehead.backbones import build_backbone
from rehead.backbones.base import Backbone
from rehead.backbones.resnet import BasicBlock, ResNet
from rehead.configs.backbones import BACKBONES
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError, WeightsError


def randomised(module: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }


def classifier_file(name: str, folder: Path) -> tuple[Path, nn.Module]:
    """A classifier of timm with random weights, and its file."""
    model = timm.create_model(name)
    model.load_state_dict(randomised(model))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors", model


def cached(repository: str, path: Path, cache: Path) -> None:
    """Puts a file where the hub's client keeps what it has downloaded."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / path.name).write_bytes(path.read_bytes())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a network that must not be asked."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("given", "repository", "interpolation"),
    [
        ({"name": "resnet18"}, "timm/resnet18.tv_in1k", "bilinear"),
        ({"name": "resnet18", "weights": "a1_in1k"}, "timm/resnet18.a1_in1k", "bicubic"),
        ({"name": "resnet18.a2_in1k"}, "timm/resnet18.a2_in1k", "bicubic"),
        ({"name": "test_convnext"}, "timm/test_convnext.r160_in1k", "bicubic"),
        ({"name": "timm/resnet18.tv_in1k"}, "timm/resnet18.tv_in1k", "bilinear"),
    ],
)
def test_published_weights_come_from_the_cache(
    given: dict[str, str], repository: str, interpolation: str, hub: Path, tmp_path: Path
) -> None:
    name = given["name"].partition(".")[0].removeprefix("timm/")
    path, model = classifier_file(name, tmp_path)
    cached(repository, path, hub)
    backbone = build_backbone(BackboneOptions(**given))
    assert backbone.report is not None
    assert backbone.report.source == repository
    assert backbone.report.complete
    assert backbone.interpolation == interpolation
    first = next(iter(backbone.parameters()))
    assert torch.equal(first, next(iter(model.parameters())))


def test_a_model_that_nobody_published(hub: Path) -> None:
    with pytest.raises(WeightsError, match=r"timm has no weights for .*model\.backbone\.weights=none"):
        build_backbone(BackboneOptions(name="skresnet50d"))


def test_a_plugin_has_only_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))

    def build(options: BackboneOptions) -> Backbone:
        return ResNet(BasicBlock, (1, 1, 1, 1), width=8)

    BACKBONES.add("resnet10", BackboneOptions, build)
    BACKBONES.add("broken", BackboneOptions, lambda options: nn.ReLU())
    with pytest.raises(WeightsError, match=r"nothing is published for backbone 'resnet10'.*weights=FILE"):
        build_backbone("resnet10")
    state = randomised(build_backbone(BackboneOptions(name="resnet10", weights="none")))
    torch.save(state, tmp_path / "weights.pth")
    backbone = build_backbone(BackboneOptions(name="resnet10", weights=str(tmp_path / "weights.pth")))
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())
    with pytest.raises(BuildError, match="'broken' built a ReLU"):
        build_backbone(BackboneOptions(name="broken", weights="none"))


OFFLINE = """
import sys, time
from rehead.backbones import build_backbone
from rehead.errors import WeightsError
start = time.monotonic()
try:
    build_backbone("resnet18")
except WeightsError as error:
    print(error)
    print("seconds", time.monotonic() - start)
    print("timm" in sys.modules)
"""


def test_without_network_the_ways_out_are_named_soon(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    message, seconds, timm_imported = run.stdout.strip().rsplit("\n", 2)
    assert message.startswith("cannot download resnet18.tv_in1k from timm/resnet18.tv_in1k: ")
    for way_out in ("HF_ENDPOINT", "model.backbone.weights=FILE", "model.backbone.weights=none"):
        assert way_out in message
    assert float(seconds.partition(" ")[2]) < 15
    # The usual ResNet needs nothing of timm, whose import takes seconds.
    assert timm_imported == "False"

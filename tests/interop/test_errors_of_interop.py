"""What `rehead import` and `rehead export-weights` say to mistakes: what was found, and what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from rehead.configs.load import load_config
from rehead.models.model import from_config
from rehead.types import Classes

CLASSIFIER = "resnet18"


class Code:
    """What a pickle may name."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's ResNet-18 with seven classes."""
    path = tmp_path_factory.mktemp("weights") / "theirs.pth"
    torch.save(resnet18(weights=None, num_classes=7).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("library", "name", "further", "message"),
    [
        ("torchvison", CLASSIFIER, [], "unknown library 'torchvison'; did you mean 'torchvision'?"),
        ("keras", CLASSIFIER, [], "unknown library 'keras'; known: torchvision, smp"),
        ("torchvision", "resnet81", [], "no 'resnet81' that rehead knows; did you mean 'resnet18'"),
        ("smp", "dpt_resnet18", [], "no 'dpt_resnet18' that rehead knows"),
        ("smp", "unet_resnet18", [], "theirs.pth: no segmentation_head.0.bias in it, as unet_resnet18 has; it holds"),
        ("torchvision", "resnet50", [], "theirs.pth: does not fit torchvision's resnet50 with 7 classes"),
        (
            "torchvision",
            CLASSIFIER,
            ["--classes", "a,b"],
            "theirs.pth: tells 7 classes apart, but --classes has 2 names",
        ),
        ("torchvision", CLASSIFIER, ["model.head.droput=0.5"], "did you mean 'dropout'"),
    ],
)
def test_what_does_not_fit(
    library: str, name: str, further: list[str], message: str, file: Path, tmp_path: Path, rehead_command: Any
) -> None:
    out = tmp_path / "ours.safetensors"
    outcome = rehead_command("import", library, file, "--as", name, "--out", out, *further)
    assert_said(outcome, message)
    assert not out.exists()


def test_a_file_that_is_not_there(tmp_path: Path, rehead_command: Any) -> None:
    out = tmp_path / "ours.safetensors"
    outcome = rehead_command("import", "torchvision", tmp_path / "no.pth", "--as", CLASSIFIER, "--out", out)
    assert_said(outcome, "no.pth: no such file to import")


def test_a_file_that_would_run_code(tmp_path: Path, rehead_command: Any) -> None:
    torch.save(Code(), tmp_path / "code.pth")
    out = tmp_path / "ours.safetensors"
    outcome = rehead_command("import", "torchvision", tmp_path / "code.pth", "--as", CLASSIFIER, "--out", out)
    assert_said(outcome, "code.pth: refused, since opening it would run code that it names")
    assert "Code" in outcome.err


def test_another_suffix(file: Path, tmp_path: Path, rehead_command: Any) -> None:
    outcome = rehead_command("import", "torchvision", file, "--as", CLASSIFIER, "--out", tmp_path / "ours.pth")
    assert_said(outcome, "should end with .safetensors")
    assert not (tmp_path / "ours.pth").exists()


@pytest.mark.parametrize(
    ("backbone", "task", "heads", "message"),
    [
        ("test_resnet.r160_in1k", "classification", {"main": "linear"}, "their backbones are resnet18, resnet34"),
        ("resnet18", "detection", {"a": "fcos", "b": "retinanet"}, "they have one head, this model has a, b"),
        ("resnet18", "detection", {"main": {"name": "fcos", "neck": "pafpn"}}, "this one another neck"),
        (
            "resnet18",
            "detection",
            {"main": {"name": "faster_rcnn", "roi_aligned": True, "channels": 8, "representation": 8}},
            "their faster_rcnn knows no aligned RoIAlign",
        ),
        ("resnet18", "segmentation", {"main": "dpt"}, "head 'dpt' is rehead's own"),
    ],
    ids=["timm", "several heads", "pafpn", "aligned", "dpt"],
)
def test_a_model_that_no_library_has(
    backbone: str, task: str, heads: dict[str, Any], message: str, tmp_path: Path, rehead_command: Any
) -> None:
    heads = {key: {"name": head} if isinstance(head, str) else head for key, head in heads.items()}
    body = {"name": backbone, "weights": "none"}
    config = load_config({"task": task, "model": {"backbone": body, "heads": heads}})
    model = from_config(config, {key: Classes.of(["a", "b"]) for key in heads}, load_weights=False)
    model.save(tmp_path / "ours.safetensors")
    outcome = rehead_command("export-weights", tmp_path / "ours.safetensors", "--out", tmp_path / "theirs.pth")
    assert_said(outcome, message)
    assert not (tmp_path / "theirs.pth").exists()


def assert_said(outcome: Any, message: str) -> None:
    assert outcome.code == 2, outcome.err
    assert message in re.sub(r"\s+", " ", outcome.err)
    assert "Traceback" not in outcome.err

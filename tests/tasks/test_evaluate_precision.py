"""Evaluation is in float32 unless asked, whatever the precision of the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rehead.models.model import Model

TINY_RUN = [
    "train",
    "camvid_unet_r18",
    "model.backbone.weights=none",
    "model.backbone.width=8",
    "data.train={{images: train, masks: train_masks}}",
    "data.val={{images: val, masks: val_masks}}",
    "data.root={synthetic}/scenes",
    "data.ignore_index=[]",
    "data.classes=[background, circle, square, triangle, star, heart, ring]",
    "data.resize={{height: 64, width: 64}}",
    "data.workers=0",
    "train.max_steps=1",
    "train.pictures=0",
    "out={out}",
]


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, bool]]:
    """What a model did, and whether in mixed precision."""
    seen: set[tuple[str, bool]] = set()
    forward = Model.forward

    def watched(self: Model, *arguments: object) -> object:
        seen.add(("trained" if self.training else "evaluated", torch.is_autocast_enabled("cpu")))
        return forward(self, *arguments)

    monkeypatch.setattr(Model, "forward", watched)
    return seen


@pytest.mark.parametrize(("asked", "in_bf16"), [([], False), (["train.evaluate_precision=bf16"], True)])
def test_training_in_bf16_is_evaluated_in_float32_unless_asked(
    asked: list[str], in_bf16: bool, synthetic: Path, tmp_path: Path, rehead_command, mixed: set[tuple[str, bool]]
) -> None:
    run = [item.format(synthetic=synthetic, out=tmp_path / "run") for item in TINY_RUN]
    outcome = rehead_command(*run, "train.precision=bf16", *asked)
    assert outcome.code == 0, outcome
    assert mixed == {("trained", True), ("evaluated", in_bf16)}
    mixed.clear()
    assert rehead_command("evaluate", tmp_path / "run/last.safetensors").code == 0
    assert mixed == {("evaluated", in_bf16)}


def test_bf16_can_be_asked_of_an_evaluation_alone(
    synthetic: Path, tmp_path: Path, rehead_command, mixed: set[tuple[str, bool]]
) -> None:
    run = [item.format(synthetic=synthetic, out=tmp_path / "run") for item in TINY_RUN]
    assert rehead_command(*run).code == 0
    assert mixed == {("trained", False), ("evaluated", False)}
    mixed.clear()
    assert rehead_command("evaluate", tmp_path / "run/last.safetensors", "train.evaluate_precision=bf16").code == 0
    assert mixed == {("evaluated", True)}


def test_a_precision_that_the_device_lacks_is_refused_before_the_training(
    synthetic: Path, tmp_path: Path, rehead_command
) -> None:
    run = [item.format(synthetic=synthetic, out=tmp_path / "run") for item in TINY_RUN]
    outcome = rehead_command(*run, "train.evaluate_precision=fp16", "device=cpu")
    assert outcome.code == 2
    assert "train.evaluate_precision: fp16 needs a GPU" in outcome.err
    assert not (tmp_path / "run").exists()

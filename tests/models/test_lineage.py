"""A checkpoint says which weights its backbone began with and which trainings changed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY

import rehead
from rehead.demo.synthetic import MASK_CLASSES
from rehead.models.lineage import backbone_hash
from rehead.tasks.train import train
from rehead.training.checkpoints import read_metadata, read_tensors


def lineage_of(path: Path) -> list[dict[str, Any]]:
    lineage: list[dict[str, Any]] = read_metadata(path)["lineage"]
    return lineage


def settings(synthetic: Path, out: Path, **body: object) -> dict[str, Any]:
    """Two steps of a U-Net on synthetic scenes."""
    return {
        "task": "segmentation",
        "data": {
            "format": "masks",
            "root": str(synthetic / "scenes"),
            "train": {"images": "train", "masks": "train_masks"},
            "val": {"images": "val", "masks": "val_masks"},
            "classes": list(MASK_CLASSES),
            "resize": {"height": 32, "width": 32},
            "workers": 0,
        },
        "model": {
            "backbone": {**TINY.model_dump(), **body},
            "head": {"name": "unet", "decoder_channels": [8, 8, 8, 8, 8]},
        },
        "train": {"max_steps": 2, "batch_size": 2, "pictures": 0},
        "device": "cpu",
        "out": str(out),
    }


def test_the_hash_knows_every_bit_but_counters() -> None:
    torch.manual_seed(0)
    model = rehead.build_model(TINY, "unet", ["a"])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = backbone_hash(state)
    assert before == backbone_hash(model.backbone.state_dict())
    state["heads.main.segmentation_head.0.bias"] = torch.ones(1)
    state["backbone.bn1.num_batches_tracked"] += 1
    assert backbone_hash(state) == before
    state["backbone.layer1.0.conv1.weight"].view(torch.int32)[0, 0, 0, 0] ^= 1
    assert backbone_hash(state) != before


class TestTraining:
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return train(settings(synthetic, tmp_path_factory.mktemp("runs") / "first"))

    def test_weights_then_a_training_with_the_hash_of_the_saved_tensors(self, run: Path, synthetic: Path) -> None:
        began, trained = lineage_of(run / "last.safetensors")
        assert began["weights"] == "random"
        assert {name: value for name, value in trained.items() if name != "hash"} == {
            "task": "segmentation",
            "heads": {"main": "unet"},
            "data": str(synthetic / "scenes"),
            "steps": 2,
        }
        assert trained["hash"] == backbone_hash(read_tensors(run / "last.safetensors")) != began["hash"]

    def test_a_swapped_head_keeps_backbone_and_lineage(self, run: Path, tmp_path: Path) -> None:
        rehead.load(run / "last.safetensors").swap_head("linear", ["a", "b"]).save(tmp_path / "new.safetensors")
        assert lineage_of(tmp_path / "new.safetensors") == lineage_of(run / "last.safetensors")
        assert (
            backbone_hash(read_tensors(tmp_path / "new.safetensors"))
            == lineage_of(run / "last.safetensors")[-1]["hash"]
        )

    @pytest.mark.parametrize("way", ["init", "weights"])
    def test_who_starts_from_a_checkpoint_goes_on_with_its_lineage(
        self, run: Path, synthetic: Path, tmp_path: Path, way: str
    ) -> None:
        best = run / "best.safetensors"
        frozen = {"freeze": "all", "norm": "frozen"}
        config = settings(
            synthetic, tmp_path / "second", **frozen, **({"weights": str(best)} if way == "weights" else {})
        )
        if way == "init":
            config["model"]["init"] = str(best)
        second = lineage_of(train(config) / "last.safetensors")
        assert second[:-1] == lineage_of(best)
        # Nothing of a frozen backbone changes, not a bit.
        assert second[-1]["hash"] == lineage_of(best)[-1]["hash"]
        assert backbone_hash(read_tensors(tmp_path / "second" / "last.safetensors")) == second[-1]["hash"]

    @pytest.mark.parametrize("way", ["init", "weights"])
    def test_who_starts_from_a_checkpoint_normalises_as_it_did(self, synthetic: Path, tmp_path: Path, way: str) -> None:
        odd = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "norm_eps": 0.01}
        first = train(settings(synthetic, tmp_path / "odd", **odd)) / "last.safetensors"
        config = settings(synthetic, tmp_path / "second", **({"weights": str(first)} if way == "weights" else {}))
        if way == "init":
            config["model"]["init"] = str(first)
        body = rehead.load(train(config) / "last.safetensors").backbone
        assert {name: getattr(body.options, name) for name in odd} == odd
        assert body.mean.tolist() == pytest.approx(odd["mean"])
        assert {m.eps for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.01}

    def test_a_resumed_run_has_the_lineage_of_one_that_was_not_interrupted(
        self, run: Path, synthetic: Path, tmp_path: Path
    ) -> None:
        config = settings(synthetic, tmp_path / "resumed")
        config["train"]["max_steps"] = 1
        train(config)
        config["train"]["max_steps"] = 2
        train(config, resume=True)
        assert lineage_of(tmp_path / "resumed" / "last.safetensors") == lineage_of(run / "last.safetensors")

    def test_tensors_changed_in_python_are_said_so(self, run: Path, tmp_path: Path) -> None:
        model = rehead.load(run / "last.safetensors")
        with torch.no_grad():
            model.backbone.get_parameter("conv1.weight").mul_(2)
        model.save(tmp_path / "changed.safetensors")
        assert lineage_of(tmp_path / "changed.safetensors")[:-1] == lineage_of(run / "last.safetensors")
        assert lineage_of(tmp_path / "changed.safetensors")[-1]["weights"] == "changed by hand"

    def test_show_prints_all_of_it(self, run: Path, rehead_command: Any) -> None:
        outcome = rehead_command("show", run / "last.safetensors")
        assert outcome.code == 0
        digest = lineage_of(run / "last.safetensors")[-1]["hash"][:12]
        for said in (
            "backbone resnet18",
            "unet",
            f"classes of 'main': {', '.join(MASK_CLASSES)}",
            "weights: random",
            "2 steps of segmentation (unet)",
            digest,
            "decoder_channels:",
            "torch ",
        ):
            assert said in outcome.out
        assert "warning" not in outcome.out


def test_show_names_a_file_that_is_no_checkpoint(tmp_path: Path, rehead_command: Any) -> None:
    outcome = rehead_command("show", tmp_path / "none.safetensors")
    assert outcome.code == 2
    assert "no such checkpoint" in outcome.err

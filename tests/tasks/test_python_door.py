"""What Python users need is importable from `rehead`, and is enough for parts, loops and datasets of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY

import rehead
from rehead.data.reader import Reader
from rehead.datasets.pairs import PairsReader
from rehead.errors import BuildError, DataError, TrainingError
from rehead.models.model import from_config
from rehead.training.checkpoints import read_tensors

NAMES = ["square", "disc"]
QUICK = {
    "train.epochs": 2,
    "train.batch_size": 2,
    "train.precision": "fp32",
    "train.optimizer": {"name": "sgd", "lr": 0.01},
    "train.schedule": {"name": "constant"},
    "data.workers": 0,
    "data.resize": {"height": 64, "width": 64},
    "device": "cpu",
}


class Pairs:
    """Six images, each with one object."""

    def __init__(self, task: str, seed: int = 0) -> None:
        self.task, self.seed = task, seed

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < 6:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        image, label = rng.integers(0, 60, (48, 64, 3), np.uint8), index % 2
        top, left = rng.integers(0, 20, 2)
        image[top : top + 20, left : left + 24, label] = 255
        mask = np.zeros((48, 64), np.uint8)
        mask[top : top + 20, left : left + 24] = 1
        if self.task == "classification":
            return torch.from_numpy(image.transpose(2, 0, 1)).float() / 255, label
        if self.task == "segmentation":
            return image, mask.astype(np.int64)
        box = np.array([[left, top, left + 24, top + 20]], np.float32)
        return image, {"boxes": torch.from_numpy(box), "labels": torch.tensor([label]), "masks": mask[None]}


def model_for(head: Any) -> rehead.Model:
    torch.manual_seed(0)
    return rehead.build_model(TINY, head, NAMES)


HEADS = {
    "classification": "linear",
    "segmentation": {"name": "unet", "decoder_channels": [16, 8, 8, 8, 8]},
    "detection": {"name": "fcos", "channels": 64, "convs": 1},
    "instance_segmentation": {"name": "mask_rcnn", "channels": 16},
}


@pytest.mark.parametrize("task", HEADS)
def test_our_loop_trains_on_somebodys_dataset(task: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    model, pairs, val = model_for(HEADS[task]), Pairs(task), Pairs(task, 1)
    run = rehead.fine_tune(model, pairs, val, out=tmp_path / "run", overrides=QUICK, callbacks=[rows.append])
    assert rows[-1]["step"] == 6
    assert rows == [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loaded = rehead.load(run / "last.safetensors")
    assert list(loaded.classes["main"].names) == NAMES
    assert loaded.predict(pairs[0][0] if isinstance(pairs[0][0], np.ndarray) else np.zeros((48, 64, 3), np.uint8))


def test_a_stopped_run_on_a_dataset_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pairs = Pairs("classification")
    rehead.fine_tune(model_for("linear"), pairs, pairs, out=whole, overrides=QUICK)
    rehead.fine_tune(model_for("linear"), pairs, pairs, out=broken, overrides={**QUICK, "train.max_steps": 4})
    with pytest.raises(TrainingError, match="already holds a run"):
        rehead.fine_tune(model_for("linear"), pairs, pairs, out=broken, overrides=QUICK)
    rehead.fine_tune(model_for("linear"), pairs, pairs, out=broken, overrides=QUICK, resume=True)
    before, after = read_tensors(whole / "last.safetensors"), read_tensors(broken / "last.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (3, "should be a pair"),
        ((np.zeros((4, 4, 3), np.uint8), 7), "a class below 2"),
        ((np.zeros((4, 4, 3), np.int64), 0), r"\(height, width, channels\) uint8, found int64"),
        ((torch.randn(3, 4, 4) * 5, 0), "not normalised"),
        ((np.zeros((4, 4, 1), np.uint8), 0), "1 channels, the model wants 3"),
        ((np.zeros((4, 4, 3), np.uint8), {"labels": [0]}), "no 'boxes'; it has labels"),
        ((np.zeros((4, 4, 3), np.uint8), {"boxes": [[0, 0, 1, 1]], "labels": [2]}), "labels from 2 to 2"),
        ((np.zeros((4, 4, 3), np.uint8), {"boxes": [[0, 0, 1, 1]], "labels": [0, 1]}), "1 boxes and 2 labels"),
        (
            (np.zeros((4, 4, 3), np.uint8), {"boxes": [[0, 0, 1, 1]], "labels": [0], "masks": np.zeros((1, 3, 3))}),
            "masks of shape",
        ),
        ((np.zeros((4, 4, 3), np.uint8), np.zeros((3, 3), int)), "class map"),
    ],
)
def test_a_pair_that_cannot_be_used_is_named(pair: Any, said: str) -> None:
    reader: Reader = PairsReader([pair], NAMES, "train")
    with pytest.raises(DataError, match=rf"train\[0\].*{said}"):
        reader.read(0)


def test_pairs_are_for_one_head(tmp_path: Path) -> None:
    config = {"task": "multitask", "model": {"backbone": TINY.model_dump(), "heads": {"a": "linear", "b": "unet"}}}
    model = from_config(rehead.load_config(config), dict.fromkeys(("a", "b"), rehead.Classes.of(NAMES)))
    with pytest.raises(BuildError, match="one head"):
        rehead.fine_tune(model, Pairs("classification"), Pairs("classification"), out=tmp_path)


def test_every_public_name_is_there_with_a_docstring() -> None:
    for name in rehead.__all__:
        value = getattr(rehead, name)
        assert value.__doc__ or name == "Features", name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rehead.nothing

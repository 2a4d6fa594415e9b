"""A segmenter answers in the values or colours of the masks that it learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import rehead
from rehead.configs.readers import MasksSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.open import open_reader
from rehead.tasks import task_named
from rehead.tasks.predict import predict
from rehead.types import Classes, Prediction

COLOURS = {"sky": (128, 128, 0), "road": (7, 8, 9), "void": (0, 0, 0)}


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        (COLOURS, "RGB", {(128, 128, 0), (7, 8, 9)}),
        ({"sky": 0, "road": 255}, "L", {0, 255}),
        ({"sky": 7, "road": 3000}, "I;16", {7, 3000}),
    ],
)
def test_predicted_masks_are_the_users(values: dict[str, Any], mode: str, expected: set[Any], tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 64, 3)).astype(np.uint8)).save(
        tmp_path / "images/a.png"
    )
    own = np.array(list(values.values()), np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(own[np.indices((40, 64)).sum(axis=0) % 2]).save(tmp_path / "masks/a.png")
    data = DataOptions(
        format="masks",
        root=str(tmp_path),
        values=values,
        classes=["road", "sky"],
        train=MasksSplit(images="images", masks="masks"),
    )
    reader = open_reader(data, "train", task="segmentation")
    model = rehead.build_model({"name": "resnet18", "weights": "none", "width": 8}, "unet", reader.classes)
    model.save(tmp_path / "model.safetensors")
    classes = rehead.load(tmp_path / "model.safetensors").head("main").classes
    assert classes == reader.classes
    predict(tmp_path / "model.safetensors", [tmp_path / "images"], tmp_path / "out", device="cpu")
    said, mode_there = values_of(tmp_path / "out/masks/a.png")
    assert mode_there == mode
    assert said <= expected
    # Untrained, one class may be everywhere: a map of both is written as the masks of the data are.
    semantic = torch.tensor(np.indices((40, 64)).sum(axis=0) % 2)
    task_named("segmentation").records(Prediction(semantic=semantic), classes, 1, "both", tmp_path)
    assert values_of(tmp_path / "masks/both.png") == (expected, mode)
    (tmp_path / "masks/both.png").rename(tmp_path / "masks/a.png")
    again = open_reader(data, "train", task="segmentation").read(0).semantic
    assert again is not None
    np.testing.assert_array_equal(again, semantic.numpy())


def values_of(path: Path) -> tuple[set[Any], str]:
    with Image.open(path) as image:
        found = np.asarray(image)
        rows = found.reshape(-1, *found.shape[2:]).tolist()
        return {tuple(value) if isinstance(value, list) else value for value in rows}, image.mode


def test_colours_cross_a_checkpoint() -> None:
    classes = Classes(("sky", "road"), colours=((1, 2, 3), (4, 5, 6)))
    assert Classes.from_json(classes.to_json()) == classes
    with pytest.raises(rehead.ReheadError, match="2 names but 1 colours"):
        Classes(("sky", "road"), colours=((1, 2, 3),))

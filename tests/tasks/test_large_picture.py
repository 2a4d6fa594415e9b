"""A picture of a very large image is smaller than the image."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import rehead
from rehead.tasks import predict as predicting
from rehead.visualize import draw


def test_the_picture_is_bounded_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(draw, "LARGEST", 200)
    monkeypatch.setattr(predicting, "LARGEST", 200)
    body = {"name": "resnet18", "weights": "none", "width": 8}
    rehead.build_model(backbone=body, head="linear", classes=["a", "b"]).save(tmp_path / "m.safetensors")
    paths = [tmp_path / "large.png", tmp_path / "small.png"]
    for path, width in zip(paths, (400, 200), strict=True):
        Image.new("RGB", (width, 100)).save(path)
    assert predicting.predict(tmp_path / "m.safetensors", paths, tmp_path / "out", "cpu") == {}
    assert "the picture of one image is smaller than the image, 200 pixels at most" in capsys.readouterr().err
    for path in paths:
        with Image.open(tmp_path / "out/pictures" / path.name) as picture:
            assert picture.size[0] == 200

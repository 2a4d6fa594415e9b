"""`rehead demo`, with fewer pictures and steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rehead.tasks import demo


def test_the_demo_transfers_one_backbone_to_two_heads_and_compares(
    tmp_path: Path, rehead_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = demo.Budget(
        tiles=12, tiles_val=6, scenes=8, scenes_val=6, pretrain_steps=2, detect_steps=1, segment_steps=1
    )
    monkeypatch.setattr(demo, "Budget", lambda: small)
    out = tmp_path / "demo"
    outcome = rehead_command("demo", "--overwrite", "--out", out, "--device", "cpu")
    assert outcome.code == 0, outcome
    results = json.loads((out / "results.json").read_text())["results"]
    assert [(row["task"], row["figure"]) for row in results] == [
        ("classification", "top-1"),
        ("detection", "AP"),
        ("detection", "AP50"),
        ("segmentation", "mIoU"),
    ]
    for row in results:
        assert f"{row['transferred']:.3f}" in outcome.out
        assert row["scratch"] is None or f"{row['scratch']:.3f}" in outcome.out
    assert Image.open(out / "sheet.png").width > 1000
    # A transferred run starts from the classifier's body, the other from its own.
    assert outcome.err.count("backbone taken") == 2
    for task in ("detection", "segmentation"):
        transferred, scratch = (
            load_file(out / f"{task}_{how}" / "last.safetensors") for how in ("transferred", "scratch")
        )
        assert transferred.keys() == scratch.keys()
        assert not torch.equal(transferred["backbone.conv1.weight"], scratch["backbone.conv1.weight"])
    # A second time over the same folder works too.
    assert rehead_command("demo", "--overwrite", "--out", out, "--device", "cpu").code == 0

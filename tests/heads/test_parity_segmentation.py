"""SMP's DPT, which no import knows, by its decoder alone: same weights, same features, same scores (CPU, float64)."""

from __future__ import annotations

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers import assert_equal_numbers, randomised

from rehead.configs.segmentation_heads import DPTOptions
from rehead.heads import build_head
from rehead.types import Classes, FeatureSpec, Frame

K = 7
SIZE = (64, 96)


@pytest.mark.numeric
def test_dpt_equals_smp_without_class_tokens() -> None:
    torch.manual_seed(0)
    reference: Any = smp.create_model(
        "dpt",
        "tu-test_vit",
        encoder_weights=None,
        classes=K,
        decoder_readout="ignore",
        decoder_fusion_channels=64,
        decoder_intermediate_channels=(32, 48, 64, 64),
    )
    reference.load_state_dict(randomised(reference.eval(), seed=1))
    channels = reference.encoder.out_channels[0]
    specs = {f"C{index}": FeatureSpec(channels, 16) for index in range(1, 5)}
    options = DPTOptions(fusion_channels=64, intermediate_channels=[32, 48, 64, 64])
    ours: Any = build_head(options, Classes.of([f"class{index}" for index in range(K)]), specs).eval()
    state = reference.state_dict()
    ours.load_state_dict({name: value for name, value in state.items() if not name.startswith("encoder.")})
    reference.double()
    ours.double()
    features = {name: torch.randn(2, channels, SIZE[0] // 16, SIZE[1] // 16).double() for name in specs}
    with torch.no_grad():
        theirs = reference.segmentation_head(reference.decoder(list(features.values()), [None] * 4))
        logits = ours.logits(features, [Frame(SIZE, SIZE)] * 2)
    assert theirs.std() > 1e-3
    assert_equal_numbers(logits, theirs)

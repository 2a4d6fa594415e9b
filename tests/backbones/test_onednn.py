"""Convolutions that oneDNN gets wrong are right here."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from helpers import TINY
from torch import nn

import rehead
from rehead.backbones import build_backbone, onednn
from rehead.backbones.norms import conv_norm
from rehead.backbones.onednn import SlicedConv2d, is_affected, protect
from rehead.configs.schema import BackboneOptions

SWEEP = Path(__file__).parents[2] / "benchmarks" / "convolutions.py"


@pytest.mark.slow
def test_every_narrow_convolution_is_right_on_an_older_processor() -> None:
    command = [sys.executable, "-W", "ignore", str(SWEEP), "--narrow", "--protected"]
    # Fresh memory that is not zeros shows what is read before it is written.
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "MALLOC_PERTURB_": "165"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of" in done.stdout


LARGE = """
import torch
from rehead.backbones.onednn import protect
torch.manual_seed(0)
for channels in (7, 8, 15):
    network = torch.nn.Sequential(torch.nn.Conv2d(channels, 16, 1, 2, bias=False)).to(memory_format=torch.channels_last)
    protect(network)
    pixels = torch.rand(4, channels, 56, 56).to(memory_format=torch.channels_last)
    for _ in range(3):
        (found,) = torch.autograd.grad(network(pixels).square().sum(), network[0].weight)
    (exact,) = torch.autograd.grad(network.double()(pixels.double()).square().sum(), network[0].weight)
    assert (found - exact).abs().max() < 1e-4 * exact.abs().max()
"""


def test_narrow_convolutions_of_large_maps_are_right_on_this_processor() -> None:
    """In a process of its own: where it is not, memory is overwritten, and whatever comes next may die."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stride", [2, 3, (2, 1), (1, 4)])
def test_it_is_the_same_convolution(stride: int | tuple[int, int]) -> None:
    plain = nn.Conv2d(3, 5, 1, stride, bias=True).double()
    sliced = nn.Sequential(deepcopy(plain))
    assert protect(sliced) == 1
    assert isinstance(sliced[0], SlicedConv2d)
    pixels = torch.randn(2, 3, 11, 14, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(sliced(pixels), plain(pixels), rtol=1e-12, atol=1e-12)
    assert list(sliced.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 4, 1, 2),
        nn.Conv2d(3, 4, 1),
        nn.Conv2d(3, 4, 3, 2, padding=1),
        nn.Conv2d(4, 4, 1, 2, groups=2),
        nn.Conv2d(3, 4, 1, 2, padding=1),
    ],
)
def test_others_stay_as_they_are(conv: nn.Conv2d) -> None:
    assert not is_affected(conv)
    assert protect(nn.Sequential(conv)) == 0
    assert type(conv) is nn.Conv2d


def test_a_frozen_norm_folds_into_the_same_slice() -> None:
    conv, norm = nn.Conv2d(3, 5, 1, 2, bias=False), nn.BatchNorm2d(5).eval().requires_grad_(False)
    seen: list[torch.Size] = []
    pixels = torch.randn(2, 3, 8, 8)
    original = onednn.F.conv2d
    try:
        onednn.F.conv2d = lambda x, *rest: seen.append(x.shape) or original(x, *rest)  # type: ignore[func-returns-value]
        folded = conv_norm(pixels, conv, norm)
    finally:
        onednn.F.conv2d = original
    assert seen == [(2, 3, 4, 4)]
    torch.testing.assert_close(folded, norm(conv(pixels)), rtol=1e-5, atol=1e-6)


def test_timms_networks_are_protected() -> None:
    # FastViT's stem is one of the few in timm with such a convolution.
    backbone = build_backbone(BackboneOptions(name="fastvit_t8", weights="none"))
    assert any(isinstance(one, SlicedConv2d) for one in backbone.modules())


def test_a_model_is_protected_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    onednn._say.cache_clear()
    narrow = TINY.model_copy(update={"width": 4})
    with caplog.at_level(logging.INFO, logger="rehead"):
        models = [rehead.build_model(narrow, "linear", ["a"]) for _ in range(2)]
    assert [sum(isinstance(one, SlicedConv2d) for one in model.modules()) for model in models] == [2, 2]
    assert sum("oneDNN" in record.message for record in caplog.records) == 1

"""RoIAlign on a CPU gives torchvision's numbers, and its gradients."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_equal_but_rounding, assert_equal_numbers
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from rehead.heads.roi_align import RoIAlign
from rehead.types import FeatureSpec

pytestmark = pytest.mark.numeric

SPECS = {f"P{level}": FeatureSpec(6, 2**level) for level in (2, 3, 4, 5, 6)}
IMAGE = (96, 128)


def features(layout: torch.memory_format, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, spec in SPECS.items():
        size = (2, 6, -(-IMAGE[0] // spec.stride), -(-IMAGE[1] // spec.stride))
        made[name] = torch.randn(size, generator=generator, dtype=dtype).contiguous(memory_format=layout)
    return made


def regions() -> list[Tensor]:
    """Of all sizes: inside, over the edges, outside, thinner than a pixel, and turned inside out."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(40, 2, generator=generator, dtype=torch.float64) * 140 - 20
    sizes = torch.rand(40, 2, generator=generator, dtype=torch.float64) ** 3 * 400
    odd = [
        [0, 0, 128, 96],
        [-30, -30, -20, -20],
        [200, 10, 300, 20],
        [5, 5, 5, 5],
        [20, 20, 10, 10],
        [127, 95, 128, 96],
    ]
    return [torch.cat([corners, corners + sizes], 1), torch.tensor(odd, dtype=torch.float64)]


def theirs(size: int) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(["P2", "P3", "P4", "P5"], size, 2)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [7, 14])
def test_features_and_gradients_are_torchvisions(size: int, layout: torch.memory_format) -> None:
    results = []
    for align in (RoIAlign(SPECS, size), theirs(size)):
        levels = {name: value.requires_grad_() for name, value in features(layout).items()}
        pooled = align(levels, regions(), [IMAGE, IMAGE])
        (pooled * torch.linspace(-1, 1, pooled.numel(), dtype=torch.float64).view_as(pooled)).sum().backward()
        results.append([pooled, *(levels[name].grad for name in align.featmap_names)])
    for found, expected in zip(*results, strict=True):
        assert_equal_numbers(found, expected)


def test_in_float32_too() -> None:
    boxes = [some.float() for some in regions()]
    levels = features(torch.channels_last, torch.float32)
    found = RoIAlign(SPECS, 7)(levels, boxes, [IMAGE, IMAGE])
    wanted = theirs(7)(levels, boxes, [IMAGE, IMAGE])
    twice = {name: value.double() for name, value in levels.items()}
    exact = theirs(7)(twice, [some.double() for some in boxes], [IMAGE, IMAGE])
    assert_equal_but_rounding(found, wanted, exact)


@pytest.mark.parametrize("counts", [(0, 0), (0, 3), (2, 0)])
def test_images_without_regions(counts: tuple[int, int]) -> None:
    levels = {name: value.requires_grad_() for name, value in features(torch.channels_last).items()}
    boxes = [some[:count] for some, count in zip(regions(), counts, strict=True)]
    pooled = RoIAlign(SPECS, 7)(levels, boxes, [IMAGE, IMAGE])
    assert pooled.shape == (sum(counts), 6, 7, 7)
    pooled.sum().backward()
    assert all(levels[name].grad is not None for name in ("P2", "P5"))


def test_one_level_alone() -> None:
    specs = {name: SPECS[name] for name in ("P5", "P6")}
    levels = features(torch.channels_last)
    found = RoIAlign(specs, 7)(levels, regions(), [IMAGE, IMAGE])
    align = MultiScaleRoIAlign(["P5"], 7, 2)
    assert_equal_numbers(found, align(levels, regions(), [IMAGE, IMAGE]))


def test_the_same_every_time_with_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            levels = {
                name: value.requires_grad_() for name, value in features(torch.channels_last, torch.float32).items()
            }
            RoIAlign(SPECS, 7)(levels, [some.float() for some in regions()], [IMAGE, IMAGE]).square().sum().backward()
            grads.append(levels["P2"].grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*grads)

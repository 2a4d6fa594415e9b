"""RoIAlign on a CPU gives torchvision's numbers, and its gradients."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_equal_but_rounding, assert_equal_numbers
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

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


def aligned_theirs(levels: dict[str, Tensor], boxes: list[Tensor], size: int) -> Tensor:
    """torchvision's `roi_align(aligned=True)` of each region on its level, which `MultiScaleRoIAlign` cannot do."""
    of = initLevelMapper(2, 5)(boxes)
    image = torch.cat([torch.full((len(some), 1), number) for number, some in enumerate(boxes)])
    regions = torch.cat([image.to(boxes[0].dtype), torch.cat(boxes)], 1)
    names = ("P2", "P3", "P4", "P5")
    return torch.cat(
        [
            roi_align(levels[names[level]], region[None], size, 1 / SPECS[names[level]].stride, 2, aligned=True)
            for region, level in zip(regions, of.tolist(), strict=True)
        ]
    )


@pytest.mark.parametrize("way", ["_from_rows", "_from_kernels"])
@pytest.mark.parametrize("size", [7, 14])
def test_aligned_features_and_gradients_are_torchvisions(size: int, way: str) -> None:
    """By rows as on a CPU, and by torchvision's kernels as on other devices."""
    align = RoIAlign(SPECS, size, aligned=True)
    # torchvision's kernel has its own answer to regions that are turned inside out, which no proposal is.
    boxes = [some[(some[:, 2:] >= some[:, :2]).all(1)] for some in regions()]
    results = []
    for pool in (
        lambda levels: getattr(align, way)([levels[name] for name in align.featmap_names], boxes),
        lambda levels: aligned_theirs(levels, boxes, size),
    ):
        levels = {name: value.requires_grad_() for name, value in features(torch.channels_last).items()}
        pooled = pool(levels)
        total = (pooled * torch.linspace(-1, 1, pooled.numel(), dtype=torch.float64).view_as(pooled)).sum()
        read = [levels[name] for name in align.featmap_names]
        results.append([pooled, *torch.autograd.grad(total, read, materialize_grads=True)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("aligned", [False, True])
def test_other_devices_take_torchvisions_kernels(aligned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(RoIAlign, "_from_kernels", lambda *_: called.append("level by level"))
    monkeypatch.setattr(MultiScaleRoIAlign, "forward", lambda *_: called.append("MultiScaleRoIAlign"))
    levels = {name: value.to("meta") for name, value in features(torch.channels_last).items()}
    RoIAlign(SPECS, 7, aligned)(levels, regions(), [IMAGE, IMAGE])
    assert called == ["level by level" if aligned else "MultiScaleRoIAlign"]


def test_aligned_reads_a_linear_map_where_it_is() -> None:
    """The mean of x over a region of a map that holds its pixels' own centres is the region's centre."""
    specs = {name: FeatureSpec(1, spec.stride) for name, spec in SPECS.items()}
    levels = {
        name: ((torch.arange(-(-128 // spec.stride), dtype=torch.float64) + 0.5) * spec.stride).expand(
            1, 1, -(-96 // spec.stride), -1
        )
        for name, spec in specs.items()
    }
    boxes = [torch.tensor([[40.0, 20, 60, 40], [30, 30, 31, 31]], dtype=torch.float64)]
    means = {
        aligned: RoIAlign(specs, 7, aligned)(levels, boxes, [IMAGE]).mean((1, 2, 3)).tolist()
        for aligned in (True, False)
    }
    assert means[True] == pytest.approx([50, 30.5])
    # Half a pixel of stride 4 further; and the small one is taken for four pixels wide.
    assert means[False] == pytest.approx([52, 34])


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

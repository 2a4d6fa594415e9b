"""Masks and keypoints: their shapes, their gradients, and what is said where they are missing.

That the numbers are torchvision's is proved in tests/interop/test_torchvision_detection.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import TINY, batch_of_noise, targets_for
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rehead.configs.base import HeadOptions
from rehead.configs.detection_heads import KeypointRCNNOptions, MaskRCNNOptions
from rehead.errors import BuildError
from rehead.models.model import build_model
from rehead.types import Frame

pytestmark = pytest.mark.numeric

NAMES = [f"class{index}" for index in range(7)]
MASKS = MaskRCNNOptions(channels=8, representation=16, mask_convs=1, mask_channels=8, score_threshold=0)
POINTS = KeypointRCNNOptions(
    channels=8, representation=16, keypoint_convs=1, keypoint_channels=8, keypoints=5, score_threshold=0, detections=20
)
BOTH = pytest.mark.parametrize("options", [MASKS, POINTS], ids=lambda options: options.name)


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("names", [["thing"], NAMES])
@BOTH
def test_every_parameter_learns_with_and_without_objects(options: HeadOptions, objects: bool, names: list[str]) -> None:
    model = build_model(TINY, options, names)
    batch = batch_of_noise(padding=(10, 20))
    targets = targets_for(batch, len(names), boxes=(4, 6, 40, 50) if objects else None)
    losses = model.train()(batch, targets)
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None] == []


def test_masks_have_the_original_size() -> None:
    model = build_model(TINY, MASKS, NAMES).eval()
    batch = batch_of_noise(padding=(10, 20))
    batch.frames[0] = Frame(batch.frames[0].size, (33, 50))
    with torch.no_grad():
        first, second = model(batch)["main"]
    assert first.masks.shape == (len(first.boxes), 33, 50)
    assert second.masks.shape == (len(second.boxes), *batch.frames[1].original)


def test_keypoints_come_back_in_original_pixels() -> None:
    torch.manual_seed(0)
    model = build_model(TINY, POINTS, NAMES).eval()
    batch = batch_of_noise(images=1)
    with torch.no_grad():
        same = model(batch)["main"][0]
        batch.frames[0] = Frame((64, 96), (128, 288))
        larger = model(batch)["main"][0]
    assert same.keypoints.shape == (len(same.boxes), 5, 3)
    assert len(same.boxes) > 0
    torch.testing.assert_close(larger.keypoints[..., 0], 3 * same.keypoints[..., 0])
    torch.testing.assert_close(larger.keypoints[..., 1], 2 * same.keypoints[..., 1])
    assert torch.equal(larger.keypoints[..., 2], same.keypoints[..., 2])


class OnCPU(Tensor):
    """What was copied to the CPU, and what was computed from that."""


class Watched(TorchFunctionMode):
    """Counts the numbers that are read one by one: of what was copied to the CPU, and of what was not."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Counter[bool] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.item:
            self.read[isinstance(args[0], OnCPU)] += 1
        out = func(*args, **(kwargs or {}))
        return out.as_subclass(OnCPU) if func is Tensor.cpu else out


def test_keypoints_are_found_without_a_wait_for_every_box() -> None:
    torch.manual_seed(0)
    model = build_model(TINY, POINTS, NAMES).eval()
    with torch.no_grad(), Watched() as watched:
        found = model(batch_of_noise())["main"]
    objects = sum(len(one.boxes) for one in found)
    assert objects > 0
    assert watched.read == {True: 2 * objects}


def test_points_that_nobody_sees_teach_nothing() -> None:
    model = build_model(TINY, POINTS, NAMES).train()
    batch = batch_of_noise()
    targets = targets_for(batch, len(NAMES))
    for target in targets:
        target.keypoints[..., 2] = 0
    assert float(model(batch, targets)["loss_keypoint"].detach()) == 0


@BOTH
def test_boxes_alone_are_an_error(options: HeadOptions) -> None:
    model = build_model(TINY, options, NAMES).train()
    batch = batch_of_noise()
    what = "masks" if options is MASKS else "keypoints"
    with pytest.raises(BuildError, match=rf"image 0 has boxes but no {what}.*faster_rcnn"):
        model(batch, [replace(target, **{what: None}) for target in targets_for(batch, len(NAMES))])

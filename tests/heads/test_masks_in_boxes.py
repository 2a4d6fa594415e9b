"""Pasting: torchvision's pixels, without its waits and its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import TINY, batch_of_noise
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.roi_heads import paste_masks_in_image

from rehead.configs.detection_heads import MaskRCNNOptions
from rehead.heads.masks_in_boxes import MasksInBoxes
from rehead.models.model import build_model
from rehead.types import Prediction

ODD_BOXES = [
    [0.0, 0, 61, 47],  # the whole image
    [-30, -20, 90, 70],  # beyond all its edges
    [10.2, 11.7, 10.2, 11.7],  # nothing
    [60.9, 46.9, 61, 47],  # a corner
    [58, 2, 70, 9],
    [3.3, 4.6, 40.1, 5.2],
]


def noise(count: int, size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """(N, 28, 28) probabilities, and boxes of all sizes inside an image."""
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor([size[1], size[0]])
    corners = torch.rand((count, 2, 2), generator=generator) * limits
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    return torch.rand((count, 28, 28), generator=generator), boxes


@pytest.mark.parametrize("boxes", [noise(40, (47, 61))[1], torch.tensor(ODD_BOXES), torch.zeros(0, 4)])
def test_pixels_are_torchvisions(boxes: Tensor) -> None:
    size = (47, 61)
    probabilities = noise(len(boxes), size, seed=1)[0]
    theirs = paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0] >= 0.5
    ours = MasksInBoxes.of(probabilities, boxes, size).pixels()
    assert ours.dtype == torch.bool
    assert torch.equal(ours, theirs)
    assert ours.any() == (len(boxes) > 0)


class Watched(TorchDispatchMode):
    """Counts the numbers that are asked of the device, and notes the largest tensor in float32, in bytes."""

    waits = largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waits += func is torch.ops.aten._local_scalar_dense.default
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point():
            self.largest = max(self.largest, out.nbytes)
        return out


def test_no_wait_for_a_number_and_one_mask_at_a_time_in_float32() -> None:
    size = (300, 400)
    probabilities, boxes = noise(50, size)
    with Watched() as theirs:
        paste_masks_in_image(probabilities[:, None], boxes, size)
    with Watched() as ours:
        MasksInBoxes.of(probabilities, boxes, size).pixels()
    assert theirs.waits > 10 * 50
    assert ours.waits == 0
    # A box as large as the image, and the border around it.
    one_mask = 4 * (size[0] * 30 / 28 + 2) * (size[1] * 30 / 28 + 2)
    assert theirs.largest >= 50 * 4 * size[0] * size[1]
    assert ours.largest <= max(one_mask, 50 * 4 * 30 * 30)


def test_masks_of_a_batch_are_pasted_one_image_at_a_time_when_they_are_read() -> None:
    torch.manual_seed(0)
    options = MaskRCNNOptions(channels=8, representation=16, mask_convs=1, mask_channels=8, score_threshold=0)
    model = build_model(TINY, options, ["a", "b"]).eval()
    with torch.no_grad():
        found = model(batch_of_noise())["main"]
    moved = [one.to(torch.device("cpu")) for one in found]
    assert all(isinstance(vars(one)["masks"], MasksInBoxes) for one in (*found, *moved))
    masks = moved[0].masks
    assert masks.shape == (len(moved[0].boxes), 64, 96)
    assert len(masks) > 0
    # What was read stays, changes to it too; what was not is as small as before.
    masks[0] = True
    assert moved[0].masks is masks
    assert [type(vars(one)["masks"]) for one in (*found, *moved)] == [MasksInBoxes, MasksInBoxes, Tensor, MasksInBoxes]
    assert not found[0].masks[0].all()


def test_boxes_that_change_later_change_no_mask() -> None:
    probabilities, boxes = noise(3, (20, 30))
    wanted = paste_masks_in_image(probabilities[:, None], boxes, (20, 30))[:, 0] >= 0.5
    prediction = Prediction(boxes=boxes, masks=MasksInBoxes.of(probabilities, boxes, (20, 30)))
    boxes *= 0.5
    assert prediction.masks is not None
    assert torch.equal(prediction.masks, wanted)

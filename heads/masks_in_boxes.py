"""Masks as Mask R-CNN predicts them, small and each in its box, and how they become pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from rehead.types import CompactMasks

THRESHOLD = 0.5
"""From this probability on a pixel is the object's."""


@dataclass
class MasksInBoxes(CompactMasks):
    """The masks of one image.

    Pasting gives torchvision's pixels, to the bit, without its two costs: it waits for the device at every number of
    every box, and has all masks as large as the image in float32, twice.

    Attributes:
        probabilities: (N, M, M) float32, with a border of zeros.
        boxes: (N, 4) int64 xyxy in pixels of the image, the last row and column included; of mask and border.
        size: (height, width) of the image.
    """

    probabilities: Tensor
    boxes: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> MasksInBoxes:
        """From (N, M, M) probabilities, and (N, 4) boxes in pixels of the image."""
        padded, scale = expand_masks(probabilities.detach(), 1)
        return cls(padded, expand_boxes(boxes.detach(), scale).long(), size)

    def to(self, device: torch.device, non_blocking: bool = False) -> MasksInBoxes:
        """The same on a device."""
        probabilities = self.probabilities.to(device, non_blocking=non_blocking)
        return replace(self, probabilities=probabilities, boxes=self.boxes.to(device, non_blocking=non_blocking))

    def pixels(self) -> Tensor:
        """(N, H, W) bool."""
        height, width = self.size
        masks = torch.zeros((len(self.boxes), height, width), dtype=torch.bool, device=self.boxes.device)
        # The one wait for the device.
        for mask, small, (left, top, right, bottom) in zip(masks, self.probabilities, self.boxes.tolist(), strict=True):
            shape = (max(bottom - top + 1, 1), max(right - left + 1, 1))
            resized = F.interpolate(small[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
            rows, columns = slice(max(top, 0), min(bottom + 1, height)), slice(max(left, 0), min(right + 1, width))
            part = resized[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            mask[rows, columns] = part >= THRESHOLD
        return masks

"""From samples of several sizes to one batch.

uint8 all the way: converting to float in a worker costs more than decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rehead.data.packed_masks import PackedMasks
from rehead.data.sample import Sample
from rehead.types import Frame, ImageBatch, Target, ignore_of


def collate(
    items: Sequence[tuple[Sample, Frame]], divisor: int = 1, canvas: tuple[int, int] | None = None
) -> tuple[ImageBatch, list[Target]]:
    """Pads images at the right and the bottom to a common size.

    Args:
        items: samples with their pixels, and their frames; at least one.
        divisor: height and width of the batch are multiples of it, such as the largest stride.
        canvas: the (height, width) that the batch has at least.

    Returns:
        The batch, (B, C, H, W) uint8 (float32 if an image is), zero where padded, channels last in memory;
        and a target per image: boxes cut to the image without crowds and empty ones, masks padded with
        False and the semantic map with what does not count to (H, W).
    """
    sizes = [*(sample.pixels.shape[:2] for sample, _ in items), canvas or (0, 0)]
    height, width = (-(-max(size[axis] for size in sizes) // divisor) * divisor for axis in (0, 1))
    dtype = np.result_type(*(sample.pixels.dtype for sample, _ in items))
    # Channels last in memory: every row is one copy here, and convolutions want it so.
    pixels = np.zeros((len(items), height, width, items[0][0].pixels.shape[2]), dtype)
    frames, targets = [], []
    for place, (sample, frame) in zip(pixels, items, strict=True):
        image = sample.pixels
        place[: image.shape[0], : image.shape[1]] = image
        frames.append(replace(frame, padding=(height - image.shape[0], width - image.shape[1])))
        targets.append(_target(sample, (height, width)))
    return ImageBatch(torch.from_numpy(pixels).permute(0, 3, 1, 2), frames), targets


def _target(sample: Sample, size: tuple[int, int]) -> Target:
    """What training may use of an annotation, for a batch of this (height, width)."""
    target = Target(image_id=sample.image_id)
    if sample.boxes is not None and sample.labels is not None:
        if sample.iscrowd is not None:
            sample = sample.select(~sample.iscrowd)
        sample = sample.clipped()
        target.boxes = torch.tensor(sample.boxes, dtype=torch.float32).reshape(-1, 4)
        target.labels = torch.tensor(sample.labels, dtype=torch.int64)
        if sample.masks is not None:
            target.masks = PackedMasks.of(sample.masks, size)
        if sample.keypoints is not None:
            target.keypoints = torch.tensor(sample.keypoints, dtype=torch.float32)
            target.keypoints[:, :, 2] = (target.keypoints[:, :, 2] > 0).float()
    if sample.semantic is not None:
        target.semantic = _padded(sample.semantic, size)
    if sample.label is not None:
        target.label = torch.tensor(
            sample.label, dtype=torch.float32 if isinstance(sample.label, np.ndarray) else torch.int64
        )
    return target


def _padded(semantic: np.ndarray, size: tuple[int, int]) -> Tensor:
    padded = np.full(size, ignore_of(semantic), semantic.dtype)
    padded[: semantic.shape[0], : semantic.shape[1]] = semantic
    return torch.from_numpy(padded)

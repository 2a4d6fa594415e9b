"""Small things that several test files build."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rehead.configs.schema import BackboneOptions
from rehead.types import Frame, ImageBatch, Target

TINY = BackboneOptions(name="resnet18", weights="none", width=8)
"""A backbone that runs in milliseconds."""


def batch_of_noise(
    size: tuple[int, int] = (64, 96), images: int = 2, channels: int = 3, padding: tuple[int, int] = (0, 0)
) -> ImageBatch:
    """uint8 noise; `padding` is that of the last image."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, channels, *size), generator=generator, dtype=torch.uint8)
    frames = [Frame(size, size, image_id=index) for index in range(images)]
    inner = (size[0] - padding[0], size[1] - padding[1])
    frames[-1] = Frame(inner, inner, padding, images - 1)
    return ImageBatch(pixels, frames)


def targets_for(batch: ImageBatch, num_classes: int, boxes: Sequence[float] | None = (4, 6, 40, 50)) -> list[Target]:
    """One box, a class map and a label for every image; `boxes=None` for images without objects."""
    height, width = batch.frames[0].padded
    semantic = (torch.arange(width) * num_classes // width).to(torch.uint8).repeat(height, 1)
    found = torch.zeros(0, 4) if boxes is None else torch.tensor([boxes], dtype=torch.float32)
    return [
        Target(
            frame.image_id,
            boxes=found,
            labels=torch.zeros(len(found), dtype=torch.int64) + index % num_classes,
            semantic=semantic,
            label=torch.tensor(index % num_classes),
        )
        for index, frame in enumerate(batch.frames)
    ]


def randomise_norms(module: torch.nn.Module) -> None:
    """Statistics as if the norms had seen data."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.2)


__all__ = ["TINY", "batch_of_noise", "randomise_norms", "targets_for"]

"""What the heads made of torchvision's detection parts have in common: its forms of images, boxes and anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from rehead.errors import BuildError
from rehead.heads.base import Features, at_least_float32
from rehead.heads.matching import places
from rehead.heads.necks import Neck
from rehead.types import FeatureSpec, Frame, Prediction, Target

NEEDED = {
    "masks": "mask_rcnn needs data with instance masks (data.format coco, instance_masks, yolo or via), "
    "faster_rcnn does without",
    "keypoints": "keypoint_rcnn needs data with keypoints (data.format coco or yolo), faster_rcnn does without",
}
"""What to do about images that lack something."""


def float32_pyramid(neck: Neck, features: Features) -> Features:
    """Pyramid levels by name, at least float32 also in mixed precision.

    torchvision takes the anchors' type from them, and bfloat16 knows no odd pixel beyond 256.
    """
    return {name: at_least_float32(value) for name, value in neck(features).items()}


def image_list(frames: Sequence[Frame]) -> ImageList:
    """torchvision's image list: only the batch's size is read from the tensor, so it holds nothing."""
    height, width = frames[0].padded
    return ImageList(torch.empty(len(frames), 0, height, width), [frame.size for frame in frames])


def truth(
    targets: Sequence[Target],
    frames: Sequence[Frame],
    first_label: int = 0,
    also: Literal["masks", "keypoints"] | None = None,
) -> list[dict[str, Tensor]]:
    """torchvision's targets, without boxes that have no area: their overlap with anything is 0 / 0.

    Args:
        targets: one per frame.
        frames: for the names of the images.
        first_label: what torchvision calls our label 0.
        also: what else every target must have.

    Raises:
        BuildError: for an image without boxes or what else is needed (none listed is fine), named.
    """
    found = []
    for target, frame in zip(targets, frames, strict=True):
        if target.boxes is None or target.labels is None:
            raise BuildError(f"image {frame.image_id!r} has no boxes to learn from; detection needs data with boxes")
        one = {"boxes": target.boxes, "labels": target.labels + first_label}
        if also is not None:
            more: Tensor | None = getattr(target, also)
            if more is None:
                raise BuildError(f"image {frame.image_id!r} has boxes but no {also} to learn from; {NEEDED[also]}")
            one[also] = more.byte() if also == "masks" else more
        found.append(one)
    some = [(one["boxes"][:, 2:] > one["boxes"][:, :2]).all(dim=1) for one in found]
    # One wait for the device, for all images: there is hardly ever a box to leave out.
    if torch.cat(some).all():
        return found
    return [{name: value[index] for name, value in one.items()} for one, index in zip(found, places(some), strict=True)]


def predictions(
    found: Sequence[Mapping[str, Tensor]], frames: Sequence[Frame], first_label: int = 0
) -> list[Prediction]:
    """From torchvision's detections, best first, in batch pixels."""
    return [
        Prediction(
            boxes=frame.boxes_to_original(at_least_float32(one["boxes"])),
            scores=at_least_float32(one["scores"]),
            labels=one["labels"] - first_label,
        )
        for one, frame in zip(found, frames, strict=True)
    ]


def anchor_generator(
    sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], specs: Mapping[str, FeatureSpec]
) -> AnchorGenerator:
    """Anchors of every size and ratio, at every point of a level.

    Args:
        sizes: square roots of areas in pixels, per level.
        aspect_ratios: height / width.
        specs: of the pyramid.

    Raises:
        BuildError: if the sizes do not fit the levels.
    """
    if len(sizes) != len(specs):
        raise BuildError(
            f"anchor_sizes has {len(sizes)} lists but the pyramid has {len(specs)} levels: {', '.join(specs)}"
        )
    if len({len(size) for size in sizes}) != 1:
        raise BuildError("anchor_sizes: every level needs the same number of sizes, since the levels share one head")
    return AnchorGenerator(tuple(tuple(size) for size in sizes), (tuple(aspect_ratios),) * len(sizes))

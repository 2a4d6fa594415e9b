"""What every semantic segmentation head shares: its loss, its prediction, and the way back to the original size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rehead.configs.segmentation_heads import SegmentationOptions
from rehead.errors import BuildError
from rehead.heads.base import Features, Head, at_least_float32
from rehead.heads.segmentation_loss import SegmentationLoss
from rehead.types import IGNORE_16, Classes, FeatureSpec, Frame, Prediction, Target, map_type


class SemanticHead(Head):
    """A class per pixel. Subclasses write `logits`."""

    def __init__(self, options: SegmentationOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        if len(classes) > IGNORE_16:
            raise BuildError(f"{options.name}: {len(classes)} classes; a semantic map has room for {IGNORE_16} at most")
        self.criterion = SegmentationLoss(options.loss, classes)

    @abstractmethod
    def logits(self, features: Features, frames: Sequence[Frame]) -> Tensor:
        """(B, K, H, W) class scores of the padded batch size."""

    def has_targets(self, target: Target) -> bool:
        """Images with a class map."""
        return target.semantic is not None

    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms of the `loss` option; cross-entropy, averaged over the pixels that count, unless given."""
        semantic = semantic_batch(targets, frames)
        losses: dict[str, Tensor] = self.criterion(self.training_logits(features, frames), semantic)
        return losses

    def skip_batch(self, device: torch.device) -> None:
        """The criterion counts pixels."""
        self.criterion.skip_batch(device)

    def training_logits(self, features: Features, frames: Sequence[Frame]) -> Tensor:
        """`logits`, with a reason where a norm cannot learn.

        Raises:
            BuildError: where a batch norm sees one value per channel: one image, pooled to one place.
        """
        try:
            return self.logits(features, frames)
        except ValueError as error:
            if "Expected more than 1" not in str(error):
                raise
            raise BuildError(
                f"{self.options.name}: a norm cannot learn from one value per channel, which is what "
                f"{len(frames)} image{'s' if len(frames) > 1 else ''} of {frames[0].padded[0]}x{frames[0].padded[1]} "
                "pooled to one place come to; use train.batch_size=2 or more, or larger images"
            ) from error

    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """A class per original pixel: logits are resized before the argmax, so edges stay smooth."""
        dtype = getattr(torch, map_type(len(self.classes)))
        return [
            Prediction(semantic=original_size(one, frame).argmax(0).to(dtype))
            for one, frame in zip(self.logits(features, frames), frames, strict=True)
        ]


def semantic_batch(targets: Sequence[Target], frames: Sequence[Frame]) -> Tensor:
    """(B, H, W) class maps.

    Raises:
        BuildError: for an image without one, named.
    """
    maps = []
    for target, frame in zip(targets, frames, strict=True):
        if target.semantic is None:
            raise BuildError(f"image {frame.image_id!r} has no class map; segmentation needs data with masks")
        maps.append(target.semantic)
    return torch.stack(maps)


def original_size(logits: Tensor, frame: Frame) -> Tensor:
    """(K, h, w) scores in the batch -> (K, H, W) in the original image, padding left out."""
    height, width = frame.size
    inside = at_least_float32(logits[None, :, :height, :width])
    return F.interpolate(inside, size=frame.original, mode="bilinear", align_corners=False)[0]

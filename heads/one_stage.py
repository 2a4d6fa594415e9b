"""What RetinaNet and FCOS share: a pyramid, two towers on every level of it, and torchvision's model for the rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rehead.heads.base import Features, Head, at_least_float32
from rehead.heads.detection import float32_pyramid, image_list, predictions, truth
from rehead.heads.necks import Neck
from rehead.types import Frame, Prediction, Target


class OneStage(Head):
    """A detector without proposals. Parameter names inside `head` are torchvision's.

    torchvision counts classes here as we do: label 0 is an ordinary class and background none at all.

    A subclass sets `neck` and calls `wrap` once.
    """

    divisor = 32
    neck: Neck
    head: nn.Module
    torchvision_model: Any
    """torchvision's model, asked only for its losses and its detections."""

    def wrap(self, torchvision_model: nn.Module) -> None:
        """Takes a torchvision model that was built around `BackboneStub`.

        Its `head` becomes ours. The model itself stays out of the module tree, where every tensor of
        the head would have a second name; it owns nothing else that trains or moves.
        """
        self.head = torchvision_model.get_submodule("head")
        object.__setattr__(self, "torchvision_model", torchvision_model)

    def outputs(self, features: Features, frames: Sequence[Frame]) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """The head's outputs by name, (B, A, ...) float32; the anchors of each image, (A, 4); and A per level.

        Coordinates are decoded in the type of the outputs, so they are float32 in mixed precision too.
        """
        levels = list(float32_pyramid(self.neck, features).values())
        outputs = {name: at_least_float32(value) for name, value in self.head(levels).items()}
        anchors = self.torchvision_model.anchor_generator(image_list(frames), levels)
        per_point = self.torchvision_model.anchor_generator.num_anchors_per_location()
        sizes = [one.shape[-2] * one.shape[-1] * count for one, count in zip(levels, per_point, strict=True)]
        return outputs, anchors, sizes

    @abstractmethod
    def matched_losses(
        self, targets: list[dict[str, Tensor]], outputs: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]
    ) -> dict[str, Tensor]:
        """torchvision's losses by its names."""

    def has_targets(self, target: Target) -> bool:
        """Images with boxes, even where there are none."""
        return target.boxes is not None

    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """torchvision's losses, `loss_` before its names: `loss_classification`, `loss_bbox_regression`, ..."""
        losses = self.matched_losses(truth(targets, frames), *self.outputs(features, frames))
        return {f"loss_{name}": loss for name, loss in losses.items()}

    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """Boxes, scores and labels, best first, at most `detections` per image."""
        outputs, anchors, sizes = self.outputs(features, frames)
        found = self.torchvision_model.postprocess_detections(
            {name: list(torch.split(value, sizes, dim=1)) for name, value in outputs.items()},
            [list(torch.split(one, sizes)) for one in anchors],
            [frame.size for frame in frames],
        )
        return predictions(found, frames)


class BackboneStub(nn.Module):
    """Stands for the backbone in torchvision's model, which asks it for a width alone."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

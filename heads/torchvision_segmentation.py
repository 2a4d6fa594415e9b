"""torchvision's FCN (Long et al., 1411.4038) and DeepLabV3 (Chen et al., 1706.05587) heads, with the auxiliary one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from rehead.configs.segmentation_heads import TorchvisionDeepLabV3Options, TorchvisionOptions
from rehead.errors import BuildError
from rehead.heads.base import Features, described
from rehead.heads.segmentation import SemanticHead, semantic_batch
from rehead.types import Classes, FeatureSpec, Frame, Target


class TorchvisionSegmentation(SemanticHead):
    """A classifier on the last map and, for training, another on the map before; parameters named as in torchvision."""

    def __init__(self, options: TorchvisionOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        self.last = list(specs)[-1]
        channels = specs[self.last].channels
        self.classifier: nn.Module
        if isinstance(options, TorchvisionDeepLabV3Options):
            self.classifier = DeepLabHead(channels, len(classes), options.atrous_rates)
        else:
            self.classifier = FCNHead(channels, len(classes))
        self.auxiliary_weight = options.auxiliary_weight
        self.aux_classifier: nn.Module | None = None
        if self.auxiliary_weight > 0:
            if len(specs) < 2:
                raise BuildError(
                    f"{options.name}: the auxiliary classifier needs a map before the last; the backbone gives "
                    f"{described(specs)}; set auxiliary_weight=0"
                )
            self.before = list(specs)[-2]
            self.aux_classifier = FCNHead(specs[self.before].channels, len(classes))

    def logits(self, features: Features, frames: Sequence[Frame]) -> Tensor:
        """(B, K, H, W) class scores of the padded batch size."""
        return resized(self.classifier(features[self.last]), frames)

    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms of the `loss` option, and `loss_auxiliary`: their sum on the auxiliary scores, weighted."""
        losses = super().loss(features, frames, targets)
        if self.aux_classifier is not None:
            scores = resized(self.aux_classifier(features[self.before]), frames)
            terms = self.criterion(scores, semantic_batch(targets, frames))
            losses["loss_auxiliary"] = self.auxiliary_weight * torch.stack(list(terms.values())).sum()
        return losses

    def skip_batch(self, device: torch.device) -> None:
        """The criterion counts pixels, for the auxiliary scores once more."""
        super().skip_batch(device)
        if self.aux_classifier is not None:
            super().skip_batch(device)


def resized(scores: Tensor, frames: Sequence[Frame]) -> Tensor:
    """(B, K, h, w) scores -> (B, K, H, W) of the padded batch size."""
    return F.interpolate(scores, size=frames[0].padded, mode="bilinear", align_corners=False)

"""The head of the paper: pool the last feature map, then one linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rehead.configs.heads import ClassificationOptions
from rehead.heads.base import Features, Head
from rehead.types import Classes, FeatureSpec, Frame, Prediction, Target


class Classification(Head):
    """Pooling, dropout and a linear layer on the last feature map (He et al., 1512.03385, section 3.3)."""

    def __init__(self, options: ClassificationOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        self.last = list(specs)[-1]
        self.pool = nn.AdaptiveAvgPool2d(1) if options.pooling == "avg" else nn.AdaptiveMaxPool2d(1)
        self.dropout = nn.Dropout(options.dropout)
        self.fc = nn.Linear(specs[self.last].channels, len(classes))

    def logits(self, features: Features) -> Tensor:
        """(B, K) class scores before the softmax."""
        scores: Tensor = self.fc(self.dropout(self.pool(features[self.last]).flatten(1)))
        return scores

    def learns_from(self, target: Target) -> bool:
        """Images with a label."""
        return target.label is not None

    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy over the images that have a label."""
        logits = self.logits(features).float()
        labelled = [(index, target.label) for index, target in enumerate(targets) if target.label is not None]
        if not labelled:
            return {"loss_classifier": logits.sum() * 0}
        rows = [index for index, _ in labelled]
        return {"loss_classifier": F.cross_entropy(logits[rows], torch.stack([label for _, label in labelled]))}

    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """Softmax probabilities, (K,) float32 per image."""
        return [Prediction(probabilities=row) for row in self.logits(features).float().softmax(1)]

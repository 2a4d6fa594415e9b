"""Classes of whole images: pool the last feature map, then one linear layer, or a hidden one before it."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rehead.configs.classification_heads import ClassificationOptions, MLPOptions
from rehead.errors import BuildError
from rehead.heads.base import Features, Head, at_least_float32, loss_normalizer
from rehead.types import Classes, FeatureSpec, Frame, Prediction, Target


class ClassificationHead(Head):
    """Scores of whole images; one class each or, with `multi_label`, any number. Subclasses write `scores`."""

    def __init__(self, options: ClassificationOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        self.last = list(specs)[-1]
        self.channels = specs[self.last].channels
        self.pool = nn.AdaptiveAvgPool2d(1) if options.pooling == "avg" else nn.AdaptiveMaxPool2d(1)
        self.dropout = nn.Dropout(options.dropout)
        self.label_smoothing = options.label_smoothing
        self.multi_label = options.multi_label

    @abstractmethod
    def scores(self, pooled: Tensor) -> Tensor:
        """(B, K) class scores of pooled features (B, C)."""

    def logits(self, features: Features, frames: Sequence[Frame]) -> Tensor:
        """(B, K) float32 class scores, before the softmax or the sigmoid."""
        return at_least_float32(self.scores(self.pooled(features, frames)))

    def pooled(self, features: Features, frames: Sequence[Frame]) -> Tensor:
        """(B, C) features of the images alone: padding, which differs from batch to batch, is left out."""
        maps = features[self.last]
        if not any(any(frame.padding) for frame in frames):
            return torch.flatten(self.pool(maps), 1)
        stride = self.specs[self.last].stride
        # A cell that the image reaches into counts.
        sizes = [tuple(-(-side // stride) for side in frame.size) for frame in frames]
        return torch.stack(
            [self.pool(own[:, :height, :width]).flatten() for own, (height, width) in zip(maps, sizes, strict=True)]
        )

    def has_targets(self, target: Target) -> bool:
        """Images with a label."""
        return target.label is not None

    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy of the softmax or, with `multi_label`, the mean of every class's binary cross-entropy.

        Both over the images of all processes that have a label; hard and soft labels may stand side by side.
        `label_smoothing` moves targets towards 1 / K or, with `multi_label`, towards 1 / 2.
        """
        logits = self.logits(features, frames)
        rows = [row for row, target in enumerate(targets) if target.label is not None]
        count = loss_normalizer(torch.full((), len(rows), device=logits.device))
        if not rows:
            return {"loss_classifier": logits.sum() * 0}
        wanted = distributions([targets[row] for row in rows], len(self.classes))
        own = logits if len(rows) == len(targets) else torch.stack([logits[row] for row in rows])
        if not self.multi_label:
            total = F.cross_entropy(own, wanted, label_smoothing=self.label_smoothing, reduction="sum")
        else:
            wanted = wanted.lerp(torch.full_like(wanted, 0.5), self.label_smoothing)
            total = F.binary_cross_entropy_with_logits(own, wanted, reduction="sum") / len(self.classes)
        return {"loss_classifier": total / count}

    def skip_batch(self, device: torch.device) -> None:
        """Images are counted."""
        loss_normalizer(torch.tensor(0, device=device))

    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """Probabilities, (K,) float32 per image: of the softmax or, with `multi_label`, of each class's sigmoid."""
        logits = self.logits(features, frames)
        return [Prediction(probabilities=row) for row in (logits.sigmoid() if self.multi_label else logits.softmax(1))]


class Linear(ClassificationHead):
    """Dropout and a linear layer (He et al., 1512.03385, section 3.3); tensors are named as in torchvision's ResNet."""

    def __init__(self, options: ClassificationOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        self.fc = nn.Linear(self.channels, len(classes))

    def scores(self, pooled: Tensor) -> Tensor:
        """One linear layer."""
        scores: Tensor = self.fc(self.dropout(pooled))
        return scores


class MLP(ClassificationHead):
    """Layer norm, a hidden layer with GELU, dropout and a linear layer.

    Equal to timm's `NormMlpClassifierHead` with `act_layer="gelu"`, its tensors' names too
    (https://github.com/huggingface/pytorch-image-models/blob/main/timm/layers/classifier.py). The norm brings
    the features of any backbone to one scale, and unlike batch norm it learns from batches of one image.
    """

    def __init__(self, options: MLPOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        hidden = options.hidden or self.channels
        self.norm = nn.LayerNorm(self.channels, eps=1e-6)
        self.pre_logits = nn.Sequential(OrderedDict(fc=nn.Linear(self.channels, hidden), act=nn.GELU()))
        self.fc = nn.Linear(hidden, len(classes))

    def scores(self, pooled: Tensor) -> Tensor:
        """Two linear layers."""
        scores: Tensor = self.fc(self.dropout(self.pre_logits(self.norm(pooled))))
        return scores


def distributions(targets: Sequence[Target], num_classes: int) -> Tensor:
    """The labels of some images as one value per class.

    Args:
        targets: N of them, each with a label, hard or soft.
        num_classes: K.

    Returns:
        (N, K) float32; a hard label is 1 at its class and 0 elsewhere.

    Raises:
        BuildError: for a soft label of another length; names the image.
    """
    hard = [target.label for target in targets if target.label is not None and target.label.ndim == 0]
    of_hard: Iterator[Tensor] = iter(())
    if hard:
        # All at once, and not by torch's `one_hot`, which looks at the labels first: that waits for the device.
        zeros = torch.zeros(len(hard), num_classes, device=hard[0].device)
        of_hard = iter(zeros.scatter_(1, torch.stack(hard)[:, None], 1.0))
    rows = []
    for target in targets:
        label = target.label
        assert label is not None
        if label.ndim != 0 and label.shape != (num_classes,):
            raise BuildError(
                f"image {target.image_id!r}: its label has shape {tuple(label.shape)} where the head tells apart "
                f"{num_classes} classes; a soft label is one value per class"
            )
        rows.append(next(of_hard) if label.ndim == 0 else label.float())
    return torch.stack(rows)

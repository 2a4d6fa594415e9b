"""Losses on pixels: cross-entropy, dice, focal, Lovasz, and weighted sums of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import MULTICLASS_MODE, DiceLoss, LovaszLoss
from torch import Tensor, nn

from rehead.configs.segmentation_heads import SegmentationLossOptions
from rehead.errors import BuildError, listed
from rehead.heads.base import at_least_float32, loss_normalizer
from rehead.types import IGNORE_16, Classes, ignore_of


class SegmentationLoss(nn.Module):
    """The terms that a head's `loss` option names. Without a pixel that counts, each is 0 with gradients of 0.

    Args:
        options: the terms.
        classes: K of them.

    Raises:
        BuildError: if the class weights are not one per class.
    """

    class_weights: Tensor | None

    def __init__(self, options: SegmentationLossOptions, classes: Classes) -> None:
        super().__init__()
        self.options = options
        self.num_classes = len(classes)
        weights = options.cross_entropy.class_weights if options.cross_entropy else None
        if weights is not None and len(weights) != len(classes):
            raise BuildError(
                f"loss.cross_entropy.class_weights has {len(weights)} values for {len(classes)} classes "
                f"({listed(classes.names)}); give one per class"
            )
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights), persistent=False)

    def forward(self, logits: Tensor, semantic: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name (`loss_dice`, ...), each () float32, to be added up.

        Args:
            logits: (B, K, H, W) class scores of any precision.
            semantic: (B, H, W) class map, `ignore_of` its type where nothing counts.
        """
        losses = {}
        for name, term in self.options.terms().items():
            if name == "cross_entropy":
                assert self.options.cross_entropy is not None
                smoothing = self.options.cross_entropy.label_smoothing
                loss = pixel_cross_entropy(logits, semantic, self.class_weights, smoothing)
            elif name == "dice":
                loss = dice(logits, semantic)
            elif name == "focal":
                assert self.options.focal is not None
                loss = focal(logits, semantic, self.options.focal.gamma)
            else:
                loss = lovasz(logits, semantic)
            losses[f"loss_{name}"] = term.weight * loss
        return losses

    def skip_batch(self, device: torch.device) -> None:
        """One pixel that does not count, for the other processes' sake; see `Head.skip_batch`."""
        semantic = torch.full((1, 1, 1), IGNORE_16, dtype=torch.int16, device=device)
        self(torch.zeros(1, self.num_classes, 1, 1, device=device), semantic)


def pixel_cross_entropy(
    logits: Tensor, semantic: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """() float32 mean over the pixels that count, of all processes; 0, not NaN, where there is none.

    Class weights divide as in torch: by the sum of the pixels' weights.
    """
    ignored = ignore_of(semantic)
    semantic = semantic.long()
    counts = semantic != ignored
    total = F.cross_entropy(
        at_least_float32(logits),
        semantic,
        class_weights,
        ignore_index=ignored,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    if class_weights is None:
        return total / loss_normalizer(counts.sum())
    return total / loss_normalizer((class_weights[semantic.where(counts, 0)] * counts).sum())


def dice(logits: Tensor, semantic: Tensor) -> Tensor:
    """() float32: 1 - dice of the softmax, over the whole batch of one process, averaged over all classes.

    A class that no pixel has adds 0, as in segmentation-models-pytorch (Milletari et al., 1606.04797).
    """
    loss: Tensor = DiceLoss(MULTICLASS_MODE, ignore_index=ignore_of(semantic))(
        at_least_float32(logits), semantic.long()
    )
    return loss


def focal(logits: Tensor, semantic: Tensor, gamma: float = 2.0) -> Tensor:
    """() float32 mean of (1 - p)^gamma * cross-entropy over the pixels that count, p the true class's softmax.

    The mean is that of all processes.

    segmentation-models-pytorch's focal loss is one of sigmoids, and NaN where no pixel counts.
    """
    ignored = ignore_of(semantic)
    entropy = F.cross_entropy(at_least_float32(logits), semantic.long(), ignore_index=ignored, reduction="none")
    # A power below 1 has an infinite slope at 0.
    wrong = (-torch.expm1(-entropy)).clamp(min=1e-6)
    return (wrong**gamma * entropy).sum() / loss_normalizer((semantic != ignored).sum())


def lovasz(logits: Tensor, semantic: Tensor) -> Tensor:
    """() float32 Lovasz-softmax of a process's batch, averaged over its classes (Berman et al., 1705.08790)."""
    if logits.shape[1] == 1 or not (semantic != ignore_of(semantic)).any():
        # SMP's has no scalar for no pixel, and refuses a single class, whose softmax is 1 everywhere.
        return at_least_float32(logits).sum() * 0
    loss: Tensor = LovaszLoss(MULTICLASS_MODE, ignore_index=ignore_of(semantic))(
        at_least_float32(logits), semantic.long()
    )
    return loss

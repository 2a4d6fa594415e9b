"""torchvision's parts that match boxes and draw samples, without a wait for the device at every image.

A number that Python asks of a GPU (how many places are true, say) makes it wait until the GPU has done all that it was
given, and leaves the GPU idle until the next kernels are queued. torchvision asks several per image and step. Here
the answers are the same, and asked for all images at once or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import _utils as parts
from torchvision.ops import batched_nms, nms


def places(masks: Sequence[Tensor]) -> list[Tensor]:
    """Where each mask is true.

    Args:
        masks: (N_i,) bool or uint8, one per image.

    Returns:
        (M_i,) int64 for each, ascending. Two waits for the device, however many masks.
    """
    counts: list[int] = torch.stack([mask.sum() for mask in masks]).tolist()
    found = torch.split(torch.cat(list(masks)).nonzero()[:, 0], counts)
    first = 0
    result = []
    for mask, own in zip(masks, found, strict=True):
        result.append(own - first)
        first += len(mask)
    return result


class Matcher(parts.Matcher):
    """torchvision's matcher of boxes with objects."""

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        """Gives every object the boxes that overlap it most, ties included, however little that is.

        Args:
            matches: (N,) int64, changed in place.
            all_matches: (N,) int64, the object that each box overlaps most.
            match_quality_matrix: (M, N) overlaps of objects and boxes.
        """
        most = match_quality_matrix.max(dim=1, keepdim=True).values
        best = (match_quality_matrix == most).any(dim=0)
        matches.copy_(torch.where(best, all_matches, matches))


class Sampler(parts.BalancedPositiveNegativeSampler):
    """torchvision's sampler: as many of each kind with the same chances, by another drawing of lots.

    Every candidate gets a random key, and those with the lowest are taken: a permutation of the candidates would
    have to know how many there are.
    """

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the positive and of the negative samples.

        Args:
            matched_idxs: (N_i,) per image: 1 or more for positive candidates, 0 for negative ones, -1 for neither.

        Returns:
            (N_i,) uint8 per image, twice.
        """
        size = self.batch_size_per_image
        positive, negative = [], []
        for labels in matched_idxs:
            keys = torch.rand(len(labels), device=labels.device)
            most = int(size * self.positive_fraction)
            positive.append(_lowest(keys, labels >= 1, most, most))
            # What is missing of the positive ones is filled up with negative ones.
            negative.append(_lowest(keys, labels == 0, size, size - positive[-1].sum()))
        return positive, negative


def _lowest(keys: Tensor, candidates: Tensor, most: int, limit: Tensor | int) -> Tensor:
    """(N,) uint8: 1 at the `limit` candidates with the lowest keys, `limit` being at most `most`."""
    ranked = keys.where(candidates, 2.0).topk(min(most, len(keys)), largest=False).indices
    taken = candidates[ranked] & (torch.arange(len(ranked), device=keys.device) < limit)
    return torch.zeros_like(keys, dtype=torch.uint8).scatter_(0, ranked, taken.to(torch.uint8))


class BoxCoder(parts.BoxCoder):
    """torchvision's coder of boxes as distances from other boxes."""

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """(N, 4) distances of N boxes from N others, the weights as plain numbers: a tensor of them would be a copy."""
        weights: Any = self.weights
        encoded: Tensor = parts.encode_boxes(reference_boxes, proposals, weights)
        return encoded


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression within groups, levels or classes.

    Args:
        boxes: (N, 4) xyxy, none below 0.
        scores: (N,).
        groups: (N,) int64.
        threshold: of IoU.

    Returns:
        (M,) int64 of those that stay, the best first. One wait for the device.
    """
    if boxes.device.type == "cpu" or not len(boxes):
        kept: Tensor = batched_nms(boxes, scores, groups, threshold)
        return kept
    # Groups far apart from one another, as torchvision does it; for many boxes it would go through them one by one.
    apart = groups.to(boxes.dtype) * (boxes.max() + 1)
    return nms(boxes + apart[:, None], scores, threshold)

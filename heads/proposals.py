"""torchvision's region proposals (Ren et al., 1506.01497, section 3.1), with fewer waits for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import clip_boxes_to_image

from rehead.heads.matching import BoxCoder, Matcher, Sampler, nms_by_group, places


class RegionProposals(RegionProposalNetwork):
    """Takes torchvision's arguments; the proposals and losses are torchvision's, the drawing of samples apart."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        own, sampler = self.proposal_matcher, self.fg_bg_sampler
        self.box_coder = BoxCoder(self.box_coder.weights)
        self.proposal_matcher = Matcher(own.high_threshold, own.low_threshold, own.allow_low_quality_matches)
        self.fg_bg_sampler = Sampler(sampler.batch_size_per_image, sampler.positive_fraction)

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best proposals of each level, suppressed where they overlap; then the best of all.

        Args:
            proposals: (B, A, 4) xyxy in pixels of the batch.
            objectness: (B * A, 1) logits.
            image_shapes: height and width per image.
            num_anchors_per_level: adding up to A.

        Returns:
            (N_i, 4) boxes and (N_i,) scores per image, the best first.
        """
        objectness = objectness.detach().reshape(len(proposals), -1)
        top = self._get_top_n_idx(objectness, num_anchors_per_level)
        scores = objectness.gather(1, top).sigmoid()
        boxes = proposals.gather(1, top[..., None].expand(-1, -1, 4))
        boxes = torch.stack([clip_boxes_to_image(own, shape) for own, shape in zip(boxes, image_shapes, strict=True)])
        levels = torch.cat(
            [
                torch.full((min(count, self.pre_nms_top_n()),), number, device=boxes.device)
                for number, count in enumerate(num_anchors_per_level)
            ]
        )
        large = (boxes[..., 2:] - boxes[..., :2] >= self.min_size).all(dim=-1)
        found = places(list(large & (scores >= self.score_thresh)))
        kept_boxes, kept_scores = [], []
        for own, own_scores, index in zip(boxes, scores, found, strict=True):
            own, own_scores = own[index], own_scores[index]
            kept = nms_by_group(own, own_scores, levels[index], self.nms_thresh)[: self.post_nms_top_n()]
            kept_boxes.append(own[kept])
            kept_scores.append(own_scores[kept])
        return kept_boxes, kept_scores

"""torchvision's region proposals (Ren et al., 1506.01497, section 3.1), with fewer waits and another loss if wanted."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import clip_boxes_to_image

from rehead.heads.matching import BoxCoder, Matcher, Sampler, nms_by_group, places


class RegionProposals(RegionProposalNetwork):
    """Proposals and losses are torchvision's, the drawing of samples apart.

    Takes torchvision's arguments, and `beta`: smooth L1 of the boxes is a parabola up to it and a straight line beyond
    (Girshick, 1504.08083). torchvision has 1/9; 0 is L1, as in Detectron2.
    """

    def __init__(self, *arguments: Any, beta: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.beta = beta
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

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The loss of objectness, a mean over the sampled anchors, and that of the boxes, divided by as many.

        Args:
            objectness: (A, 1) of the anchors of all images.
            pred_bbox_deltas: (A, 4).
            labels: (A_i,) per image, 1 for an object, 0 for background, -1 for neither.
            regression_targets: (A_i, 4) deltas per image.
        """
        positive, negative = places([torch.cat(chosen) for chosen in self.fg_bg_sampler(labels)])
        sampled = torch.cat([positive, negative])
        wanted = torch.cat(regression_targets)[positive]
        boxes = F.smooth_l1_loss(pred_bbox_deltas[positive], wanted, beta=self.beta, reduction="sum")
        objects = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled])
        return objects, boxes / sampled.numel()

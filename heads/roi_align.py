"""RoIAlign (He et al., 1703.06870, section 3) over a pyramid; on a CPU, several times torchvision's speed.

What a region gets in each of its cells is a weighted sum of feature vectors: four samples a cell, four neighbours a
sample. torchvision's CPU kernel works them out channel by channel on one thread; with channels last in memory they are
rows of a table, and a weighted sum of rows is what `embedding_bag` computes, and differentiates, on all threads. On
other devices torchvision's kernels do the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

from rehead.heads.base import level
from rehead.types import FeatureSpec

SAMPLES = 2
"""In a cell, along each axis."""


class RoIAlign(MultiScaleRoIAlign):
    """RoIAlign over every level but the last, which only makes proposals (1612.03144, section 4.2).

    The arithmetic is that of torchvision's `roi_align`. Without `aligned`, as torchvision's own detectors are trained,
    a region is taken to begin half a pixel further right and down than where pixels' centres are, and is at least one
    pixel wide; with it, as Detectron2's are trained (its ROIAlignV2), neither.

    Args:
        specs: of the pyramid, finest first.
        size: cells of a region, along each axis.
        aligned: see above.
    """

    def __init__(self, specs: Mapping[str, FeatureSpec], size: int, aligned: bool = False) -> None:
        pooled = dict(list(specs.items())[:-1])
        super().__init__(list(pooled), output_size=size, sampling_ratio=SAMPLES)
        self.size = size
        self.aligned = aligned
        # torchvision infers the scales from the first image it sees and keeps them; the specs know them.
        strides = [spec.stride for spec in pooled.values()]
        self.strides = strides
        self.scales = [1 / stride for stride in strides]  # type: ignore[assignment]
        self.level_of = self.map_levels = initLevelMapper(level(strides[0]), level(strides[-1]))

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Features of regions.

        Args:
            x: (B, C, H, W) by the level's name.
            boxes: (K, 4) per image, xyxy in pixels of the batch.
            image_shapes: for torchvision's signature.

        Returns:
            (sum of K, C, size, size).
        """
        levels = [x[name] for name in self.featmap_names]
        if levels[0].device.type == "cpu":
            return self._from_rows(levels, boxes)
        return self._from_kernels(levels, boxes) if self.aligned else super().forward(x, boxes, image_shapes)

    def _from_kernels(self, levels: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """torchvision's kernels, level by level: its `MultiScaleRoIAlign` knows no `aligned`."""
        of = self.level_of(boxes)
        image = torch.cat([some.new_full((len(some), 1), number) for number, some in enumerate(boxes)])
        regions = torch.cat([image, torch.cat(boxes)], 1)
        cells = levels[0].new_zeros(len(regions), levels[0].shape[1], self.size, self.size)
        for number, (features, stride) in enumerate(zip(levels, self.strides, strict=True)):
            mine = torch.where(of == number)[0]
            cells[mine] = roi_align(features, regions[mine], self.size, 1 / stride, SAMPLES, aligned=True)
        return cells

    def _from_rows(self, levels: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        channels = levels[0].shape[1]
        table = torch.cat([features.permute(0, 2, 3, 1).reshape(-1, channels) for features in levels])
        heights, widths, rows = (
            torch.tensor(numbers)
            for numbers in zip(*((*features.shape[2:], features[:, 0].numel()) for features in levels), strict=True)
        )
        of = self.level_of(boxes)
        image = torch.cat([torch.full((len(some),), number) for number, some in enumerate(boxes)])
        # Where the features of a region's level and image begin in the table.
        height, width = heights[of], widths[of]
        first = (rows.cumsum(0) - rows)[of] + image * height * width
        left, top, right, bottom = (torch.cat(boxes) * torch.tensor(self.scales)[of, None]).unbind(1)
        column, of_column = self._neighbours(left, right, width)
        row, of_row = self._neighbours(top, bottom, height)
        # (K, size, 1, neighbours, 1) and (K, 1, size, 1, neighbours).
        row, of_row = row[:, :, None, :, None], of_row[:, :, None, :, None]
        column, of_column = column[:, None, :, None, :], of_column[:, None, :, None, :]
        first, width = (number[:, None, None, None, None] for number in (first, width))
        index = (first + row * width + column).flatten(3).flatten(0, 2)
        weights = (of_row * of_column).flatten(3).flatten(0, 2) / SAMPLES**2
        cells = F.embedding_bag(index, table, mode="sum", per_sample_weights=weights.to(table.dtype))
        return cells.view(-1, self.size, self.size, channels).permute(0, 3, 1, 2)

    def _neighbours(self, start: Tensor, end: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels between which each cell's samples lie along one axis, and how much each counts.

        Args:
            start: (K,) of the regions, in pixels of their levels.
            end: (K,).
            length: (K,) of their levels' maps.

        Returns:
            (K, size, 2 * SAMPLES) int64 and float32.
        """
        extent = end - start if self.aligned else (end - start).clamp(min=1)
        start = start - 0.5 if self.aligned else start
        cell = (extent / self.size)[:, None, None]
        sample = (torch.arange(SAMPLES) + 0.5) * cell / SAMPLES
        at = start[:, None, None] + torch.arange(self.size)[:, None] * cell + sample
        last = (length - 1)[:, None, None]
        # Beyond a pixel outside of the map there is nothing; nearer than that, its edge.
        counts = (at >= -1) & (at <= last + 1)
        at = torch.minimum(at.clamp(min=0), last)
        low = at.floor()
        high = torch.minimum(low + 1, last)
        share = at - low
        weights = torch.stack([1 - share, share], -1) * counts[..., None]
        return torch.stack([low, high], -1).long().flatten(2), weights.flatten(2)

"""One image and what is known of it, as every reader gives it. numpy only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.errors import DataError


@dataclass
class Sample:
    """One image, its annotation and, once read, its pixels. What a format lacks is None.

    Attributes:
        image_id: the image's id in the user's files; for folders and masks, its relative name.
        path: of the image file.
        size: (height, width) that the annotation gives, in pixels.
        boxes: (N, 4) float32 xyxy in pixels of `image`; crowds and empty boxes included.
        labels: (N,) int64 in 0..K-1.
        iscrowd: (N,) bool.
        areas: (N,) float32, in ORIGINAL square pixels, as annotated (COCO: of the mask, not of the box); the box's
            where the annotation does not say it.
        masks: (N, H, W) uint8, 1 where the object is; only from a reader that was asked for masks.
        keypoints: (N, P, 3) float32: x, y in pixels of `image`, and 0 not labelled, 1 hidden, 2 visible.
        mask_path: of the file that holds the semantic map.
        label: of the whole image: its class, 0..K-1; or (K,) float32, soft: the classes' probabilities or, where
            an image may have several classes, 1 for those that are present and 0 for the others.
        image: (H, W, C), uint8, or float32, 255 being full brightness (beyond 8 bits).
        semantic: (H, W) in 0..K-1, of `rehead.types.map_type`; `ignore_of` it where nothing counts.
        reduction: as in `rehead.data.image_io.Decoded`. Where it is not 1, all of the annotation is in pixels of the
            whole image until `aligned`.
        full: (height, width) of the whole image where `image` was decoded at a reduced scale, until it is resized.
    """

    image_id: int | str
    path: Path
    size: tuple[int, int] | None = None
    boxes: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    iscrowd: NDArray[np.bool_] | None = None
    areas: NDArray[np.float32] | None = None
    masks: NDArray[np.uint8] | None = None
    keypoints: NDArray[np.float32] | None = None
    mask_path: Path | None = None
    label: int | NDArray[np.float32] | None = None
    image: NDArray[Any] | None = None
    semantic: NDArray[Any] | None = None
    reduction: int = 1
    full: tuple[int, int] | None = None

    @property
    def pixels(self) -> NDArray[Any]:
        """`image`, for those who cannot go on without it.

        Raises:
            DataError: when the sample was not read yet.
        """
        if self.image is None:
            raise DataError(f"{self.path}: the pixels are not read yet; use reader.read(i, channels), not reader[i]")
        return self.image

    @property
    def full_size(self) -> tuple[int, int]:
        """(height, width) that `image` has or, decoded whole, would have."""
        return self.full or (self.pixels.shape[0], self.pixels.shape[1])

    def aligned(self) -> Sample:
        """The same sample with its annotation in pixels of `image`, where that was decoded at a reduced scale.

        What lies at x lies at x / reduction then, whatever the image's size was rounded to.
        """
        if self.reduction == 1:
            return self
        by = self.reduction
        # The pixel under the centre.
        rows, columns = (
            np.minimum(np.arange(side) * by + by // 2, whole - 1)
            for side, whole in zip(self.pixels.shape[:2], self.full_size, strict=True)
        )
        scale = np.array([1 / by, 1 / by, 1], np.float32)
        return replace(
            self,
            boxes=None if self.boxes is None else self.boxes / np.float32(by),
            masks=None if self.masks is None else self.masks[:, rows[:, None], columns],
            keypoints=None if self.keypoints is None else self.keypoints * scale,
            semantic=None if self.semantic is None else self.semantic[rows[:, None], columns],
            reduction=1,
        )

    def select(self, rows: NDArray[Any]) -> Sample:
        """The same image with some of its objects.

        Args:
            rows: (N,) bool, or (M,) indices in the wanted order.
        """
        wanted = np.flatnonzero(rows) if rows.dtype == bool else rows
        if self.boxes is not None and np.array_equal(wanted, np.arange(len(self.boxes))):
            return replace(self)  # masks are large
        return replace(
            self,
            boxes=None if self.boxes is None else self.boxes[rows],
            labels=None if self.labels is None else self.labels[rows],
            iscrowd=None if self.iscrowd is None else self.iscrowd[rows],
            areas=None if self.areas is None else self.areas[rows],
            masks=None if self.masks is None else self.masks[rows],
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    def clipped(self) -> Sample:
        """The same image with its boxes cut to it, without those that nothing is left of.

        Keypoints outside count as not labelled.
        """
        if self.boxes is None:
            return self
        height, width = self.pixels.shape[:2]
        limits = np.array([width, height, width, height], np.float32)
        boxes = np.minimum(np.maximum(self.boxes, np.float32(0)), limits)
        keypoints = self.keypoints
        if keypoints is not None:
            inside = ((keypoints[:, :, :2] >= 0) & (keypoints[:, :, :2] <= (width, height))).all(axis=2)
            keypoints = np.where((inside & (keypoints[:, :, 2] > 0))[:, :, None], keypoints, np.float32(0))
        return replace(self, boxes=boxes, keypoints=keypoints).select(
            np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        )

"""Detection and instance segmentation: an image and a mask of the same name, whose values number the objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rehead.configs.readers import InstanceMasksSplit
from rehead.data.instance_masks import RLE, encode
from rehead.data.readers.base import Reader, existing
from rehead.data.readers.masks import matched, read_mask
from rehead.data.sample import Sample
from rehead.errors import DataError
from rehead.types import Classes


class InstanceMasksReader(Reader):
    """Images and masks in two folders, matched by name without suffix, at any depth (Penn-Fudan's form).

    Every value of a mask but 0 is one object; all are of one class. Boxes are the smallest around the
    masks, so every mask is read once at the start.

    Args:
        split: the folders `images` and `masks`, and the `part` of them.
        root: what their paths are relative to.
        classes: the one class's name; `object` unless given.
        ignore_index: has no meaning here.

    Raises:
        DataError: for more than one class, no images, images without masks, or masks that cannot be read.
    """

    def __init__(
        self,
        split: InstanceMasksSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        ignore_index: Sequence[int] = (),
    ) -> None:
        self.folder = existing(root, split.images, "images", folder=True)
        self.mask_folder = existing(root, split.masks, "masks", folder=True)
        if classes is not None and len(classes) != 1:
            raise DataError(
                f"data.classes: {len(classes)} classes, but instance masks number objects of one class; name one"
            )
        self.classes = Classes(tuple(classes or ("object",)), (1,))
        pairs = matched(self.folder, self.mask_folder)
        first, last = (round(edge * len(pairs)) for edge in split.part)
        pairs = pairs[first:last]
        if not pairs:
            raise DataError(f"part: {list(split.part)} leaves none of the images of {self.folder}")
        self._images = np.array([image for image, _ in pairs])
        self._masks = np.array([mask for _, mask in pairs])
        found = [_boxes(read_mask(self.mask_folder / mask)) for _, mask in pairs]
        self._sizes = np.array([size for size, _, _ in found])
        self._boxes = np.concatenate([boxes for _, boxes, _ in found])
        self._areas = np.concatenate([areas for _, _, areas in found])
        self._starts = np.cumsum([0, *(len(boxes) for _, boxes, _ in found)])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        rows = slice(self._starts[index], self._starts[index + 1])
        boxes = self._boxes[rows]
        height, width = self._sizes[index]
        return Sample(
            image_id=str(self._images[index].rpartition(".")[0]),
            path=self.folder / str(self._images[index]),
            size=(int(height), int(width)),
            boxes=boxes,
            labels=np.zeros(len(boxes), np.int64),
            iscrowd=np.zeros(len(boxes), np.bool_),
            areas=self._areas[rows],
        )

    def segmentations(self, index: int, size: tuple[int, int]) -> list[RLE]:
        """The objects' masks, in the order of their numbers."""
        mask = read_mask(self.mask_folder / str(self._masks[index]))
        numbers = np.unique(mask)
        return encode(mask[None] == numbers[numbers != 0][:, None, None])


def _boxes(mask: NDArray[np.integer]) -> tuple[tuple[int, ...], NDArray[np.float32], NDArray[np.float32]]:
    """Size, (N, 4) xyxy boxes and (N,) areas of the objects, in the order of their numbers."""
    boxes, areas = [], []
    for number in np.unique(mask):
        if number != 0:
            rows, columns = np.nonzero(mask == number)
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            areas.append(len(rows))
    return mask.shape, np.array(boxes, np.float32).reshape(-1, 4), np.array(areas, np.float32)

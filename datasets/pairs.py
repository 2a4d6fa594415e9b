"""Somebody's own `Dataset` of (image, target) pairs as a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rehead.data.image_io import Shrink
from rehead.data.instance_masks import RLE, encode
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.errors import DataError
from rehead.types import Classes, map_type


class Pairs(Protocol):
    """What `torch.utils.data.Dataset` is: a length, and a pair for every index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


class PairsReader(Reader):
    """Reads pairs, without a file.

    An image is (H, W, C) or (H, W) uint8, a PIL image, or a (C, H, W) tensor, uint8 or floating point in 0..1. A target
    is the image's class as a number; a (K,) array of the classes that are present; an (H, W) class map; or a mapping
    with `boxes` (N, 4) xyxy in pixels and `labels` (N,), and where there are `masks` (N, H, W), `keypoints` (N, P, 3)
    and `iscrowd` (N,), as torchvision's detectors take them. Labels count from 0, and background is none of them.

    Args:
        pairs: the dataset.
        classes: the names of the labels.
        name: of the dataset, for messages.
    """

    def __init__(self, pairs: Pairs, classes: Classes | Sequence[str], name: str = "dataset") -> None:
        self.pairs = pairs
        self.classes = Classes.of(classes)
        self.name = name

    def __len__(self) -> int:
        return len(self.pairs)

    def image_id(self, index: int) -> int | str:
        """The index itself: nothing is read for it."""
        return index

    def __getitem__(self, index: int) -> Sample:
        sample = self._whole(index, None)
        sample.image = sample.semantic = sample.masks = None
        return sample

    def read(self, index: int, channels: int = 3, shrink: Shrink | None = None) -> Sample:
        """The pair as a sample; it is never read at a reduced scale.

        Raises:
            DataError: naming the pair, when it is not what is described above.
        """
        return self._whole(index, channels)

    def segmentations(self, index: int, size: tuple[int, int]) -> list[RLE]:
        """The objects' masks, in the order of the boxes."""
        masks = self._whole(index, None).masks
        return super().segmentations(index, size) if masks is None else encode(masks)

    def _whole(self, index: int, channels: int | None) -> Sample:
        where = f"{self.name}[{index}]"
        try:
            image, target = self.pairs[index]
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: should be a pair of image and target ({error})") from error
        pixels = _pixels(image, where)
        if channels is not None and pixels.shape[2] != channels:
            raise DataError(f"{where}: the image has {pixels.shape[2]} channels, the model wants {channels}")
        height, width = pixels.shape[:2]
        sample = Sample(image_id=index, path=Path(where), size=(height, width), image=pixels)
        known = len(self.classes)
        if isinstance(target, Mapping):
            self._objects(sample, target, where)
            return sample
        values = np.asarray(target)
        if values.ndim == 0 and np.issubdtype(values.dtype, np.integer) and 0 <= int(values) < known:
            sample.label = int(values)
        elif values.shape == (height, width) and np.issubdtype(values.dtype, np.integer):
            sample.semantic, sample.mask_path = values.astype(map_type(known)), sample.path
        elif values.shape == (known,):
            sample.label = values.astype(np.float32)
        else:
            raise DataError(
                f"{where}: the target should be a class below {known}, ({known},) classes, a ({height}, {width}) class "
                f"map or a mapping with boxes and labels; found {_said(values)}"
            )
        return sample

    def _objects(self, sample: Sample, target: Mapping[str, Any], where: str) -> None:
        try:
            boxes = np.asarray(target["boxes"], np.float32).reshape(-1, 4)
            labels = np.asarray(target["labels"], np.int64).reshape(-1)
        except KeyError as error:
            raise DataError(f"{where}: the target has no {error}; it has {', '.join(map(str, target))}") from error
        if len(labels) != len(boxes) or not np.isfinite(boxes).all():
            raise DataError(f"{where}: {len(boxes)} boxes and {len(labels)} labels; boxes are finite numbers")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise DataError(f"{where}: labels from {labels.min()} to {labels.max()}, and there are {len(self.classes)}")
        sample.boxes, sample.labels = boxes, labels
        sample.iscrowd = np.asarray(target.get("iscrowd", np.zeros(len(boxes))), bool)
        sample.areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        if "masks" in target:
            masks = np.asarray(target["masks"])
            if masks.shape != (len(boxes), *sample.full_size):
                raise DataError(f"{where}: masks of shape {masks.shape} for {len(boxes)} boxes")
            sample.masks = (masks > 0).astype(np.uint8)
            sample.areas = sample.masks.sum(axis=(1, 2)).astype(np.float32)
        if "keypoints" in target:
            sample.keypoints = np.asarray(target["keypoints"], np.float32).reshape(len(boxes), -1, 3)


def _pixels(image: Any, where: str) -> NDArray[np.uint8]:
    """An image of any form as (H, W, C) uint8."""
    values = np.asarray(image)
    if type(image).__module__.split(".")[0] == "torch" and values.ndim == 3:
        values = values.transpose(1, 2, 0)
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise DataError(f"{where}: an image of floating point should be in 0..1, and not normalised")
        values = (values * 255).round().astype(np.uint8)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.dtype != np.uint8 or not values.size:
        raise DataError(f"{where}: the image should be (height, width, channels) uint8, found {_said(values)}")
    return np.ascontiguousarray(values)


def _said(values: NDArray[Any]) -> str:
    return f"{values.dtype} of shape {values.shape}"

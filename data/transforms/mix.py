"""Steps that need other images, which albumentations cannot see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from rehead.configs.augment import CopyPasteOptions, MixupOptions, MosaicOptions
from rehead.configs.tasks import CLASSIFICATION, MULTI_LABEL
from rehead.data.sample import Sample
from rehead.data.transforms.steps import AugmentContext, Rng, Step, cut, moved, resized, tightened
from rehead.errors import ConfigError
from rehead.types import ignore_of


class Mosaic(Step):
    """Parts of four images, which meet in a random point and fill the first one's size without gaps."""

    extra_samples: ClassVar[int] = 3

    def __init__(self, options: MosaicOptions, context: AugmentContext) -> None:
        self.p = options.p
        self.options = options
        self.context = context

    def __call__(self, sample: Sample, extra_samples: Sequence[Sample], rng: Rng) -> Sample:
        """The sample at the top left, the others to its right and below."""
        size = (sample.pixels.shape[0], sample.pixels.shape[1])
        if min(size) < 2:
            return sample
        y, x = (min(max(round(side * rng.uniform(*self.options.centre)), 1), side - 1) for side in size)
        places = [(0, 0, y, x), (0, x, y, size[1] - x), (y, 0, size[0] - y, x), (y, x, size[0] - y, size[1] - x)]
        parts = [
            self._part(one, (height, width), rng)
            for one, (_, _, height, width) in zip((sample, *extra_samples), places, strict=True)
        ]
        canvas = [
            on_canvas(part, size, top, left, sample.pixels.dtype)
            for part, (top, left, _, _) in zip(parts, places, strict=True)
        ]
        whole = joined(canvas)
        for part, (top, left, height, width) in zip(canvas, places, strict=True):
            window = (slice(top, top + height), slice(left, left + width))
            whole.pixels[window] = part.pixels[window]
            if whole.semantic is not None and part.semantic is not None:
                whole.semantic[window] = part.semantic[window]
        return whole

    def _part(self, sample: Sample, size: tuple[int, int], rng: Rng) -> Sample:
        """A part of the image, in its own proportions, that fills this (height, width)."""
        height, width = sample.pixels.shape[:2]
        scale = max(size[0] / height, size[1] / width) * rng.uniform(*self.options.scale)
        h, w = (min(max(1, round(to / scale)), side) for to, side in zip(size, (height, width), strict=True))
        window = (int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
        return resized(cut(sample, window, self.context.min_visible), size, self.context.resize)


class Mixup(Step):
    """A weighted mean of two images; where the second does not reach, the first alone.

    Labels of whole images become a soft one; boxes of both images stay as they are.

    Raises:
        ConfigError: for classification without the number of classes.
    """

    extra_samples: ClassVar[int] = 1

    def __init__(self, options: MixupOptions, context: AugmentContext) -> None:
        if context.task == CLASSIFICATION.name and context.classes is None:
            raise ConfigError(["data.augment: mixup of labels needs the number of classes"])
        self.p = options.p
        self.alpha = options.alpha or (0.2 if context.task in (CLASSIFICATION.name, MULTI_LABEL.name) else 1.5)
        self.context = context

    def __call__(self, sample: Sample, extra_samples: Sequence[Sample], rng: Rng) -> Sample:
        """Mixes, with the second image cut to the first one's size; or resized, so that labels say what is seen."""
        (other,) = extra_samples
        weight = float(rng.beta(self.alpha, self.alpha))
        size = (sample.pixels.shape[0], sample.pixels.shape[1])
        if sample.label is not None:
            other = resized(other, size, self.context.resize)
        other, window = placed(other, size, sample.pixels.dtype, rng, self.context.min_visible)
        mixed = joined([sample, other])
        mixed.pixels[window] = cv2.addWeighted(
            sample.pixels[window], weight, other.pixels[window], 1 - weight, 0
        ).reshape(mixed.pixels[window].shape)
        if sample.label is not None and other.label is not None:
            mixed.label = weight * self._soft(sample.label) + np.float32(1 - weight) * self._soft(other.label)
        return mixed

    def _soft(self, label: int | NDArray[np.float32]) -> NDArray[np.float32]:
        if isinstance(label, np.ndarray):
            return label
        assert self.context.classes is not None
        soft = np.zeros(self.context.classes, np.float32)
        soft[label] = 1
        return soft


class CopyPaste(Step):
    """Some objects of another image, cut out by their masks and pasted at a random place.

    What they cover is covered: masks lose those pixels, boxes shrink to what is left, and objects of which too
    little is left are gone. Crowds are not pasted.
    """

    extra_samples: ClassVar[int] = 1

    def __init__(self, options: CopyPasteOptions, context: AugmentContext) -> None:
        self.p = options.p
        self.share = options.share
        self.context = context

    def __call__(self, sample: Sample, extra_samples: Sequence[Sample], rng: Rng) -> Sample:
        """Pastes each object of the partner with the probability `share`."""
        (other,) = extra_samples
        chosen = rng.random(0 if other.boxes is None else len(other.boxes)) < self.share
        if other.masks is None or sample.masks is None:
            return sample
        if other.iscrowd is not None:
            chosen &= ~other.iscrowd
        other = other.select(chosen)
        size = (sample.pixels.shape[0], sample.pixels.shape[1])
        other, _ = placed(other, size, sample.pixels.dtype, rng, self.context.min_visible)
        assert other.masks is not None
        if not len(other.masks):
            return sample
        pasted = np.asarray(other.masks.any(axis=0))
        whole = joined([self._behind(sample, pasted), other])
        whole.pixels[pasted] = other.pixels[pasted]
        if whole.semantic is not None:
            assert other.semantic is not None
            whole.semantic[pasted] = other.semantic[pasted]
        return whole

    def _behind(self, sample: Sample, pasted: NDArray[np.bool_]) -> Sample:
        """What is left of a sample's objects behind what was pasted, (H, W)."""
        assert sample.masks is not None
        masks = sample.masks * ~pasted
        before, after = (each.sum(axis=(1, 2), dtype=np.int64) for each in (sample.masks, masks))
        keypoints = sample.keypoints
        if keypoints is not None:
            height, width = pasted.shape
            x = np.clip(keypoints[:, :, 0].astype(int), 0, width - 1)
            y = np.clip(keypoints[:, :, 1].astype(int), 0, height - 1)
            keypoints = keypoints.copy()
            keypoints[:, :, 2] = np.where(pasted[y, x], np.minimum(keypoints[:, :, 2], 1), keypoints[:, :, 2])
        left = tightened(replace(sample, masks=masks, keypoints=keypoints), after < before)
        return left.select((after > 0) & (after >= self.context.min_visible * before))


def placed(
    sample: Sample, size: tuple[int, int], dtype: np.dtype[Any], rng: Rng, min_visible: float
) -> tuple[Sample, tuple[slice, slice]]:
    """An image on a canvas, at a random place: where it is larger, a random part of it.

    Args:
        sample: the image.
        size: (height, width) of the canvas, in pixels.
        dtype: of the canvas.
        rng: decides the place.
        min_visible: as in `AugmentContext`.

    Returns:
        The sample on the canvas, and where it lies there.
    """
    starts, lengths, offsets = [], [], []
    for side, wanted in zip(sample.pixels.shape[:2], size, strict=True):
        lengths.append(min(side, wanted))
        starts.append(int(rng.integers(side - lengths[-1] + 1)))
        offsets.append(int(rng.integers(wanted - lengths[-1] + 1)))
    part = cut(sample, (starts[0], starts[1], lengths[0], lengths[1]), min_visible)
    window = (slice(offsets[0], offsets[0] + lengths[0]), slice(offsets[1], offsets[1] + lengths[1]))
    return on_canvas(part, size, offsets[0], offsets[1], dtype), window


def on_canvas(sample: Sample, size: tuple[int, int], top: int, left: int, dtype: np.dtype[Any]) -> Sample:
    """An image on a black canvas of this (height, width), which it fits into.

    Returns:
        The sample, its map `ignore_of` around the image. An image of another type is converted: 8 bits and
        floating point have one scale.
    """
    image = sample.pixels
    height, width = image.shape[:2]
    window = (slice(top, top + height), slice(left, left + width))
    if image.dtype != dtype:
        image = image.round().clip(0, 255).astype(dtype) if dtype == np.uint8 else image.astype(dtype)
    there = moved(sample, top, left)
    there.image = np.zeros((*size, image.shape[2]), dtype)
    there.image[window] = image
    if sample.semantic is not None:
        there.semantic = np.full(size, ignore_of(sample.semantic), sample.semantic.dtype)
        there.semantic[window] = sample.semantic
    if sample.masks is not None:
        there.masks = np.zeros((len(sample.masks), *size), np.uint8)
        there.masks[(slice(None), *window)] = sample.masks
    return there


def joined(samples: Sequence[Sample]) -> Sample:
    """The first sample, its image and map copied, with the objects of all, which have one size."""
    first = samples[0]
    whole = replace(first, image=first.pixels.copy())
    if first.semantic is not None:
        whole.semantic = first.semantic.copy()
    if first.boxes is None:
        return whole
    counts = [0 if sample.boxes is None else len(sample.boxes) for sample in samples]
    columns: dict[str, Any] = {}
    for name, default in {"iscrowd": False, "areas": 0, "boxes": 0, "labels": 0, "masks": 0, "keypoints": 0}.items():
        values = [getattr(sample, name) for sample in samples]
        known = next((value for value in values if value is not None), None)
        if known is not None:
            missing = [np.full((count, *known.shape[1:]), default, known.dtype) for count in counts]
            columns[name] = np.concatenate(
                [other if value is None else value for value, other in zip(values, missing, strict=True)]
            )
    return replace(whole, **columns)

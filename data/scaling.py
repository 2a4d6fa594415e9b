"""Steps that draw the size and the part of an image, in place of the resize."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from rehead.configs.augment import LargeScaleJitterOptions, MultiScaleOptions, ResizedCropOptions
from rehead.data.sample import Sample
from rehead.data.steps import Rng, Setting, Step, cut, resized
from rehead.errors import ConfigError


class ResizedCrop(Step):
    """A part of random area and shape, resized to what the whole image would be resized to.

    Raises:
        ConfigError: for classification without one size for all.
    """

    sizes: ClassVar[bool] = True

    def __init__(self, options: ResizedCropOptions, setting: Setting) -> None:
        if setting.task == "classification" and setting.resize.fixed is None:
            raise ConfigError(["data.resize: classification needs one size for all: add crop, or height and width"])
        self.p = options.p
        self.options = options
        self.setting = setting

    def __call__(self, sample: Sample, partners: Sequence[Sample], rng: Rng) -> Sample:
        """Cuts, then resizes."""
        height, width = sample.pixels.shape[:2]
        resize = self.setting.resize
        part = cut(sample, self._window(height, width, rng), self.setting.min_visible)
        return resized(part, resize.fixed or resize.size_for((height, width)), resize)

    def _window(self, height: int, width: int, rng: Rng) -> tuple[int, int, int, int]:
        """As torchvision's `RandomResizedCrop`: ten tries, then the largest part in the middle that has the shape."""
        low, high = (math.log(value) for value in self.options.ratio)
        for _ in range(10):
            area, ratio = rng.uniform(*self.options.scale) * height * width, math.exp(rng.uniform(low, high))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        ratio = min(max(width / height, self.options.ratio[0]), self.options.ratio[1])
        h, w = max(1, min(height, round(width / ratio))), max(1, min(width, round(height * ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


class LargeScaleJitter(Step):
    """The image at a random multiple of its size; of one that is larger, a random part of that size.

    What is smaller is not padded here: the batch does it, where another of its images is larger.
    """

    sizes: ClassVar[bool] = True

    def __init__(self, options: LargeScaleJitterOptions, setting: Setting) -> None:
        self.p = options.p
        self.options = options
        self.setting = setting

    def __call__(self, sample: Sample, partners: Sequence[Sample], rng: Rng) -> Sample:
        """Cuts what will not be seen before it resizes."""
        height, width = sample.pixels.shape[:2]
        resize = self.setting.resize
        scale = rng.uniform(*self.options.scale)
        if scale > 1:
            h, w = max(1, round(height / scale)), max(1, round(width / scale))
            window = (int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
            return resized(cut(sample, window, self.setting.min_visible), resize.size_for((height, width)), resize)
        return resized(sample, _times(resize.size_for((height, width)), scale), resize)


class MultiScale(Step):
    """The whole image at a random multiple of its size."""

    sizes: ClassVar[bool] = True

    def __init__(self, options: MultiScaleOptions, setting: Setting) -> None:
        self.p = options.p
        self.options = options
        self.setting = setting

    def __call__(self, sample: Sample, partners: Sequence[Sample], rng: Rng) -> Sample:
        """Resizes once, from the original."""
        height, width = sample.pixels.shape[:2]
        resize = self.setting.resize
        return resized(sample, _times(resize.size_for((height, width)), rng.uniform(*self.options.scale)), resize)


def _times(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

"""Steps that draw the size and the part of an image, in place of the resize."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from rehead.configs.augment import LargeScaleJitterOptions, MultiScaleOptions, ResizedCropOptions
from rehead.configs.tasks import CLASSIFICATION
from rehead.data.sample import Sample
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext, Rng, Step, cut, resized
from rehead.errors import ConfigError

Size = tuple[int, int]
Window = tuple[int, int, int, int]
"""Top, left, height and width of a part of an image, in its pixels."""


class Sizing(Step):
    """A step that takes the image at its original size, in place of the resize.

    Attributes:
        canvas: the least (height, width) of a batch of its images, where they are to be padded to it.
    """

    canvas: Size | None = None

    def __init__(self, context: AugmentContext) -> None:
        self.context = context

    @abstractmethod
    def plan(self, original: Size, rng: Rng) -> tuple[Window, Size]:
        """Draws which part of an image of this (height, width) is taken, and to which (height, width) it is brought.

        The image is not needed for it, so that no more of it need be decoded than the plan asks for.
        """

    def __call__(self, sample: Sample, extra_samples: Sequence[Sample], rng: Rng) -> Sample:
        """Cuts what will not be seen before it resizes."""
        original = sample.full_size
        window, size = self.plan(original, rng)
        if window != (0, 0, *original):
            window = _within((sample.pixels.shape[0], sample.pixels.shape[1]), window, original)
            sample = cut(sample, window, self.context.min_visible)
        return resized(sample, size, self.context.resize)


def _within(reduced: Size, window: Window, original: Size) -> Window:
    """The same part of an image that was decoded at a reduced scale, in whole pixels."""
    starts, lengths = [], []
    for side, start, length, whole in zip(reduced, window[:2], window[2:], original, strict=True):
        lengths.append(min(max(1, round(length * side / whole)), side))
        starts.append(min(round(start * side / whole), side - lengths[-1]))
    return starts[0], starts[1], lengths[0], lengths[1]


class ResizedCrop(Sizing):
    """A part of random area and shape, resized to what the whole image would be resized to.

    Raises:
        ConfigError: for classification without one size for all.
    """

    def __init__(self, options: ResizedCropOptions, context: AugmentContext) -> None:
        super().__init__(context)
        if context.task == CLASSIFICATION.name and context.resize.fixed is None:
            raise ConfigError(["data.resize: classification needs one size for all: add crop, or height and width"])
        self.p = options.p
        self.options = options

    def plan(self, original: Size, rng: Rng) -> tuple[Window, Size]:
        """The part as torchvision's `RandomResizedCrop` draws it."""
        resize = self.context.resize
        return self._window(*original, rng), resize.fixed or resize.size_for(original)

    def _window(self, height: int, width: int, rng: Rng) -> Window:
        """Ten tries, then the largest part in the middle that has the shape."""
        low, high = (math.log(value) for value in self.options.ratio)
        for _ in range(10):
            area, ratio = rng.uniform(*self.options.scale) * height * width, math.exp(rng.uniform(low, high))
            h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < h <= height and 0 < w <= width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        ratio = min(max(width / height, self.options.ratio[0]), self.options.ratio[1])
        h, w = max(1, min(height, round(width / ratio))), max(1, min(width, round(height * ratio)))
        return (height - h) // 2, (width - w) // 2, h, w


class LargeScaleJitter(Sizing):
    """The image at a random multiple of its size; of one that is larger than the canvas, a random part of that size.

    Without a canvas, that is the size which the image would be resized to. What is smaller is not padded here: the
    batch does it, to the canvas or to the largest of its images, and the model knows that nothing is there.
    """

    def __init__(self, options: LargeScaleJitterOptions, context: AugmentContext) -> None:
        super().__init__(context)
        self.p = options.p
        self.options = options
        self.canvas = options.canvas

    def plan(self, original: Size, rng: Rng) -> tuple[Window, Size]:
        """All of the image, but along an axis that would be longer than the canvas."""
        size = self.context.resize.size_for(original)
        scaled = _times(size, rng.uniform(*self.options.scale))
        starts, lengths, ends = [], [], []
        for whole, long, most in zip(original, scaled, self.canvas or size, strict=True):
            lengths.append(whole if long <= most else max(1, round(whole * most / long)))
            starts.append(int(rng.integers(whole - lengths[-1] + 1)) if long > most else 0)
            ends.append(min(long, most))
        return (starts[0], starts[1], lengths[0], lengths[1]), (ends[0], ends[1])


class MultiScale(Sizing):
    """The whole image at a random multiple of its size, or with a shorter side of a length sampled from a list.

    Raises:
        ConfigError: for a list of lengths where images are not resized by their shorter side.
    """

    def __init__(self, options: MultiScaleOptions, context: AugmentContext) -> None:
        super().__init__(context)
        self.p = options.p
        self.scale = options.scale or (0.75, 1.25)
        self.resizes: list[Resize] = []
        if options.shorter is None:
            return
        usual = context.resize.options
        if usual.shorter is None or usual.crop is not None:
            raise ConfigError(
                ["data.augment: multi_scale with shorter goes with data.resize={shorter: ..., longer: ...}"]
            )
        if usual.longer is not None and usual.longer < max(options.shorter):
            raise ConfigError(
                [
                    f"data.augment: multi_scale: shorter {max(options.shorter)} is more than data.resize.longer "
                    f"{usual.longer}"
                ]
            )
        self.resizes = [Resize(usual.model_copy(update={"shorter": shorter})) for shorter in options.shorter]

    def plan(self, original: Size, rng: Rng) -> tuple[Window, Size]:
        """All of it."""
        if self.resizes:
            size = self.resizes[int(rng.integers(len(self.resizes)))].size_for(original)
        else:
            size = _times(self.context.resize.size_for(original), rng.uniform(*self.scale))
        return (0, 0, *original), size


def _times(size: Size, scale: float) -> Size:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

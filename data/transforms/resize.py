"""The one resize of training, evaluation and prediction. Two that differ cost accuracy without a word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rehead.configs.resize import ResizeOptions
from rehead.data.sample import Sample
from rehead.errors import ConfigError, DataError, did_you_mean
from rehead.types import Frame

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
"""By the names that pre-trained weights use."""


class Resize:
    """Resizes image, semantic map and boxes.

    Args:
        options: the wanted size.
        interpolation: such as the one that the backbone's weights were trained with. Shrinking skips no pixel:
            the filter widens with the scale, as Pillow's and torchvision's do.

    Raises:
        ConfigError: for an interpolation that is not known.
    """

    def __init__(self, options: ResizeOptions, interpolation: str = "bilinear") -> None:
        if interpolation not in INTERPOLATIONS:
            hint = did_you_mean(interpolation, INTERPOLATIONS) or f"; known: {', '.join(INTERPOLATIONS)}"
            raise ConfigError([f"unknown interpolation '{interpolation}'{hint}"], "resize")
        self.options = options
        self.interpolation = interpolation

    @property
    def fixed(self) -> tuple[int, int] | None:
        """(height, width) of every result where it is the same for all images, else None."""
        if self.options.height is not None and self.options.width is not None:
            return self.options.height, self.options.width
        if self.options.crop is not None:
            return self.options.crop, self.options.crop
        return None

    def size_for(self, original: tuple[int, int]) -> tuple[int, int]:
        """The result's (height, width) for an original (height, width), in pixels."""
        height, width = self._before_crop(original)
        crop = self.options.crop
        return (height, width) if crop is None else (min(crop, height), min(crop, width))

    def shrink(self, original: tuple[int, int]) -> float:
        """How many times smaller than an original (height, width) the result is, before the crop."""
        height, width = self._before_crop(original)
        return min(original[0] / height, original[1] / width)

    def _before_crop(self, original: tuple[int, int]) -> tuple[int, int]:
        """torchvision's rule (`transforms.v2.Resize` with size and max_size), but never below one pixel."""
        if self.options.height is not None and self.options.width is not None:
            return self.options.height, self.options.width
        assert self.options.shorter is not None  # checked by ResizeOptions
        short, long = min(original), max(original)
        new_short, new_long = self.options.shorter, self.options.shorter * long // short
        longer = self.options.longer
        if longer is not None and new_long > longer:
            new_short, new_long = max(1, longer * new_short // new_long), longer
        return (new_short, new_long) if original[0] <= original[1] else (new_long, new_short)

    def __call__(self, sample: Sample) -> tuple[Sample, Frame]:
        """Resizes a sample.

        Returns:
            The sample with `image`, `semantic`, `masks`, `boxes` and `keypoints` in resized pixels (`areas` stay
            original), and its frame, without padding.
        """
        original = sample.full_size
        resized = self.to(sample, self._before_crop(original))
        if self.options.crop is not None:
            resized = self._crop(resized)
        return resized, Frame(size=self.size_for(original), original=original, image_id=sample.image_id)

    def to(self, sample: Sample, size: tuple[int, int]) -> Sample:
        """Resizes a sample to this (height, width) in pixels, whatever the options say."""
        image = sample.pixels
        original, (height, width) = image.shape[:2], size
        resized = replace(sample, image=self._resize_image(image, size), full=None)
        if sample.semantic is not None:
            # The exact kind takes the pixel under the centre; plain nearest is off by up to half a pixel.
            resized.semantic = cv2.resize(sample.semantic, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        if sample.masks is not None:
            masks = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for mask in sample.masks]
            resized.masks = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
        if sample.boxes is not None:
            y, x = height / original[0], width / original[1]
            resized.boxes = sample.boxes * np.array([x, y, x, y], np.float32)
        if sample.keypoints is not None:
            y, x = height / original[0], width / original[1]
            resized.keypoints = sample.keypoints * np.array([x, y, 1], np.float32)
        return resized

    def _resize_image(self, image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        if size == image.shape[:2]:
            return image
        if size[0] < image.shape[0] or size[1] < image.shape[1]:
            resized = _shrunk(image, size, "bicubic" if self.interpolation in ("bicubic", "lanczos") else "bilinear")
        else:
            try:
                resized = cv2.resize(image, (size[1], size[0]), interpolation=INTERPOLATIONS[self.interpolation])
            except cv2.error as error:  # no memory, or more pixels than it can count
                raise DataError(
                    f"data.resize makes {size[1]}x{size[0]} pixels of {image.shape[1]}x{image.shape[0]}, more than "
                    "this machine can hold; give a smaller size"
                ) from error
        if resized.dtype == np.float32:
            # Bicubic overshoots at edges; uint8 saturates by itself.
            resized = np.clip(resized, min(0.0, float(image.min())), max(255.0, float(image.max())))
        return resized.reshape(*size, image.shape[2])

    def _crop(self, sample: Sample) -> Sample:
        if sample.boxes is not None:
            raise ConfigError(["crop: a crop cuts objects off; give shorter and longer, or height and width"], "resize")
        image = sample.pixels
        assert self.options.crop is not None
        height, width = min(self.options.crop, image.shape[0]), min(self.options.crop, image.shape[1])
        top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
        window = (slice(top, top + height), slice(left, left + width))
        semantic = None if sample.semantic is None else np.ascontiguousarray(sample.semantic[window])
        return replace(sample, image=np.ascontiguousarray(image[window]), semantic=semantic)


def _shrunk(image: NDArray[Any], size: tuple[int, int], mode: str) -> NDArray[Any]:
    """An image in which every pixel of the given one counts.

    PyTorch's: its 8-bit kernels give Pillow's pixels at several times Pillow's speed. The one such filter that
    OpenCV has, INTER_AREA, takes longer than decoding the image wherever the ratio is no whole number.
    """
    # The batch dimension first: with the strides that it gets afterwards, PyTorch does not see channels last.
    # Late: scoring and whatever only names a size import no torch.
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
    resized = interpolate(pixels, size, mode=mode, antialias=True)
    return resized.permute(0, 2, 3, 1).contiguous()[0].numpy()

"""What every split of a data set gives: annotations first and cheaply, pixels when asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rehead.data.image_io import Shrink, decode_image
from rehead.data.instance_masks import RLE, decode, pixels_of
from rehead.data.sample import Sample
from rehead.errors import DataError
from rehead.types import Classes


class Reader(ABC):
    """A split of a data set. Those of a format are `AnnotationReader`s.

    A reader crosses to worker processes: it keeps no Python object per annotation, since forked processes
    copy every object that they touch.

    Attributes:
        classes: in the order of the labels.
        masks: whether `read` gives instance masks too, which cost time and memory.
        boxes: whether a reader of objects gives their boxes and labels.
        presence: whether a reader of objects gives which classes occur, as the label of the image.
        scale: the number in image files that becomes 255; see `rehead.data.image_io.read_image`.
    """

    classes: Classes
    masks: bool = False
    boxes: bool = True
    presence: bool = False
    scale: float | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    def of(self, head: str) -> Reader:
        """The reader whose annotations a head learns from and is judged by: this one, unless several are joined."""
        return self

    def image_id(self, index: int) -> int | str:
        """The id of an image in the user's files."""
        return self[index].image_id

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The annotation alone: no file is opened."""

    def read(self, index: int, channels: int = 3, shrink: Shrink | None = None) -> Sample:
        """The annotation with its pixels.

        Args:
            index: of the image.
            channels: of the image.
            shrink: how much smaller the image is going to be, for decoding less of it; the sample then needs to be
                `aligned`.

        Raises:
            DataError: when the image cannot be read, or is not of the size that its annotation says.
        """
        sample = self[index]
        sample = with_pixels(sample, channels, sample.size, shrink, self.scale)
        if sample.size is not None and sample.full_size != sample.size:
            raise DataError(
                f"{sample.path}: the image is {_by(sample.full_size)} but its annotation says {_by(sample.size)} "
                "(width x height); resize images and boxes together, or correct the annotation"
            )
        return self.complete(index, sample)

    def complete(self, index: int, sample: Sample) -> Sample:
        """The sample with what its annotation holds per pixel: instance masks if asked for, here.

        Objects whose outline is so small that no pixel is inside are left out then.

        Args:
            index: of the image.
            sample: with its pixels; the masks must have the size of the whole image.

        Raises:
            DataError: when a mask cannot be read, or is not of the image's size.
        """
        if not self.masks:
            return sample
        size = sample.full_size
        codes = self.segmentations(index, size)
        # Outlines between the middles of pixels, of which COCO has a few: no mask to learn.
        there = np.array([pixels_of(code) > 0 for code in codes], bool)
        return replace(sample.select(there), masks=decode([codes[row] for row in np.flatnonzero(there)], size))

    def segmentations(self, index: int, size: tuple[int, int]) -> list[RLE]:
        """The objects' masks, in the order of the boxes.

        Args:
            index: of the image.
            size: (height, width) of the image, in pixels.

        Returns:
            COCO's compressed run-length codes.

        Raises:
            DataError: where the format or the annotation has none.
        """
        raise DataError(
            f"{self[index].path}: this data format has no instance masks; use coco, yolo, via or instance_masks"
        )

    def unmeasured(self, index: int) -> NDArray[np.bool_]:
        """(N,) which of an image's objects have an outline, and no area that the annotation says; (0,) for none.

        Args:
            index: of the image.
        """
        return np.zeros(0, bool)


def with_pixels(
    sample: Sample, channels: int, size: tuple[int, int] | None, shrink: Shrink | None, scale: float | None
) -> Sample:
    """An annotation with its pixels; the arguments are those of `rehead.data.image_io.decode_image`."""
    found = decode_image(sample.path, channels, size, shrink, scale)
    return replace(sample, image=found.image, reduction=found.reduction, full=found.full)


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"

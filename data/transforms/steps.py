"""What the steps of an augmentation have in common, and the cutting that most of them do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from rehead.data.sample import Sample
from rehead.data.transforms.resize import Resize

Rng = np.random.Generator


@dataclass(frozen=True)
class AugmentContext:
    """What a step may need to know of the training.

    Attributes:
        task: as `rehead.configs.heads.image_task` names it.
        resize: the resize of evaluation.
        min_visible: an object of which a step leaves a smaller share of its box is dropped.
        flip_pairs: keypoints that change places in a mirror image.
        classes: how many an image's own label may have; None where images have no label of their own.
        allow_albumentationsx: whether albumentations' AGPL successor may stand in its place.
    """

    task: str
    resize: Resize
    min_visible: float = 0.1
    flip_pairs: tuple[tuple[int, int], ...] = ()
    classes: int | None = None
    allow_albumentationsx: bool = False


class Step(ABC):
    """One change of a sample. What changes its size changes everything that lies on it.

    Attributes:
        p: how often it is done; 1 for a step that decides for itself.
        extra_samples: how many other images it needs.
    """

    p: float = 1.0
    extra_samples: ClassVar[int] = 0

    @abstractmethod
    def __call__(self, sample: Sample, extra_samples: Sequence[Sample], rng: Rng) -> Sample:
        """The changed sample; the given ones stay as they are.

        Args:
            sample: with its pixels.
            extra_samples: other images, to which everything was done that was done to this one so far.
            rng: all that the step draws from.
        """


def cut(sample: Sample, window: tuple[int, int, int, int], min_visible: float) -> Sample:
    """A part of an image.

    Args:
        sample: with its pixels.
        window: top, left, height and width of the part, in pixels and inside the image.
        min_visible: as in `AugmentContext`.
    """
    top, left, height, width = window
    rows, columns = slice(top, top + height), slice(left, left + width)
    part = replace(sample, image=np.ascontiguousarray(sample.pixels[rows, columns]))
    if sample.semantic is not None:
        part.semantic = np.ascontiguousarray(sample.semantic[rows, columns])
    if sample.masks is not None:
        part.masks = np.ascontiguousarray(sample.masks[:, rows, columns])
    return in_view(moved(part, top=-top, left=-left), min_visible)


def resized(sample: Sample, size: tuple[int, int], resize: Resize) -> Sample:
    """A sample at this (height, width), without objects whose masks have become too small to be seen."""
    return in_view(resize.to(sample, size), 0.0)


def moved(sample: Sample, top: int, left: int) -> Sample:
    """The same image with its boxes and keypoints further down and to the right, by as many pixels."""
    there = replace(sample)
    if sample.boxes is not None:
        there.boxes = sample.boxes + np.array([left, top, left, top], np.float32)
    if sample.keypoints is not None:
        labelled = sample.keypoints[:, :, 2:] > 0
        there.keypoints = sample.keypoints + labelled * np.array([left, top, 0], np.float32)
    return there


def in_view(sample: Sample, min_visible: float, loose: NDArray[np.bool_] | None = None) -> Sample:
    """What can be seen of a sample whose boxes and keypoints may lie outside.

    Objects of which too little is left are gone, and those whose masks are empty now. Where an object was cut
    and has a mask, its box is that of what is left of the mask.

    Args:
        sample: with its pixels.
        min_visible: as in `AugmentContext`.
        loose: (N,) whose boxes are to follow their masks too.
    """
    if sample.boxes is None:
        return sample
    height, width = sample.pixels.shape[:2]
    clipped = np.clip(sample.boxes, 0, np.array([width, height, width, height], np.float32))
    # In 64 bits: the share of a box that is not cut at all is 1 and not a little less.
    areas = [np.prod((boxes[:, 2:] - boxes[:, :2]).clip(0), 1, np.float64) for boxes in (clipped, sample.boxes)]
    kept = (areas[0] > 0) & (areas[0] >= min_visible * areas[1])
    cut_off = (np.abs(clipped - sample.boxes) > 0.01).any(axis=1)
    followers = (cut_off if loose is None else cut_off | loose)[kept]
    sample = sample.select(kept).clipped()
    if sample.masks is None:
        return sample
    seen = np.array([cv2.countNonZero(mask) > 0 for mask in sample.masks], bool)
    return tightened(sample, followers).select(seen)


def tightened(sample: Sample, rows: NDArray[np.bool_]) -> Sample:
    """The same sample with some boxes, (N,), cut to what is seen of their masks; those of empty masks stay."""
    assert sample.boxes is not None
    assert sample.masks is not None
    boxes = sample.boxes.copy()
    for row in np.flatnonzero(rows).tolist():
        columns, lines = (np.flatnonzero(sample.masks[row].any(axis=axis)) for axis in (0, 1))
        if len(columns):
            # An annotated box may be tighter than whole pixels.
            boxes[row, :2] = np.maximum(boxes[row, :2], (columns[0], lines[0]))
            boxes[row, 2:] = np.minimum(boxes[row, 2:], (columns[-1] + 1, lines[-1] + 1))
    return replace(sample, boxes=boxes)

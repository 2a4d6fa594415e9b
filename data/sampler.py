"""Which images an epoch holds and how often, and which of them go into batches together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rehead.configs.schema import SamplingOptions
from rehead.data.image_io import image_size
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.errors import ConfigError

THRESHOLD = 0.001
"""Gupta et al.'s, for LVIS with its 57,000 images and 1,230 classes."""


def repeats(options: SamplingOptions, reader: Reader, keypoints: bool = False) -> NDArray[np.float64] | None:
    """How often each image of a split is shown in an epoch, on average.

    Args:
        options: from the configuration.
        reader: the split; no image is opened.
        keypoints: whether a head learns keypoints.

    Returns:
        (N,), or None where every image is shown once.
        `repeat_factor`: sqrt(threshold / f) of the rarest class in the image, at least 1, where f is the share
        of the images that have the class (Gupta et al., 1908.03195, section 4.3).
        `class_balanced`: what drawing a class first and then one of its images would give (Shen et al.,
        1512.05830, section 3.2), N in all. Images without objects are one more class.
        0 for images that `skip_empty` leaves out.

    Raises:
        ConfigError: where the annotations do not say which classes an image has, and where nothing is left.
    """
    times = _repeats(options, reader)
    if not options.skip_empty:
        return times
    least = options.min_keypoints if keypoints else 0
    kept = np.array([_teaches(reader[index], least) for index in range(len(reader))], bool)
    if not kept.any():
        raise ConfigError(
            ["data.sampling.skip_empty: none of the training images has an object to learn from; leave it out"]
        )
    return np.where(kept, 1.0 if times is None else times, 0.0)


def _teaches(sample: Sample, min_keypoints: int) -> bool:
    """Whether something in an image can be learned from: an object with an area that is no crowd, or no boxes at all.

    So many keypoints of such objects must be labelled; and what else is annotated counts as well.
    """
    if sample.boxes is None or sample.label is not None or sample.mask_path is not None:
        return True
    of_use = (sample.boxes[:, 2:] > sample.boxes[:, :2]).all(axis=1)
    if sample.iscrowd is not None:
        of_use &= ~sample.iscrowd
    if sample.keypoints is not None and np.count_nonzero(sample.keypoints[of_use, :, 2]) < min_keypoints:
        return False
    return bool(of_use.any())


def _repeats(options: SamplingOptions, reader: Reader) -> NDArray[np.float64] | None:
    """The same before any image is skipped."""
    if options.name == "shuffled":
        return None
    images, classes = _classes(reader)
    counts = np.bincount(classes)
    times = np.zeros(len(reader))
    if options.name == "repeat_factor":
        factors = np.sqrt((options.threshold or THRESHOLD) * len(reader) / np.maximum(counts, 1))
        np.maximum.at(times, images, factors[classes])
        return np.maximum(times, 1)
    without = np.setdiff1d(np.arange(len(reader)), images)
    kinds = np.count_nonzero(counts) + (len(without) > 0)
    np.add.at(times, images, len(reader) / kinds / counts[classes])
    times[without] = len(reader) / kinds / max(1, len(without))
    return times


def orientations(reader: Reader) -> NDArray[np.int64]:
    """(N,), 1 for images that are wider than high, else 0; from the annotation, or the file where it gives no size."""
    wide = np.zeros(len(reader), np.int64)
    for index in range(len(reader)):
        sample = reader[index]
        height, width = sample.size or image_size(sample.path)
        wide[index] = width > height
    return wide


def _classes(reader: Reader) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(P,) images and (P,) classes of every pair that occurs, classes numbered from 0; crowds do not count."""
    pairs: list[tuple[int, int, int]] = []
    told = False
    for index in range(len(reader)):
        sample = reader[index]
        told = told or sample.labels is not None or sample.label is not None
        if sample.labels is not None:
            labels = sample.labels if sample.iscrowd is None else sample.labels[~sample.iscrowd]
            pairs += [(index, 0, label) for label in np.unique(labels).tolist()]
        if isinstance(sample.label, np.ndarray):
            pairs += [(index, 1, label) for label in np.flatnonzero(sample.label).tolist()]
        elif sample.label is not None:
            pairs.append((index, 1, sample.label))
    if not told:
        raise ConfigError(
            [
                "data.sampling: the annotations do not say which classes an image has; only boxes and labels of whole "
                "images do. Use data.sampling=shuffled"
            ]
        )
    columns = np.array(pairs, np.int64).reshape(-1, 3)
    _, classes = np.unique(columns[:, 1:], axis=0, return_inverse=True)
    return columns[:, 0], classes.reshape(-1).astype(np.int64)

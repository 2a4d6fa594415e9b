"""Which images an epoch holds and how often, and which of them go into batches together."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

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


class Key(NamedTuple):
    """What every draw for an image is made from, together with the seed.

    Attributes:
        epoch: of training, from 0.
        image: its index in its reader.
        copy: how often the image was in this epoch already.
    """

    epoch: int
    image: int
    copy: int = 0


class BatchSampler:
    """The batches of every epoch, a pure function of (seed, epoch): nothing needs saving to resume.

    With `shuffle` (training), every rank gets the same number of batches, all full, the same in every epoch:
    what is left at the end of an epoch is dropped. Data smaller than one batch make one smaller batch, as large on
    every rank, in which images repeat only if there are fewer than ranks. Without `shuffle` (evaluation), every
    image comes exactly once over all ranks, in order, and the last batch may be smaller.

    Args:
        length: number of images.
        batch_size: per rank.
        seed: of the order.
        shuffle: training rather than evaluation.
        rank: of this process, from 0.
        world: number of processes.
        repeats: (length,) how often each image is shown in an epoch on average, once unless given. In an epoch
            it is shown that often rounded down or up, by chance, and in all as often as they add up to.
        groups: (length,) numbers; all ranks' images of a step have the same one, but for at most one mixed step
            per further group at the end of an epoch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        *,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
        repeats: NDArray[np.float64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.repeats = repeats
        self.groups = groups

    def batches(self, epoch: int) -> list[list[Key]]:
        """The keys of every batch of an epoch; to resume after k batches, take `[k:]`."""
        order = np.arange(self.length)
        if self.shuffle and self.length:
            order = self._shuffled(epoch)
            together = self.batch_size * self.world
            if len(order) < together:
                order = np.resize(order, max(len(order) // self.world, 1) * self.world)
            elif self.groups is None:
                order = order[: len(order) // together * together]
            else:
                order = _grouped(order, self.groups[order], together)
        seen: Counter[int] = Counter()
        keys = []
        for index in order.tolist():
            keys.append(Key(epoch, index, seen[index]))
            seen[index] += 1
        mine = keys[self.rank :: self.world]
        return [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
        order: NDArray[np.int64] = rng.permutation(self.length)
        if self.repeats is None:
            return order
        # Systematic sampling: where a staircase of the running sums passes whole numbers, moved by one random offset.
        ends = np.cumsum(self.repeats[order])
        total = max(1, round(float(ends[-1])))
        ends *= total / ends[-1]
        ends[-1] = total
        steps = np.floor(np.concatenate([[0], ends]) + rng.random()).astype(np.int64)
        drawn: NDArray[np.int64] = rng.permutation(np.repeat(order, np.diff(steps)))
        return drawn


def _grouped(order: NDArray[np.int64], groups: NDArray[np.int64], together: int) -> NDArray[np.int64]:
    """Full steps of one group each, as their last images come up; then mixed ones of those that are left over."""
    steps: list[tuple[int, NDArray[np.int64]]] = []
    left = []
    for group in np.unique(groups).tolist():
        places = np.flatnonzero(groups == group)
        full = len(places) // together * together
        steps += [(int(step[-1]), step) for step in places[:full].reshape(-1, together)]
        left.append(places[full:])
    mixed = np.sort(np.concatenate(left))
    mixed = mixed[: len(mixed) // together * together]
    places = np.concatenate([*(step for _, step in sorted(steps, key=lambda step: step[0])), mixed])
    return np.asarray(order[places])

"""Augmentation: the chain of steps, and what each of them draws from.

Steps come after the resize, and so cost the same for large photographs as for small ones; unless one of them
decides about the size and stands in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from rehead.configs.augment import STEPS, StepOptions, TransformOptions
from rehead.configs.tasks import preset
from rehead.data.image_io import Shrink
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.data.transforms.albumentations import Transform
from rehead.data.transforms.scale import Sizing
from rehead.data.transforms.steps import AugmentContext, Rng, Step
from rehead.errors import ConfigError, DataError
from rehead.types import Frame

TRIES = 20
"""Images that are drawn until one has the same kinds of annotation; where none has, a step does nothing."""


class Augment:
    """Resizes for training, and changes images at random.

    Every draw is a pure function of (seed, epoch, index, copy) and the step's place in the list, whichever process
    makes it and in whatever order: steps draw independently of one another, and those before a new one go on
    drawing what they drew.

    Attributes:
        canvas: the least (height, width) of a batch, where a step wants its images padded to it.

    Args:
        steps: the name of a preset, or a list of steps.
        context: of the training.
        seed: of the draws.
        channels: of the images.
        reduced: whether images of which less is enough are decoded at a reduced scale.

    Raises:
        ConfigError: for a preset that is not known, and with all that is wrong with the steps' arguments at once.
        ReheadError: when albumentations' AGPL successor is installed in its place and not allowed.
    """

    def __init__(
        self,
        steps: str | Sequence[StepOptions],
        context: AugmentContext,
        seed: int = 0,
        channels: int = 3,
        reduced: bool = False,
    ) -> None:
        named = isinstance(steps, str)
        chosen = preset(steps, context.task, channels) if isinstance(steps, str) else steps
        self.resize = context.resize
        self.seed = seed
        self.reduced = reduced
        problems: list[str] = []
        self.steps: list[Step] = []
        for place, options in enumerate(chosen):
            where = f"data.augment ({steps}, step {place})" if named else f"data.augment.{place}"
            if isinstance(options, TransformOptions):
                self.steps.append(Transform(options, context, where, problems))
                continue
            try:
                self.steps.append(STEPS.get(options.name).load()(options, context))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        sizing = [step for step in self.steps if isinstance(step, Sizing)]
        self._resizes = not sizing
        self.canvas: tuple[int, int] | None = sizing[0].canvas if sizing else None

    def __call__(
        self, sample: Sample, epoch: int, index: int, copy: int = 0, reader: Reader | None = None
    ) -> tuple[Sample, Frame]:
        """Changes an image and all that is known of it together.

        Args:
            sample: as read, with its pixels: whole, or as small as `shrink` allows.
            epoch: of training, from 0.
            index: of the image in its reader.
            copy: how often the image was in this epoch already.
            reader: of the other images, for steps that need them.

        Returns:
            The sample at its final size, without objects of which too little is left, and its frame.

        Raises:
            DataError: where a step cannot change such an image, or another image cannot be read.
        """
        original = sample.full_size
        changed = self._changed(sample, index, reader, (epoch, index, copy), len(self.steps)).clipped()
        size = (changed.pixels.shape[0], changed.pixels.shape[1])
        return changed, Frame(size, original, image_id=sample.image_id)

    def shrink(self, epoch: int, index: int, copy: int = 0) -> Shrink | None:
        """How much smaller an image is going to be, for `Reader.read`; the arguments are those of a call."""
        return self._shrink((epoch, index, copy), len(self.steps))

    def _shrink(self, path: tuple[int, ...], number_of_steps: int) -> Shrink | None:
        return partial(self._times_smaller, path, number_of_steps) if self.reduced else None

    def _times_smaller(self, path: tuple[int, ...], number_of_steps: int, original: tuple[int, int]) -> float:
        """What the step that sizes will draw, drawn before there is an image; 1 where a step comes before it."""
        if self._resizes:
            return self.resize.shrink(original)
        for number, step in enumerate(self.steps[:number_of_steps]):
            rng = self._rng((*path, number))
            left_out = rng.random() >= step.p
            if isinstance(step, Sizing):
                if left_out:
                    return self.resize.shrink(original)
                (_, _, height, width), size = step.plan(original, rng)
                return min(height / size[0], width / size[1])
            if not left_out:
                break
        return 1.0

    def check(self, reader: Reader, channels: int = 3) -> None:
        """Tries every step on the first image, so that what cannot work is known before the training starts.

        Raises:
            ConfigError: with all steps that cannot change such an image.
            DataError: where the image cannot be read.
        """
        if not len(reader) or not self.steps:
            return
        problems = []
        sample = reader.read(0, channels).clipped()
        sample = self.resize(sample)[0] if self._resizes else sample
        for number, step in enumerate(self.steps):
            rng = self._rng((0, 0, 0, number))
            try:
                if isinstance(step, Transform):
                    sample = step(sample, [], rng, force=True)
                elif step.extra_samples == 0:
                    sample = step(sample, [], rng)
            except DataError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError(problems)

    def _changed(
        self, sample: Sample, index: int, reader: Reader | None, path: tuple[int, ...], number_of_steps: int
    ) -> Sample:
        """A sample after the first so many steps; `path` tells its draws from those of all others."""
        sample = sample.aligned().clipped()
        if self._resizes:
            sample = self.resize(sample)[0]
        for number, step in enumerate(self.steps[:number_of_steps]):
            rng = self._rng((*path, number))
            if rng.random() >= step.p:
                sample = self.resize(sample)[0] if isinstance(step, Sizing) else sample
                continue
            extra_samples = self._extra_samples(sample, index, reader, step, number, path, rng)
            if len(extra_samples) == step.extra_samples:
                sample = step(sample, extra_samples, rng)
        return sample

    def _extra_samples(
        self,
        sample: Sample,
        index: int,
        reader: Reader | None,
        step: Step,
        number: int,
        path: tuple[int, ...],
        rng: Rng,
    ) -> list[Sample]:
        """Other images for a step, after the steps before it; too few where no other has the same annotations."""
        extra_samples: list[Sample] = []
        if not step.extra_samples:
            return extra_samples
        if reader is None:
            raise ConfigError([f"data.augment: step {number} needs a reader of other images"])
        kinds = _kinds(sample)
        taken = {index} if len(reader) > 1 else set()
        for _ in range(TRIES):
            other = int(rng.integers(len(reader)))
            if other in taken or _kinds(reader[other]) != kinds:
                continue
            if len(reader) > step.extra_samples:
                taken.add(other)
            draws = (*path, number, len(extra_samples))
            read = reader.read(other, sample.pixels.shape[2], self._shrink(draws, number))
            extra_samples.append(self._changed(read, other, reader, draws, number))
            if len(extra_samples) == step.extra_samples:
                break
        return extra_samples

    def _rng(self, path: tuple[int, ...]) -> Rng:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=path))


def _kinds(sample: Sample) -> tuple[Any, ...]:
    """Which annotations an image has."""
    return sample.boxes is None, sample.label is None, sample.mask_path is None, sample.keypoints is None

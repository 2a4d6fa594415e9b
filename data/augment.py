"""Augmentation: the only file that knows albumentations.

Where it stands: after the resize, and of the same size in and out, so that it costs the same for large
photographs as for small ones and leaves frames alone. Only classification's random crop works on the
original pixels, in place of the resize.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

from rehead.data.resize import Resize
from rehead.data.sample import Sample
from rehead.errors import ConfigError, ReheadError, did_you_mean
from rehead.types import IGNORE, Frame

PRESETS = ("none", "light")


class Augment:
    """Resizes for training, with a preset of random changes.

    `light` is, besides brightness and contrast: for detection and instance segmentation a horizontal flip;
    for segmentation a flip and a random zoom and shift, with `IGNORE` where nothing came from the image; for
    classification a random part of the original image and a flip; where an image may have several classes, of
    which a part could lack some, a flip alone. `none` only resizes.

    Every draw is a pure function of (seed, epoch, index), whichever process makes it and in whatever order.

    Args:
        preset: `none` or `light`.
        task: as `rehead.configs.heads.image_task` names it.
        resize: the resize of evaluation, so that sizes agree.
        seed: of the draws.

    Raises:
        ConfigError: for a preset that is not known, or classification without one size for all.
        ReheadError: when albumentations' AGPL successor is installed in its place.
    """

    def __init__(self, preset: str, task: str, resize: Resize, seed: int = 0) -> None:
        if preset not in PRESETS:
            hint = did_you_mean(preset, PRESETS) or f"; known: {', '.join(PRESETS)}"
            raise ConfigError([f"data.augment: unknown preset '{preset}'{hint}"])
        self.resize = resize
        self.seed = seed
        self.crops = preset == "light" and task == "classification"
        if self.crops and resize.fixed is None:
            raise ConfigError(["data.resize: classification needs one size for all: add crop, or height and width"])
        self._compose = None if preset == "none" else _light(task, resize.fixed)

    def __call__(self, sample: Sample, epoch: int, index: int) -> tuple[Sample, Frame]:
        """Changes image, semantic map, masks and boxes together.

        Args:
            sample: as read, with its pixels.
            epoch: of training, from 0.
            index: of the image in its reader.

        Returns:
            The sample at its final size, without boxes that nothing is left of, and its frame.
        """
        if self._compose is None:
            return self.resize(sample)
        rng_seed = draw_seed(self.seed, epoch, index)
        if not self.crops:
            resized, frame = self.resize(sample)
            return self._change(resized, rng_seed), frame
        changed = self._change(sample, rng_seed)
        original, size = sample.pixels.shape, changed.pixels.shape
        return changed, Frame((size[0], size[1]), (original[0], original[1]), image_id=sample.image_id)

    def _change(self, sample: Sample, rng_seed: int) -> Sample:
        assert self._compose is not None
        # Not Compose.set_random_seed, which gives every transform the same stream: here they draw in turns.
        self._compose.set_random_state(np.random.default_rng(rng_seed), random.Random(rng_seed))
        sample = sample.clipped()
        image = sample.pixels
        floating = image.dtype == np.float32
        count = 0 if sample.boxes is None else len(sample.boxes)
        given: dict[str, Any] = {
            # albumentations holds floating-point images to be in 0..1.
            "image": image / np.float32(255) if floating else image,
            "bboxes": sample.boxes if count else np.zeros((0, 4), np.float32),
            "rows": np.arange(count),
        }
        if sample.semantic is not None:
            given["mask"] = sample.semantic
        if sample.masks is not None and count:
            given["masks"] = sample.masks
        result = self._compose(**given)
        image = result["image"] * np.float32(255) if floating else result["image"]
        changed = replace(sample, image=image, semantic=result.get("mask"))
        if not count:
            return changed
        rows = np.asarray(result["rows"], np.int64).reshape(-1)
        boxes = np.asarray(result["bboxes"], np.float32).reshape(-1, 4)
        changed = changed.select(rows)
        if sample.masks is not None:
            # Masks are not filtered with the boxes.
            changed.masks = np.ascontiguousarray(np.stack(list(result["masks"]))[rows])
        return replace(changed, boxes=boxes).clipped()


def draw_seed(seed: int, epoch: int, index: int) -> int:
    """A 64-bit seed for one image in one epoch."""
    return int(np.random.SeedSequence(seed, spawn_key=(epoch, index)).generate_state(1, np.uint64)[0])


def _light(task: str, size: tuple[int, int] | None) -> Any:
    library = _albumentations()
    # Brightness and contrast work on any number of channels and are one look-up table: 0.4 ms for an image of
    # 800x1066, where jitter with saturation and hue takes 8.
    colour = library.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5)
    steps = [library.HorizontalFlip(p=0.5), colour]
    if task == "classification":
        crop = library.RandomResizedCrop(size=size, scale=(0.25, 1.0), area_for_downscale="image", p=1)
        steps.insert(0, crop)
    elif task == "segmentation":
        shift = {"x": (-0.1, 0.1), "y": (-0.1, 0.1)}
        zoom = library.Affine(
            scale=(0.75, 1.5), translate_percent=shift, keep_ratio=True, fill=0, fill_mask=IGNORE, p=1
        )
        steps.insert(0, zoom)
    boxes = library.BboxParams("pascal_voc", label_fields=["rows"], clip=True, filter_invalid_bboxes=True)
    return library.Compose(steps, bbox_params=boxes)


def _albumentations() -> ModuleType:
    """albumentations, imported late: it takes seconds and brings torch along."""
    try:
        metadata.distribution("albumentationsx")
    except metadata.PackageNotFoundError:
        pass
    else:
        raise ReheadError(
            "albumentationsx (AGPL) is installed and takes albumentations' import name; "
            "uninstall both, then install albumentations==2.0.8 (MIT)"
        )
    # It asks the network for its newest version otherwise.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    return albumentations

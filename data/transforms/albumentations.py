"""albumentations' transforms as steps: the only file that knows it.

Its `Compose` is not used. That one judges how much of a box is in view without saying which box it was, and gives
keypoints that are gone no place among those of their object; so boxes and points carry their numbers in columns of
their own here, which transforms leave alone.
"""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rehead.configs.augment import TransformOptions
from rehead.configs.transforms import COMPOSITIONS
from rehead.data.sample import Sample
from rehead.data.transforms.steps import AugmentContext, Rng, Step, in_view
from rehead.errors import DataError, ReheadError, quoted
from rehead.types import ignore_of

logger = logging.getLogger("rehead")

_FULL = np.float32(255)


class Transform(Step):
    """One albumentations transform, or a composition of some.

    Where it fills in pixels that no image has, a semantic map gets its `ignore_of` value, unless `fill_mask` is given.

    Args:
        options: its name and arguments.
        context: of the training.
        where: its key in the configuration, for messages.
        problems: gets what albumentations says of the arguments.
    """

    def __init__(self, options: TransformOptions, context: AugmentContext, where: str, problems: list[str]) -> None:
        self.name = options.name
        self.where = where
        self.context = context
        self._filling: list[Any] = []
        self._transform = self._built(
            library(context.allow_albumentationsx), {"name": options.name, **options.arguments}, where, problems
        )
        # What changes pixels alone needs nothing else.
        self._moves = self._transform is not None and "bboxes" in self._transform.available_keys

    def _built(self, known: ModuleType, raw: dict[str, Any], where: str, problems: list[str]) -> Any:
        arguments = {key: value for key, value in raw.items() if key != "name"}
        if raw["name"] in COMPOSITIONS:
            held = arguments.pop("transforms")
            arguments["transforms"] = [
                self._built(known, step, f"{where}.transforms.{place}", problems) for place, step in enumerate(held)
            ]
            if None in arguments["transforms"]:
                return None
        kind = getattr(known, raw["name"])
        if "InitSchema" in vars(next(part for part in kind.__mro__ if "__init__" in vars(part))):
            # Else some wrong arguments are a warning, and the defaults take their place.
            arguments["strict"] = True
        try:
            with warnings.catch_warnings(record=True) as advice:
                warnings.simplefilter("always")
                transform = kind(**arguments)
        except (TypeError, ValueError) as error:
            problems += _said(error, where, raw["name"])
            return None
        for one in advice:
            logger.warning("%s: %s", where, one.message)
        if not isinstance(transform, known.BaseCompose):
            # Those that split boxes or hide points do so for one who says how.
            boxes, points = known.BboxParams("albumentations"), known.KeypointParams("xy", remove_invisible=False)
            transform.set_processors(
                {
                    "bboxes": known.core.bbox_utils.BboxProcessor(boxes),
                    "keypoints": known.core.keypoints_utils.KeypointsProcessor(points),
                }
            )
        if isinstance(getattr(transform, "fill_mask", None), int | float) and "fill_mask" not in arguments:
            self._filling.append(transform)
        return transform

    def __call__(self, sample: Sample, extra_samples: Sequence[Sample], rng: Rng, *, force: bool = False) -> Sample:
        """Changes the image and whatever lies on it.

        Args:
            sample: with its pixels.
            extra_samples: none.
            rng: all that the transform draws from.
            force: whatever its `p`, to see whether it works.

        Raises:
            DataError: where albumentations cannot change such an image; names both.
        """
        # Not set_random_seed, which gives every transform the same stream.
        self._transform.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        image = sample.pixels
        floating = image.dtype == np.float32
        low, full = np.float32(0), _FULL
        if floating and not self._moves:
            # albumentations holds floating-point images to be in 0..1, and cuts off what a change of colours takes
            # beyond: no number that the file holds may be, such as a height below the sea's.
            low = np.minimum(image.min(), low)
            full = np.maximum(image.max(), _FULL) - low
        given: dict[str, Any] = {"image": (image - low) / full if floating else image}
        if self._moves:
            self._add_annotation(given, sample)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = self._transform(force_apply=force, **given)
        except Exception as error:
            # A transform may raise anything: it meets kinds of images that it was not written for.
            raise DataError(f"{self._cannot(sample)}: {' '.join(str(error).split())}") from error
        changed = result["image"]
        changed = changed[:, :, None] if changed.ndim == 2 else changed
        if changed.dtype != image.dtype or changed.shape[2] != image.shape[2]:
            raise DataError(
                f"{self._cannot(sample)}: it would make it {changed.shape[2]} channels of {changed.dtype}; leave it out"
            )
        after = replace(sample, image=changed * full + low if floating else changed)
        return self._with_annotation(after, result) if self._moves else after

    def _cannot(self, sample: Sample) -> str:
        height, width, channels = sample.pixels.shape
        return (
            f"{self.where}: {self.name} cannot change {sample.path} "
            f"({width}x{height}, {channels} channels of {sample.pixels.dtype})"
        )

    def _add_annotation(self, given: dict[str, Any], sample: Sample) -> None:
        """Adds map and masks, boxes (x1, y1, x2, y2 in 0..1; label, row), keypoints (x, y, z, angle, scale; number)."""
        height, width = sample.pixels.shape[:2]
        if sample.semantic is not None:
            given["mask"] = sample.semantic
            for transform in self._filling:
                transform.fill_mask = ignore_of(sample.semantic)
        if sample.masks is not None and len(sample.masks):
            given["masks"] = sample.masks
        count = 0 if sample.boxes is None else len(sample.boxes)
        boxes = np.zeros((count, 6))
        if count:
            boxes[:, :4] = sample.boxes
            boxes[:, :4] /= (width, height, width, height)
            boxes[:, 4] = 0 if sample.labels is None else sample.labels
            boxes[:, 5] = np.arange(count)
        given["bboxes"] = boxes
        if sample.keypoints is not None and count:
            labelled = np.flatnonzero(sample.keypoints[:, :, 2].ravel() > 0)
            points = np.zeros((len(labelled) + 3, 6))
            # There, the centre of the first pixel is 0, 0.
            points[:-3, :2] = sample.keypoints.reshape(-1, 3)[labelled, :2] - 0.5
            points[:-3, 5] = labelled
            # Three points close together, that tell whether the image was mirrored.
            points[-3:, :2] = np.array([width, height]) // 2 + np.array([[0, 0], [0.25, 0], [0, 0.25]])
            points[-3:, 5] = (-3, -2, -1)
            given["keypoints"] = points

    def _with_annotation(self, after: Sample, result: dict[str, Any]) -> Sample:
        height, width = after.pixels.shape[:2]
        after.semantic = result.get("mask")
        if after.boxes is None:
            return after
        rows = np.asarray(result["bboxes"]).reshape(-1, 6)[:, 5].round().astype(np.int64)
        boxes = np.asarray(result["bboxes"], np.float64).reshape(-1, 6)[:, :4] * (width, height, width, height)
        if after.masks is not None:
            # What was filled in, for a semantic map beside them, is not part of an object.
            masks = result["masks"] if "masks" in result else np.zeros((0, height, width), np.uint8)
            after.masks = (np.asarray(masks) == 1).view(np.uint8)
        if after.keypoints is not None and "keypoints" in result:
            after.keypoints = self._keypoints(after.keypoints, np.asarray(result["keypoints"]).reshape(-1, 6))
        sides = after.boxes[:, 2:] - after.boxes[:, :2]
        # The box around one that was turned has empty corners.
        turned = ~np.isclose(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), np.prod(sides, axis=1)[rows], rtol=1e-3)
        after = replace(after.select(rows), boxes=boxes.astype(np.float32))
        if after.masks is not None and len(set(rows.tolist())) < len(rows):
            # Where an image is reflected or its tiles shuffled, one object has become several, with a box each.
            assert after.boxes is not None
            after.masks = after.masks * _filled(after.boxes, (height, width))
        return in_view(after, self.context.min_visible, loose=turned)

    def _keypoints(self, before: NDArray[np.float32], points: NDArray[Any]) -> NDArray[np.float32]:
        """(N, P, 3) keypoints with the places that they have now; those that are gone are not labelled."""
        number = points[:, 5].round().astype(np.int64)
        after = np.zeros((before.shape[0] * before.shape[1], 3), np.float32)
        # The first of several counts, as where an image is reflected.
        mine = np.flatnonzero(number >= 0)[::-1]
        after[number[mine], :2] = points[mine, :2] + 0.5
        after[number[mine], 2] = before.reshape(-1, 3)[number[mine], 2]
        moved = after.reshape(before.shape)
        corner = points[number < 0][np.argsort(number[number < 0])][:, :2].astype(np.float64)
        if len(corner) == 3:
            (right_x, right_y), (down_x, down_y) = corner[1] - corner[0], corner[2] - corner[0]
            if right_x * down_y < right_y * down_x:
                order = np.arange(before.shape[1])
                for one, other in self.context.flip_pairs:
                    order[[one, other]] = order[[other, one]]
                moved = moved[:, order]
        return moved


def _filled(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(N, H, W), 1 inside the boxes."""
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.clip(0).round().astype(int).tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def _said(error: Exception, where: str, name: str) -> list[str]:
    """What albumentations says of its arguments, a line each."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return [f"{where}: {name}: {' '.join(str(error).split())}"]
    lines = []
    for detail in cause.errors(include_url=False):
        key = str(detail["loc"][0]) if detail["loc"] else ""
        missing = detail["type"] == "missing"
        message = "missing" if missing else detail["msg"].removeprefix("Value error, ")
        found = "" if missing or not key else f", found {quoted(detail['input'])}"
        lines.append(f"{where}{'.' if key else ': ' + name}{key}: {message}{found}")
    return list(dict.fromkeys(lines))


def library(allow_albumentationsx: bool = False) -> ModuleType:
    """albumentations, imported late: it takes seconds and brings torch along.

    Raises:
        ReheadError: when its AGPL successor is installed in its place and not allowed.
    """
    try:
        metadata.distribution("albumentationsx")
    except metadata.PackageNotFoundError:
        pass
    else:
        if not allow_albumentationsx:
            raise ReheadError(
                "albumentationsx (AGPL) is installed and takes albumentations' import name; uninstall both, then "
                "install albumentations==2.0.8 (MIT), or take its licence and set data.allow_albumentationsx=true"
            )
    # It asks the network for its newest version otherwise.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    return albumentations

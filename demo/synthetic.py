"""Pictures that rehead draws itself: shapes on busy backgrounds, for the demo, the tests and the README.

The classes differ in form alone. Colour, size, rotation, texture and shading are sampled from the same
distributions for every class, and for the clutter behind them, so that a network has to look at outlines.
Every picture is a pure function of (seed, split, index).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools.mask import encode

from rehead.errors import DataError
from rehead.files import atomic_path, json_text, write_text
from rehead.reading import walk

SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
"""The classes: label k is `SHAPES[k]`, category id and mask value k + 1."""

MASK_CLASSES = ("background", *SHAPES)
"""What the values 0, 1, 2, ... of a mask mean."""

LEAST_VISIBLE = 0.4
"""An object keeps at least this part of its pixels uncovered by later ones and inside the image."""

SMALLEST = 32
"""Pixels; on smaller pictures a star and a circle look alike."""

Array = NDArray[Any]
Rng = np.random.Generator

_OVERSAMPLING = 4
_CONTRAST = 34.0  # of a form to what lies under it, in CIELAB
_TRIES = 40


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is true of it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32 xyxy in pixels, tight around the visible pixels, so a box one pixel wide
            has x2 - x1 = 1. From the back to the front.
        labels: (N,) int64 in 0..K-1.
        masks: (N, H, W) bool, the visible pixels of every object; disjoint.
        semantic: (H, W) uint8, 0 for background and label + 1 elsewhere.
    """

    image: Array
    boxes: Array
    labels: Array
    masks: Array
    semantic: Array


def draw_scene(rng: Rng, size: int, objects: int | range = range(1, 5)) -> Scene:
    """Draws shapes of random classes, mostly apart, on a random background.

    Args:
        rng: decides everything.
        size: height and width, in pixels.
        objects: how many, or the range to choose from. Where no room is left there are fewer, but at least one.

    Raises:
        DataError: for a size below `SMALLEST` or no objects.
    """
    counts = range(objects, objects + 1) if isinstance(objects, int) else objects
    if not counts or min(counts) < 1:
        raise DataError(f"a synthetic scene needs at least one object, found objects={objects!r}")
    labels = rng.integers(len(SHAPES), size=int(rng.choice(np.asarray(counts))))
    return _draw(rng, size, labels.tolist(), diameters=(0.2, 0.46), reach=0.85)


def draw_tile(rng: Rng, size: int, label: int) -> Scene:
    """Draws one shape of a given class, larger than in a scene and near the centre, in the same style.

    Args:
        rng: decides everything but the class.
        size: height and width, in pixels.
        label: 0..K-1.

    Raises:
        DataError: for a size below `SMALLEST` or an unknown label.
    """
    if not 0 <= label < len(SHAPES):
        raise DataError(f"synthetic shapes have labels 0 to {len(SHAPES) - 1}, found {label}")
    return _draw(rng, size, [label], diameters=(0.38, 0.78), reach=1.0)


def write_classification(root: Path, split: str, count: int, size: int, seed: int) -> None:
    """Writes `root/<split>/<class>/00001.png`: one shape each, the classes equally often.

    Every file is written whole or not at all. The first pictures of a longer set are those of a shorter one.

    Args:
        root: folder of the data set; made if need be.
        split: such as `train`; two splits share no picture.
        count: pictures in all.
        size: height and width, in pixels.
        seed: of the whole data set.

    Raises:
        DataError: for a bad size, count or seed, or where the folder holds other files, which would be taken as data.
    """
    folder = root / split
    names = [f"{SHAPES[index % len(SHAPES)]}/{index // len(SHAPES) + 1:05d}.png" for index in range(count)]
    _check_folder(folder, names)
    for index, name in enumerate(names):
        scene = draw_tile(_generator(seed, "tiles", split, index), size, index % len(SHAPES))
        _write_png(folder / name, scene.image[:, :, ::-1])


def write_scenes(root: Path, split: str, count: int, size: int, seed: int) -> None:
    """Writes scenes of one to four shapes, annotated for detection and for segmentation.

    The same pictures serve `format: coco` (`root/<split>` with `root/annotations/<split>.json`; boxes and
    run-length masks, since polygons cannot say that a ring has a hole) and `format: masks` (`root/<split>`
    with `root/<split>_masks`, whose values are `MASK_CLASSES`). Every file is written whole or not at all,
    the annotations last. Takes the arguments of `write_classification`, and raises what it raises.
    """
    names = [f"{index + 1:05d}.png" for index in range(count)]
    for folder in (root / split, root / f"{split}_masks"):
        _check_folder(folder, names)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, name in enumerate(names):
        scene = draw_scene(_generator(seed, "scenes", split, index), size)
        _write_png(root / split / name, scene.image[:, :, ::-1])
        _write_png(root / f"{split}_masks" / name, scene.semantic)
        images.append({"id": index + 1, "file_name": name, "height": size, "width": size})
        annotations += _annotations(scene, index + 1, len(annotations) + 1)
    content = {
        "images": images,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(SHAPES)],
        "annotations": annotations,
    }
    write_text(root / "annotations" / f"{split}.json", json_text(content, default=bytes.decode))


def _generator(seed: int, kind: str, split: str, index: int) -> Rng:
    if seed < 0:
        raise DataError(f"a synthetic data set's seed is 0 or more, found {seed}")
    return np.random.default_rng([seed, zlib.crc32(f"{kind}/{split}".encode()), index])


def _check_folder(folder: Path, names: Sequence[str]) -> None:
    if not names:
        raise DataError(f"{folder}: nothing to draw; ask for at least one picture")
    # Hidden files are what a killed run left of a picture; no reader takes them as data.
    found = walk(folder).names() if folder.is_dir() else []
    strangers = sorted(set(found) - set(names))
    if strangers:
        raise DataError(
            f"{folder}: holds {len(strangers)} other files, such as {strangers[0]}, that would be taken as part of "
            "this data set; give another folder or remove it"
        )


def _write_png(path: Path, pixels: Array) -> None:
    """Writes (H, W) or (H, W, 3) BGR uint8, little compressed: drawing is to be fast, not small."""
    _, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    return [
        {
            "id": first_id + index,
            "image_id": image_id,
            "category_id": int(scene.labels[index]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": encode(np.asfortranarray(mask, np.uint8)),
        }
        for index, ((x1, y1, x2, y2), mask) in enumerate(zip(scene.boxes.tolist(), scene.masks, strict=True))
    ]


@dataclass(frozen=True)
class _Stencil:
    """A form without a place: (h, w) float32 coverage in 0..1, with margins, and the same without its outline."""

    alpha: Array
    core: Array
    diameter: float


def _draw(rng: Rng, size: int, labels: Sequence[int], diameters: tuple[float, float], reach: float) -> Scene:
    """Paints the background, the clutter and the shapes, each with a part of its radius (`reach`) inside the image."""
    if size < SMALLEST:
        raise DataError(f"synthetic pictures are at least {SMALLEST} pixels wide, found size {size}")
    light = rng.uniform(0, 2 * np.pi)
    canvas = _background(rng, size)
    for _ in range(rng.integers(1, 5)):
        clutter = _cut(rng, [_clutter_outline(rng)], size * rng.uniform(0.12, 0.5), rounding=0.0)
        y, x = (rng.uniform(-0.1, 1.1, 2) * size - np.asarray(clutter.alpha.shape) / 2).astype(int)
        _paint(rng, canvas, clutter, (y, x), light, rng.uniform(0.35, 1.0))
    owner = np.full((size, size), -1)
    areas: list[int] = []
    drawn: list[int] = []
    for label in labels:
        diameter = size * rng.uniform(*diameters)
        stencil = _cut(
            rng, _outlines(rng, SHAPES[label]), diameter, 0.0 if SHAPES[label] == "ring" else rng.uniform(0, 0.16)
        )
        solid = stencil.alpha >= 0.5
        least = LEAST_VISIBLE if rng.random() < 0.3 else 1.0
        margin = reach * diameter / 2
        visible = np.bincount(owner.ravel() + 1, minlength=len(drawn) + 1)[1:]
        for _ in range(_TRIES):
            y, x = (rng.uniform(margin, size - margin, 2) - np.asarray(solid.shape) / 2).round().astype(int)
            inside, part = _overlap((y, x), solid.shape, size)
            here = solid[part]
            hidden = np.bincount(owner[inside][here] + 1, minlength=len(drawn) + 1)[1:]
            kept = (visible - hidden)[hidden > 0] >= least * np.asarray(areas)[hidden > 0]
            if here.sum() >= LEAST_VISIBLE * solid.sum() and kept.all():
                _paint(rng, canvas, stencil, (y, x), light, 1.0)
                owner[inside][here] = len(drawn)
                areas.append(solid.sum())
                drawn.append(label)
                break

    canvas += rng.uniform(0.004, 0.022) * rng.standard_normal(canvas.shape, np.float32)
    image = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    masks = owner == np.arange(len(drawn))[:, None, None]
    semantic = np.asarray([0, *(label + 1 for label in drawn)], np.uint8)[owner + 1]
    return Scene(image, _boxes(masks), np.asarray(drawn, np.int64), masks, semantic)


def _boxes(masks: Array) -> Array:
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _overlap(corner: tuple[int, int], shape: tuple[int, ...], size: int) -> tuple[Any, Any]:
    """Where a patch meets the image: an index into the image, and one into the patch."""
    ends = [np.clip([start, start + length], 0, size).tolist() for start, length in zip(corner, shape, strict=True)]
    inside = tuple(slice(low, high) for low, high in ends)
    return inside, tuple(slice(low - start, high - start) for (low, high), start in zip(ends, corner, strict=True))


def _turned(angles: Array, radii: Array | float) -> Array:
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radii, (-1, 1)))


def _outlines(rng: Rng, shape: str) -> list[Array]:
    """Polygons (P, 2) of a class, radius about 1, of like area; the second is a hole."""
    full = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    if shape == "circle":
        return [_turned(full, 0.86)]
    if shape == "ring":
        return [_turned(full, 0.95), _turned(full, 0.95 * rng.uniform(0.45, 0.68))]
    if shape == "square":
        return [_turned(np.arange(4) * np.pi / 2 + np.pi / 4, 1.08)]
    if shape == "triangle":
        return [_turned(np.arange(3) * 2 * np.pi / 3 + rng.normal(0, 0.06, 3), 1.12)]
    if shape == "star":
        return [_turned(np.arange(10) * np.pi / 5, np.tile([1.16, 1.16 * rng.uniform(0.42, 0.55)], 5))]
    sine = np.sin(full)
    lobes = 13 * np.cos(full) - 5 * np.cos(2 * full) - 2 * np.cos(3 * full) - np.cos(4 * full)
    return [np.stack([16 * sine**3, -lobes - 2.5], 1) / 15.5]


def _clutter_outline(rng: Rng) -> Array:
    """A form that is none of the classes: a bar, a bent stroke or an irregular blob."""
    kind = rng.integers(3)
    if kind == 0:
        return np.asarray([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [1.4, rng.uniform(0.04, 0.16)]
    if kind == 1:
        along = np.linspace(0, rng.uniform(1.2, 2.6), 24)
        width = rng.uniform(0.06, 0.16)
        return np.concatenate([_turned(along, 1 + width), _turned(along[::-1], 1 - width)])
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(rng.uniform(0.1, 0.3) * np.sin(n * angles + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4))
    return _turned(angles, 1 + waves) * [1.0, rng.uniform(0.25, 0.4)]


def _cut(rng: Rng, outlines: list[Array], diameter: float, rounding: float) -> _Stencil:
    """Turns, stretches and rasterises polygons; `rounding` is the radius of the corners over the form's."""
    angle, axis, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0, np.pi), rng.uniform(0.86, 1.0)
    along = np.asarray([[np.cos(axis), np.sin(axis)], [-np.sin(axis), np.cos(axis)]])
    turn = np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = along.T @ np.diag([1.0, squeeze]) @ along @ turn * (1 - rounding)
    radius = diameter / 2 * _OVERSAMPLING
    half = int(np.ceil(diameter * 0.85)) + 2
    middle = half * _OVERSAMPLING + rng.uniform(0, _OVERSAMPLING, 2)
    points = [np.round(outline @ matrix.T * radius + middle).astype(np.int32) for outline in outlines]
    mask = np.zeros((2 * half * _OVERSAMPLING,) * 2, np.uint8)
    cv2.fillPoly(mask, points, 255)
    stroke = int(2 * rounding * radius)
    if stroke > 1:
        cv2.polylines(mask, points, True, 255, stroke)
    line = int(rng.uniform(0.03, 0.065) * diameter * _OVERSAMPLING) if rng.random() < 0.35 else 0
    core = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * line + 1,) * 2)) if line else mask
    across = (2 * half, 2 * half)
    alpha, inner = (cv2.resize(form, across, interpolation=cv2.INTER_AREA) / np.float32(255) for form in (mask, core))
    return _Stencil(alpha, inner, diameter)


def _colour(rng: Rng, chroma: tuple[float, float], under: Array | None = None) -> Array:
    """(3,) float32 RGB in 0..1, neither black nor white, unlike the colour `under`: the best of a few, in CIELAB."""
    candidates = rng.random((1, 64, 3), np.float32)
    lightness, a, b = _lab(candidates)[0].T
    strength = np.hypot(a, b)
    misfit = abs(lightness - lightness.clip(30, 92)) + abs(strength - strength.clip(*chroma))
    if under is not None:
        distance = np.linalg.norm(_lab(candidates)[0] - _lab(under.reshape(1, 1, 3))[0], axis=1)
        misfit += np.maximum(_CONTRAST - distance, 0)
    return np.asarray(candidates[0, np.argmin(misfit)])


def _lab(colours: Array) -> Array:
    return np.asarray(cv2.cvtColor(colours.astype(np.float32), cv2.COLOR_RGB2LAB))


def _noise(rng: Rng, height: int, width: int, cells: int) -> Array:
    """(height, width) float32 smooth noise in about -1..1, with features of a `cells`-th of the patch."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def _ramp(rng: Rng, height: int, width: int) -> Array:
    """(height, width) float32 from -1 to 1 along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    return np.asarray(x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)


def _pattern(rng: Rng, height: int, width: int, waves: float) -> Array:
    """(height, width) float32 in -1..1: stripes, a grid of spots, or noise, about `waves` of them across."""
    kind = rng.integers(3)
    if kind == 0:
        return np.asarray(np.tanh(2.5 * np.sin(_ramp(rng, height, width) * np.pi * waves + rng.uniform(0, 6))))
    if kind == 1:
        spots = np.sin(_ramp(rng, height, width) * np.pi * waves) * np.sin(_ramp(rng, height, width) * np.pi * waves)
        return np.asarray(np.tanh(3 * spots))
    return _noise(rng, height, width, int(2 * waves))


def _background(rng: Rng, size: int) -> Array:
    """(size, size, 3) float32 RGB: two or three related colours in clouds, a gradient or a pattern."""
    first = _colour(rng, (4, 40))
    second = 0.4 * first + 0.6 * _colour(rng, (4, 48))
    kind = rng.integers(4)
    if kind == 0:
        blend = _ramp(rng, size, size) * 0.5
    elif kind == 1:
        blend = _pattern(rng, size, size, rng.uniform(3, 9)) * rng.uniform(0.25, 0.5)
    else:
        blend = np.sum([_noise(rng, size, size, 3 * 2**n) / 2**n for n in range(3)], axis=0) * 0.4
    canvas = first + (second - first) * (blend[:, :, None] + 0.5)
    canvas *= 1 + 0.14 * _ramp(rng, size, size)[:, :, None] + 0.06 * _noise(rng, size, size, size // 4)[:, :, None]
    return canvas.astype(np.float32)


def _paint(rng: Rng, canvas: Array, stencil: _Stencil, corner: tuple[int, int], light: float, opacity: float) -> None:
    """Paints a stencil in place, its top left at `corner` (y, x), lit from the angle `light`."""
    inside, part = _overlap(corner, stencil.alpha.shape, len(canvas))
    alpha = stencil.alpha[part]
    if not alpha.any():
        return
    height, width = stencil.alpha.shape
    towards_x, towards_y = math.cos(light), math.sin(light)
    under = np.tensordot(alpha, canvas[inside], 2) / alpha.sum()
    colour = _colour(rng, (20, 80), under)
    shade = rng.uniform(0, 0.22) * _ramp(rng, height, width)
    if rng.random() < 0.45:
        shade += rng.uniform(0.05, 0.14) * _pattern(rng, height, width, rng.uniform(5, 11))
    # Light on the edges that face it: the slope of the blurred form, as if it were a cushion.
    sigma = 0.07 * stencil.diameter
    cushion = cv2.GaussianBlur(stencil.core, (0, 0), sigma)
    slope = towards_x * cv2.Sobel(cushion, -1, 1, 0, scale=0.125)
    slope += towards_y * cv2.Sobel(cushion, -1, 0, 1, scale=0.125)
    shade -= rng.uniform(0, 1.0) * sigma * slope
    sheen = 0.13 * (_ramp(rng, height, width)[:, :, None] + 1) * (_colour(rng, (20, 60)) - colour)
    fill = (colour + sheen) * (1 + shade[:, :, None])
    outline = colour * 0.35 if rng.random() < 0.6 else colour * 0.2 + 0.8
    fill = outline + (fill - outline) * stencil.core[:, :, None]
    if rng.random() < 0.6:
        shift = np.asarray([[1, 0, -towards_x], [0, 1, -towards_y]]) * [1, 1, 0.07 * stencil.diameter]
        cast = cv2.GaussianBlur(cv2.warpAffine(stencil.alpha, shift, (width, height)), (0, 0), 0.05 * stencil.diameter)
        canvas[inside] *= 1 - rng.uniform(0.2, 0.5) * opacity * cast[part][:, :, None]
    canvas[inside] += (fill[part].clip(0, 1) - canvas[inside]) * (alpha * opacity)[:, :, None]

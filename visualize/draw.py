"""Pictures for people: boxes, class maps and labels on images, and sheets of them."""

from __future__ import annotations

import colorsys
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rehead.files import atomic_path
from rehead.terminal import visible
from rehead.types import ignore_of

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Far apart in hue and lightness, so that neighbours in a list of classes differ at a glance.
_FIRST: tuple[Colour, ...] = (
    (230, 57, 70),
    (29, 120, 216),
    (46, 170, 80),
    (250, 180, 20),
    (150, 80, 200),
    (20, 190, 200),
    (245, 120, 30),
    (225, 80, 180),
    (140, 205, 50),
    (150, 95, 50),
    (120, 150, 240),
    (0, 110, 100),
    (250, 160, 150),
    (110, 110, 120),
)
LARGEST = 4096
"""Pixels: the longer side of the largest picture; those of larger images are smaller than the image."""

MOST_NAMES = 300
"""Boxes of a picture that are given their name, and classes of a legend: more could not be read."""

LONGEST_NAME = 400
"""Characters of a name: more fit into no picture."""

SMALL = 3
"""Lines of text: boxes less high or wide than this are not written over."""

_GOOD: Colour = (40, 160, 75)
_BAD: Colour = (215, 45, 55)
_NEUTRAL: Colour = (45, 48, 54)
_PAPER: Colour = (250, 250, 250)
_INK: Colour = (25, 27, 31)


def colour_of(label: int) -> Colour:
    """The RGB colour of a class: always the same one."""
    if label < len(_FIRST):
        return _FIRST[label]
    # The golden ratio spreads any number of hues evenly.
    hue = (label * 0.618034) % 1.0
    saturation, value = ((0.85, 0.9), (0.55, 0.95), (0.9, 0.6))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: NDArray[Any],
    boxes: NDArray[Any],
    labels: NDArray[Any],
    names: Sequence[str],
    scores: NDArray[Any] | None = None,
    size: tuple[int, ...] | None = None,
) -> Picture:
    """Draws boxes with their class names, and their scores where given; the best on top.

    Where names would cover one another, or a small box, the lesser box goes without: its colour still tells its class.
    So do all but the best `MOST_NAMES`.

    Args:
        image: (H, W, C), uint8 or floating point in 0..255.
        boxes: (N, 4) xyxy in pixels.
        labels: (N,) in 0..K-1.
        names: of the K classes.
        scores: (N,) in 0..1.
        size: (height, width, ...) of the image that the boxes are of, where `image` is a picture of it already.

    Returns:
        A new picture, of the same size unless the image is small or very large (see `enlargement`).
    """
    picture = Image.fromarray(_sized(image))
    factor = picture.height / (size or image.shape)[0], picture.width / (size or image.shape)[1]
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) * (*factor[::-1], *factor[::-1])
    pen = ImageDraw.Draw(picture)
    line = max(2, round(min(picture.size) / 180))
    # The last drawn lies on top: the large below the small where there are no scores, else the worst below.
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order = np.argsort(-areas if scores is None else np.asarray(scores), kind="stable").tolist()
    for row in order:
        _outline(pen, _inside(boxes[row], picture.size), colour_of(int(labels[row])), line)
    # Names in the opposite order: the box on top chooses the place of its name first. None lies on a small box.
    taken: list[Box] = []
    small = _small([_inside(box, picture.size) for box in boxes], picture.size)
    for row in order[: -MOST_NAMES - 1 : -1]:
        text = names[int(labels[row])] + ("" if scores is None else f" {float(scores[row]):.2f}")
        box = _inside(boxes[row], picture.size)
        _tag(pen, picture.size, box, text, colour_of(int(labels[row])), line, small, taken)
    return np.asarray(picture)


def draw_instances(image: NDArray[Any], masks: NDArray[Any], labels: NDArray[Any]) -> Picture:
    """Lays every object's mask over the image, in its class's colour with a light border.

    Args:
        image: (H, W, C), uint8 or floating point in 0..255.
        masks: (N, H, W), not 0 inside; the first lies on top.
        labels: (N,) in 0..K-1.

    Returns:
        A new picture for `draw_boxes`, of the same size unless the image is very large (see `enlargement`).
    """
    plain = _sized(image, min(1, enlargement(image)))
    picture = plain.copy()
    for mask, label in reversed(list(zip(masks, labels, strict=True))):
        inside = _nearest(np.asarray(mask), plain.shape).astype(np.uint8)
        colour = np.array(colour_of(int(label)), np.float32)
        # Over the image itself: where many masks lie, it would vanish under them.
        picture[inside > 0] = (0.55 * plain[inside > 0] + 0.45 * colour).round().astype(np.uint8)
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, list(outlines), -1, (255, 255, 255), max(1, round(min(picture.shape[:2]) / 500)))
    return picture


def draw_keypoints(picture: Picture, points: NDArray[Any], size: tuple[int, ...]) -> Picture:
    """Draws points over a picture of `draw_boxes`, each kind in a colour of its own with a dark edge.

    Args:
        picture: maybe enlarged.
        points: (N, P, 3) x, y in pixels of the image, and what is 0 for a point that is not drawn.
        size: (height, width, ...) of the image.

    Returns:
        A new picture of the same size.
    """
    factor = picture.shape[0] / size[0]
    drawn = picture.copy()
    radius = max(2, round(min(picture.shape[:2]) / 160))
    for own in np.asarray(points, np.float64):
        for kind, (x, y, there) in enumerate(own.tolist()):
            if there:
                centre = round(x * factor), round(y * factor)
                cv2.circle(drawn, centre, radius + 1, _INK, -1, cv2.LINE_AA)
                cv2.circle(drawn, centre, radius, colour_of(kind), -1, cv2.LINE_AA)
    return drawn


def draw_semantic(image: NDArray[Any], semantic: NDArray[Any], names: Sequence[str]) -> Picture:
    """Lays class colours over the image, with thin borders, and a legend below of the classes that occur.

    A first class called background keeps the image's own colours, and the others those of their boxes.

    Args:
        image: (H, W, C), uint8 or floating point in 0..255.
        semantic: (H, W) in 0..K-1; pixels that do not count turn grey and dark instead.
        names: of the K classes.

    Returns:
        A new picture, higher by the legend; of another size if the image is small or very large (see `enlargement`).
    """
    picture = _sized(image).astype(np.float32)
    semantic = _nearest(semantic, picture.shape)
    bare = 1 if names[0].lower() == "background" else 0
    palette = np.zeros((len(names) + 1, 3), np.float32)
    palette[bare:-1] = [colour_of(label) for label in range(len(names) - bare)]
    mixed = np.where(
        (semantic < bare)[:, :, None], picture, 0.45 * picture + 0.55 * palette[np.minimum(semantic, len(names))]
    )
    ignored = semantic == ignore_of(semantic)
    mixed[ignored] = 0.5 * picture[ignored].mean(axis=1, keepdims=True)
    border = np.zeros(semantic.shape, np.uint8)
    border[1:] |= semantic[1:] != semantic[:-1]
    border[:, 1:] |= semantic[:, 1:] != semantic[:, :-1]
    thickness = max(1, round(min(semantic.shape) / 500))
    thick = cv2.dilate(border, np.ones((thickness, thickness), np.uint8)) > 0
    mixed[thick] = 0.4 * mixed[thick] + 0.6 * 255
    counts = np.bincount(semantic.ravel(), minlength=len(names))[: len(names)]
    present = [(names[label], colour_of(label - bare)) for label in np.flatnonzero(counts).tolist() if label >= bare]
    return np.concatenate([mixed.round().astype(np.uint8), _legend(semantic.shape[1], semantic.shape[0], present)])


def draw_label(image: NDArray[Any], text: str, good: bool | None = None) -> Picture:
    """Writes a line on a band at the bottom of the image.

    Args:
        image: (H, W, C), uint8 or floating point in 0..255.
        text: shortened if it does not fit.
        good: green for right, red for wrong, with a border; grey for neither.

    Returns:
        A new picture, of the same size unless the image is small or very large (see `enlargement`).
    """
    picture = Image.fromarray(_sized(image))
    width, height = picture.size
    colour = _NEUTRAL if good is None else _GOOD if good else _BAD
    font = _font(_text_height(picture.size))
    pad = max(2, round(_text_height(picture.size) * 0.3))
    band = min(height, _line_height(font) + 2 * pad)
    overlay = Image.new("RGB", (width, band), colour)
    under = picture.crop((0, height - band, width, height))
    picture.paste(Image.blend(under, overlay, 0.82), (0, height - band))
    pen = ImageDraw.Draw(picture)
    text = _shortened(text, font, width - 2 * pad)
    pen.text((width / 2, height - band / 2), text, font=font, fill=(255, 255, 255), anchor="mm")
    if good is not None:
        pen.rectangle((0, 0, width - 1, height - 1), outline=colour, width=max(1, round(min(picture.size) / 60)))
    return np.asarray(picture)


def draw_classes(
    image: NDArray[Any], labels: Sequence[int], names: Sequence[str], scores: Sequence[float] | None = None
) -> Picture:
    """Lists the classes of the whole image below it, each in the colour of its boxes.

    Args:
        image: (H, W, C), uint8 or floating point in 0..255.
        labels: N of them in 0..K-1, in the order of the list; there may be none.
        names: of the K classes.
        scores: N of them in 0..1.

    Returns:
        A new picture, higher by the list; of another size if the image is small or very large (see `enlargement`).
    """
    picture = _sized(image)
    said = [f" {score:.2f}" for score in scores] if scores is not None else [""] * len(labels)
    entries = [(names[label] + score, colour_of(label)) for label, score in zip(labels, said, strict=True)]
    return np.concatenate([picture, _legend(picture.shape[1], picture.shape[0], entries or [("no class", _NEUTRAL)])])


def enlargement(image: NDArray[Any]) -> float:
    """How many times larger than the image its pictures are, so that text on small ones can be read.

    1 from 192 pixels on; 3 for an image of 96 pixels; less than 1 for one with a side beyond `LARGEST`.
    """
    longer: int = max(image.shape[:2])
    return LARGEST / longer if longer > LARGEST else max(1, round(288 / longer))


def sheet(tiles: Sequence[NDArray[Any]], columns: int, captions: Sequence[str] | None = None) -> Picture:
    """Puts pictures on one page, row by row, each in the middle of its cell.

    Args:
        tiles: (H, W, C) each, of any sizes.
        columns: per row.
        captions: one line per tile, above it; an empty one leaves its place empty.

    Returns:
        The page.
    """
    pictures = [_picture(tile) for tile in tiles]
    columns = max(1, min(columns, len(pictures)))
    rows = [range(start, min(start + columns, len(pictures))) for start in range(0, len(pictures), columns)]
    widths = [max(pictures[i].shape[1] for i in range(column, len(pictures), columns)) for column in range(columns)]
    typical = (max(widths, default=1), max((picture.shape[0] for picture in pictures), default=1))
    font = _font(_text_height(typical))
    gap = max(4, round(max(typical) / 60))
    lines = [captions is not None and any(captions[i] for i in row) for row in rows]
    heads = [_line_height(font) + gap if line else 0 for line in lines]
    heights = [max(pictures[i].shape[0] for i in row) for row in rows]
    size = (sum(widths) + gap * (columns + 1), sum(heights) + sum(heads) + gap * (len(rows) + 1))
    page = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(page)
    top = gap
    for row, head, height in zip(rows, heads, heights, strict=True):
        left = gap
        for i, width in zip(row, widths, strict=False):
            x = left + (width - pictures[i].shape[1]) // 2
            page.paste(Image.fromarray(pictures[i]), (x, top + head))
            if captions is not None and captions[i]:
                # A caption may run on over cells to its right that have none.
                room = width
                for after in range(i + 1, row.stop):
                    if captions[after]:
                        break
                    room += gap + widths[after - row.start]
                pen.text(
                    (left, top + head - gap / 2), _shortened(captions[i], font, room), font=font, fill=_INK, anchor="ld"
                )
            left += width + gap
        top += head + height + gap
    return np.asarray(page)


def save(path: Path, image: NDArray[Any]) -> None:
    """Writes a picture, whole or not at all; the suffix says the format."""
    with atomic_path(path) as temporary:
        Image.fromarray(_picture(image)).save(temporary)


def _picture(image: NDArray[Any]) -> Picture:
    """Any image as (H, W, 3) uint8: grey is repeated, of more channels the first three are shown."""
    if image.dtype != np.uint8:
        image = image.round().clip(0, 255).astype(np.uint8)
    if image.ndim == 2:
        image = image[:, :, None]
    channels = [0, 0, 0] if image.shape[2] < 3 else [0, 1, 2]
    return np.ascontiguousarray(image[:, :, channels])


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text_height(size: tuple[int, int]) -> int:
    """Font size for a picture of (width, height), in pixels."""
    return int(np.clip(round(5 + 0.022 * (size[0] * size[1]) ** 0.5), 12, 40))


def _line_height(font: Any) -> int:
    ascent, descent = font.getmetrics()
    return int(ascent + descent)


def _shortened(text: str, font: Any, width: float) -> str:
    """The text on one line, or as much of its beginning as fits, with an ellipsis."""
    # Names are of files of somebody's: with line breaks, marks that turn text around, or thousands of characters.
    whole = len(text) <= LONGEST_NAME
    text = visible(text[:LONGEST_NAME])
    if whole and font.getlength(text) <= width:
        return text
    # The longest beginning that fits: each is as wide as those before it, and more.
    length = bisect_right(range(1, len(text) + 1), width, key=lambda count: font.getlength(text[:count] + "…"))
    return text[:length] + "…" if length else ""


def _sized(image: NDArray[Any], factor: float | None = None) -> Picture:
    """A picture of any image, so many times as large, or by `enlargement`."""
    factor = enlargement(image) if factor is None else factor
    if factor >= 1:
        picture = _picture(image)
        size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
        larger = picture if factor == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
        return np.asarray(larger, np.uint8)
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    # Made small first: a second and a third array as large as the image are what memory runs out with.
    image = image if image.ndim == 2 or image.shape[2] <= 4 else np.ascontiguousarray(image[:, :, :3])
    smaller: NDArray[Any] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return _picture(smaller)


def _nearest(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """(H, W) values at another height and width: those of the nearest pixels."""
    if array.shape == shape[:2]:
        return array
    rows, columns = (np.arange(to) * of // to for of, to in zip(array.shape, shape[:2], strict=True))
    found: NDArray[Any] = array[rows[:, None], columns]
    return found


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on a colour (by WCAG's relative luminance)."""
    linear = [(value / 255) ** 2.2 for value in colour]
    return (255, 255, 255) if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] < 0.27 else (15, 15, 15)


def _inside(box: NDArray[Any], size: tuple[int, int]) -> Box:
    """A box cut to a picture of (width, height), as the corners of its outermost pixels."""
    x1, y1, x2, y2 = (float(value) for value in box)
    x1, y1 = min(max(x1, 0), size[0] - 1), min(max(y1, 0), size[1] - 1)
    return x1, y1, max(x1, min(x2, size[0]) - 1), max(y1, min(y2, size[1]) - 1)


def _outline(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, line: int) -> None:
    x1, y1, x2, y2 = (round(value) for value in box)
    # A dark hairline around the colour: it shows on any background.
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0))
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=min(line, max(1, (min(x2 - x1, y2 - y1) + 1) // 2)))


def _small(boxes: Sequence[Box], size: tuple[int, int]) -> NDArray[Any]:
    """(M, 4) those that a name would hide much of."""
    least = SMALL * _text_height(size)
    found = [box for box in boxes if min(box[2] - box[0], box[3] - box[1]) < least]
    return np.array(found, np.float64).reshape(-1, 4)


def _tag(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Box,
    text: str,
    colour: Colour,
    line: int,
    small: NDArray[Any],
    taken: list[Box],
) -> None:
    """Writes a name at its box, inside the picture, where neither another nor a small box is; notes it in `taken`."""
    font = _font(_text_height(size))
    pad = max(1, _text_height(size) // 6)
    text = _shortened(text, font, size[0] - 2 * pad)
    width, height = font.getlength(text) + 2 * pad, _line_height(font)
    x1, y1, x2, y2 = box
    places = [(x, y) for y in (y1 - height, y1 + line) for x in (x1, x2 - width, (x1 + x2 - width) / 2)]
    places += [(x, y) for y in (y2 + 1, y2 - height - line) for x in (x1, x2 - width, (x1 + x2 - width) / 2)]
    places += [(x, y1) for x in (x1 - width, x2 + 1)]
    others = np.concatenate([np.array(taken, np.float64).reshape(-1, 4), small])
    for x, y in places:
        x, y = min(max(x, 0), max(size[0] - width, 0)), min(max(y, 0), max(size[1] - height, 0))
        place = (x, y, x + width, y + height)
        if _overlaps(place, others):
            continue
        taken.append(place)
        pen.rectangle((round(x), round(y), round(x + width) - 1, round(y + height) - 1), fill=colour)
        pen.text((x + pad, y + height / 2), text, font=font, fill=_ink_on(colour), anchor="lm")
        return


def _overlaps(box: Box, others: NDArray[Any]) -> bool:
    """Whether a box has a place in common with any of (N, 4) others."""
    low = np.maximum(others[:, :2], box[:2])
    high = np.minimum(others[:, 2:], box[2:])
    return bool((high > low).all(axis=1).any())


def _legend(width: int, height: int, entries: Sequence[tuple[str, Colour]]) -> Picture:
    """Swatches with names, flowing in rows, for a picture of this width and height."""
    font = _font(_text_height((width, height)))
    line = _line_height(font)
    pad = max(2, line // 4)
    swatch = line - pad
    if len(entries) > MOST_NAMES:
        entries = [*entries[:MOST_NAMES], (f"and {len(entries) - MOST_NAMES} more", _NEUTRAL)]
    rows: list[list[tuple[int, str, Colour]]] = [[]]
    x = pad
    for name, colour in entries:
        name = _shortened(name, font, width - swatch - 3 * pad)
        needed = round(swatch + pad + font.getlength(name))
        if rows[-1] and x + needed > width - pad:
            rows.append([])
            x = pad
        rows[-1].append((x, name, colour))
        x += needed + 3 * pad
    legend = Image.new("RGB", (width, len(rows) * (line + pad) + pad), _PAPER)
    pen = ImageDraw.Draw(legend)
    for number, row in enumerate(rows):
        middle = pad + number * (line + pad) + line / 2
        for x, name, colour in row:
            pen.rectangle((x, middle - swatch / 2, x + swatch, middle + swatch / 2), fill=colour, outline=_INK)
            pen.text((x + swatch + pad, middle), name, font=font, fill=_INK, anchor="lm")
    return np.asarray(legend)

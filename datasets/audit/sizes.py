"""What the heads of image files say, compared with annotations and masks before a run: no pixel is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rehead.data.image_io import Head, head_of, most_pixels
from rehead.data.sample import Sample
from rehead.datasets.parsing import reason
from rehead.datasets.remembered import remembered
from rehead.errors import DataError

FIND = "`rehead data check` lists them all, and with --fix writes a repaired copy"

Size = tuple[int, int]


def refuse_sizes(samples: Sequence[Sample], where: str) -> dict[Path, Size]:
    """Compares sizes, as training and evaluation would for one image after the other.

    The heads of new and changed files are read once and remembered: about 0.1 ms for each of a disk's files.

    Args:
        samples: the annotations of a split.
        where: its key in the configuration, for messages.

    Returns:
        By image, its (height, width) upright, in pixels.

    Raises:
        DataError: with how many there are, and the first: images and masks whose head cannot be read, images of
            another size than their annotation says, and masks of another size than their image.
    """
    paths = list(dict.fromkeys(path for one in samples for path in (one.path, one.mask_path) if path is not None))
    what = f"head 1 {most_pixels()}"
    # JSON has no tuples: height and width as stored, and the orientation.
    answers = remembered(what, list[int] | str, paths, _head, "looking at the sizes of images")  # type: ignore[arg-type]
    heads = dict(zip(paths, answers, strict=True))
    problems: dict[str, list[str]] = {}
    sizes: dict[Path, Size] = {}
    for one in samples:
        image = heads[one.path]
        if isinstance(image, str):
            problems.setdefault("images cannot be read", []).append(f"{one.path}: {image}")
            continue
        height, width, orientation = image
        head = Head("", (height, width), orientation)
        sizes[one.path] = head.upright
        # Either: the annotation says which way up its image is.
        if one.size is not None and one.size not in (head.upright, head.stored):
            said = f"{one.path}: the image is {_by(head.upright)}, its annotation {_by(one.size)}"
            problems.setdefault("images are of another size than their annotation says", []).append(said)
        if one.mask_path is None:
            continue
        mask = heads[one.mask_path]
        if isinstance(mask, str):
            problems.setdefault("masks cannot be read", []).append(f"{one.mask_path}: {mask}")
            continue
        own = Head("", (mask[0], mask[1]), mask[2]).upright
        if own not in (head.upright, head.stored):
            said = f"{one.mask_path}: the mask is {_by(own)}, its image {one.path} {_by(head.upright)}"
            problems.setdefault("masks are of another size than their image", []).append(said)
    for kind, found in problems.items():
        raise DataError(f"{where}: {len(found)} of {len(samples)} {kind}, the first is {found[0]}; {FIND}")
    return sizes


def _head(path: Path) -> list[int] | str:
    try:
        head = head_of(path)
    except DataError as error:
        return reason(error, path)
    return [*head.stored, head.orientation]


def _by(size: Size) -> str:
    return f"{size[1]}x{size[0]}"

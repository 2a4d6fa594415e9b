"""Boxes as the network will see them: how large, how long, and which anchors could match them. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from rehead.configs.base import HeadOptions
from rehead.configs.detection_heads import FasterRCNNOptions, RCNNOptions, RetinaNetOptions
from rehead.configs.heads import image_task
from rehead.configs.resize import ResizeOptions
from rehead.configs.tasks import DETECTION, treatment_of
from rehead.data.transforms.resize import Resize
from rehead.datasets.audit.run import Checked

SMALL, LARGE = 32, 96
"""Pixels: COCO calls objects small below the square of the first, and large above that of the second."""

MATCH = 0.5
"""IoU with its best anchor from which a box is matched well; below, only its one best anchor learns from it."""

LONG = 2.0
"""How many times as long as wide the usual anchors are at most."""


@dataclass(frozen=True)
class BoxStatistics:
    """What boxes of all splits look like after resizing.

    Attributes:
        resize: in words.
        sides: (N, 2) width and height in pixels.
        originals: (N, 2) the same before resizing.
        anchors: by head, the (A, 2) sides of its anchors, and every box's IoU with the best of them, both centred on
            one point.
    """

    resize: str
    sides: NDArray[np.float64]
    originals: NDArray[np.float64]
    anchors: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]

    def _anchors_mean(self, name: str, anchors: NDArray[np.float64], best: NDArray[np.float64]) -> str:
        poor = best < MATCH
        said = (
            f"{name}: {poor.mean():.0%} of the boxes overlap with none of its anchors by IoU {MATCH}, even if centred"
        )
        if poor.mean() <= 0.1:
            return said
        said += ", and each learns from one poor anchor:"
        sizes = np.sqrt(anchors.prod(axis=1))
        reasons = {
            f"smaller than the smallest of {sizes.min():.0f} pixels; add smaller anchor_sizes or let data.resize make "
            "images larger": self.roots < sizes.min(),
            f"larger than the largest of {sizes.max():.0f} pixels; add larger anchor_sizes or let data.resize make "
            "images smaller": self.roots > sizes.max(),
        }
        sized = np.logical_or.reduce([*reasons.values()])
        tenths = ", ".join(f"{value:.2g}" for value in np.quantile(np.clip(self.ratios, 0.05, 20), [0.1, 0.5, 0.9]))
        reasons[f"of a size between; the boxes' shapes ask for aspect_ratios: [{tenths}]"] = ~sized
        parts = {reason: float((poor & own).mean()) for reason, own in reasons.items()}
        return " ".join([said, "; ".join(f"{share:.0%} {reason}" for reason, share in parts.items() if share >= 0.02)])

    @property
    def ratios(self) -> NDArray[np.float64]:
        """(N,) height over width: resizing keeps it, or changes it as the network will see it."""
        ratios: NDArray[np.float64] = self.sides[:, 1] / self.sides[:, 0]
        return ratios

    @property
    def roots(self) -> NDArray[np.float64]:
        """(N,) the square root of the area, in pixels."""
        roots: NDArray[np.float64] = np.sqrt(self.sides.prod(axis=1))
        return roots

    def meaning(self) -> list[str]:
        """What they mean for the size of images and for anchors, in sentences."""
        roots, ratios = self.roots, self.ratios
        small = float((roots < SMALL).mean())
        lines = [
            f"{len(roots)} boxes, resized ({self.resize}): {small:.0%} smaller than {SMALL}x{SMALL} pixels, "
            f"{float((roots >= LARGE).mean()):.0%} larger than {LARGE}x{LARGE}, half of them from "
            f"{np.quantile(roots, 0.25):.0f} to {np.quantile(roots, 0.75):.0f} (square root of the area)"
        ]
        if small > 0.3:
            factor = SMALL / max(float(np.quantile(roots, 0.3)), 1e-9)
            lines.append(
                f"many are small, which costs AP: images {factor:.1f} times as large (data.resize) would lift 7 in 10 "
                f"over {SMALL} pixels, or cut images into tiles"
            )
        long = float(((ratios > LONG) | (ratios < 1 / LONG)).mean())
        lines.append(
            f"{long:.0%} are more than twice as long as wide; half of them have height/width from "
            f"{np.quantile(ratios, 0.25):.2f} to {np.quantile(ratios, 0.75):.2f}"
        )
        lines += [self._anchors_mean(name, *found) for name, found in self.anchors.items()]
        return lines


def box_statistics(checked: Checked, options: ResizeOptions | None = None) -> BoxStatistics | None:
    """The statistics of all boxes with an area; None where there are none.

    Args:
        checked: the data set.
        options: how images are resized; as the configuration says unless given, or as is usual where there is none.
    """
    config = checked.data.config
    if options is None:
        options = DETECTION.resize if config is None else config.data.resize or treatment_of(image_task(config)).resize
    resize = Resize(options)
    sides: list[NDArray[np.float64]] = []
    originals: list[NDArray[np.float64]] = []
    for source, facts in zip(checked.data.sources, checked.facts, strict=True):
        columns = source.reader.columns
        if columns.boxes is None or not source.reader.boxes:
            continue
        assert columns.starts is not None
        scale = np.array([_scale(resize, fact.size) for fact in facts]).reshape(-1, 2)
        own = (columns.boxes[:, 2:] - columns.boxes[:, :2]).astype(np.float64)
        kept = source.reader.asked() & (own > 0).all(axis=1)
        if columns.crowds is not None:
            kept &= ~columns.crowds
        originals.append(own[kept])
        sides.append((own * np.repeat(scale, np.diff(columns.starts), axis=0))[kept])
    if not sides or not sum(map(len, sides)):
        return None
    all_sides = np.concatenate(sides)
    usual = [RetinaNetOptions(), FasterRCNNOptions()]
    heads: Sequence[HeadOptions] = usual if config is None else list(config.model.heads.values())
    found = {head.name: _anchors(head) for head in heads}
    anchors = {name: (own, _best_iou(all_sides, own)) for name, own in found.items() if own is not None}
    return BoxStatistics(_words(options), all_sides, np.concatenate(originals), anchors)


def _words(options: ResizeOptions) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.model_dump(exclude_none=True).items())


def _scale(resize: Resize, size: tuple[int, int] | None) -> tuple[float, float]:
    """Horizontal and vertical; images that cannot be read keep theirs."""
    if size is None:
        return 1.0, 1.0
    height, width = resize.size_for(size)
    return width / size[1], height / size[0]


def _anchors(head: HeadOptions) -> NDArray[np.float64] | None:
    """(A, 2) widths and heights of a head's anchors; None for a head without."""
    if isinstance(head, RetinaNetOptions):
        sizes: Sequence[Sequence[float]] = head.anchor_sizes or [
            [4.0 * 2**level * 2 ** (step / 3) for step in range(3)] for level in range(3, 8)
        ]
    elif isinstance(head, RCNNOptions):
        sizes = head.anchor_sizes or [[8.0 * 2**level] for level in range(2, 7)]
    else:
        return None
    flat = [size for level in sizes for size in level]
    shapes = [(size / np.sqrt(ratio), size * np.sqrt(ratio)) for size, ratio in product(flat, head.aspect_ratios)]
    return np.array(shapes)


def _best_iou(sides: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) the IoU with the best of the anchors, both centred on one point."""
    best = np.zeros(len(sides))
    areas = sides.prod(axis=1)
    for anchor in anchors:
        shared = np.minimum(sides, anchor).prod(axis=1)
        np.maximum(best, shared / (areas + anchor.prod() - shared), out=best)
    return best

"""COCO's rules of matching detections to objects, for all images at once.

pycocotools matches one image, class, range of areas and threshold at a time in Python. Only this much of it is
sequential: within an image and class, detections choose their object in the order of their scores. So here the first
detections of all images and classes choose at once, for every range and threshold, then the second ones, and so on;
and only pairs that overlap by the lowest threshold take part. The arithmetic is pycocotools', in its order, so that
metrics are equal to the last bit (https://github.com/cocodataset/cocoapi/blob/master/PythonAPI/pycocotools/cocoeval.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0, 1, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Pixels, both ends included."""


@dataclass
class Objects:
    """What there is to find.

    Attributes:
        group: (G,) the number of the class times the number of images, plus the number of the image.
        area: (G,) pixels.
        crowd: (G,) regions that any number of detections may match without being counted.
        ignored: (G,) objects that do not count; crowds are among them.
    """

    group: Ints
    area: Floats
    crowd: Bools
    ignored: Bools


@dataclass
class Detections:
    """What was found.

    Attributes:
        group: (D,) as of `Objects`.
        area: (D,) pixels.
        score: (D,).
        row: (D,) which of the results each is.
    """

    group: Ints
    area: Floats
    score: Floats
    row: Ints

    def best(self, most: int) -> Detections:
        """At most so many of every group, by group and then best first; among equal scores the first of the results."""
        order = np.lexsort((-self.score, self.group))
        order = order[rank_in(self.group[order]) < most]
        return Detections(self.group[order], self.area[order], self.score[order], self.row[order])


Overlap = Callable[[Ints, Ints], Floats]
"""Of pairs of (detection, object): (P,) and (P,) rows to (P,). Those of a detection stand together."""


def rank_in(group: Ints) -> Ints:
    """(N,) sorted numbers -> (N,) how many equal ones stand before each."""
    index = np.arange(len(group))
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return index - np.repeat(starts, np.diff(starts, append=len(group)))


@dataclass
class Matches:
    """Of every detection, by range of areas and threshold.

    Attributes:
        matched: (A, T, D).
        ignored: (A, T, D) matched to what does not count, or unmatched and of another size.
    """

    matched: Bools
    ignored: Bools


def match(objects: Objects, detections: Detections, overlap: Overlap, areas: Sequence[tuple[float, float]]) -> Matches:
    """Matches the detections that `Detections.best` gave.

    Args:
        objects: sorted by group.
        detections: sorted by group, best first.
        overlap: IoU or OKS.
        areas: the ranges, A of them.
    """
    low, high = np.array(areas).T[:, :, None]
    passed_over = objects.ignored | (objects.area < low) | (objects.area > high)  # (A, G)
    outside = (detections.area < low) | (detections.area > high)  # (A, D)
    shape = (len(areas), len(THRESHOLDS), len(detections.group))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)

    found, wanted = _pairs(objects.group, detections.group)
    overlaps = overlap(found, wanted)
    some = overlaps >= THRESHOLDS[0]
    found, wanted, overlaps = found[some], wanted[some], overlaps[some]
    # A detection's pairs from the worst to the best; of equally good objects the last one is taken.
    order = np.lexsort((wanted, overlaps, found))
    found, wanted, overlaps = found[order], wanted[order], overlaps[order]
    place = rank_in(found)
    # Objects that count come before all that do not.
    first_choice = len(found)
    key = np.where(passed_over[:, wanted], place, place + first_choice)  # (A, P)
    enough = overlaps >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]  # (T, P)

    starts = np.flatnonzero(place == 0)
    ends = np.append(starts[1:], len(found))
    turn = rank_in(detections.group[found[starts]])
    taken = np.zeros((len(areas), len(THRESHOLDS), len(objects.group)), bool)
    for now in _by_turn(turn):
        first, count = starts[now], ends[now] - starts[now]
        begin = np.cumsum(count) - count
        pairs = np.repeat(first - begin, count) + np.arange(count.sum())
        free = enough[:, pairs] & (~taken[:, :, wanted[pairs]] | objects.crowd[wanted[pairs]])
        choice = np.maximum.reduceat(np.where(free, key[:, None, pairs], -1), begin, axis=2)
        area, threshold, which = np.nonzero(choice >= 0)
        choice = choice[area, threshold, which]
        pair = first[which] + choice % first_choice
        taken[area, threshold, wanted[pair]] = True
        matched[area, threshold, found[pair]] = True
        ignored[area, threshold, found[pair]] = choice < first_choice
    return Matches(matched, ignored | (~matched & outside[:, None]))


def _pairs(objects: Ints, detections: Ints) -> tuple[Ints, Ints]:
    """Every detection with every object of its group, by detection."""
    first, end = (np.searchsorted(objects, detections, side) for side in ("left", "right"))
    count = end - first
    found = np.repeat(np.arange(len(detections)), count)
    wanted = np.arange(len(found)) - np.repeat(np.cumsum(count) - count - first, count)
    return found, wanted


def _by_turn(turn: Ints) -> list[Ints]:
    """The places of all 0s, of all 1s, and so on."""
    order = np.argsort(turn, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(turn[order])) + 1) if len(turn) else []


@dataclass
class Curves:
    """What the metrics are means of; -1 where a class has nothing to find.

    Attributes:
        precision: (A, T, R, K), at every recall, by class.
        recall: (M, A, T, K), with at most so many detections of an image and class.
    """

    precision: Floats
    recall: Floats


def curves(
    objects: Objects,
    detections: Detections,
    matches: Matches,
    classes: int,
    images: int,
    most: Sequence[int],
    areas: Sequence[tuple[float, float]],
) -> Curves:
    """Precision and recall of every class.

    Args:
        objects: as matched.
        detections: as matched.
        matches: of `match`.
        classes: K.
        images: how many there are in all.
        most: detections of an image and class that count, M numbers; the last is the largest.
        areas: as for `match`.
    """
    ranges, thresholds = len(areas), len(THRESHOLDS)
    precision = np.full((ranges, thresholds, len(RECALLS), classes), -1.0)
    recall = np.full((len(most), ranges, thresholds, classes), -1.0)
    rank = rank_in(detections.group)
    of_object = objects.group // max(images, 1)
    borders = np.searchsorted(detections.group // max(images, 1), np.arange(classes + 1))
    for number in range(classes):
        mine = slice(borders[number], borders[number + 1])
        # Among equal scores those of the first image come first.
        order = np.argsort(-detections.score[mine], kind="stable")
        ours = of_object == number
        for area, (low, high) in enumerate(areas):
            counts = ours & ~objects.ignored & (objects.area >= low) & (objects.area <= high)
            total = np.count_nonzero(counts)
            if total == 0:
                continue
            hit = matches.matched[area, :, mine]
            counted = ~matches.ignored[area, :, mine]
            right = hit & counted
            for place, limit in enumerate(most):
                recall[place, area, :, number] = np.count_nonzero(right & (rank[mine] < limit), axis=1) / total
            true = np.cumsum(right[:, order], axis=1).astype(float)
            false = np.cumsum((~hit & counted)[:, order], axis=1).astype(float)
            exact = true / (false + true + np.spacing(1))
            # The best precision at this recall or a higher one.
            exact = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]
            for threshold in range(thresholds):
                at = np.searchsorted(true[threshold] / total, RECALLS, side="left")
                reached = at < len(order)
                precision[area, threshold, :, number] = 0
                precision[area, threshold, reached, number] = exact[threshold, at[reached]]
    return Curves(precision, recall)

"""Images of the same thing are found; images of different things are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rehead.data.image_io import read_image
from rehead.datasets.near_duplicates import DISTANCE, fingerprint, near_duplicates


def scene(seed: int, height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    """Coloured blobs with some noise, as no two seeds have them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return (fingerprint(one) ^ fingerprint(other)).bit_count()


def jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)


CHANGES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "re-encoded": jpeg,
    "halved": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "enlarged": lambda image: cv2.resize(image, None, fx=1.6, fy=1.6),
    "stretched": lambda image: cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA),
    "grey": lambda image: cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None],
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_scene_is_near(change: str) -> None:
    assert max(distance(scene(seed), CHANGES[change](scene(seed))) for seed in range(20)) <= DISTANCE


def test_other_scenes_are_far() -> None:
    hashes = [fingerprint(scene(seed)) for seed in range(60)]
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > 2 * DISTANCE
    assert all(0 <= value < 2**64 for value in hashes)


def test_images_of_one_colour_are_told_apart_by_it() -> None:
    levels = [np.full((20, 30, 3), level, np.uint8) for level in range(256)]
    assert not near_duplicates([fingerprint(image) for image in levels])
    assert distance(levels[3], np.full((50, 60, 3), 3, np.uint8)) == 0
    red, blue = (np.full((8, 8, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    assert distance(red, blue) > DISTANCE


def test_faint_structure_counts() -> None:
    """A dark scan is not black."""
    faint = [scene(seed) // 16 for seed in range(20)]
    assert not near_duplicates([fingerprint(image) for image in faint])


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_any_number_of_channels(channels: int, kind: type) -> None:
    many = np.repeat(scene(1)[:, :, :1], channels, axis=2)
    assert distance(many.astype(kind), scene(1)[:, :, :1]) <= DISTANCE
    assert distance(many.astype(kind), scene(2)) > DISTANCE


def slowly(hashes: list[int], limit: int) -> list[list[int]]:
    """Connected groups, by comparing all with all."""
    waiting = list(range(len(hashes)))
    groups = []
    while waiting:
        own = [waiting.pop(0)]
        for one in own:
            near = [other for other in waiting if (hashes[one] ^ hashes[other]).bit_count() <= limit]
            own += near
            waiting = [other for other in waiting if other not in near]
        groups.append(sorted(own))
    return sorted(own for own in groups if len(own) > 1)


@settings(max_examples=100, deadline=None)
@given(
    centres=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
    flips=st.lists(st.tuples(st.integers(0, 4), st.sets(st.integers(0, 63), max_size=7)), max_size=40),
    limit=st.integers(0, 8),
)
def test_groups_are_what_comparing_all_with_all_gives(
    centres: list[int], flips: list[tuple[int, set[int]]], limit: int
) -> None:
    hashes = list(centres)
    for centre, bits in flips:
        hashes.append(centres[centre % len(centres)] ^ sum(1 << bit for bit in bits))
    assert near_duplicates(hashes, limit) == slowly(hashes, limit)


def test_many_hashes_and_many_equal_ones() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[50_000:60_000] = hashes[7]
    hashes[90_000] = hashes[11] ^ np.uint64(0b1011)
    groups = near_duplicates(hashes)
    assert groups == [[7, *range(50_000, 60_000)], [11, 90_000]]


def test_the_frames_of_a_camera_that_does_not_move() -> None:
    """All are near to all: hundreds of millions of pairs, of which few say anything new."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 2, dtype=np.uint64)[np.arange(40_000) % 2]
    for _ in range(3):
        hashes ^= np.uint64(1) << rng.integers(0, 64, len(hashes)).astype(np.uint64)
    began = time.process_time()
    assert near_duplicates(hashes) == [list(range(0, 40_000, 2)), list(range(1, 40_000, 2))]
    assert time.process_time() - began < 5  # 0.2, and a minute if every pair is looked at


def test_none_and_one() -> None:
    assert near_duplicates([]) == []
    assert near_duplicates([3]) == []


def of_folder(folder: Path) -> tuple[list[str], list[int]]:
    paths = sorted(folder.glob("*.jpg"))
    return [path.stem for path in paths], [fingerprint(read_image(path)) for path in paths]


def test_raccoons(shared: Path) -> None:
    names, hashes = of_folder(shared / "data/raccoon/images")
    found = {tuple(sorted(int(names[row][8:]) for row in own)) for own in near_duplicates(hashes)}
    # The same bytes; and by eye: 21 and 45, 50 with 52 and 74, and 51 with 85, which has a caption.
    assert found == {(83, 120), (11, 116), (65, 98), (50, 52, 74), (21, 45), (51, 85)}


def test_different_photographs_are_not_alike_but_frames_of_a_film_are(shared: Path) -> None:
    for folder in ("coco/val2017", "pennfudan/images"):
        assert not near_duplicates(of_folder(shared / "data" / folder)[1])
    names, hashes = of_folder(shared / "data/camvid/val")
    for own in near_duplicates(hashes):
        assert len({names[row].split("_")[0] for row in own}) == 1

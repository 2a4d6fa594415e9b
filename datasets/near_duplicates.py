"""Images that show the same thing: resized, re-encoded or copied, found by their perceptual hashes.

The hash is the one of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, as
https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html has it: which of the lowest
frequencies of the grey image lie above their median.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rehead.data.image_io import channels_in, decode_image
from rehead.errors import DataError

SIDE = 32
"""Pixels of the small image that the frequencies are taken from."""

BANDS = 8
"""Lowest frequencies per direction that make the hash."""

FLAT = 1.0
"""Standard deviation in grey levels of 0..255 up to which an image counts as of one colour."""

DISTANCE = 4
"""Bits in which the hashes of two images of the same thing may differ.

Measured on 687 photographs (COCO, raccoons, Penn-Fudan): JPEG of quality 50, half and 1.37 times the size, and
grey for colour change at most 4 bits. Of 90 million pairs of different photographs (ImageNet, ten classes)
five differ in 6 bits and none in fewer. Cutting off two per cent at two sides changes up to 12, and is not found.
"""

REDUCED_SIDE = 128
"""Pixels that the shorter side keeps: below, an eighth of the size changes up to 12 bits."""


def fingerprint(image: NDArray[Any]) -> int:
    """A perceptual hash.

    An image of one colour has no frequencies: its hash is made of the colour in whole levels, so that all black
    ones are alike, and black is not like white.

    Args:
        image: (H, W, C), uint8 or float32, whose range does not matter. Three channels are RGB; of others the mean
            counts.

    Returns:
        64 bits, of which images of the same thing share all but a few (`DISTANCE`).
    """
    if image.shape[2] == 3 and image.dtype == np.uint8:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    else:
        grey = image.mean(axis=2, dtype=np.float32)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    levels = 1.0
    if image.dtype != np.uint8:
        # Of what there is, as many levels as of 8 bits.
        levels = 255 / max(float(np.abs(small).max()), 1e-30)
        small *= np.float32(levels)
    if float(small.std()) <= FLAT:
        means = image.mean(axis=(0, 1), dtype=np.float64).tolist()
        colour = [round(mean) if levels == 1 else float(f"{mean:.2g}") for mean in means]
        return int.from_bytes(hashlib.blake2b(repr(colour).encode(), digest_size=8).digest())
    # The lowest of all is the mean, which says how bright the image is, not what it shows.
    frequencies = cv2.dct(small)[:BANDS, :BANDS].ravel()[1:]
    bits = np.packbits(np.concatenate([[False], frequencies > np.median(frequencies)]))
    return int.from_bytes(bits.tobytes())


def fingerprint_of(path: Path) -> int | None:
    """The perceptual hash of an image file; None for one that is not there or cannot be read.

    A JPEG is decoded at a half, a quarter or an eighth of its size, as long as its shorter side keeps
    `REDUCED_SIDE` pixels, which costs half as much and changes 2 bits at most.
    """
    try:
        # All bands, and numbers as they are: what is near in them is, whatever becomes of them.
        found = decode_image(path, channels_in(path), shrink=lambda size: min(size) / REDUCED_SIDE, scale=255)
    except DataError:
        return None
    return fingerprint(found.image)


def near_duplicates(fingerprints: ArrayLike, distance: int = DISTANCE) -> list[list[int]]:
    """Groups of images of the same thing: each is near to another of its group, not necessarily to all.

    Args:
        fingerprints: (N,) uint64, by image.
        distance: bits in which two neighbours differ at most, below 64.

    Returns:
        Rows of the images by group, rising; groups of two and more, by their first image.
    """
    hashes, group = np.unique(np.asarray(fingerprints, np.uint64), return_inverse=True)
    groups: dict[int, list[int]] = defaultdict(list)
    for image, number in enumerate(_connected(hashes, distance)[group].tolist()):
        groups[number].append(image)
    return sorted(own for own in groups.values() if len(own) > 1)


def _connected(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """(N,) the lowest row of the group that each of N different hashes is in.

    Of `distance + 1` pieces of two near hashes at least one is the same, so only hashes that share a piece are
    compared (Norouzi et al., "Fast Search in Hamming Space with Multi-Index Hashing", 2012). The thousand frames of
    a camera that does not move share their pieces, but are one group soon, within which nothing is left to be found.
    """
    lowest = np.arange(len(hashes))
    for piece in np.array_split(np.arange(64, dtype=np.uint64), distance + 1):
        mask = np.bitwise_or.reduce(np.uint64(1) << piece)
        order = np.argsort(hashes & mask, kind="stable")
        ordered = hashes[order]
        starts = np.flatnonzero(np.diff(ordered & mask, prepend=~ordered[:1] & mask))
        sharing = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
        rows = np.arange(len(order) - 1)
        step = 1
        while len(rows):
            both = ordered[rows] ^ ordered[rows + step]
            shared = both & mask == 0
            near = rows[shared & (np.bitwise_count(both) <= distance)]
            lowest = _joined(lowest, order[near], order[near + step])
            rows = rows[shared & (rows + step + 1 < len(order))]
            if step.bit_count() == 1:
                own = lowest[order]
                several = np.minimum.reduceat(own, starts) < np.maximum.reduceat(own, starts)
                rows = rows[several[sharing[rows]]]
            step += 1
    return lowest


def _joined(lowest: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest row of every group, after pairs of rows have been found to be of one."""
    while True:
        one, other = lowest[first], lowest[second]
        apart = one != other
        if not apart.any():
            return lowest
        first, second = first[apart], second[apart]
        np.minimum.at(lowest, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while not np.array_equal(lowest, above := lowest[lowest]):
            lowest = above

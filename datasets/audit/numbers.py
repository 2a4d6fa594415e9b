"""The numbers in image files: their range beyond 8 bits, and mean and standard deviation for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rehead.data.image_io import decode_image
from rehead.data.reader import Reader
from rehead.errors import DataError
from rehead.progress import Progress
from rehead.terminal import say

SOME = 254
"""Numbers of an image, besides its least and its most, that percentiles are measured on."""

SHARES = (0.01, 0.5, 0.99)

DARK, BRIGHT = 0.25, 1.05
"""Shares of full brightness that 99% of all numbers should not stay below, or reach beyond."""


@dataclass(frozen=True)
class Numbers:
    """What is in image files beyond 8 bits, as it is stored.

    Attributes:
        least: of all.
        percentiles: at `SHARES`, over an equal number of numbers from every image.
        most: of all.
        white: the number that becomes 255.
    """

    least: float
    percentiles: tuple[float, ...]
    most: float
    white: float

    @property
    def fits(self) -> bool:
        """Whether the numbers fill what becomes 0 to 255."""
        return DARK * self.white <= self.percentiles[-1] <= BRIGHT * self.white

    @property
    def proposal(self) -> float:
        """A `data.scale`: two digits, from the number that 99% are below."""
        top = max(self.percentiles[-1], 0.0) or self.most
        if top <= 0:
            return 1.0
        digit = 10.0 ** (np.floor(np.log10(top)) - 1)
        return float(f"{np.ceil(top / digit - 1e-9) * digit:.6g}")

    def __str__(self) -> str:
        shown = ", ".join(
            f"{share:.0%} below {_short(value)}" for share, value in zip(SHARES, self.percentiles, strict=True)
        )
        return f"{_short(self.least)} to {_short(self.most)} ({shown}), where {_short(self.white)} becomes 255"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def some_numbers(image: NDArray[Any]) -> tuple[float, ...]:
    """The least, `SOME` from all over the image, and the most."""
    flat = image.ravel()
    # Not every n-th: that could be the same band of every pixel.
    chosen = flat[np.random.default_rng(0).integers(0, len(flat), SOME)]
    return (float(flat.min()), *chosen.tolist(), float(flat.max()))


def numbers_of(measured: Sequence[tuple[float, ...]], white: float) -> Numbers | None:
    """The range of all images beyond 8 bits.

    Args:
        measured: `some_numbers` of each; empty for those of 8 bits.
        white: the number that becomes 255.
    """
    deep = [one for one in measured if one]
    if not deep:
        return None
    every = np.array(deep)
    percentiles = tuple(np.quantile(every[:, 1:-1], SHARES).tolist())
    return Numbers(float(every[:, 0].min()), percentiles, float(every[:, -1].max()), white)


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation of every channel, for pixels in 0..1 as the backbone's `mean` and `std` are.

    Attributes:
        images: how many were read.
        mean: (C,).
        std: (C,).
        scale: the number that becomes 1; None where all files have 8 bits, or nothing else needs to be said.
        numbers: of the files; None where all have 8 bits.
    """

    images: int
    mean: list[float]
    std: list[float]
    scale: float | None
    numbers: Numbers | None


def channel_statistics(reader: Reader, channels: int, scale: float | None, limit: int) -> ChannelStatistics:
    """Measures the images of a split, every pixel of them counting the same.

    Args:
        reader: of the split.
        channels: to read them with.
        scale: the number in the files that becomes 255. Unless given, one is proposed where 16 bits are not used, or
            the files do not say what is bright.
        limit: how many images are read, evenly from the whole split.

    Raises:
        DataError: where no image can be read, or some have 8 bits and others more, which no one scale fits.
    """
    rows = np.unique(np.linspace(0, len(reader) - 1, min(limit, len(reader))).round().astype(int)).tolist()
    count = 0
    mean, squares = np.zeros(channels), np.zeros(channels)
    measured: list[tuple[float, ...]] = []
    tops: dict[int | None, Path] = {}
    problems: list[str] = []
    with Progress("measuring images", len(rows)) as bar:
        for row in rows:
            bar.advance()
            sample = reader[row]
            try:
                # 255: the numbers as they are in the file.
                found = decode_image(sample.path, channels, sample.size, scale=255)
            except DataError as error:
                problems.append(str(error))
                continue
            tops.setdefault(found.top, sample.path)
            measured.append(some_numbers(found.image) if found.image.dtype == np.float32 else ())
            pixels = found.image.reshape(-1, channels).astype(np.float64)
            # Chan et al., "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
            own, new = pixels.mean(axis=0), len(pixels)
            squares += ((pixels - own) ** 2).sum(axis=0) + (own - mean) ** 2 * (count * new / (count + new))
            mean += (own - mean) * (new / (count + new))
            count += new
    if not count:
        raise DataError(f"none of {len(rows)} images could be read, the first: {problems[0]}")
    for problem in problems:
        say(f"skipped: {problem}")
    if len(tops) > 1 and scale is None:
        kinds = ", ".join(f"{path} ({'no' if top is None else top})" for top, path in tops.items())
        raise DataError(f"images of several kinds, by the number that is full brightness: {kinds}; give data.scale")
    natural = next(iter(tops))
    numbers = numbers_of(measured, scale or natural or 255)
    if scale is None and numbers is not None and (natural is None or not numbers.fits):
        scale = numbers.proposal
    white = scale or natural or 255
    std = np.sqrt(squares / count)
    return ChannelStatistics(len(measured), (mean / white).tolist(), (std / white).tolist(), scale, numbers)

"""Every image and every mask, decoded once, on all cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from rehead.data.image_io import decode_image, decoding, head_of
from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.numbers import some_numbers
from rehead.datasets.mask_values import NUMBERED, opened_mask, pack
from rehead.datasets.near_duplicates import fingerprint
from rehead.datasets.parsing import reason
from rehead.errors import DataError, listed
from rehead.interrupts import hear_no_stops, stops_wait
from rehead.progress import Progress
from rehead.reading import open_file

FEW = 32
"""Images up to which one thread is enough."""

MOST_THREADS = 4
"""Beyond, they would wait for the interpreter, which each needs for a sixth of its time; processes do not."""

CHUNK = 16
"""Images that a process takes at once."""

MANY_VALUES = 4096
"""Values of one mask beyond which they are no classes, and not worth carrying to another process."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Job:
    """One image to look at.

    Attributes:
        path: of the image.
        size: (height, width) that its annotation says, if it does.
        channels: that are wanted.
        mask: of its class map.
        colours: whether classes are colours there.
        scale: the number in the file that becomes 255.
        white: what the 1 of a mask of one bit stands for.
    """

    path: Path
    size: Size | None = None
    channels: int = 3
    mask: Path | None = None
    colours: bool = False
    scale: float | None = None
    white: int = 1


@dataclass
class Facts:
    """What an image file is like. Sizes are (height, width) in pixels.

    Attributes:
        size: as training reads it; None where it cannot.
        stored: before EXIF turns it.
        orientation: EXIF's, 1 for upright.
        kinds: codes of what its pixels are, such as `grey`.
        fingerprint: see `near_duplicates`.
        numbers: of files beyond 8 bits: the least, some between, and the most, as they are in the file.
        white: the number in the file that became 255.
        problem: why it cannot be read.
        mask_size: of its class map.
        mask_problem: why that cannot be read.
        values: pixels by value (or packed colour) of the class map.
    """

    size: Size | None = None
    stored: Size | None = None
    orientation: int = 1
    kinds: tuple[str, ...] = ()
    fingerprint: int = 0
    numbers: tuple[float, ...] = ()
    white: float = 255
    problem: str = ""
    mask_size: Size | None = None
    mask_problem: str = ""
    values: dict[int, int] = field(default_factory=dict)


def examine_all(jobs: list[Job], workers: int | None = None) -> list[Facts]:
    """Looks at every image.

    Decoding lets other threads go on. Processes, which do not share an interpreter, need a second each to start.

    Args:
        jobs: one per image.
        workers: threads, or processes where they are many; one per core unless given, and none for few images.
    """
    if workers is None:
        workers = 0 if len(jobs) <= FEW else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
    with Progress("reading images", len(jobs)) as bar:
        if workers < 2:
            return list(_watched(map(examine, jobs), bar))
        if workers <= MOST_THREADS:
            before = cv2.getNumThreads()
            # There are as many threads as cores already.
            cv2.setNumThreads(1)
            try:
                with ThreadPoolExecutor(workers) as threads:
                    return list(_watched(threads.map(examine, jobs), bar))
            finally:
                cv2.setNumThreads(before)
        # Not forked: a process that has threads, as one that has imported torch, may hang in its copies.
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(workers, context, initializer=_start_worker) as pool:
                with stops_wait():
                    found = pool.map(examine, jobs, chunksize=CHUNK)
                return list(_watched(found, bar))
        except BrokenProcessPool as error:
            raise DataError(
                f"one of {workers} processes that read images was ended from outside, as the system does where memory "
                "is not enough. Make room and check again, or keep to fewer cores (taskset -c 0 rehead data check ...)"
            ) from error


def _start_worker() -> None:
    hear_no_stops()
    cv2.setNumThreads(1)


def _watched(found: Iterable[Facts], bar: Progress) -> Iterable[Facts]:
    for one in found:
        bar.advance()
        yield one


def examine(job: Job) -> Facts:
    """Looks at one image, reading it as training does."""
    facts = Facts()
    if job.mask is not None:
        _examine_mask(job.mask, job.colours, job.white, facts)
    try:
        # As the readers have it: the size of the annotation or of the mask says which way up the image is.
        found = decode_image(job.path, job.channels, job.size or facts.mask_size, scale=job.scale)
    except DataError as error:
        facts.problem = reason(error, job.path)
    else:
        image = found.image
        facts.size = image.shape[:2]
        facts.white = job.scale or found.top or 255
        if image.dtype == np.float32:
            facts.numbers = some_numbers(image * np.float32(facts.white / 255))
        facts.fingerprint = fingerprint(image)
        if job.path.suffix.lower() != ".npy":
            _look_at_file(job.path, image.dtype == np.float32, facts)
    return facts


def _look_at_file(path: Path, deep: bool, facts: Facts) -> None:
    """What the head of a file says."""
    head = head_of(path)
    facts.stored, facts.orientation = head.stored, head.orientation
    kinds: list[str] = []
    # Of some TIFFs Pillow does not know what to think, and nothing here needs it to.
    with suppress(DataError), decoding(path), open_file(path) as file, Image.open(file) as image:
        kinds = [_KINDS[image.mode]] if image.mode in _KINDS else []
        if image.mode == "P" and "transparency" in image.info:
            kinds.append("alpha")
        if getattr(image, "n_frames", 1) > 1 and head.kind not in ("JPEG", "TIFF"):
            kinds.append("animated")
    if deep and "16_bit" not in kinds:
        kinds.append("16_bit")
    facts.kinds = tuple(kinds)


_KINDS = {
    "1": "grey",
    "L": "grey",
    "LA": "alpha",
    "PA": "alpha",
    "RGBA": "alpha",
    "P": "palette",
    "CMYK": "cmyk",
    "YCCK": "cmyk",
    "I;16": "16_bit",
    "I;16B": "16_bit",
    "I": "16_bit",
}
"""By Pillow's mode, what is worth saying."""


def _examine_mask(path: Path, colours: bool, white: int, facts: Facts) -> None:
    try:
        mask = opened_mask(path)
    except DataError as error:
        facts.mask_problem = reason(error, path)
        return
    facts.mask_size = mask.height, mask.width
    if colours:
        array = pack(np.asarray(mask.convert("RGB")))
    elif mask.mode in NUMBERED:
        array = np.asarray(mask).astype(np.int64) * (white if mask.mode == "1" else 1)
    else:
        facts.mask_problem = f"the mask is in colour ({mask.mode}); it must hold one number per pixel"
        return
    values, counts = np.unique(array, return_counts=True)
    if len(values) > MANY_VALUES:
        facts.mask_problem = f"{len(values)} different values, which can be no classes"
        return
    facts.values = dict(zip(values.tolist(), counts.tolist(), strict=True))


def report_images(jobs: list[Job], facts: list[Facts], split_of: list[str], findings: Findings) -> None:
    """Notes what is wrong with image files.

    Args:
        jobs: one per image.
        facts: of each.
        split_of: each one's split, for messages.
        findings: take the notes.
    """
    for job, one, split in zip(jobs, facts, split_of, strict=True):
        if one.problem:
            findings("unreadable_image", job.path, one.problem)
            continue
        for kind in one.kinds:
            # Grey and alpha are as wanted where they are asked for.
            if not (kind == "grey" and job.channels == 1) and not (kind == "alpha" and job.channels == 4):
                findings(kind, job.path, CODE_MESSAGES[kind])
        if one.orientation > 1 and one.stored is not None and one.size is not None:
            _report_exif(job, one, findings)
        if job.size is not None and one.size is not None and one.size != job.size:
            findings("size_mismatch", job.path, f"the image is {by(one.size)}, its annotation ({split}) {by(job.size)}")


CODE_MESSAGES = {
    "grey": "one channel",
    "alpha": "has an alpha channel",
    "palette": "colours from a palette",
    "cmyk": "cyan, magenta, yellow and black",
    "16_bit": "16 bits per channel, or floating point",
    "animated": "several frames",
}


def _report_exif(job: Job, facts: Facts, findings: Findings) -> None:
    assert facts.stored is not None
    assert facts.size is not None
    turned = facts.stored[::-1] if facts.orientation >= 5 else facts.stored
    said = f"orientation {facts.orientation}"
    annotated = job.size or facts.mask_size
    if annotated is None:
        findings("exif_rotation", job.path, f"{said}: turned upright, to {by(facts.size)}")
    elif turned == facts.stored:
        findings("exif_ambiguous", job.path, f"{said}, {by(facts.stored)} both before and after; turned upright")
    elif annotated == facts.stored:
        findings("exif_rotation", job.path, f"{said}, but annotated as stored ({by(facts.stored)}): not turned")
    else:
        findings("exif_rotation", job.path, f"{said}: turned upright, to {by(facts.size)}")


def by(size: Size) -> str:
    """`640x480`, width first."""
    return f"{size[1]}x{size[0]}"


def report_masks(jobs: list[Job], facts: list[Facts], known: dict[int, int] | None, findings: Findings) -> None:
    """Notes what is wrong with class maps.

    Args:
        jobs: one per image.
        facts: of each.
        known: what values mean; None where any may occur.
        findings: take the notes.
    """
    for job, one in zip(jobs, facts, strict=True):
        if job.mask is None:
            continue
        if one.mask_problem:
            findings("unreadable_mask", job.mask, one.mask_problem)
            continue
        if one.size is not None and one.mask_size is not None and one.mask_size != one.size:
            said = f"the mask is {by(one.mask_size)}, its image {job.path} {by(one.size)}"
            findings("mask_size", job.mask, said)
        unknown = [value for value in one.values if known is not None and value not in known]
        if job.mask.suffix.lower() in {".jpg", ".jpeg"} and (unknown or len(one.values) > 32):
            findings("lossy_mask", job.mask, f"{len(one.values)} values; JPEG does not keep them: save masks as PNG")
        elif unknown:
            pixels = sum(one.values[value] for value in unknown)
            share = pixels / max(1, sum(one.values.values()))
            shown = [_colour(value) for value in unknown] if job.colours else unknown
            findings("mask_values", job.mask, f"{listed(shown)}: no class ({share:.2%} of the pixels)", share)


def _colour(value: int) -> list[int]:
    return [value >> 16, value >> 8 & 255, value & 255]

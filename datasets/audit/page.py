"""What a check has found, as a page with a thumbnail of the worst of each kind."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rehead.data.image_io import SUFFIXES, decode_image
from rehead.datasets.audit.findings import CODES, SEVERITIES, Finding, inside, plural
from rehead.datasets.audit.run import Checked
from rehead.datasets.audit.statistics import BoxStatistics
from rehead.errors import DataError
from rehead.pages import Group, Histogram, Page, Picture, Section, Table
from rehead.reading import is_file

EXAMPLES = 6
"""Of each kind of finding."""

SIDE = 176
"""Pixels of a thumbnail's longer side."""

BUDGET = 3_000_000
"""Bytes of base64 that all thumbnails of a page may have together."""

CLASSES_SHOWN = 60
"""The most frequent ones."""

MARK = (255, 40, 40)


def page_of(checked: Checked, root: str, boxes: BoxStatistics | None, unit: str) -> Page:
    """The report of a check.

    Args:
        checked: what it has seen.
        root: the folder that all files are in, which they are shown without.
        boxes: their statistics, where there are any.
        unit: what is counted of the classes, such as `objects`.
    """
    findings = checked.findings
    totals = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    splits = ", ".join(f"{len(one.reader):,} images in {one.split}" for one in checked.data.sources)
    counted = ", ".join(plural(count, severity) for severity, count in totals.items())
    page = Page(f"Check of {root or 'the data'}", [f"{checked.data.format}: {splits or 'no images'}.", f"{counted}."])
    thumbnails = _Thumbnails(checked)
    titles = {"error": "Errors", "warning": "Warnings", "advice": "Good to know"}
    for severity in SEVERITIES:
        groups = [
            _group(code, own, thumbnails, root)
            for code, own in findings.grouped().items()
            if CODES[code].severity == severity
        ]
        if groups:
            page.sections.append(Section(titles[severity], groups=groups))
    if checked.counts:
        page.sections.append(_classes(checked, unit))
    if boxes is not None:
        page.sections.append(_boxes(boxes))
    if thumbnails.left_out:
        page.summary = [
            *page.summary,
            f"{thumbnails.left_out} examples are without their picture, which would make this page too large.",
        ]
    return page


def _group(code: str, found: Sequence[Finding], thumbnails: _Thumbnails, root: str) -> Group:
    kind = CODES[code]
    # Sorting keeps the order of those that are equally bad.
    worst = sorted(found, key=lambda one: -one.badness)[:EXAMPLES]
    lines = [f"{code}: {len(found):,}" + (f", of which {len(worst)} are shown" if len(worst) < len(found) else "")]
    lines += [f"--fix: {kind.repair}"] if kind.repair else []
    pictures = [Picture(inside(root, f"{one.file}: {one.message}"), thumbnails(one)) for one in worst]
    return Group(kind.meaning, kind.severity, lines, pictures)


class _Thumbnails:
    """Thumbnails in base64, until there are too many bytes of them."""

    def __init__(self, checked: Checked) -> None:
        self.channels = checked.data.channels
        self.left = BUDGET
        self.left_out = 0
        self.masks = {
            str(reader.mask_folder / reader.columns.masks[row])
            for reader in (one.reader for one in checked.data.sources)
            if reader.columns.masks is not None
            for row in range(len(reader))
        }
        # The annotation's size says which way up its boxes are.
        self.sizes = {
            str(sample.path): sample.size
            for one in checked.data.sources
            if one.reader.columns.boxes is not None
            for sample in map(one.reader.__getitem__, range(len(one.reader)))
        }

    def __call__(self, finding: Finding) -> str:
        """Of the image of a finding; empty where there is none, or none that can be read."""
        path = Path(finding.file)
        if path.suffix.lower() not in SUFFIXES or not is_file(path):
            return ""
        if self.left <= 0:
            self.left_out += 1
            return ""
        try:
            pixels = decode_image(path, self.channels, self.sizes.get(finding.file)).image
        except DataError:
            return ""
        encoded = _jpeg(pixels, finding.box, stretch=pixels.dtype != np.uint8 or finding.file in self.masks)
        self.left -= len(encoded)
        return encoded


def _jpeg(pixels: NDArray[Any], box: tuple[float, float, float, float] | None, *, stretch: bool) -> str:
    """A small JPEG in base64, with a box marked where there is one.

    Args:
        pixels: (H, W, C), RGB where there are three channels or more.
        box: xyxy, in pixels.
        stretch: make the least black and the most white, as of class maps, whose numbers are all dark.
    """
    colours = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    height, width = colours.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(np.ascontiguousarray(colours), size, interpolation=cv2.INTER_AREA)
    if stretch:
        small = small.astype(np.float64)
        small = (small - small.min()) / max(float(small.max() - small.min()), 1e-9) * 255
    small = np.ascontiguousarray(small.astype(np.uint8))
    if box is not None:
        edges = np.clip(np.nan_to_num(np.array(box) * scale), -10, 2 * SIDE).round().astype(int).tolist()
        x1, y1, x2, y2 = edges
        cv2.rectangle(small, (x1, y1), (max(x1, x2 - 1), max(y1, y2 - 1)), MARK, 1)
    done, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    return base64.b64encode(jpeg.tobytes()).decode() if done else ""


def _classes(checked: Checked, unit: str) -> Section:
    counts = checked.counts
    splits = list(dict.fromkeys(split for own in counts.values() for split in own))
    names = sorted(counts, key=lambda name: -sum(counts[name].values()))
    shown = names[:CLASSES_SHOWN]
    most = max(1, *(sum(counts[name].values()) for name in names))
    rows = [[name, *(f"{counts[name].get(split, 0):,}" for split in splits)] for name in shown]
    bars = [sum(counts[name].values()) / most for name in shown]
    lines = [f"The {len(shown)} most frequent of {len(names)}."] if len(shown) < len(names) else []
    return Section(f"Classes ({unit})", lines, [Table(["class", *splits], rows, bars)])


def _boxes(boxes: BoxStatistics) -> Section:
    sizes = _histogram(
        "Box sizes, resized: square root of the area, in pixels", boxes.roots, [4, 16, 32, 96, 256, 1024]
    )
    ratios = _histogram("Height / width of boxes", boxes.ratios, [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])
    return Section("Boxes", boxes.meaning(), histograms=[sizes, ratios])


def _histogram(title: str, values: NDArray[np.float64], ticks: Sequence[float]) -> Histogram:
    """On a logarithmic axis from the first tick to the last; what lies beyond is in the outermost bars."""
    edges = np.geomspace(ticks[0], ticks[-1], 33)
    counts, _ = np.histogram(np.clip(values, ticks[0], ticks[-1]), edges)
    whole = np.log(ticks[-1] / ticks[0])
    # The outermost labels stay inside the picture.
    places = np.clip([float(np.log(tick / ticks[0]) / whole) for tick in ticks], 0.02, 0.98).tolist()
    labels = [f"{tick:g}" if tick >= 1 else f"1/{1 / tick:g}" for tick in ticks]
    return Histogram(title, (counts / max(1, counts.max())).tolist(), list(zip(places, labels, strict=True)))

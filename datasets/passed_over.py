"""Files that lie where images are looked for, and are not read: counted and named, never left out in silence."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from rehead.data.image_io import SUFFIXES
from rehead.datasets.file_names import all_files
from rehead.errors import DataError, listed
from rehead.reading import open_file

logger = logging.getLogger("rehead")

BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
    b"BM": "BMP",
}
"""How files of images begin."""

NO_IMAGES = frozenset(
    {".txt", ".xml", ".json", ".csv", ".yaml", ".yml", ".md", ".html", ".cache", ".db", ".ini", ".py"}
)
"""What lies beside images for good reasons, and is not opened to see whether it is one."""

PICTURES = frozenset({".jp2", ".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".dng"})
"""Suffixes of pictures that are not read, whatever the file begins with."""


def passed_over(folder: Path, *, everything: bool = False) -> dict[str, str]:
    """Files of a folder, at any depth, that are no images by their suffix.

    Args:
        folder: of images.
        everything: all such files; else those alone that are pictures all the same.

    Returns:
        By relative name, why the file is not read.
    """
    found = {}
    for name in all_files(folder):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            continue
        kind = "" if suffix in NO_IMAGES else _kind(folder / name)
        if kind and f".{kind.lower()}" not in SUFFIXES:
            found[name] = f"{kind} is not read; convert it to PNG or JPEG"
        elif kind:
            found[name] = f"holds a {kind}, but its suffix is {suffix or 'missing'}; rename it"
        elif suffix in PICTURES:
            found[name] = f"{suffix} is not read; convert it to PNG or JPEG"
        elif everything:
            found[name] = f"no image by its suffix, {suffix or 'which is missing'}"
    return found


def _kind(path: Path) -> str:
    """What a file is by its first bytes; empty for no picture."""
    try:
        with open_file(path) as file:
            begin = file.read(12)
    except (DataError, OSError):
        return ""
    return next((kind for start, kind in BEGINNINGS.items() if begin.startswith(start)), "")


def say_passed_over(folder: Path, files: Mapping[str, str] | Collection[str], what: str = "files are not read") -> None:
    """One line for all of them: how many of which suffix, and the first names."""
    if not files:
        return
    by_suffix: dict[str, list[str]] = defaultdict(list)
    for name in files:
        by_suffix[os.path.splitext(name)[1].lower() or "without suffix"].append(name)
    groups = sorted(by_suffix.items(), key=lambda item: -len(item[1]))
    said = "; ".join(f"{len(names)} {suffix} ({listed(names)})" for suffix, names in groups)
    logger.warning("%s: %d %s: %s", folder, len(files), what, said)

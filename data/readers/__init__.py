"""Readers of data sets: one file per format, all giving the same `Sample`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rehead.configs.readers import READERS
from rehead.data.readers.base import MissingPathError, Reader
from rehead.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from rehead.configs.schema import DataOptions

__all__ = ["Reader", "open_reader"]

SPLITS = ("train", "val", "test")


def open_reader(data: DataOptions, split: str, classes: Sequence[str] | None = None) -> Reader:
    """Opens one split of the configured data.

    Args:
        data: the configuration's `data`.
        split: `train`, `val` or `test`.
        classes: names in order, such as a checkpoint's; `data.classes` unless given.

    Raises:
        DataError: naming the key (`data.val.images`) and the full path, when the split is not configured,
            something is not there, or the files are not what the format says.
    """
    if split not in SPLITS:
        raise DataError(f"data has no split '{split}'{did_you_mean(split, SPLITS)}; splits: {', '.join(SPLITS)}")
    options = getattr(data, split)
    if options is None:
        given = [name for name in SPLITS if getattr(data, name) is not None]
        there = f"; the configuration has {' and '.join(given)}" if given else ""
        raise DataError(f"data.{split}: missing{there}; add data.{split} with images (and annotations or masks)")
    if data.format is None:
        raise DataError(f"data.format: missing; one of {', '.join(entry.name for entry in READERS)}")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise DataError(f"data.root: no folder {root.absolute()}")
    build = READERS.get(data.format).load()
    try:
        reader: Reader = build(options, root, classes if classes is not None else data.classes, data.ignore_index)
    except MissingPathError as error:
        raise DataError(f"data.{split}.{error}") from error
    return reader

"""Readers of data sets: one file per format, all giving the same `Sample`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rehead.configs.heads import MULTI_LABEL, task_of
from rehead.configs.readers import READERS
from rehead.data.readers.base import MissingPathError, Reader
from rehead.data.readers.joined import JoinedReader
from rehead.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from rehead.configs.schema import Config, SourceOptions

__all__ = ["JoinedReader", "Reader", "open_data", "open_reader"]

SPLITS = ("train", "val", "test")


def open_data(config: Config, split: str, classes: Mapping[str, Sequence[str]] | None = None) -> Reader:
    """Opens one split for every head of a configuration.

    Args:
        config: where each head's data are, and which classes it was asked to tell apart.
        split: `train`, `val` or `test`.
        classes: by head, names in order, such as a checkpoint's; the configuration's unless given.

    Returns:
        One reader, and a `JoinedReader` where the heads have several sources.

    Raises:
        DataError: as `open_reader`, and where two heads would learn from two different kinds of the same thing.
    """
    opened: dict[tuple[str, tuple[str, ...] | None], Reader] = {}
    by_head: dict[str, Reader] = {}
    tasks: dict[str, str] = {}
    for key, head in config.model.heads.items():
        own = key in config.data.sources
        source = config.data.sources[key] if own else config.data
        wanted = classes[key] if classes is not None else head.classes or source.classes
        which = (key if own else "", None if wanted is None else tuple(wanted))
        if which not in opened:
            opened[which] = open_reader(source, split, wanted, f"data.sources.{key}" if own else "data")
        by_head[key] = opened[which]
        tasks[key] = task_of(head)
    # Asked of every reader, since only one of a joined pair may have masks or the label at all.
    for reader in opened.values():
        served = {tasks[key] for key, own in by_head.items() if own is reader}
        reader.masks = "instance_segmentation" in served
        reader.boxes = served != {MULTI_LABEL}
        reader.presence = MULTI_LABEL in served
    return next(iter(opened.values())) if len(opened) == 1 else JoinedReader(by_head)


def open_reader(data: SourceOptions, split: str, classes: Sequence[str] | None = None, where: str = "data") -> Reader:
    """Opens one split of one source of data.

    Args:
        data: where its files are.
        split: `train`, `val` or `test`.
        classes: names in order, such as a checkpoint's; the source's own unless given.
        where: the source's key in the configuration, for messages.

    Raises:
        DataError: naming the key (`data.val.images`) and the full path, when the split is not configured,
            something is not there, or the files are not what the format says.
    """
    if split not in SPLITS:
        raise DataError(f"{where} has no split '{split}'{did_you_mean(split, SPLITS)}; splits: {', '.join(SPLITS)}")
    options = getattr(data, split)
    if options is None:
        given = [name for name in SPLITS if getattr(data, name) is not None]
        there = f"; the configuration has {' and '.join(given)}" if given else ""
        raise DataError(f"{where}.{split}: missing{there}; add {where}.{split} with images (and annotations or masks)")
    if data.format is None:
        raise DataError(f"{where}.format: missing; one of {', '.join(entry.name for entry in READERS)}")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise DataError(f"{where}.root: no folder {root.absolute()}")
    build = READERS.get(data.format).load()
    try:
        reader: Reader = build(options, root, classes if classes is not None else data.classes, data.ignore_index)
    except MissingPathError as error:
        raise DataError(f"{where}.{split}.{error}") from error
    return reader

"""Readers of data sets: one file per format, all giving the same `Sample`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rehead.configs.heads import task_of
from rehead.configs.readers import READERS, SPLITS, FromTrainSplit
from rehead.configs.schema import DataOptions, SourceOptions
from rehead.configs.tasks import TASKS, standard_task
from rehead.data.reader import Reader
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.joined import JoinedReader
from rehead.datasets.missing import match_names
from rehead.datasets.parsing import MissingPathError, Report, refuse
from rehead.datasets.subset import Subset, part
from rehead.errors import DataError, did_you_mean
from rehead.reading import folder_named, is_folder

if TYPE_CHECKING:
    from rehead.configs.schema import Config

__all__ = ["JoinedReader", "Reader", "Subset", "open_data", "open_reader"]


def open_data(
    config: Config,
    split: str,
    classes: Mapping[str, Sequence[str]] | None = None,
    optional: Mapping[str, Collection[str] | None] | None = None,
) -> Reader:
    """Opens one split for every head of a configuration.

    Args:
        config: where each head's data are, and which classes it was asked to tell apart.
        split: `train`, `val` or `test`.
        classes: by head, names in order, such as a checkpoint's; the configuration's unless given.
        optional: by head, as in `open_reader`; no class is, unless given.

    Returns:
        One reader, and a `JoinedReader` where the heads have several sources.

    Raises:
        DataError: as `open_reader`, and where two heads would learn from two different kinds of the same thing.
    """
    opened: dict[tuple[str, str, tuple[str, ...] | None], Reader] = {}
    by_head: dict[str, Reader] = {}
    tasks: dict[str, str] = {}
    for key, head in config.model.heads.items():
        own = key in config.data.sources
        source = config.data.sources[key] if own else config.data
        wanted = classes[key] if classes is not None else head.classes or source.classes
        task = tasks[key] = standard_task(task_of(head))
        # Some formats hold both boxes and class maps: a head gets the one that it learns from.
        kind = "maps" if TASKS[task].annotation == "map" else ""
        which = (key if own else "", kind, None if wanted is None else tuple(wanted))
        if which not in opened:
            where = f"data.sources.{key}" if own else "data"
            free = () if optional is None else optional[key]
            opened[which] = open_reader(source, split, wanted, where, task, free)
        by_head[key] = opened[which]
    # Asked of every reader, since only one of a joined pair may have masks or the label at all.
    for reader in opened.values():
        served = {TASKS[tasks[key]].annotation for key, own in by_head.items() if own is reader}
        reader.masks = "masks" in served
        reader.boxes = served != {"labels"}
        reader.presence = "labels" in served
    found = next(iter(opened.values())) if len(opened) == 1 else JoinedReader(by_head)
    found.scale = config.data.scale
    return found


def open_reader(
    data: SourceOptions,
    split: str,
    classes: Sequence[str] | None = None,
    where: str = "data",
    task: str = "",
    optional: Collection[str] | None = (),
) -> Reader:
    """Opens one split of one source of data.

    Args:
        data: where its files are.
        split: `train`, `val` or `test`.
        classes: names in order, such as a checkpoint's; the source's own unless given.
        where: the source's key in the configuration, for messages.
        task: of the head that learns from it, for formats that serve several.
        optional: those of `classes` that a split need not list, since nothing is an example of them. None where nobody
            knows which they are: then all of them, as long as the split lists no others instead.

    Raises:
        DataError: naming the key (`data.val.images`) and the full path, when the split is not configured,
            something is not there, or the files are not what the format says.
    """
    if split not in SPLITS:
        raise DataError(f"{where} has no split '{split}'{did_you_mean(split, SPLITS)}; splits: {', '.join(SPLITS)}")
    if getattr(data, split) is None:
        given = [name for name in SPLITS if getattr(data, name) is not None]
        there = f"; the configuration has {' and '.join(given)}" if given else ""
        raise DataError(
            f"{where}.{split}: missing{there}; add {where}.{split} with images (and annotations or masks)"
            + (f", or take a part of the training images by {where}.{split}={{from_train: 0.2}}" if given else "")
        )
    shares = {name: own for name in SPLITS if isinstance(own := getattr(data, name), FromTrainSplit)}
    if split in shares or (split == "train" and shares):
        whole = open_whole(data, "train", classes, where, task)
        return Subset(whole, part(whole, shares, split, folder_named(data.root)))
    return open_whole(data, split, classes, where, task, optional=optional)


def open_whole(
    data: SourceOptions,
    split: str,
    classes: Sequence[str] | None,
    where: str,
    task: str,
    report: Report = refuse,
    optional: Collection[str] | None = (),
) -> Reader:
    """Opens one split of one source, nothing sampled from it.

    Args:
        data: as for `open_reader`.
        split: one that is written out.
        classes: as for `open_reader`.
        where: as for `open_reader`.
        task: as for `open_reader`.
        report: what is done about annotations that cannot be used.
        optional: as for `open_reader`.

    Raises:
        DataError: as `open_reader`.
    """
    if data.format is None:
        raise DataError(f"{where}.format: missing; one of {', '.join(entry.name for entry in READERS)}")
    if data.format == "auto":
        raise DataError(f"{where}.format: auto is answered when a configuration is checked; use rehead.load_config")
    root = folder_named(data.root)
    if not is_folder(root):
        raise DataError(f"{where}.root: no folder {root.absolute()}")
    build = READERS.get(data.format).load()
    try:
        reader: Reader = build(
            getattr(data, split),
            root,
            classes if classes is not None else data.classes,
            ignore_index=data.ignore_index,
            values=data.values,
            task=task,
            report=report,
            optional=optional,
            images_match=data.images_match,
        )
    except MissingPathError as error:
        raise DataError(f"{where}.{split}.{error}") from error
    if isinstance(reader, AnnotationReader):
        reader.root, reader.key, reader.source = root, f"{where}.{split}", data
        if data.images_match != "exact":
            match_names(reader, data.images_match)
    reader.scale = data.scale if isinstance(data, DataOptions) else None
    return reader

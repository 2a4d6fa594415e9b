"""From a folder or a configuration to the splits that are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rehead.configs.heads import task_of
from rehead.configs.load import load_config, settles
from rehead.configs.readers import SPLITS, FromTrainSplit, SplitOptions
from rehead.configs.schema import Config, SourceOptions
from rehead.configs.tasks import MULTI_LABEL, SEGMENTATION, TASKS
from rehead.data.image_io import channels_in
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.audit.findings import Finding, Findings
from rehead.datasets.every_split import data_alone, data_of, detect_as_said, folder_said, merged
from rehead.datasets.file_names import image_names
from rehead.datasets.mask_values import NUMBERED, opened_mask, read_mask
from rehead.datasets.open import open_whole
from rehead.datasets.parsing import inline, reason
from rehead.datasets.subset import unused_classes
from rehead.datasets.tree import LOOKED_AT
from rehead.errors import DataError, listed, shortened
from rehead.reading import folder_named
from rehead.terminal import say


@dataclass
class Source:
    """One split of one source of annotations.

    Attributes:
        split: `train`, `val` or `test`.
        options: of the split.
        root: what its paths start from.
        reader: of all that could be read of it.
        tasks: of the heads that learn from it; empty where a folder is checked without a configuration.
        named: whether the values of class maps have names: else any value is right.
        unread: what was wrong when it was read.
    """

    split: str
    options: SplitOptions
    root: Path
    reader: AnnotationReader
    tasks: frozenset[str]
    named: bool = True
    unread: Sequence[Finding] = ()


@dataclass
class DataSet:
    """What is checked.

    Attributes:
        sources: every split that is written out, by source.
        drawn: the splits that are sampled from the training images.
        config: where one was given.
        format: of the first source.
        channels: of the images: the configuration's, or the first image's.
        scale: the number in image files that becomes 255.
        options: what was detected, where a folder was given.
        saw: what it was detected by, in words.
    """

    sources: list[Source]
    drawn: list[str]
    config: Config | None
    format: str
    channels: int = 3
    scale: float | None = None
    options: SourceOptions | None = None
    saw: str = ""

    def refuse_several(self) -> None:
        """A repaired copy is of one source of annotations.

        Raises:
            DataError: where heads have several.
        """
        if len({source.split for source in self.sources}) == len(self.sources):
            return
        places = dict.fromkeys(f"{one.reader.annotations} ({', '.join(sorted(one.tasks))})" for one in self.sources)
        raise DataError(
            f"--fix: heads learn from several annotations: {'; '.join(places)}. Each copy would have images of its "
            "own, and heads know an image of both by its path. Repair one after the other, each with a configuration "
            "of the heads that learn from it"
        )


def open_all(source: str | Path, overrides: Mapping[str, Any], findings: Findings) -> DataSet:
    """Opens every split of a folder, or of a configuration.

    Args:
        source: a folder whose format is detected, a YAML file (of `data` alone, too), or the name of a recipe.
        overrides: by dotted key; of a folder, those of `data`.
        findings: take note of annotations that cannot be used.

    Raises:
        ConfigError: for a wrong configuration.
        DataError: for a folder in no known format, and paths of a configuration that are not there.
    """
    folder = folder_said(source, overrides)
    if folder is not None:
        return _measured(_folder(*folder, findings))
    alone = data_alone(source, overrides)
    if alone is not None:
        given, _ = alone
        data_set = DataSet([], [], None, given.format or "", scale=given.scale)
        _open(data_set, given, "data", tuple(given.classes) if given.classes else None, set(), findings)
        return _measured(data_set)
    config = load_config(source, overrides)
    channels = config.model.backbone.in_channels
    data_set = DataSet([], [], config, config.data.format or "", channels, config.data.scale)
    wanted: dict[tuple[str, str, tuple[str, ...] | None], set[str]] = {}
    for key, head in config.model.heads.items():
        own = key in config.data.sources
        options: SourceOptions = config.data.sources[key] if own else config.data
        names = head.classes or options.classes
        kind = "maps" if TASKS[task_of(head)].annotation == "map" else ""
        wanted.setdefault((key if own else "", kind, tuple(names) if names else None), set()).add(task_of(head))
    for (key, _, chosen), served in wanted.items():
        where = f"data.sources.{key}" if key else "data"
        _open(data_set, config.data.sources[key] if key else config.data, where, chosen, served, findings)
    return data_set


def _measured(data_set: DataSet) -> DataSet:
    """With the channels of the first image that can be read, where no configuration says how many there are."""
    for source in data_set.sources:
        for row in range(min(LOOKED_AT, len(source.reader))):
            with suppress(DataError):
                data_set.channels = channels_in(source.reader[row].path)
                return data_set
    return data_set


def _open(
    data_set: DataSet,
    options: SourceOptions,
    where: str,
    names: tuple[str, ...] | None,
    tasks: set[str],
    findings: Findings,
    *,
    named: bool = True,
) -> None:
    opened: list[Source] = []
    for split in SPLITS:
        own = getattr(options, split)
        if own is None:
            continue
        if isinstance(own, FromTrainSplit):
            data_set.drawn.append(split)
            continue
        task = SEGMENTATION.name if SEGMENTATION.name in tasks else next(iter(sorted(tasks)), "")
        so_far = len(findings)
        try:
            free = None if split != "train" else ()
            reader = open_whole(options, split, names, where, task, findings, free)
        except DataError as error:
            if str(error).startswith("data."):
                raise  # what the configuration says is wrong, not the data
            file = Path(options.root) / str(getattr(own, "annotations", None) or getattr(own, "images", ""))
            findings("broken_annotation", file, reason(error, file.absolute() if str(file) not in str(error) else file))
            continue
        if isinstance(reader, AnnotationReader):
            reader.boxes = tasks != {MULTI_LABEL.name}
            root = folder_named(options.root)
            opened.append(Source(split, own, root, reader, frozenset(tasks), named, findings[so_far:]))
    if not opened and not data_set.drawn and not findings:
        raise DataError(f"{where}: no split; add {where}.train")
    _compare_lists(opened, findings)
    data_set.sources += opened


def _compare_lists(opened: list[Source], findings: Findings) -> None:
    """Formats that list their classes must list those of training in every split."""
    train = next((one for one in opened if one.split == "train"), None)
    if train is None or train.reader.columns.classes is None:
        return
    for one in opened:
        known = one.reader.columns.classes
        if one is train or known is None or not one.reader.columns.listed:
            continue
        unused = unused_classes(train.reader)
        there = {*known.names, *unused}
        absent = [name for name in train.reader.classes.names if name not in there]
        if absent:
            rest = [name for name in train.reader.classes.names if name in there and name not in unused]
            cure = f"; to train without: data.classes={shortened(inline(rest), 2000)}" if rest else ""
            findings("classes_differ", one.reader.annotations, f"lacks {listed(absent)}, which train has{cure}")


def _folder(root: Path, given: Mapping[str, Any], findings: Findings) -> DataSet:
    asked = None if given.get("format") == "auto" else given.get("format")
    found = detect_as_said(root, {"segmentation"} if asked == "masks" else (), given)
    if found.format == "instance_masks" and asked is None and not _numbers_objects(root, merged(found, given, root)):
        found = detect_as_said(root, {"segmentation"}, given)
    for split, message in found.wrong.items():
        if not settles(given, split):
            file, _, rest = message.partition(": ")
            findings("missing_split", file, rest)
    for name, why in found.unread.items():
        if str(root / name) not in {one.file for one in findings}:
            findings("broken_annotation", root / name, why)
    raw = merged(found, given, root)
    named = found.format != "masks" or bool(raw.get("values") or raw.get("classes"))
    if not named:
        raw["values"] = _any_values(root, raw)
    other = {"masks": "number objects: data.format=instance_masks", "instance_masks": "are classes: data.format=masks"}
    doubt = f" (if their values {other[found.format]})" if found.format in other and not (asked or found.more) else ""
    say(f"{root} has {found.told}: {found.format}{doubt}, {', '.join(split for split in SPLITS if raw.get(split))}")
    options = data_of({"data": raw}, found.serves[0])
    data_set = DataSet([], [], None, found.format, scale=options.scale, options=options, saw=found.saw)
    names = tuple(options.classes) if options.classes else None
    _open(data_set, options, "data", names, set(), findings, named=named)
    return data_set


def _first_masks(root: Path, raw: Mapping[str, Any]) -> list[Path]:
    own = next((options for split in SPLITS if "masks" in (options := raw.get(split) or {})), None)
    if own is None or not (folder := root / own["masks"]).is_dir():
        return []
    return [folder / name for name in image_names(folder)[:LOOKED_AT]]


def _numbers_objects(root: Path, raw: Mapping[str, Any]) -> bool:
    """Whether masks number objects: from 1 on without a gap, and not up to the same number everywhere."""
    numbers = set()
    for path in _first_masks(root, raw):
        try:
            present = np.unique(read_mask(path))
        except DataError:
            continue
        present = present[present > 0]
        if len(present) != (present[-1] if len(present) else 0):
            return False
        numbers.add(len(present))
    return len(numbers) > 1 or numbers == {1}


def _any_values(root: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A name for every value that masks of this kind may have."""
    for path in _first_masks(root, raw):
        with suppress(DataError):
            if opened_mask(path).mode not in NUMBERED:
                return {"any": [0, 0, 0]}
    return {str(value): value for value in range(256)}

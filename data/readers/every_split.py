"""All splits of a data set at once, from a folder or from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rehead.configs.heads import HEADS, task_of
from rehead.configs.load import find, load_config, override, read_yaml
from rehead.configs.readers import READERS
from rehead.configs.schema import DataOptions, SourceOptions
from rehead.data.readers import SPLITS, open_reader
from rehead.data.readers.base import Reader
from rehead.data.readers.recognise import Found, recognise
from rehead.errors import DataError
from rehead.progress import say


def source_of(
    source: str | Path, overrides: Mapping[str, Any] | None = None, *, maps: bool = False
) -> tuple[DataOptions, str]:
    """Where a data set's files are, and the task that they are read for.

    Args:
        source: a folder whose format is recognised, a YAML file, or the name of a recipe.
        overrides: by dotted key; for a folder those of `data`.
        maps: whether class maps are wanted of a folder that holds both them and boxes.

    Raises:
        ConfigError: for a wrong configuration.
        DataError: for a folder in no known format, and a configuration with several sources.
    """
    root = Path(source)
    if not root.is_dir():
        alone = data_alone(source, overrides or {})
        if alone is not None:
            return alone
        config = load_config(source, overrides)
        own = [key for key in config.model.heads if key in config.data.sources]
        if own:
            raise DataError(f"{source}: data.sources.{own[0]}: several sources of data; give a configuration of one")
        tasks = {task_of(head) for head in config.model.heads.values()}
        return config.data, "segmentation" if tasks == {"segmentation"} else sorted(tasks - {"segmentation"})[0]
    given: dict[str, Any] = override({}, overrides or {}).get("data") or {}
    asked = given.get("format")
    found = _recognised(root, maps, asked)
    if found.format in ("masks", "instance_masks") and asked is None and "values" not in found.more:
        raise DataError(
            f"{root}: has {found.saw}; say what the values are: data.format=instance_masks where they number objects, "
            "data.format=masks data.classes=[sky,road] where they are the classes 0, 1, ... in this order"
        )
    if asked not in (None, found.format):
        raise DataError(f"{root}: data.format={asked}: it has {found.saw}, which is {found.format}")
    say(f"{root} has {found.saw}: {found.format}, {', '.join(found.splits)}")
    raw = {**found.more, **found.splits, **given, "format": found.format, "root": str(root)}
    return data_of({"data": raw}, found.serves[0]), found.serves[0]


def data_alone(source: str | Path, overrides: Mapping[str, Any]) -> tuple[DataOptions, str] | None:
    """What a YAML file of `data` alone says, as `rehead data split` prints it, and a task that its format is for.

    Returns:
        None for a whole configuration, and one whose format is still to be recognised for its task.

    Raises:
        ConfigError: for a file that is not there, and wrong data.
    """
    raw = read_yaml(find(source))
    if raw.keys() != {"data"} or not isinstance(raw["data"], dict):
        return None
    raw = override(raw, overrides)
    form = raw["data"].get("format")
    if raw.keys() != {"data"} or form not in READERS or form == "auto":
        return None
    task = READERS.get(form).about["task"].split(", ")[0]
    return data_of(raw, task), task


def data_of(raw: Mapping[str, Any], task: str) -> DataOptions:
    """The data of a configuration that says nothing else, checked as those of a task.

    Raises:
        ConfigError: for wrong data.
    """
    # Any head of the task: only data are looked at.
    head = next(entry.name for entry in HEADS if entry.about["task"] == task)
    return load_config({**raw, "task": task, "model": {"head": head}}).data


def _recognised(root: Path, maps: bool, asked: str | None) -> Found:
    """What a folder is, by the tasks that could be meant."""
    if asked == "masks" or (maps and asked is None):
        try:
            return recognise(root, {"segmentation"}, asked)
        except DataError:
            if asked is not None:
                raise
    return recognise(root, (), asked)


def open_every_split(source: SourceOptions, task: str) -> dict[str, Reader]:
    """The readers of the splits that there are, by name.

    Raises:
        DataError: as `open_reader`, and for no split at all.
    """
    splits = [split for split in SPLITS if getattr(source, split) is not None]
    if not splits:
        raise DataError(f"{source.root}: no split; add data.train")
    return {split: open_reader(source, split, task=task) for split in splits}

"""All splits of a data set at once, from a folder or from a configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rehead.configs.heads import HEADS, task_of
from rehead.configs.load import find, load_config, merged_splits, read_yaml, settles
from rehead.configs.overrides import override
from rehead.configs.readers import READERS, SPLITS
from rehead.configs.schema import DataOptions, SourceOptions
from rehead.data.reader import Reader
from rehead.datasets.detect_format import detect_format
from rehead.datasets.open import open_reader
from rehead.datasets.tree import Found
from rehead.errors import ConfigError, DataError
from rehead.reading import folder_named, is_folder
from rehead.terminal import say


def source_of(
    source: str | Path, overrides: Mapping[str, Any] | None = None, *, maps: bool = False
) -> tuple[DataOptions, str]:
    """Where a data set's files are, and the task that they are read for.

    Args:
        source: a folder whose format is detected, a YAML file, or the name of a recipe.
        overrides: by dotted key; for a folder those of `data`.
        maps: whether class maps are wanted of a folder that holds both them and boxes.

    Raises:
        ConfigError: for a wrong configuration.
        DataError: for a folder in no known format, and a configuration with several sources.
    """
    folder = folder_said(source, overrides or {})
    if folder is None:
        alone = data_alone(source, overrides or {})
        if alone is not None:
            return alone
        config = load_config(source, overrides)
        own = [key for key in config.model.heads if key in config.data.sources]
        if own:
            raise DataError(f"{source}: data.sources.{own[0]}: several sources of data; give a configuration of one")
        tasks = {task_of(head) for head in config.model.heads.values()}
        return config.data, "segmentation" if tasks == {"segmentation"} else sorted(tasks - {"segmentation"})[0]
    root, given = folder
    asked = None if given.get("format") == "auto" else given.get("format")
    found = _detected(root, maps, given)
    if found.format in ("masks", "instance_masks") and asked is None and "values" not in found.more:
        raise DataError(
            f"{root}: has {found.saw}; say what the values are: data.format=instance_masks where they number objects, "
            "data.format=masks data.classes=[sky,road] where they are the classes 0, 1, ... in this order"
        )
    raw = merged(found, given, root)
    wrong = [message for split, message in found.wrong.items() if not settles(given, split)]
    if wrong:
        raise DataError("; ".join(wrong))
    say(f"{root} has {found.told}: {found.format}, {', '.join(split for split in SPLITS if raw.get(split))}")
    return data_of({"data": raw}, found.serves[0]), found.serves[0]


def read_of(source: str | Path, options: SourceOptions) -> list[Path]:
    """What is read of a source that `source_of` opened: a whole folder, or what a configuration names and itself."""
    return [Path(source)] if Path(source).is_dir() else [find(source), *options.paths()]


def folder_said(source: str | Path, overrides: Mapping[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """A folder whose format is to be detected, and what is said of its data; None for a configuration.

    Args:
        source: the folder, or a YAML file of `data` alone with `format: auto`.
        overrides: by dotted key.

    Raises:
        ConfigError: for what cannot be said of a folder, and a file that is not there.
    """
    root = Path(source)
    if not is_folder(root):
        raw = read_yaml(find(source))
        raw = override(raw, overrides) if raw.keys() == {"data"} and isinstance(raw["data"], dict) else raw
        if raw.keys() != {"data"} or not isinstance(raw["data"], dict) or raw["data"].get("format") != "auto":
            return None
        given = {key: value for key, value in raw["data"].items() if key != "root"}
        root = folder_named(str(raw["data"].get("root", ".")))
        if not is_folder(root):
            raise DataError(f"data.root: no folder {root.absolute()}")
        return root, given
    problems = [f"{key}: {root} is a folder, of which only data can be said" for key in overrides if key[:5] != "data."]
    problems += [f"data.root: {root} is the folder already" for key in overrides if key == "data.root"]
    if problems:
        raise ConfigError(problems, "command line")
    return root, override({}, overrides).get("data") or {}


def detect_as_said(root: Path, tasks: Collection[str], given: Mapping[str, Any]) -> Found:
    """What a folder is, where something of its data has been said.

    Raises:
        DataError: as `detect_format`, unless the format and a split are written out.
    """
    asked = given.get("format")
    said = {split: given[split] for split in SPLITS if split in given}
    try:
        return detect_format(root, tasks, asked, said)
    except DataError:
        if asked is None or asked == "auto" or asked not in READERS or not any(said.values()):
            raise
        return Found(asked, {}, "what the command line says")


def merged(found: Found, given: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The data of a configuration: what was detected in a folder, and what was said, which wins."""
    more = {} if given.get("classes") else found.more
    splits = merged_splits(found.splits, {split: given[split] for split in SPLITS if split in given})
    return {**more, **given, **splits, "format": found.format, "root": str(root)}


def data_alone(source: str | Path, overrides: Mapping[str, Any]) -> tuple[DataOptions, str] | None:
    """What a YAML file of `data` alone says, as `rehead data split` prints it, and a task that its format is for.

    Returns:
        None for a whole configuration, and one whose format is still to be detected for its task.

    Raises:
        ConfigError: for a file that is not there, and wrong data.
    """
    raw = read_yaml(find(source))
    if raw.keys() != {"data"} or not isinstance(raw["data"], dict):
        return None
    raw = override(raw, overrides)
    form = raw["data"].get("format") if isinstance(raw["data"], dict) else None
    if raw.keys() != {"data"} or not isinstance(form, str) or form not in READERS or form == "auto":
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


def _detected(root: Path, maps: bool, given: Mapping[str, Any]) -> Found:
    """What a folder is, by the tasks that could be meant."""
    asked = given.get("format")
    said = asked not in (None, "auto")
    if asked == "masks" or (maps and not said):
        try:
            return detect_as_said(root, {"segmentation"}, given)
        except DataError:
            if said:
                raise
    return detect_as_said(root, (), given)


def open_every_split(source: SourceOptions, task: str) -> dict[str, Reader]:
    """The readers of the splits that there are, by name.

    Raises:
        DataError: as `open_reader`, and for no split at all.
    """
    splits = [split for split in SPLITS if getattr(source, split) is not None]
    if not splits:
        raise DataError(f"{source.root}: no split; add data.train")
    return {split: open_reader(source, split, task=task) for split in splits}

"""What is wrong between the parts of a configuration that are right in themselves. Imports no torch."""

from __future__ import annotations

from rehead.configs.augment import misplaced
from rehead.configs.heads import HEADS, image_task, task_of
from rehead.configs.readers import READERS, SPLITS, FromTrainSplit
from rehead.configs.schema import Config
from rehead.configs.tasks import CLASSIFICATION, MULTI_LABEL, MULTITASK, standard_task
from rehead.errors import did_you_mean, listed


def misfits(config: Config) -> list[str]:
    """What each part allows but the parts together do not."""
    problems = []
    for key in config.data.sources:
        if key not in config.model.heads:
            hint = did_you_mean(key, config.model.heads) or f"; heads: {listed(config.model.heads)}"
            problems.append(f"data.sources.{key}: a source is named after the head that learns from it{hint}")
    for key, head in config.model.heads.items():
        if head.name not in HEADS:
            continue
        task = HEADS.get(head.name).about["task"]
        if config.task not in (task, MULTITASK.name):
            fitting = [entry.name for entry in HEADS if entry.about["task"] == config.task]
            several = MULTITASK.name if len(config.model.heads) > 1 else task
            problems.append(
                f"model.heads.{key}.name: '{head.name}' is a {task} head but task is {config.task}; "
                f"set task={several}, or use {' or '.join(fitting)}"
            )
        else:
            problems += _misfits_of_source(config, key)
    problems += misplaced(
        config.data.augment,
        [standard_task(task_of(head)) for head in config.model.heads.values() if head.name in HEADS],
    )
    resize = config.data.resize
    if config.data.group_by_aspect and resize is not None and (resize.height is not None or resize.crop is not None):
        problems.append("data.group_by_aspect: data.resize makes all images the same size already; set it to false")
    if resize is not None and config.task != CLASSIFICATION.name and resize.crop is not None:
        problems.append("data.resize.crop: only classification crops, since a crop cuts objects off")
    if resize is not None and image_task(config) == CLASSIFICATION.name and not (resize.crop or resize.height):
        problems.append("data.resize: classification needs one size for all: add crop, or give height and width")
    return problems


def _misfits_of_source(config: Config, key: str) -> list[str]:
    """What is wrong between a head and the data that it learns from."""
    problems = []
    task = task_of(config.model.heads[key])
    own = key in config.data.sources
    source = config.data.sources[key] if own else config.data
    where = f"data.sources.{key}" if own else "data"
    if source.format is not None and source.format in READERS and source.format != "auto":
        tasks = READERS.get(source.format).about["task"].split(", ")
        if standard_task(task) not in tasks:
            fitting = [entry.name for entry in READERS if standard_task(task) in entry.about["task"].split(", ")]
            needs = f"task is {task}" if config.task == task else f"head '{key}' is a {task} head"
            ways = [f"use {' or '.join(fitting)}"]
            if config.task == MULTITASK.name and not own:
                ways.append(f"or give head '{key}' a source of its own in data.sources.{key}")
            if task == CLASSIFICATION.name and MULTI_LABEL.name in tasks:
                ways.append(f"or set model.heads.{key}.multi_label=true to learn all the classes of each image")
            problems.append(
                f"{where}.format: '{source.format}' gives {' and '.join(tasks)} but {needs}; {', '.join(ways)}"
            )
    elif own and source.format is None:
        problems.append(f"{where}.format: missing; one of {', '.join(entry.name for entry in READERS)}")
    if source.format == "masks" and not (source.classes or source.values or config.model.heads[key].classes):
        problems.append(f"{where}.classes: masks hold only numbers; list the names of values 0, 1, 2, ... in order")
    splits = (getattr(source, split) for split in SPLITS)
    if config.data.sources and any(isinstance(split, FromTrainSplit) for split in splits):
        problems.append(
            f"{where}: from_train draws from one source; with several, an image that one head trains on could be "
            "another's for validation: give val and test of their own"
        )
    return problems

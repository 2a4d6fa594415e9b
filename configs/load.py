"""From YAML and `key=value` to a checked `Config`. Imports no torch."""

from __future__ import annotations

import itertools
import types
import typing
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rehead.configs.augment import STEPS, StepOptions, TransformOptions, spelled_out, wrong_transform
from rehead.configs.base import HeadOptions, Options
from rehead.configs.heads import HEADS, task_of
from rehead.configs.misfits import misfits
from rehead.configs.overrides import override, spell_out_head
from rehead.configs.plugins import import_plugins, refuse_unnamed
from rehead.configs.readers import READERS, SPLITS, FromTrainSplit, SplitOptions
from rehead.configs.schema import Config
from rehead.configs.strange import refuse_strange
from rehead.configs.tasks import standard_task
from rehead.errors import ConfigError, DataError, did_you_mean, one_line, quoted
from rehead.plain_yaml import load_yaml
from rehead.reading import contents, folder_named, is_file, is_folder, is_there
from rehead.registry import Registry
from rehead.terminal import say
from rehead.yaml_text import yaml_text


def recipes() -> dict[str, Path]:
    """The shipped recipes, by name: `camvid_unet_r18`, `paper/resnet20`."""
    folder = Path(__file__).parent
    files = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def load_config(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] | None = None,
) -> Config:
    """Reads, overrides and checks a configuration.

    Args:
        source: a YAML file (`configs/x.yaml`), the name of a shipped recipe (`x`), or a mapping.
        overrides: values by dotted key, such as `{"train.epochs": 1}`.
        plugins: None for a configuration of the user's own, which may name any. For somebody else's, those that
            the user names: these are imported too, and the configuration may name no others.

    Raises:
        ConfigError: with every problem at once.
    """
    if isinstance(source, Mapping):
        raw, name = deepcopy(dict(source)), "configuration"
    else:
        path = find(source)
        raw, name = read_yaml(path), str(path)
    own = set_aside(raw, overrides or {})
    return check_changed(raw, overrides or {}, name, own, plugins=plugins)


def check_changed(
    raw: dict[str, Any],
    overrides: Mapping[str, Any],
    source: str,
    aside: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    plugins: Sequence[str] | None,
) -> Config:
    """Overrides a mapping, and checks it; see `load_config` and `check`."""
    if plugins is not None:
        # Those that the user overrides it with are named by him too.
        given = [value for key, value in overrides.items() if key.split(".")[0] == "plugins"]
        plugins = [*plugins, *(one for value in given for one in (value if isinstance(value, list) else [value]))]
    return check(override(raw, overrides), source, aside, plugins=plugins)


def find(source: str | Path) -> Path:
    """The file of a configuration given by path or by a recipe's name."""
    path = Path(source)
    if is_file(path):
        return path
    known = recipes()
    if str(source) in known:
        return known[str(source)]
    # In an installed copy the recipes lie inside the package: `configs/x.yaml` still means recipe x.
    name = path.with_suffix("")
    if name.parts[:1] == ("configs",) and (inside := name.relative_to("configs").as_posix()) in known:
        return known[inside]
    if path.is_dir():
        raise ConfigError(
            [f"is a folder; `rehead init {path}` writes a configuration for one with images"], str(source)
        )
    near = [str(path.with_name(other.name)) for other in path.parent.glob("*.y*ml")]
    hint = did_you_mean(name.as_posix().removeprefix("configs/"), known) or did_you_mean(str(source), near)
    # Whoever names a file has no use for all recipes.
    hint = hint or ("" if path.suffix or len(path.parts) > 2 else f"; recipes: {', '.join(known)}")
    raise ConfigError([f"no such file or recipe{hint}"], str(source))


def heading(source: str | Path) -> str:
    """The comment at the top of a configuration, such as what a recipe aims at and where its settings are from."""
    lines = contents(find(source)).decode().splitlines(keepends=True)
    return "".join(itertools.takewhile(lambda line: line.startswith("#"), lines))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        raw = load_yaml(contents(path).decode())
    except DataError as error:
        raise ConfigError([str(error).removeprefix(f"{path}: ")], str(path)) from error
    except ValueError as error:
        raise ConfigError([f"not YAML: {one_line(error)}"], str(path)) from error
    if not isinstance(raw, dict):
        raise ConfigError([f"should hold keys and values, found {type(raw).__name__}"], str(path))
    return raw


def set_aside(raw: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Takes the splits of a file out of it where the command line names other data.

    Returns:
        By the key of a source of data whose format is another one on the command line: its format and splits in the
        file. The splits count where they are there.
    """
    data = raw.get("data")
    sources = {"data": data}
    if isinstance(data, dict) and isinstance(data.get("sources"), dict):
        sources.update({f"data.sources.{key}": source for key, source in data["sources"].items()})
    aside = {}
    for where, source in sources.items():
        asked = overrides.get(f"{where}.format")
        own = source if isinstance(source, dict) else {}
        form = own.get("format")
        if asked is None or asked == form or (asked == "auto" and f"{where}.root" not in overrides):
            continue
        aside[where] = {"format": form}
        if form is not None:
            aside[where].update({split: own.pop(split) for split in SPLITS if split in own})
    return aside


def check(
    raw: dict[str, Any],
    source: str,
    aside: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    plugins: Sequence[str] | None,
) -> Config:
    """Validates a mapping whole, so that every problem is reported in one go.

    Args:
        raw: the mapping.
        source: what it is called in messages.
        aside: by the key of a source of data, the format and the splits that give way to what is detected.
        plugins: that may be imported; see `load_config`.

    Raises:
        ConfigError: with every problem.
    """
    refuse_strange(raw, source)
    raw = spell_out_head(deepcopy(raw))
    own = raw.get("plugins", [])
    if plugins is not None:
        refuse_unnamed(own, plugins, source)
    if isinstance(own, list) and all(isinstance(plugin, str) for plugin in own):
        raw["plugins"] = list(dict.fromkeys([*own, *(str(plugin) for plugin in plugins or ())]))
        import_plugins(raw["plugins"], source)
    problems: list[str] = []
    _check_heads(raw, problems)
    _check_sources(raw, problems, aside or {})
    _check_augment(raw, problems)
    config = _validated(Config, raw, "", problems)
    if config is not None:
        problems += misfits(config)
    if problems or config is None:
        raise ConfigError(problems, source)
    return config


def _check_heads(raw: dict[str, Any], problems: list[str]) -> None:
    """Replaces each head's mapping by its own options; a bad one by a stand-in, its problems noted."""
    heads = raw.get("model", {}).get("heads") if isinstance(raw.get("model"), dict) else None
    if not isinstance(heads, dict):
        return
    for key, head in heads.items():
        where = f"model.heads.{key}"
        heads[key] = _registered(HEADS, head, where, problems) or HeadOptions(name="unknown")
        if not str(key).isidentifier():
            problems.append(f"{where}: a head's key must be a plain word, since tensors are named after it")


def _check_sources(raw: dict[str, Any], problems: list[str], aside: Mapping[str, Mapping[str, Any]]) -> None:
    """The same for the splits of every source of data, whose options depend on its format."""
    data = raw.get("data")
    if not isinstance(data, dict):
        return
    heads = raw.get("model", {}).get("heads") if isinstance(raw.get("model"), dict) else None
    tasks = {
        key: standard_task(task_of(head))
        for key, head in (heads if isinstance(heads, dict) else {}).items()
        if head.name in HEADS
    }
    sources = data["sources"] if isinstance(data.get("sources"), dict) else {}
    shared = {task for key, task in tasks.items() if key not in sources}
    _check_splits(data, "data", shared, problems, aside.get("data"))
    for key, source in sources.items():
        if isinstance(source, dict):
            where = f"data.sources.{key}"
            _check_splits(source, where, {tasks[key]} if key in tasks else set(), problems, aside.get(where))


def _check_splits(
    source: dict[str, Any], where: str, tasks: set[str], problems: list[str], aside: Mapping[str, Any] | None
) -> None:
    said = aside is not None and source.get("format") in READERS and "root" in source
    if tasks and (source.get("format") == "auto" or said):
        _detect(source, where, tasks, problems, aside or {})
    given = [split for split in SPLITS if source.get(split) is not None]
    name = source.get("format")
    if name is None and given:
        problems.append(f"{where}.format: missing; one of {', '.join(entry.name for entry in READERS)}")
    elif name is not None and name not in READERS:
        problems.append(f"{where}.format: {READERS.unknown(str(name))}")
    for split in given:
        options: SplitOptions | None = None
        raw = source[split]
        if split != "train" and isinstance(raw, dict) and "from_train" in raw:
            options = _validated(FromTrainSplit, raw, f"{where}.{split}", problems)
        elif isinstance(name, str) and name in READERS and name != "auto":
            options = _validated(READERS.get(name).options, raw, f"{where}.{split}", problems)
        source[split] = options or SplitOptions()


def _detect(source: dict[str, Any], where: str, tasks: set[str], problems: list[str], aside: Mapping[str, Any]) -> None:
    """Replaces `format: auto` by what the files are, with the splits that are not written out.

    A format that the command line names is looked for in the same way.
    """
    root = folder_named(str(source.get("root", ".")))
    asked = source["format"]
    if not is_folder(root):
        problems.append(f"{where}.root: no folder {root.absolute()}")
        return
    said = {split: source[split] for split in SPLITS if split in source}
    own = {split: aside[split] for split in SPLITS if split in aside}
    stay = bool(own) and _are_there(root, own)
    look = READERS.get("auto").load()
    try:
        found = look(root, tasks, asked, merged_splits(own, said) if stay else said)
        if stay and found.format != aside["format"]:
            stay, found = False, look(root, tasks, asked, said)
    except DataError as error:
        # Whoever has written the format and the splits out needs no more.
        if asked == "auto" or not said.get("train"):
            problems.append(f"{where}.format: {asked}: {error}")
        return
    said = merged_splits(own, said) if stay else said
    wrong = [message for split, message in found.wrong.items() if not settles(said, split)]
    if wrong:
        problems += [f"{where}.format: {asked}: {message}" for message in wrong]
        return
    splits = merged_splits(found.splits, said)
    drawn = splits.get("train") is not None and "val" not in splits
    if drawn:
        splits["val"] = {"from_train": 0.2}
    more = {key: value for key, value in found.more.items() if not (source.get(key) or source.get("classes"))}
    source.update({**more, **splits, "format": found.format})
    keys = [f"{where}.{key}={_inline(value)}" for key, value in {**splits, **more}.items()]
    _say_once(
        f"{where}.format: {root} has {found.told}: {found.format}, {', '.join(keys)}"
        + ("; there is no val, so a fifth of the training images is taken" if drawn else "")
        + (
            f"; the configuration's own splits ({aside['format']}) are not there and give way"
            if own and not stay
            else ""
        )
    )


def _are_there(root: Path, own: Mapping[str, Any]) -> bool:
    """Whether a folder has the files of a configuration's own splits."""
    splits = [options for options in own.values() if isinstance(options, dict)]
    paths = [options[key] for options in splits for key in PLACES if isinstance(options.get(key), str)]
    return all(is_there(root / path) for path in paths)


PLACES = ("images", "annotations", "masks", "labels", "image_set", "dataset")
"""The options of a split that are paths of its own."""


def settles(said: Mapping[str, Any], split: str, key: str = "images") -> bool:
    """Whether what was said of the splits leaves nothing to find of one: that it is not there, or where."""
    if split not in said:
        return False
    options = said[split]
    return not isinstance(options, dict) or bool({key, "from_train", "dataset"} & options.keys())


def merged_splits(found: Mapping[str, Mapping[str, Any]], said: Mapping[str, Any]) -> dict[str, Any]:
    """The splits of a data set, of which what was said wins over what was found, key by key.

    Args:
        found: by split, its options.
        said: by split, some options, another split altogether (`from_train`), or None for no such split.
    """
    splits: dict[str, Any] = {split: dict(options) for split, options in found.items()}
    # The file with the classes' names is that of the data set.
    names = [own["names"] for own in found.values() if "names" in own]
    common = {"names": names[0]} if names else {}
    for split, own in said.items():
        base = splits.get(split, common)
        if isinstance(own, dict) and "from_train" not in own and "from_train" not in base:
            # A list of images is of the annotations that it lies beside.
            kept = {key: value for key, value in base.items() if key != "image_set" or "annotations" not in own}
            splits[split] = {**kept, **own}
        else:
            splits[split] = own
    return splits


@cache
def _say_once(message: str) -> None:
    """A configuration is checked before the heavy imports and again after them."""
    say(message)


def _inline(value: Any) -> str:
    return yaml_text(value, default_flow_style=True, width=10_000).strip()


def _registered(registry: Registry[HeadOptions], raw: object, where: str, problems: list[str]) -> HeadOptions | None:
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, dict) or "name" not in raw:
        problems.append(f"{where}: should name a {registry.kind}, such as {{name: {next(iter(registry)).name}}}")
        return None
    if raw["name"] not in registry:
        problems.append(f"{where}.name: {registry.unknown(str(raw['name']))}")
        return None
    return _validated(registry.get(raw["name"]).options, raw, where, problems)


def _check_augment(raw: dict[str, Any], problems: list[str]) -> None:
    """The same for the steps of the augmentation, unless a preset is named."""
    data = raw.get("data")
    if not isinstance(data, dict) or isinstance(data.get("augment", ""), str):
        return
    if not isinstance(data["augment"], list):
        problems.append(f"data.augment: should name a preset or list steps, found {quoted(data['augment'])}")
        data["augment"] = []
    for place, step in enumerate(data["augment"]):
        where = f"data.augment.{place}"
        step = spelled_out(step)
        options: StepOptions | None = None
        if not isinstance(step, dict) or "name" not in step:
            problems.append(f"{where}: should name a step, such as {{name: HorizontalFlip, p: 0.5}}")
        elif step["name"] in STEPS:
            options = _validated(STEPS.get(step["name"]).options, step, where, problems)
        else:
            problems += wrong_transform(step, where)
            options = _validated(TransformOptions, step, where, problems)
        data["augment"][place] = options or TransformOptions(name="NoOp")


Validated = typing.TypeVar("Validated", bound=BaseModel)


def _validated(model: type[Validated], raw: object, where: str, problems: list[str]) -> Validated | None:
    """A model instance, or None with each problem noted under its dotted key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            location = detail["loc"]
            dotted = ".".join(str(part) for part in ((where,) if where else ()) + tuple(location)) or "configuration"
            if detail["type"] == "extra_forbidden":
                known = _keys_at(model, location[:-1])
                deeper = [] if location[:-1] else [f"{one}.{key}" for one in known for key in _keys_at(model, (one,))]
                below = [key for key in deeper if key.endswith(f".{location[-1]}")]
                hint = f"; did you mean {' or '.join(map(repr, below))}?" if below else ""
                hint = hint or did_you_mean(str(location[-1]), known) or f"; known: {', '.join(known)}"
                problems.append(f"{dotted}: unknown key{hint}")
            elif detail["type"] == "missing":
                problems.append(f"{dotted}: missing")
            else:
                message = detail["msg"].removeprefix("Value error, ")
                found = "" if detail["type"] == "value_error" else f", found {quoted(detail['input'])}"
                problems.append(f"{dotted}: {message}{found}")
        return None


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys known at a place inside a model, for did-you-mean."""
    for part in location:
        if str(part) not in model.model_fields:
            continue  # a key of the user's own, such as a head's
        found = _models_in(model.model_fields[str(part)].annotation)
        if not found:
            return []
        model = found[0]
    # `head` is spelt out before validation, but it is what people write.
    return [*model.model_fields, "head"] if "heads" in model.model_fields else list(model.model_fields)


def _models_in(annotation: Any) -> list[type[Options]]:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, dict):
        return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
    return []


def dump(config: Config) -> dict[str, Any]:
    """The configuration, fully resolved, as plain values that `load_config` reads back to an equal one."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """The same as YAML text."""
    return yaml_text(dump(config))

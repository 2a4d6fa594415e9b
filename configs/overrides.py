"""`key=value` over a configuration. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rehead.errors import ConfigError, quoted, shortened
from rehead.plain_yaml import YamlError, YamlLimitError, load_yaml


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """`key.sub=value` arguments of the command line; values are YAML."""
    parsed = {}
    problems = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key or key.startswith("-"):
            problems.append(f"'{shortened(argument)}' should read key=value, such as train.epochs=1")
            continue
        try:
            parsed[key] = load_yaml(value)
        except YamlLimitError as error:
            problems.append(f"{shortened(key)}: {error}")
        except YamlError:
            parsed[key] = value
    if problems:
        raise ConfigError(problems, "command line")
    return parsed


def override(raw: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Sets dotted keys in a nested mapping; `head` becomes `heads.main` on both sides.

    A head that is given another name starts from that one's defaults.
    """
    raw = spell_out_head(raw)
    problems = []
    spelled = {dotted: _spelled_out(dotted) for dotted in overrides}
    for dotted, value in overrides.items():
        if spelled[dotted][:2] == ["model", "heads"] and spelled[dotted][3:] == ["name"]:
            _rename_head(raw, spelled[dotted][2], value)
    for dotted, value in overrides.items():
        parts = spelled[dotted]
        here: Any = raw
        for depth, part in enumerate(parts):
            place: Any = part
            if isinstance(here, list):
                if not part.isdecimal() or int(part) >= len(here):
                    problems.append(f"{dotted}: {'.'.join(parts[:depth])} has {len(here)} entries, counted from 0")
                    break
                place = int(part)
            if depth == len(parts) - 1:
                here[place] = value
                break
            child = here[place] if isinstance(here, list) else here.get(place)
            if child is None:
                child = here[place] = {}
            if not isinstance(child, dict | list):
                problems.append(f"{dotted}: {'.'.join(parts[: depth + 1])} is {quoted(child)} and has nothing inside")
                break
            here = child
    if problems:
        raise ConfigError(problems, "command line")
    return raw


def _spelled_out(dotted: str) -> list[str]:
    """A key's parts, `model.head` written as `model.heads.main`."""
    parts = dotted.split(".")
    return ["model", "heads", "main", *parts[2:]] if parts[:2] == ["model", "head"] else parts


def _rename_head(raw: dict[str, Any], key: str, name: object) -> None:
    """Another head's name leaves the file's options behind: they were those of the head named there."""
    heads = raw["model"].get("heads") if isinstance(raw.get("model"), dict) else None
    if not isinstance(heads, dict):
        return
    head = heads.get(key)
    if isinstance(head, str) or (isinstance(head, dict) and head.get("name", name) != name):
        heads[key] = {"name": name}


def spell_out_head(raw: dict[str, Any]) -> dict[str, Any]:
    """A configuration with `model.head` written as `model.heads.main`."""
    model = raw.get("model")
    if not isinstance(model, dict) or "head" not in model:
        return raw
    if "heads" in model:
        raise ConfigError(["model: give head (short for heads: {main: ...}) or heads, not both"])
    model = {("heads" if key == "head" else key): value for key, value in model.items()}
    model["heads"] = {"main": model["heads"]}
    return {**raw, "model": model}

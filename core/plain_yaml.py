"""YAML of somebody else: plain values alone, in bounded time and memory."""

from __future__ import annotations

from typing import Any

import yaml

from rehead.errors import shortened

MOST_CHARACTERS = 2**23
"""Of a whole text."""

MOST_DEEP = 64
"""Lists and mappings inside one another."""

MOST_VALUES = 1_000_000
"""Keys and values, those that an alias stands for counted each time: ten lines of aliases can stand for billions."""

LONGEST = 100_000
"""Characters of a single value."""

# In C where it is built in: several times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_TOO_DEEP = f"more than {MOST_DEEP} levels deep"


class YamlError(ValueError):
    """A text that is no YAML, or is more than is read."""


class YamlLimitError(YamlError):
    """YAML that is larger, or nested more deeply, than is read."""


def load_yaml(text: str) -> Any:
    """The values of a YAML text.

    Raises:
        YamlError: for what is no YAML, or has more in it than the limits above.
    """
    if len(text) > MOST_CHARACTERS:
        raise YamlLimitError(f"{len(text)} characters; at most {MOST_CHARACTERS} are read")
    try:
        _check_limits(text)
        return yaml.load(text, _LOADER)
    except YamlError:
        raise
    except RecursionError as error:
        raise YamlLimitError(_TOO_DEEP) from error
    # Values that look like dates, numbers or keys and are none raise what Python does of them.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
        # What the parser in C looks ahead for has limits of its own.
        if "nesting depth" in str(error):
            raise YamlLimitError(_TOO_DEEP) from error
        raise YamlError(shortened(str(error), 1000)) from error


def _check_limits(text: str) -> None:
    """Counts what is in a text, before any of it is built.

    Raises:
        YamlLimitError: if it is too much.
    """
    total = 0
    sizes: dict[str, int] = {}
    # Of the lists and mappings that are not closed: their anchor, and the count at their beginning.
    opened: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, _LOADER):
        where = f"line {event.start_mark.line + 1}" if event.start_mark is not None else "somewhere"
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, total))
            total += 1
            if len(opened) > MOST_DEEP:
                raise YamlLimitError(f"{where}: {_TOO_DEEP}")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if len(event.value) > LONGEST:
                raise YamlLimitError(f"{where}: a value of {len(event.value)} characters")
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            name = event.anchor or ""
            if name in {anchor for anchor, _ in opened}:
                raise YamlLimitError(f"{where}: '*{name[:60]}' stands for itself")
            total += sizes.get(name, 1)
        if total > MOST_VALUES:
            raise YamlLimitError(f"more than {MOST_VALUES} values, those that aliases (*name) stand for included")

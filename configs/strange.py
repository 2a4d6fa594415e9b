"""Values of a configuration that no option has a use for, refused before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rehead.errors import ConfigError, quoted
from rehead.plain_yaml import MOST_DEEP


def refuse_strange(raw: Mapping[str, Any], source: str) -> None:
    """Numbers and texts that no option has a use for, and that Python, pydantic or a file cannot even write down.

    Raises:
        ConfigError: naming their keys.
    """
    problems = []
    inside: list[tuple[str, object, int]] = [("", raw, 0)]
    while inside:
        where, value, depth = inside.pop()
        if isinstance(value, int) and value.bit_length() > 63:
            problems.append(f"{where}: a whole number has at most 64 bits, found {quoted(value)}")
        elif isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            problems.append(f"{where}: should be text in UTF-8 without a NUL, found {quoted(value)}")
        elif isinstance(value, Mapping | list | tuple) and depth > MOST_DEEP:
            problems.append(f"{where}: more than {MOST_DEEP} levels deep")
        elif isinstance(value, Mapping):
            strange = [key for key in value if not _is_key(key)]
            problems += [f"{where or 'configuration'}: {quoted(key)} can be no key" for key in strange]
            if not strange:
                inside += [(f"{where}.{key}" if where else str(key), own, depth + 1) for key, own in value.items()]
        elif isinstance(value, list | tuple):
            inside += [(f"{where}.{place}", own, depth + 1) for place, own in enumerate(value)]
    if problems:
        raise ConfigError(problems[::-1], source)


def _is_key(key: object) -> bool:
    return _is_unicode(key) if isinstance(key, str) else isinstance(key, int) and key.bit_length() <= 63


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeError:
        return False
    return True

"""One registry class for backbones, heads and readers: a name, its options, and where its code is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rehead.errors import ConfigError, did_you_mean

Options = TypeVar("Options")
Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[Options]):
    """What a registry knows about a name.

    Attributes:
        name: what a user writes.
        options: the pydantic model of its options.
        target: the class, or `"module:Class"`, imported only when it is built (so that reading a
            configuration imports no torch).
        about: facts for listings, such as the task and the paper.
    """

    name: str
    options: type[Options]
    target: str | Callable[..., Any]
    about: dict[str, str] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """The class behind the name."""
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return loaded


class Registry(Generic[Options]):
    """Names of one kind. `kind` is the word used in error messages, such as `head`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[Options]] = {}

    def add(self, name: str, options: type[Options], target: str | Callable[..., Any], **about: str) -> None:
        """Registers a name. A name registers once: a plugin cannot silently replace a built-in."""
        if name in self._entries:
            raise ConfigError([f"{self.kind} '{name}' is registered twice"], "registry")
        self._entries[name] = Entry(name, options, target, about)

    def register(self, name: str, options: type[Options], **about: str) -> Callable[[Target], Target]:
        """The same as a class decorator, for plugins."""

        def decorate(target: Target) -> Target:
            self.add(name, options, target, **about)
            return target

        return decorate

    def get(self, name: str) -> Entry[Options]:
        """The entry of a name.

        Raises:
            ConfigError: for an unknown name, with the near matches.
        """
        if name not in self:
            raise ConfigError([self.unknown(str(name))], self.kind)
        return self._entries[name]

    def unknown(self, name: str) -> str:
        """The sentence that says a name is not known here."""
        hint = did_you_mean(name, self._entries) or f"; known: {', '.join(self._entries)}"
        return f"unknown {self.kind} '{name}'{hint}"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[Entry[Options]]:
        return iter(self._entries.values())

"""Modules with heads, backbones and readers of one's own. Importing one runs it, so the user has to name it himself."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence

from rehead.errors import LISTED, ConfigError, listed, shortened


def import_plugins(plugins: Sequence[str], source: str) -> None:
    """Imports modules that the user named.

    Args:
        plugins: their names.
        source: where he did, for messages.

    Raises:
        ConfigError: for a module that is not there.
    """
    for plugin in plugins:
        try:
            importlib.import_module(plugin)
        # An empty or a relative name, one with NUL, and what is not there.
        except (ImportError, ValueError, TypeError) as error:
            raise ConfigError([f"plugins: cannot import '{plugin}': {error}"], source) from error


def unnamed(plugins: object, named: Sequence[str]) -> list[str]:
    """The plugins of somebody else's configuration that the user did not name, and that are not imported anyway."""
    asked = [plugin for plugin in plugins if isinstance(plugin, str)] if isinstance(plugins, list) else []
    return [plugin for plugin in asked if plugin not in named and plugin not in sys.modules]


def refuse_unnamed(plugins: object, named: Sequence[str], source: str) -> None:
    """Refuses plugins that only a checkpoint or the folder of a run names: they may be anybody's code.

    Raises:
        ConfigError: naming them, and how to allow them.
    """
    if wanted := unnamed(plugins, named):
        raise ConfigError(
            [
                f"plugins: it wants {listed(wanted)} imported, which runs code; nothing was imported. If you know that "
                f"code and trust it: {allowing(wanted)} (in Python: plugins=[...])"
            ],
            source,
        )


def allowing(plugins: Sequence[str]) -> str:
    """The options of the command line that name plugins."""
    return " ".join(f"--plugins {shlex.quote(shortened(plugin))}" for plugin in plugins[:LISTED])

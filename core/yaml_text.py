"""Values as YAML for files and terminals."""

from __future__ import annotations

from typing import Any

from rehead.terminal import visible


def yaml_text(value: Any, **options: Any) -> str:
    """YAML in the order of the keys, readable in every script, that hides nothing.

    Args:
        value: mappings, lists, texts and numbers.
        options: of PyYAML's `safe_dump`.
    """
    import yaml

    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, **options)
    if visible(text, keep="\n") != text:
        # PyYAML escapes control characters, but bidirectional ones only together with all that is not ASCII.
        text = yaml.safe_dump(value, sort_keys=False, **options)
    # Of a number or a word alone it marks the end.
    return text.removesuffix("...\n")

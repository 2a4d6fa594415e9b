"""`model.init`: start a model from any checkpoint of rehead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rehead.configs.schema import BackboneOptions
from rehead.errors import WeightsError
from rehead.heads import Head
from rehead.progress import say
from rehead.training.checkpoints import read_metadata, read_tensors
from rehead.types import Classes

if TYPE_CHECKING:
    from rehead.tasks.model import Model

SHAPING = ("name", "width", "in_channels", "norm", "residual", "shortcut")
"""Options of a backbone that decide which tensors it has, and of which shapes."""


def start_from(model: Model, path: Path) -> None:
    """Copies the checkpoint's backbone, and each head whose kind, classes and tensors are the same.

    Says of each part whether it was taken.

    Raises:
        WeightsError: if the backbone's tensors differ in name or shape, or its blocks add back something else:
            nothing is taken by halves.
    """
    metadata = read_metadata(path)
    tensors = read_tensors(path)
    body = _inside(tensors, "backbone.")
    different = differing(model.backbone.state_dict(), body)
    saved, options = BackboneOptions.model_validate(metadata["config"]["model"]["backbone"]), model.backbone.options
    if different:
        own, theirs = options.model_dump(), saved.model_dump()
        others = [
            f"model.backbone.{name} is {theirs[name]} there and {own[name]} here"
            for name in SHAPING
            if own[name] != theirs[name] and (name != "norm" or "group" in (own[name], theirs[name]))
        ]
        raise WeightsError(
            f"model.init={path}: {len(different)} tensors of its backbone differ in name or shape from this model's "
            f"({', '.join(different[:4])}{', ...' if len(different) > 4 else ''}): "
            f"{', '.join(others) or 'written by another version'}; use the same options"
        )
    # Identities, zeros and nothing at all have the same tensors: none.
    if (saved.residual, saved.shortcut) != (options.residual, options.shortcut):
        raise WeightsError(
            f"model.init={path}: its blocks add back something else (residual: {saved.residual}, shortcut: "
            f"{saved.shortcut}) than this model's (residual: {options.residual}, shortcut: {options.shortcut}); "
            "use the same model.backbone options"
        )
    model.backbone.load_state_dict(body)
    model.lineage = metadata["lineage"]
    parts = [f"backbone taken ({len(body)} tensors)"]
    for key in model.heads:
        head = model.head(key)
        weights = _inside(tensors, f"heads.{key}.")
        reason = _why_not(head, weights, key, metadata)
        if reason is None:
            head.load_state_dict(weights)
            parts.append(f"head '{key}' ({head.options.name}) taken")
        else:
            parts.append(f"head '{key}' ({head.options.name}) starts afresh: {reason}")
    say(f"model.init={path}: " + "; ".join(parts))


def _inside(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def differing(own: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Names that only one side has, or whose shapes differ."""
    same = {name for name in own if name in theirs and own[name].shape == theirs[name].shape}
    return sorted({*own, *theirs} - same)


def _why_not(head: Head, weights: dict[str, Tensor], key: str, metadata: dict[str, Any]) -> str | None:
    """Why a head cannot take the checkpoint's weights, or None if it can."""
    heads = metadata["config"]["model"]["heads"]
    if key not in heads:
        return f"the checkpoint has no head '{key}'"
    if heads[key]["name"] != head.options.name:
        return f"the checkpoint's is {heads[key]['name']}"
    there = Classes.from_json(metadata["classes"][key])
    if there.names != head.classes.names:
        return f"the checkpoint's classes are {', '.join(there.names[:5])}{', ...' if len(there) > 5 else ''}"
    options = head.options.model_dump(mode="json")
    other = [name for name in head.options.fitted if options[name] != heads[key].get(name)]
    if other:
        return f"other options: {', '.join(other)}"
    different = differing(head.state_dict(), weights)
    if different:
        return f"other options: {len(different)} tensors differ in name or shape, such as {different[0]}"
    return None

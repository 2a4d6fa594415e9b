"""`model.init`: start a model from any checkpoint of rehead."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from rehead.backbones import Backbone
from rehead.backbones.tensor_files import differing, refuse_unfit
from rehead.errors import WeightsError, listed
from rehead.heads import Head
from rehead.models.checkpoints import Described, describe
from rehead.models.lineage import Entry
from rehead.terminal import say
from rehead.training.checkpoints import read_tensors

SHAPING = ("name", "width", "in_channels", "norm", "residual", "shortcut")
"""Options of a backbone that decide which tensors it has, and of which shapes."""


def start_from(path: Path, backbone: Backbone, heads: Mapping[str, Head]) -> list[Entry]:
    """Copies a checkpoint's backbone, and each head whose kind, classes and tensors are the same.

    Says of each part whether it was taken.

    Args:
        path: the checkpoint.
        backbone: takes its tensors.
        heads: by key, of the same model.

    Returns:
        The lineage of the checkpoint's backbone.

    Raises:
        WeightsError: if the backbone's tensors differ in name or shape, or its blocks add back something else:
            nothing is taken by halves.
    """
    described = describe(path)
    tensors = read_tensors(path)
    body = _inside(tensors, "backbone.")
    different = differing(backbone.state_dict(), body)
    saved, options = described.backbone(), backbone.options
    if different:
        own, theirs = options.model_dump(), saved.model_dump()
        others = [
            f"model.backbone.{name} is {theirs[name]} there and {own[name]} here"
            for name in SHAPING
            if own[name] != theirs[name] and (name != "norm" or "group" in (own[name], theirs[name]))
        ]
        raise WeightsError(
            f"model.init={path}: {len(different)} tensors of its backbone differ in name or shape from this model's "
            f"({listed(different)}): "
            f"{', '.join(others) or 'written by another version'}; use the same options"
        )
    # Identities, zeros and nothing at all have the same tensors: none.
    if (saved.residual, saved.shortcut) != (options.residual, options.shortcut):
        raise WeightsError(
            f"model.init={path}: its blocks add back something else (residual: {saved.residual}, shortcut: "
            f"{saved.shortcut}) than this model's (residual: {options.residual}, shortcut: {options.shortcut}); "
            "use the same model.backbone options"
        )
    refuse_unfit(body, backbone.state_dict(), f"model.init={path}: its backbone")
    backbone.load_state_dict(body)
    parts = [f"backbone taken ({len(body)} tensors)"]
    for key, head in heads.items():
        weights = _inside(tensors, f"heads.{key}.")
        reason = _why_not(head, weights, key, described)
        if reason is None:
            refuse_unfit(weights, head.state_dict(), f"model.init={path}: its head '{key}'")
            head.load_state_dict(weights)
            parts.append(f"head '{key}' ({head.options.name}) taken")
        else:
            parts.append(f"head '{key}' ({head.options.name}) starts afresh: {reason}")
    say(f"model.init={path}: " + "; ".join(parts))
    return list(described.lineage)


def _inside(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _why_not(head: Head, weights: dict[str, Tensor], key: str, described: Described) -> str | None:
    """Why a head cannot take the checkpoint's weights, or None if it can."""
    heads = described.heads
    if key not in heads:
        return f"the checkpoint has no head '{key}'"
    if heads[key]["name"] != head.options.name:
        return f"the checkpoint's is {heads[key]['name']}"
    there = described.classes.get(key)
    if there is None:
        return "the checkpoint does not say its classes"
    if there.names != head.classes.names:
        return f"the checkpoint's classes are {listed(there.names)}"
    options = head.options.model_dump(mode="json")
    other = [name for name in head.options.fitted if options[name] != heads[key].get(name)]
    if other:
        return f"other options: {', '.join(other)}"
    different = differing(head.state_dict(), weights)
    if different:
        return f"other options: {len(different)} tensors differ in name or shape, such as {different[0]}"
    return None

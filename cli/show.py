"""`rehead show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rehead.terminal import Column, Table, results

if TYPE_CHECKING:
    from rehead.tasks.model import Model

SHOWN = 20
"""Classes of a head that are listed."""
DIGITS = 12
"""Hexadecimal digits of a hash that are shown; the checkpoint holds all 64."""


def show(checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of rehead.")]) -> None:
    """What a checkpoint is: its backbone and heads, where the backbone comes from, and its config.

    Example: rehead show runs/camvid_unet/best.safetensors
    """
    from rehead.configs.load import to_yaml
    from rehead.tasks.lineage import backbone_hash
    from rehead.tasks.model import load
    from rehead.training.checkpoints import read_metadata

    model = load(checkpoint)
    metadata = read_metadata(checkpoint)
    console = results()
    versions = ", ".join(f"{name} {version}" for name, version in metadata["versions"].items())
    console.print(f"{checkpoint}  ({checkpoint.stat().st_size / 1e6:.1f} MB, written by {versions})")
    console.print("", _backbone(model), "", _heads(model))
    for key, classes in model.classes.items():
        console.print(f"classes of '{key}': {_listed(classes.names)}")
    console.print()
    found = backbone_hash(model.backbone.state_dict())
    console.print(_lineage(metadata["lineage"]))
    last = metadata["lineage"][-1]["hash"] if metadata["lineage"] else ""
    if last != found:
        console.print(f"warning: the backbone's tensors are {found[:DIGITS]}, not what its lineage ends with")
    console.print("", *to_yaml(model.config).splitlines())


def _backbone(model: Model) -> Table:
    body = model.backbone
    learning = _count(parameter for parameter in body.parameters() if parameter.requires_grad)
    table = Table(
        Column("feature", whole=True),
        Column("channels", right=True),
        Column("stride", right=True),
        title=f"backbone {body.options.name}: {_count(body.parameters()):,} parameters, {learning:,} of them learn",
        lines=True,
    )
    for name, spec in body.feature_specs.items():
        table.row(name, str(spec.channels), str(spec.stride))
    return table


def _heads(model: Model) -> Table:
    table = Table(
        Column("key", whole=True),
        Column("head", whole=True),
        "task",
        Column("classes", right=True),
        Column("parameters", right=True),
        title="heads",
        lines=True,
    )
    for key in model.heads:
        head = model.head(key)
        table.row(key, head.options.name, head.task, str(len(head.classes)), f"{_count(head.parameters()):,}")
    return table


def _lineage(lineage: Sequence[dict[str, Any]]) -> Table:
    table = Table("step", Column("backbone afterwards", whole=True), title="lineage of the backbone", lines=True)
    before = None
    for entry in lineage:
        if "task" in entry:
            heads = ", ".join(head if key == "main" else f"{key}: {head}" for key, head in entry["heads"].items())
            said = f"{entry['steps']:,} steps of {entry['task']} ({heads}) on {entry['data']}"
        else:
            said = f"weights: {entry['weights']}"
        same = " (unchanged)" if entry["hash"] == before else ""
        table.row(said, f"{entry['hash'][:DIGITS]}{same}")
        before = entry["hash"]
    return table


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

"""`rehead show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from rehead.cli.options import Plugins
from rehead.errors import listed, shortened
from rehead.files import json_text
from rehead.progress import results

if TYPE_CHECKING:
    from rehead.tasks.model import Model

MOST_UNCHECKED = 100_000
"""Letters of a config that is shown without being checked."""
DIGITS = 12
"""Hexadecimal digits of a hash that are shown; the checkpoint holds all 64."""


def show(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of rehead.")], plugins: Plugins = None
) -> None:
    """What a checkpoint is: its backbone and heads, where the backbone comes from, and its config.

    Plugins that only the checkpoint names are shown, not imported.

    Example: rehead show runs/camvid_unet/best.safetensors
    """
    from rehead.configs.load import to_yaml
    from rehead.configs.plugins import allowing, unnamed
    from rehead.tasks.checkpoints import describe
    from rehead.tasks.lineage import backbone_hash
    from rehead.tasks.model import opened
    from rehead.training.checkpoints import read_tensors

    described = describe(checkpoint)
    kept_out = unnamed(described.plugins, plugins or [])
    model = None if kept_out else opened(described, described.config({}, plugins or []))
    tensors = read_tensors(checkpoint) if model is None else model.state_dict()
    console = results()
    versions = ", ".join(f"{name} {version}" for name, version in described.versions.items())
    console.print(f"{checkpoint}  ({checkpoint.stat().st_size / 1e6:.1f} MB, written by {versions})", markup=False)
    console.print()
    if model is None:
        console.print(
            f"plugins: {listed(kept_out)}: not imported, since that runs their code; so this is what the file says of "
            f"itself, unchecked. If you trust them: {allowing(kept_out)}",
            markup=False,
        )
        console.print(f"backbone {described.raw['model']['backbone'].get('name')}", markup=False)
        for key, head in described.heads.items():
            console.print(f"head '{key}': {head['name']}", markup=False)
        console.print(f"{len(tensors):,} tensors of {sum(one.numel() for one in tensors.values()):,} numbers")
    else:
        console.print(_backbone(model))
        console.print()
        console.print(_heads(model))
    for key, classes in described.classes.items():
        console.print(f"classes of '{key}': {listed(classes.names)}", markup=False)
    console.print()
    found = backbone_hash(tensors)
    console.print(_lineage(described.lineage))
    last = described.lineage[-1]["hash"] if described.lineage else ""
    if last != found:
        console.print(f"warning: the backbone's tensors are {found[:DIGITS]}, not what its lineage ends with")
    console.print()
    if model is not None:
        console.print(to_yaml(model.config).rstrip(), markup=False)
    elif len(text := json_text(described.raw, indent=2)) <= MOST_UNCHECKED:
        console.print(text, markup=False)
    else:
        console.print(f"its config has {len(text):,} letters, too many to be one; not shown")


def _backbone(model: Model) -> Table:
    body = model.backbone
    learning = _count(parameter for parameter in body.parameters() if parameter.requires_grad)
    table = Table(
        Column("feature", no_wrap=True),
        Column("channels", justify="right"),
        Column("stride", justify="right"),
        title=f"backbone {body.options.name}: {_count(body.parameters()):,} parameters, {learning:,} of them learn",
        title_justify="left",
    )
    for name, spec in body.feature_specs.items():
        table.add_row(name, str(spec.channels), str(spec.stride))
    return table


def _heads(model: Model) -> Table:
    table = Table(
        Column("key", no_wrap=True),
        Column("head", no_wrap=True),
        "task",
        Column("classes", justify="right"),
        Column("parameters", justify="right"),
        title="heads",
        title_justify="left",
    )
    for key in model.heads:
        head = model.head(key)
        table.add_row(key, head.options.name, head.task, str(len(head.classes)), f"{_count(head.parameters()):,}")
    return table


def _lineage(lineage: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "step",
        Column("backbone afterwards", no_wrap=True),
        title="lineage of the backbone",
        title_justify="left",
    )
    before = None
    for entry in lineage:
        if "task" in entry:
            heads = ", ".join(head if key == "main" else f"{key}: {head}" for key, head in entry["heads"].items())
            said = f"{entry['steps']:,} steps of {entry['task']} ({heads}) on {entry['data']}"
        else:
            said = f"weights: {entry['weights']}"
        same = " (unchanged)" if entry["hash"] == before else ""
        table.add_row(Text(shortened(said, 2000)), Text(f"{entry['hash'][:DIGITS]}{same}"))
        before = entry["hash"]
    return table


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)

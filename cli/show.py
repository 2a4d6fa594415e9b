"""`rehead show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rehead.cli.options import Plugins
from rehead.errors import listed, shortened
from rehead.files import json_text
from rehead.terminal import Column, Table, results

if TYPE_CHECKING:
    from rehead.models.model import Model

SHOWN = 20
"""Classes of a head that are listed."""
DIGITS = 12
"""Hexadecimal digits of a hash that are shown; the checkpoint holds all 64."""


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
    from rehead.models.checkpoints import describe
    from rehead.models.lineage import backbone_hash
    from rehead.models.model import opened
    from rehead.training.checkpoints import read_tensors

    described = describe(checkpoint)
    kept_out = unnamed(described.plugins, plugins or [])
    model = None if kept_out else opened(described, described.config({}, plugins or []))
    tensors = read_tensors(checkpoint) if model is None else model.state_dict()
    console = results()
    versions = ", ".join(f"{name} {version}" for name, version in described.versions.items())
    console.print(f"{checkpoint}  ({checkpoint.stat().st_size / 1e6:.1f} MB, written by {versions})", "")
    if model is None:
        console.print(
            f"plugins: {listed(kept_out)}: not imported, since that runs their code; so this is what the file says of "
            f"itself, unchecked. If you trust them: {allowing(kept_out)}",
            f"backbone {described.raw['model']['backbone'].get('name')}",
            *(f"head '{key}': {head['name']}" for key, head in described.heads.items()),
            f"{len(tensors):,} tensors of {sum(one.numel() for one in tensors.values()):,} numbers",
        )
    else:
        console.print(_backbone(model), "", _heads(model))
    for key, classes in described.classes.items():
        console.print(f"classes of '{key}': {listed(classes.names)}")
    console.print()
    found = backbone_hash(tensors)
    console.print(_lineage(described.lineage))
    last = described.lineage[-1]["hash"] if described.lineage else ""
    if last != found:
        console.print(f"warning: the backbone's tensors are {found[:DIGITS]}, not what its lineage ends with")
    console.print()
    if model is not None:
        console.print(*to_yaml(model.config).splitlines())
    elif len(text := json_text(described.raw, indent=2)) <= MOST_UNCHECKED:
        console.print(*text.splitlines())
    else:
        console.print(f"its config has {len(text):,} letters, too many to be one; not shown")


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
        table.row(shortened(said, 2000), f"{entry['hash'][:DIGITS]}{same}")
        before = entry["hash"]
    return table


def _count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)

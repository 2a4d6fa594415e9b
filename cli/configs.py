"""`rehead configs`."""

from __future__ import annotations

from typing import Annotated

import typer

from rehead.terminal import Column, Table, results


def configs(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe, fully resolved, as YAML, with what it says of itself.")
    ] = None,
) -> None:
    """List the shipped recipes, or print one.

    Example: rehead configs coco_faster_rcnn_r50_fpn > mine.yaml
    """
    from rehead.configs.load import heading, load_config, recipes, to_yaml

    if name is not None:
        results().data(heading(name) + to_yaml(load_config(name)))
        return
    # Names are what this listing is for: they are never cut.
    table = Table(Column("recipe", whole=True), "task", "backbone", "heads", tight=True)
    for recipe in recipes():
        config = load_config(recipe)
        table.row(
            recipe,
            config.task,
            config.model.backbone.name,
            ", ".join(head.name for head in config.model.heads.values()),
        )
    results().print(table)

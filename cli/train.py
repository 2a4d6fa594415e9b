"""`rehead train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rehead.errors import ConfigError


def train(
    config: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of a recipe (see: rehead configs).", metavar="CONFIG")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values by dotted key: key=value ...", metavar="key=value")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder; needs no CONFIG.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where the folder holds a run.")] = False,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--plugins",
            metavar="MODULE",
            help="With --resume, a module that the run's config may have imported, which runs its code; repeat for "
            "several. A CONFIG names its own.",
        ),
    ] = None,
) -> None:
    """Fine-tune a model on your data.

    Example: rehead train camvid_unet_r18 data.root=datasets/camvid train.epochs=5
    """
    from rehead.configs.load import load_config
    from rehead.configs.overrides import parse_overrides

    given = list(overrides or [])
    if resume is not None and config is not None and "=" in config:
        given.insert(0, config)
        config = None
    if config is not None and resume is not None:
        raise ConfigError([f"a resumed run has its own config; leave out {config}"], "rehead train --resume")
    if config is None and resume is None:
        raise ConfigError(["name a CONFIG, or a run with --resume; `rehead configs` lists the recipes"], "rehead train")
    if plugins and resume is None:
        raise ConfigError(
            [f"--plugins is for --resume; write plugins: [{', '.join(plugins)}] in CONFIG"], "rehead train"
        )
    parsed = parse_overrides(given)
    # A run folder may be somebody else's; a CONFIG that is named is the user's own.
    named = (plugins or []) if resume is not None else None
    if resume is not None:
        parsed["out"] = str(resume)
        config = str(resume / "config.yaml")
    # Says what is wrong before torch takes its seconds to import. Of several processes one says it; the others find
    # nobody to join.
    if os.environ.get("RANK", "0") == "0":
        load_config(str(config), parsed, plugins=named)

    from rehead.tasks.train import train as run

    run(str(config), parsed, resume=resume is not None, overwrite=overwrite, plugins=named)

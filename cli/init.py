"""`rehead init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rehead.errors import ConfigError, DataError
from rehead.files import check_output, write_text
from rehead.terminal import results, say


def init(
    folder: Annotated[Path, typer.Argument(help="A folder of images and their annotations.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="What you know of the data: data.format=masks ...", metavar="key=value"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The YAML file; named after the folder unless given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
) -> None:
    """Look at a folder of images, and write a configuration for it that says why.

    Example: rehead init datasets/raccoon
    """
    from rehead.configs.overrides import parse_overrides

    parsed = parse_overrides(overrides or [])
    if not folder.is_dir():
        raise DataError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; give a folder of images")

    from rehead.datasets.audit.proposal import DECODED, Machine, name_of, next_commands, propose

    file = out if out is not None else Path(f"{name_of(folder)}.yaml")
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError([f"--out: {file} should end in .yaml"], "rehead init")
    check_output(file, inputs=[folder], overwrite=overwrite)

    import torch

    from rehead.configs.load import load_config
    from rehead.data.loader import cores
    from rehead.datasets.audit.findings import plural
    from rehead.datasets.audit.run import check_data

    checked = check_data(folder, parsed, most=DECODED)
    # In binary units, as GPUs are sold.
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else None
    text = propose(checked, folder, Machine(cores(), memory))
    write_text(file, text)
    errors, warnings = checked.findings.errors, sum(one.severity == "warning" for one in checked.findings)
    some = checked.decoded < checked.images
    if some:
        say(
            f"{checked.decoded:,} of {checked.images:,} images were decoded, evenly; "
            "rehead data check decodes all of them"
        )
    if errors or warnings:
        repair = ", and with --fix FOLDER writes a repaired copy" if errors else ""
        where = "the annotations and those images" if some else "the data"
        say(
            f"{plural(errors, 'error')} and {plural(warnings, 'warning')} in {where}: rehead data check "
            f"{shlex.quote(str(folder))} lists them{repair}"
        )
    say(f"{file}: written; every choice in it says why. Next:")
    for command in next_commands(file, folder, checked, load_config(file).out):
        results().print(shlex.join(command))

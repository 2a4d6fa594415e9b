"""`rehead data check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rehead.errors import ConfigError
from rehead.files import check_output, json_text, write_text
from rehead.terminal import Column, Line, Output, Table, results

if TYPE_CHECKING:
    from rehead.datasets.audit.findings import Findings
    from rehead.datasets.audit.run import Checked
    from rehead.datasets.audit.sources import Source
    from rehead.datasets.audit.statistics import BoxStatistics

COLOURS = {"error": "red", "warning": "yellow", "advice": "cyan"}
CLASSES_SHOWN = 20


def check(
    source: Annotated[
        str, typer.Argument(help="A folder, a YAML file, or the name of a recipe.", metavar="PATH|CONFIG")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Values by dotted key; of a folder, those of data.", metavar="key=value")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every finding to this file.")] = None,
    fix: Annotated[Path | None, typer.Option(help="Write a repaired copy to this folder.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report with thumbnails: one .html page.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw box sizes, aspect ratios and classes: .png, .jpg")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Findings shown of each kind.")] = 2,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of --json, --html and --picture if it is there.")
    ] = False,
) -> None:
    """Find what is wrong with a data set before training does. Exit code 1 if there are errors.

    Example: rehead data check datasets/raccoon --html report.html --fix datasets/raccoon_repaired
    """
    from rehead.configs.load import find
    from rehead.configs.overrides import parse_overrides

    parsed = parse_overrides(overrides or [])
    outputs = {"--json": json_file, "--html": html, "--picture": picture, "--fix": fix}
    _refuse_misuse(outputs)
    _check_outputs(outputs, [Path(source) if Path(source).is_dir() else find(source)], overwrite)

    from rehead.datasets.audit.run import check_data
    from rehead.datasets.audit.statistics import box_statistics

    checked = check_data(source, parsed, to_repair=fix is not None)
    if (options := checked.data.config.data if checked.data.config else checked.data.options) is not None:
        # What a configuration reads is known from here on.
        _check_outputs(outputs, options.paths(), overwrite)
    console = results()
    root = source if Path(source).is_dir() else checked.data.config.data.root if checked.data.config else ""
    _print_findings(console, checked.findings, examples, root)
    if json_file is not None:
        found = [one.record() for one in checked.findings]
        write_text(json_file, json_text(found, indent=1, ensure_ascii=False) + "\n")
    boxes = box_statistics(checked) if checked.data.sources else None
    _print_statistics(console, checked, boxes, picture)
    if html is not None:
        from rehead.datasets.audit.page import page_of
        from rehead.pages import write_page

        write_page(html, page_of(checked, root, boxes, _unit(checked)))
    if fix is not None:
        from rehead.datasets.audit.repair import repair

        for line in repair(checked, fix):
            console.print(line)
    if checked.findings.errors:
        raise typer.Exit(1)


def _check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[Path], overwrite: bool) -> None:
    for option, path in outputs.items():
        if path is not None:
            folder = option == "--fix"
            check_output(path, option, folder=folder, inputs=inputs, overwrite=None if folder else overwrite)


def _refuse_misuse(outputs: Mapping[str, Path | None]) -> None:
    """Says what is wrong before anything is read.

    Raises:
        ConfigError: with every problem.
    """
    from PIL import Image

    html, picture = outputs["--html"], outputs["--picture"]
    problems = []
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        problems.append(f"--html: {html} should be a file that ends in .html")
    if picture is not None and picture.suffix.lower() not in Image.registered_extensions():
        problems.append(f"--picture: {picture} should end in .png, .jpg or another format of pictures")
    if problems:
        raise ConfigError(problems, "rehead data check")


def _print_findings(console: Output, findings: Findings, examples: int, root: str) -> None:
    """A table for each severity; files without the folder that all are in."""
    from rehead.datasets.audit.findings import CODES, SEVERITIES, inside, plural

    groups = findings.grouped()
    totals = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    for severity in SEVERITIES:
        own = {code: group for code, group in groups.items() if CODES[code].severity == severity}
        if not own:
            continue
        table = Table(
            Column("code", whole=True),
            Column("count", right=True),
            Column("what", ratio=1),
            title=(plural(totals[severity], severity), COLOURS[severity]),
            expand=True,
        )
        for code, group in own.items():
            shown = [inside(root, f"{one.file}: {one.message}") for one in group[:examples]]
            more = [f"and {len(group) - examples} more"] if 0 < examples < len(group) else []
            lines: list[Line] = [CODES[code].meaning, *((line, "dim") for line in (*shown, *more))]
            table.row(code, str(len(group)), lines)
        console.print(table)
    console.print(", ".join(plural(totals[severity], severity) for severity in SEVERITIES))


def _print_statistics(console: Output, checked: Checked, boxes: BoxStatistics | None, picture: Path | None) -> None:
    if not checked.data.sources:
        return
    unit = _unit(checked)
    read = ", ".join(_number(source) for source in checked.data.sources)
    console.print(f"images: {read}")
    splits = list(dict.fromkeys(split for own in checked.counts.values() for split in own))
    table = Table("class", *(Column(split, right=True) for split in splits), title=unit)
    names = sorted(checked.counts, key=lambda name: -sum(checked.counts[name].values()))
    for name in names[:CLASSES_SHOWN]:
        table.row(name, *(f"{checked.counts[name].get(split, 0):,}" for split in splits))
    console.print(table)
    if len(names) > CLASSES_SHOWN:
        rest = names[CLASSES_SHOWN:]
        console.print(f"and {len(rest)} more classes, the rarest {rest[-1]}")
    for count, numbers in checked.numbers:
        console.print(f"numbers in {count} images beyond 8 bits: {numbers}")
    if boxes is not None:
        console.print(_box_table(boxes))
        for line in boxes.meaning():
            console.print(f"- {line}")
    if picture is not None:
        from rehead.datasets.audit.picture import draw

        draw(picture, boxes, checked.counts, unit)


def _number(source: Source) -> str:
    """How many images a split has."""
    unlabelled = 0 if source.reader.unlabelled is None else int(source.reader.unlabelled.sum())
    said = f" ({unlabelled} without a label file)" if unlabelled else ""
    return f"{len(source.reader)} in {source.split}{said}"


def _box_table(boxes: BoxStatistics) -> Table:
    import numpy as np

    shares = [0.05, 0.25, 0.5, 0.75, 0.95]
    table = Table("boxes", *(Column(f"{share:.0%}", right=True) for share in shares))
    rows = {
        "width, pixels": boxes.originals[:, 0],
        "height, pixels": boxes.originals[:, 1],
        "width, resized": boxes.sides[:, 0],
        "height, resized": boxes.sides[:, 1],
    }
    for name, values in rows.items():
        table.row(name, *(f"{value:.0f}" for value in np.quantile(values, shares)))
    table.row("height / width", *(f"{value:.2f}" for value in np.quantile(boxes.ratios, shares)))
    return table


def _unit(checked: Checked) -> str:
    if not checked.data.sources:
        return ""
    columns = checked.data.sources[0].reader.columns
    return "objects" if columns.boxes is not None else "pixels" if columns.masks is not None else "images"

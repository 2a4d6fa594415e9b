"""Writers of data sets: one file per format, all given the same `Content`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rehead.data.reader import Reader
from rehead.datasets.content import Content, Notes
from rehead.datasets.formats.coco import write_coco
from rehead.datasets.formats.folders import write_folders
from rehead.datasets.formats.masks import write_masks
from rehead.datasets.formats.voc import write_voc
from rehead.datasets.formats.yolo import write_yolo
from rehead.datasets.whereabouts import whereabouts
from rehead.errors import ConfigError, DataError, did_you_mean
from rehead.files import atomic_folder, write_text
from rehead.reading import is_file

Writer = Callable[[Content, Path, Notes], dict[str, Any]]
Held = Literal["objects", "labels", "maps"]

SAID: dict[Held, str] = {"objects": "objects", "labels": "classes of images", "maps": "class maps"}
"""What a data set may hold, in words."""


@dataclass(frozen=True)
class Form:
    """A format that is written.

    Attributes:
        write: writes a folder and gives the options that read it, but for `format` and `root`.
        holds: what it has a place for.
    """

    write: Writer
    holds: tuple[Held, ...]


WRITERS: dict[str, Form] = {
    "coco": Form(write_coco, ("objects",)),
    "yolo": Form(write_yolo, ("objects",)),
    "voc": Form(write_voc, ("objects",)),
    "masks": Form(write_masks, ("objects", "maps")),
    "folders": Form(write_folders, ("labels",)),
}
"""By the name of the format."""


def register_writer(name: str, *, holds: Sequence[Held]) -> Callable[[Writer], Writer]:
    """Registers a writer of one's own: a decorator on a function as those in `WRITERS`.

    Args:
        name: of the format, as `rehead data convert --to` takes it.
        holds: what it has a place for: `objects`, `labels` (classes of images) and `maps` (class maps).

    Raises:
        ConfigError: for a name that is there.
    """
    if name in WRITERS:
        raise ConfigError([f"writer '{name}' is registered twice"], "registry")

    def add(writer: Writer) -> Writer:
        WRITERS[name] = Form(writer, tuple(holds))
        return writer

    return add


@dataclass
class Written:
    """What came of a conversion.

    Attributes:
        options: the `data` of a configuration that reads it.
        notes: what the format could not hold, in words, with the number of cases.
    """

    options: dict[str, Any]
    notes: Notes


def write(
    splits: Mapping[str, Reader],
    form: str,
    folder: Path,
    *,
    link: bool = False,
    more: Mapping[str, str] | None = None,
) -> Written:
    """Writes a data set in a format, whole or not at all.

    Args:
        splits: by name (`train`, `val`, `test`), their readers.
        form: one of `WRITERS`.
        folder: a new or an empty one.
        link: images become hard links of the source's, which take no room; else they are copied.
        more: other files of text to write into the folder, by name.

    Raises:
        ConfigError: for a format that nothing writes.
        DataError: for data that the format has no place for at all, and images that are not there.
        OutputError: for a folder that is not empty or cannot be written.
    """
    if form not in WRITERS:
        hint = did_you_mean(form, WRITERS) or f"; known: {', '.join(WRITERS)}"
        raise ConfigError([f"--to: no writer for '{form}'{hint}"], "convert")
    content = Content(splits, link=link)
    held: Held = "maps" if content.maps else "labels" if content.labels else "objects"
    if held not in WRITERS[form].holds:
        fitting = " or ".join(name for name, own in WRITERS.items() if held in own.holds)
        raise DataError(f"{content.source}: holds {SAID[held]}, which {form} has no place for; use --to {fitting}")
    for reader, rows in content.splits.values():
        lacking = next((path for row in rows if not is_file(path := reader[row].path)), None)
        if lacking is not None:
            raise DataError(f"{lacking}: no such file; {whereabouts(reader)}")
    notes: Notes = Notes()
    with atomic_folder(folder) as temporary:
        options = WRITERS[form].write(content, temporary, notes)
        for reader, rows in content.splits.values():
            unlabelled = 0 if reader.unlabelled is None else int(reader.unlabelled[list(rows)].sum())
            notes["{} images without a label file are written as images without objects"] += unlabelled
        for name, text in (more or {}).items():
            write_text(temporary / name, text)
    return Written({"format": form, "root": str(folder), **options}, notes)

"""The files of a data set against its annotations: what is missing, and what nobody names."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from rehead.configs.readers import CocoSplit, CsvSplit, FoldersSplit, MasksSplit, ViaSplit, VocSplit, YoloSplit
from rehead.data.image_io import SUFFIXES
from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.sources import DataSet, Source
from rehead.datasets.file_names import file_names, image_names
from rehead.datasets.formats.folders import stray_files
from rehead.datasets.missing import compared
from rehead.datasets.passed_over import passed_over
from rehead.reading import folder_named, is_folder, is_readable, walk

NO_LABELS = frozenset({"classes.txt", "readme.txt", "train.txt", "val.txt", "test.txt", "labels.txt", "notes.txt"})
"""Text files beside YOLO's labels that are none."""


def report_files(data: DataSet, findings: Findings) -> None:
    """Notes images and labels that have no other half, and what could not be looked into."""
    sources = data.sources
    _report_unread(data, findings)
    named: dict[Path, set[str]] = defaultdict(set)
    for source in sources:
        reader = source.reader
        named[reader.folder.absolute()].update(reader.columns.names[row] for row in range(len(reader)))
    for source in sources:
        # A folder that two splits share is looked at once.
        folder = source.reader.folder.absolute()
        known = named.pop(folder, None)
        if known is not None and _all_named(source):
            for name in image_names(folder):
                if name not in known:
                    findings("unlisted_image", source.reader.folder / name, "no annotation names it")
        if known is not None:
            _report_passed_over(source, known, findings)
        _report_labels(source, findings)


def _report_unread(data: DataSet, findings: Findings) -> None:
    """Folders that cannot be looked into, and what is neither a file nor a folder."""
    folders = [folder_named(data.options.root)] if data.options is not None else []
    for source in data.sources:
        reader = source.reader
        folders += [folder for folder in (reader.folder, reader.mask_folder, reader.annotations) if is_folder(folder)]
    noted = {Path(one.file) for one in findings if one.code == "unreadable_folder"}
    for folder in dict.fromkeys(folder.absolute() for folder in folders):
        if not is_readable(folder):
            if folder not in noted:
                findings("unreadable_folder", folder, "cannot be read")
            continue
        walked = walk(folder)
        for found, code in ((walked.unread, "unreadable_folder"), (walked.special, "passed_over")):
            for name, why in found.items():
                if folder / name not in noted:
                    noted.add(folder / name)
                    findings(code, folder / name, why if code == "passed_over" else f"cannot be read: {why}")


def _report_passed_over(source: Source, known: set[str], findings: Findings) -> None:
    """Files among the images, and among the masks, that are not read."""
    reader = source.reader
    folders = isinstance(source.options, FoldersSplit)
    files = stray_files(reader.folder, reader.classes.names) if folders else passed_over(reader.folder)
    for name, why in files.items():
        # Those that the annotations name are read, or are errors.
        if name not in known:
            findings("passed_over", reader.folder / name, why)
    if reader.columns.masks is not None and reader.mask_folder != reader.folder:
        for name, why in passed_over(reader.mask_folder).items():
            findings("passed_over", reader.mask_folder / name, why)


def _all_named(source: Source) -> bool:
    """Whether the annotations should name every image of their folder."""
    options = source.options
    if isinstance(options, VocSplit):
        return options.image_set is None and source.reader.columns.masks is None
    return isinstance(options, CocoSplit | CsvSplit | ViaSplit) and Path(options.images) != Path()


def _report_labels(source: Source, findings: Findings) -> None:
    """Masks and YOLO's label files without their image; in other formats the annotation names its image."""
    reader = source.reader
    columns = reader.columns
    if isinstance(source.options, YoloSplit):
        _report_yolo(source, findings)
    elif columns.masks is not None and isinstance(source.options, MasksSplit):
        known = {columns.masks[row] for row in range(len(columns))}
        for name in file_names(reader.mask_folder, SUFFIXES):
            if name not in known and PurePosixPath(name).stem.endswith(source.options.mask_ending):
                findings("label_without_image", reader.mask_folder / name, f"no image of this name in {reader.folder}")


def _report_yolo(source: Source, findings: Findings) -> None:
    reader = source.reader
    assert isinstance(source.options, YoloSplit)
    if source.options.images.endswith(".txt"):
        return  # a list may leave out images on purpose
    parts = list(reader.folder.absolute().parts)
    places = [place for place, part in enumerate(parts) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    folder = source.root / source.options.labels if source.options.labels is not None else Path(*parts)
    # Those that could not be read have their label all the same.
    how = reader.source.images_match if reader.source is not None else "exact"
    key = (lambda stem: stem) if how == "exact" else lambda stem: compared(stem, how)
    stems = {key(os.path.splitext(name)[0]) for name in image_names(reader.folder)}
    for name in file_names(folder, {".txt"}) if is_readable(folder) else ():
        if key(os.path.splitext(name)[0]) not in stems and Path(name).name.lower() not in NO_LABELS:
            findings("label_without_image", folder / name, f"no image of this name in {reader.folder}")

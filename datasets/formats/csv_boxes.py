"""Detection: a table with a line per box."""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rehead.configs.readers import CsvSplit
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Box, Builder, Columns
from rehead.datasets.cache import cached
from rehead.datasets.matching import matching_files, refuse_contested
from rehead.datasets.parsing import Report, UnusableError, code_for, existing, finite, refuse
from rehead.datasets.text_files import text_of
from rehead.errors import DataError, listed, quoted

COLUMNS = {
    "image": "file_name filename image_path image_name image img_path img_name img filepath path file image_id",
    "class": "class_name label_name category_name class label category name class_id label_id category_id",
    "xmin": "xmin x1 x_min left bbox_xmin",
    "ymin": "ymin y1 y_min top bbox_ymin",
    "xmax": "xmax x2 x_max right bbox_xmax",
    "ymax": "ymax y2 y_max bottom bbox_ymax",
    "x": "x bbox_x",
    "y": "y bbox_y",
    "w": "w bbox_width bbox_w box_width",
    "h": "h bbox_height bbox_h box_height",
    "bbox": "bbox box",
    "width": "width image_width img_width",
    "height": "height image_height img_height",
    "iscrowd": "iscrowd crowd difficult isgroupof",
}
"""What columns are called, the surest name first; in capitals or not, with spaces, hyphens or nothing for the
underscores."""

HEADLESS = ("image", "xmin", "ymin", "xmax", "ymax", "class")
"""The order of tables without a header, keras-retinanet's."""


class CsvReader(AnnotationReader):
    """Boxes of a table, images in the order in which they are first named.

    A box is its corners in pixels, or x and y of its upper left corner with w and h, or `[x, y, w, h]` in one
    column. A line without coordinates names an image without objects. Without a class, all objects are of class
    `object`.

    Args:
        split: the table, and the folder that its names start from.
        root: what their paths are relative to.
        classes: names that select and order the classes; sorted unless given.
        report: what is done about lines that cannot be used.

    Raises:
        DataError: naming the file and the line.
    """

    def __init__(
        self,
        split: CsvSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        report: Report = refuse,
        **_: object,
    ) -> None:
        folder = existing(root, split.images, "images", folder=True)
        path = existing(root, split.annotations, "annotations", folder=False)
        columns = cached(
            f"csv {path.absolute()} {folder.absolute()}", [path, folder], lambda: parse(path, folder, report), report
        )
        super().__init__(columns, folder, path, classes)


Rows = list[tuple[int, dict[str, str]]]


def parse(path: Path, folder: Path, report: Report = refuse) -> Columns:
    """The columns of a table.

    Args:
        path: of the table.
        folder: of the images.
        report: what is done about lines that cannot be used.

    Raises:
        DataError: as `CsvReader`.
    """
    builder = Builder(path, report)
    table = table_of(path, report)
    matches = matching_files(folder, [[name] for name in table])
    for (name, rows), match in zip(table.items(), matches, strict=True):
        if match.contested:
            refuse_contested(match, f"line {rows[0][0]}: {name}", path, folder, report)
            continue
        builder.image(match.file or name, name, _size(rows[0][1]))
        for number, cells in rows:
            try:
                box = _box(cells)
                if box is not None and not cells.get("class", "object"):
                    raise ValueError("a box without a class, though the table has a column for it")
            except ValueError as error:
                report(code_for(error), path, f"line {number}: {error}")
                continue
            if box is not None:
                crowd = cells.get("iscrowd", "").lower() in {"1", "true", "yes"}
                builder.object(cells.get("class", "object"), box, f"line {number}", crowd=crowd)
    coordinates = [value for box in builder.boxes for value in box]
    if coordinates and max(coordinates) <= 1 and not all(value.is_integer() for value in coordinates):
        raise DataError(f"{path}: all coordinates are between 0 and 1; they should be pixels, not shares of the image")
    return builder.columns()


def table_of(path: Path, report: Report = refuse) -> dict[str, Rows]:
    """By image, its lines with their numbers, and in each the cells by what they are (the keys of `COLUMNS`).

    Args:
        path: of the table.
        report: what is done about lines that cannot be used.

    Raises:
        DataError: for what is no table of boxes.
    """
    lines = re.split(r"\r\n?|\n", text_of(path))
    delimiter = max(",;\t", key=lines[0].count)
    place: dict[str, int] = {}
    by_image: dict[str, Rows] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = _cells(line, delimiter)
        except csv.Error as error:
            report("broken_annotation", path, f"line {number}: {error}; a quoted field begins and ends on its line")
            continue
        if not any(cell.strip() for cell in row):
            continue
        if not place and not _headless(row):
            place = _header(row, path)
            continue
        place = place or {name: column for column, name in enumerate(HEADLESS)}
        # A line that ends too soon has empty cells: without any, it would be of an image without objects.
        cells = {name: row[column].strip() if column < len(row) else "" for name, column in place.items()}
        if not cells.get("image"):
            report("broken_annotation", path, f"line {number}: names no image")
            continue
        # Of one image, however its path is written.
        image = posixpath.normpath(cells["image"].replace("\\", "/"))
        by_image.setdefault(image, []).append((number, cells))
    if not by_image:
        raise DataError(f"{path}: holds no lines")
    return by_image


def _cells(line: str, delimiter: str) -> list[str]:
    """The cells of one line: a quote that nobody closes would hide all lines behind it.

    Raises:
        csv.Error: for what is no line.
    """
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        # Strict readers refuse a blank behind a closing quote too, which does no harm.
        if "expected after" not in str(error):
            raise
        return next(csv.reader([line], delimiter=delimiter), [])


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


def _headless(row: Sequence[str]) -> bool:
    """Whether a table's first line is one of boxes already."""
    return len(row) == len(HEADLESS) and all(not cell.strip() or finite(cell) is not None for cell in row[1:5])


def _header(row: Sequence[str], path: Path) -> dict[str, int]:
    """Where each column is."""
    known = {_plain(word): name for name, words in COLUMNS.items() for word in words.split()}
    place: dict[str, int] = {}
    # Of several columns for one thing, the surest: class_name before class_id, wherever they stand.
    order = {_plain(word): number for words in COLUMNS.values() for number, word in enumerate(words.split())}
    for number in sorted(range(len(row)), key=lambda number: order.get(_plain(row[number]), 0)):
        name = known.get(_plain(row[number]))
        if name is not None and name not in place:
            place[name] = number
    if "image" not in place and "name" in {_plain(cell) for cell in row}:
        place["image"] = place.pop("class")
    corners = {"xmin", "ymin", "xmax", "ymax"} <= place.keys()
    if not corners and {"x", "y", "width", "height"} <= place.keys() and not {"w", "h"} & place.keys():
        place |= {"w": place.pop("width"), "h": place.pop("height")}
    mixed = {"xmin", "ymin", "w", "h"} <= place.keys()
    if mixed and not corners:
        place |= {"x": place["xmin"], "y": place["ymin"]}
    if "image" not in place or not (corners or {"x", "y", "w", "h"} <= place.keys() or "bbox" in place):
        raise DataError(
            f"{path}: columns {listed(row)}; there should be one for the image ({COLUMNS['image'].split()[1]}) and "
            "those of a box: xmin, ymin, xmax, ymax, or x, y, w, h, or bbox"
        )
    return place


def _size(cells: Mapping[str, str]) -> tuple[float, float] | None:
    height, width = (finite(cells.get(side, "")) for side in ("height", "width"))
    return (height, width) if height and width else None


def _box(cells: Mapping[str, str]) -> Box | None:
    """xyxy of a line; None where it has none."""
    if "xmax" in cells or "w" in cells:
        names = ("xmin", "ymin", "xmax", "ymax") if "xmax" in cells else ("x", "y", "w", "h")
        words = [cells.get(name, "") for name in names]
    else:
        names = ("x", "y", "w", "h")
        try:
            words = [str(value) for value in json.loads(cells.get("bbox") or "[]")] or [""] * 4
        except (ValueError, TypeError, RecursionError):
            words = []
        if len(words) != 4:
            raise ValueError(f"bbox is {quoted(cells.get('bbox'))}, not [x, y, w, h]")
    if not any(words):
        return None
    numbers = [finite(word) for word in words]
    wrong = [
        f"{name} {quoted(word)}" for name, word, number in zip(names, words, numbers, strict=True) if number is None
    ]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not a number")
    x1, y1, x2, y2 = (number for number in numbers if number is not None)
    if "xmax" not in names:
        x2, y2 = x1 + x2, y1 + y2
    if x2 < x1 or y2 < y1:
        shown = ", ".join(f"{name} {word}" for name, word in zip(names, words, strict=True))
        raise UnusableError("negative_box", f"{shown}: a side is negative")
    return x1, y1, x2, y2

"""Classification, detection and segmentation: Hugging Face `datasets` (https://huggingface.co/docs/datasets)."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rehead.configs.readers import HuggingFaceSplit
from rehead.data.image_io import decoding, head_in
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Box, Builder, Columns, Texts, ids_of
from rehead.datasets.cache import cached
from rehead.datasets.mask_values import Colour, MaskValues
from rehead.datasets.parsing import Report, UnusableError, checked_classes, code_for, reason, refuse, watched
from rehead.errors import ConfigError, DataError, did_you_mean, listed, quoted, shortened
from rehead.files import atomic_path, cache_folder
from rehead.reading import contents, is_file, is_folder, reading

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "PPM": ".ppm", "GIF": ".gif"}


class HuggingFaceReader(AnnotationReader):
    """A data set that `save_to_disk` wrote, a folder that `load_dataset` reads, or one on the hub.

    Images are copied out of its tables once, as they are, into the folder of the annotation store. The columns
    are found by what they hold: the first image is the image; for a segmentation head the second is its class map;
    for classification a `ClassLabel`; for detection a column of objects with `bbox` and `category` (or `label`).

    Args:
        split: the data set and its split, and the columns where there are several.
        root: what its folder is relative to.
        classes: names that select and order the classes; for class maps the names of values 0, 1, 2, ...
        ignore_index: values of class maps that do not count.
        values: the value or the colour of every name in class maps.
        task: which of the columns is the annotation; unless given, boxes, else a class map, else a class.
        optional: those of the classes that the data set need not list; see `open_reader`.
        report: what is done about rows and objects that cannot be used.

    Raises:
        ConfigError: where `datasets` is not installed.
        DataError: naming the data set, for one that cannot be loaded or lacks the columns.
    """

    def __init__(
        self,
        split: HuggingFaceSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        ignore_index: Sequence[int] = (),
        values: Mapping[str, int | Colour] | None = None,
        task: str = "",
        optional: Collection[str] | None = (),
        report: Report = refuse,
        **_: object,
    ) -> None:
        table = _loaded(split, root)
        folder = cache_folder() / "images"
        where = root / split.dataset
        image, annotation = _columns(table.features, split, task, where)
        sources = [Path(file["filename"]) for file in table.cache_files]
        columns = cached(
            f"huggingface {where.absolute()} {split} {annotation} {folder}",
            sources,
            lambda: _parse(table, image, annotation, split, folder, where, report),
            report,
        )
        maps = columns.masks is not None
        meant = MaskValues(classes, ignore_index, values, where) if maps else None
        super().__init__(columns, folder, where, classes, values=meant, mask_folder=folder, optional=optional)


def _loaded(split: HuggingFaceSplit, root: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        needed = "data.format: huggingface needs the package datasets: pip install 'rehead[huggingface]'"
        raise ConfigError([needed]) from error
    folder = root / split.dataset
    try:
        if is_folder(folder) and any(is_file(folder / name) for name in ("state.json", "dataset_dict.json")):
            found: Any = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if is_folder(folder) else split.dataset)
    # Of broken files it raises whatever its parsers do: KeyError, TypeError, ArrowInvalid, ...
    except Exception as error:
        said = shortened(str(error) or type(error).__name__, 1000)
        raise DataError(f"{split.dataset}: cannot be loaded, neither from {folder} nor from the hub: {said}") from error
    if not isinstance(found, dict):
        return found
    if split.split not in found:
        hint = did_you_mean(split.split, found) or f"; splits: {listed(list(found))}"
        raise DataError(f"split: {split.dataset} has no '{split.split}'{hint}")
    return found[split.split]


def _columns(features: Any, split: HuggingFaceSplit, task: str, where: Path) -> tuple[str, str]:
    """The names of the image's column and of the annotation's."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if split.image is not None and split.image not in images:
        raise DataError(f"image: {where} has no column of images '{split.image}'{did_you_mean(split.image, images)}")
    if not images:
        raise DataError(f"{where}: no column of images, but {listed(list(features))}")
    image = split.image or images[0]
    boxes = [name for name, kind in features.items() if "bbox" in _inside(kind)]
    maps = [name for name in images if name != image]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    fitting = {"classification": labels, "segmentation": maps, "": boxes or maps or labels}.get(task, boxes)
    if split.annotation is not None:
        fitting = [name for name in fitting if name == split.annotation]
    if len(fitting) != 1:
        found = f"{listed(fitting)}; say which by annotation" if fitting else "none"
        wanted = task or "the annotation"
        raise DataError(
            f"{where}: one column should be right for {wanted}, found {found} (of {listed(list(features))})"
        )
    return image, fitting[0]


def columns_by_task(info: Path) -> dict[str, list[str]]:
    """The columns of a data set by the task that could learn from them, read without `datasets`.

    Args:
        info: the `dataset_info.json` that `save_to_disk` writes beside the tables.
    """
    with reading(info, "broken JSON"):
        content = json.loads(contents(info))
    features = content.get("features") if isinstance(content, dict) else None
    features = features if isinstance(features, dict) else {}
    kinds = {name: kind.get("_type") for name, kind in features.items() if isinstance(kind, dict)}
    boxes = [name for name in kinds if "bbox" in (features[name].get("feature") or features[name])]
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    found = {
        "detection": boxes,
        "multi_label_classification": boxes,
        "segmentation": images[1:],
        "classification": labels,
    }
    return {task: columns for task, columns in found.items() if columns and images}


def _inside(kind: Any) -> dict[str, Any]:
    """The features of every object, from a list of objects or from an object of lists."""
    if isinstance(kind, dict):
        return {name: getattr(value, "feature", value) for name, value in kind.items()}
    inner = getattr(kind, "feature", None)
    return inner if isinstance(inner, dict) else {}


def _parse(
    table: Any, image: str, annotation: str, split: HuggingFaceSplit, folder: Path, where: Path, report: Report
) -> Columns:
    import datasets

    kind = table.features[annotation]
    maps = isinstance(kind, datasets.Image)
    for name in (image, annotation) if maps else (image,):
        table = table.cast_column(name, datasets.Image(decode=False))
    rows = _rows(table.select_columns(list({image, annotation})), where, report)
    if isinstance(kind, datasets.ClassLabel) or maps:
        return _whole_images(rows, image, annotation, kind, folder, where, report)
    features = _inside(kind)
    key = next((name for name in ("category", "category_id", "label", "labels") if name in features), None)
    if key is None:
        raise DataError(f"{where}: the objects in '{annotation}' have no category, but {listed(list(features))}")
    builder = Builder(where, report)
    names = features[key].names if isinstance(features[key], datasets.ClassLabel) else None
    for number, row in rows:
        file = _copied(row[image], folder, where, f"row {number}", report)
        if not file:
            continue
        builder.image(file, number)
        try:
            objects = _objects(row[annotation])
        except ValueError as error:
            report("broken_annotation", where, f"row {number}: {annotation}: {error}")
            continue
        for place, one in enumerate(objects):
            what = f"row {number} object {place}"
            try:
                label, box = _label(one.get(key), key, names), _box(one.get("bbox"), split.boxes)
            except ValueError as error:
                report(code_for(error), where, f"{what}: {error}")
                continue
            builder.object(label, box, what, crowd=bool(one.get("iscrowd")))
    return builder.columns(checked_classes(names, range(len(names)), where) if names else None)


def _rows(table: Any, where: Path, report: Report) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows that can be read, with their numbers."""
    for number in watched(range(len(table))):
        try:
            with reading(where, "a broken table"):
                row = table[number]
        except DataError as error:
            report("broken_annotation", where, f"row {number}: {reason(error, where)}")
            continue
        yield number, row


def _whole_images(
    rows: Iterator[tuple[int, Mapping[str, Any]]],
    image: str,
    annotation: str,
    kind: Any,
    folder: Path,
    where: Path,
    report: Report,
) -> Columns:
    """Images with a class, or with a class map, which is an image too."""
    maps = not hasattr(kind, "names")
    names: list[str] = []
    found: list[Any] = []
    numbers: list[int] = []
    for number, row in rows:
        what = f"row {number}"
        file = _copied(row[image], folder, where, what, report)
        own = row[annotation]
        if maps:
            own = _copied(own, folder, where, f"{what}: {annotation}", report)
        elif not _is_class(own, kind.names):
            said = f"{annotation} {quoted(own)}, but there are {len(kind.names)} classes"
            report("unknown_category", where, f"{what}: {said}")
            continue
        if file and own != "":
            names.append(file)
            found.append(own)
            numbers.append(number)
    columns: Any = {"masks": Texts.of(found)} if maps else {"image_labels": np.array(found, np.int64)}
    classes = None if maps else checked_classes(kind.names, range(len(kind.names)), where)
    return Columns(classes=classes, names=Texts.of(names), ids=ids_of(numbers), **columns)


def _is_class(label: object, names: Sequence[str]) -> bool:
    return isinstance(label, int) and 0 <= label < len(names)


def _objects(cell: Any) -> list[Mapping[str, Any]]:
    """The objects of a row, from a list of them or from an object of lists; none where the cell is empty.

    Raises:
        ValueError: for lists of different lengths.
    """
    if isinstance(cell, dict):
        lists = {name: [] if values is None else list(values) for name, values in cell.items()}
        lengths = {name: len(values) for name, values in lists.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"lists of different lengths: {quoted(lengths)}")
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    return [one if isinstance(one, dict) else {} for one in cell or ()]


def _label(value: Any, key: str, names: Sequence[str] | None) -> int | str:
    """The class of an object: its number, or its name where none is listed.

    Raises:
        ValueError: for none.
    """
    if names is None:
        if value is None or not str(value).strip():
            raise ValueError(f"{key} is missing or empty")
        return str(value)
    if not _is_class(value, names):
        raise UnusableError("unknown_category", f"{key} {quoted(value)}, but there are {len(names)} classes")
    return int(value)


def _box(value: Any, form: str) -> Box:
    """xyxy of an object.

    Raises:
        ValueError: for what is none.
    """
    try:
        x1, y1, x2, y2 = map(float, value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"bbox {quoted(value)}; it should be four numbers") from error
    box = (x1, y1, x2, y2) if form == "xyxy" else (x1, y1, x1 + x2, y1 + y2)
    if not np.isfinite(box).all() or box[2] < box[0] or box[3] < box[1]:
        said = f"bbox {quoted(list(value))} as {form} has a negative or infinite side"
        raise UnusableError("negative_box", said)
    return box


def _copied(cell: Mapping[str, Any] | None, folder: Path, where: Path, what: str, report: Report) -> str:
    """The name under which an image lies in a folder: a digest of its bytes; empty for one that cannot be used."""
    try:
        content = _content(cell, where)
        with decoding(where):
            suffix = SUFFIXES.get(head_in(io.BytesIO(content), where).kind, ".png")
    except DataError as error:
        report("unreadable_image", where, f"{what}: {reason(error, where)}")
        return ""
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path.name


def _content(cell: Mapping[str, Any] | None, where: Path) -> bytes:
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise DataError(f"{where}: has no image")
    return bytes(cell["bytes"]) if cell["bytes"] is not None else contents(Path(cell["path"]))

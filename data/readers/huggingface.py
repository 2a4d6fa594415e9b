"""Classification, detection and segmentation: Hugging Face `datasets` (https://huggingface.co/docs/datasets)."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rehead.configs.readers import HuggingFaceSplit
from rehead.data.pixels import decoding, head_in
from rehead.data.readers.base import checked_classes, listed, watched
from rehead.data.readers.column_reader import ColumnReader
from rehead.data.readers.columns import Builder, Columns, Texts, ids_of
from rehead.data.readers.mask_values import Colour, MaskValues
from rehead.data.readers.store import stored
from rehead.errors import ConfigError, DataError, did_you_mean, quoted
from rehead.files import atomic_path, cache_folder
from rehead.reading import contents

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "PPM": ".ppm", "GIF": ".gif"}


class HuggingFaceReader(ColumnReader):
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
        **_: object,
    ) -> None:
        table = _loaded(split, root)
        folder = cache_folder() / "images"
        where = root / split.dataset
        image, annotation = _columns(table.features, split, task, where)
        sources = [Path(file["filename"]) for file in table.cache_files]
        columns = stored(
            f"huggingface {where.absolute()} {split} {annotation} {folder}",
            sources,
            lambda: _parse(table, image, annotation, split, folder, where),
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
        if folder.is_dir() and any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
            found: Any = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else split.dataset)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{split.dataset}: cannot be loaded, neither from {folder} nor from the hub: {error}"
        ) from error
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
    features = json.loads(contents(info)).get("features") or {}
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


def _parse(table: Any, image: str, annotation: str, split: HuggingFaceSplit, folder: Path, where: Path) -> Columns:
    import datasets

    kind = table.features[annotation]
    maps = isinstance(kind, datasets.Image)
    for name in (image, annotation) if maps else (image,):
        table = table.cast_column(name, datasets.Image(decode=False))
    rows = watched(table.select_columns(list({image, annotation})))
    if isinstance(kind, datasets.ClassLabel) or maps:
        names, found = [], []
        for number, row in enumerate(rows):
            names.append(_copied(row[image], folder, f"{where}: row {number}"))
            found.append(_copied(row[annotation], folder, f"{where}: row {number}") if maps else row[annotation])
        columns = {"masks": Texts.of(found)} if maps else {"image_labels": np.array(found, np.int64)}
        classes = None if maps else checked_classes(kind.names, range(len(kind.names)), where)
        return Columns(classes=classes, names=Texts.of(names), ids=ids_of(range(len(names))), **columns)
    features = _inside(kind)
    key = next((name for name in ("category", "category_id", "label", "labels") if name in features), None)
    if key is None:
        raise DataError(f"{where}: the objects in '{annotation}' have no category, but {listed(list(features))}")
    builder = Builder(where)
    listed_names = features[key].names if isinstance(features[key], datasets.ClassLabel) else None
    for number, row in enumerate(rows):
        builder.image(_copied(row[image], folder, f"{where}: row {number}"), number)
        objects = row[annotation]
        if isinstance(objects, dict):
            objects = [dict(zip(objects, values, strict=True)) for values in zip(*objects.values(), strict=True)]
        for place, one in enumerate(objects):
            x1, y1, x2, y2 = one["bbox"]
            box = (x1, y1, x2, y2) if split.boxes == "xyxy" else (x1, y1, x1 + x2, y1 + y2)
            what = f"row {number} object {place}"
            if not np.isfinite(box).all() or box[2] < box[0] or box[3] < box[1]:
                raise DataError(f"{where}: {what}: bbox {one['bbox']} as {split.boxes} has a negative or infinite side")
            if listed_names and not (isinstance(one[key], int) and 0 <= one[key] < len(listed_names)):
                raise DataError(f"{where}: {what}: {key} {quoted(one[key])}, but there are {len(listed_names)} classes")
            label = one[key] if listed_names else str(one[key])
            builder.object(label, box, what, crowd=bool(one.get("iscrowd")))
    return builder.columns(checked_classes(listed_names, range(len(listed_names)), where) if listed_names else None)


def _copied(cell: Mapping[str, Any] | None, folder: Path, where: str) -> str:
    """The name under which an image lies in a folder: a digest of its bytes."""
    if cell is None:
        raise DataError(f"{where}: has no image")
    try:
        content = cell["bytes"] if cell["bytes"] is not None else contents(Path(cell["path"]))
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error}") from error
    with decoding(Path(where)):
        suffix = SUFFIXES.get(head_in(io.BytesIO(content), Path(where)).kind, ".png")
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return path.name

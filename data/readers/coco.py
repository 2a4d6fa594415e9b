"""Detection, instance segmentation, keypoints and classes of images: COCO JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rehead.configs.readers import CocoSplit
from rehead.data.readers.base import checked_classes, contents, existing
from rehead.data.readers.column_reader import ColumnReader
from rehead.data.readers.columns import Columns, Texts, ids_of
from rehead.data.readers.store import stored
from rehead.errors import DataError
from rehead.types import Classes


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: int | str
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool | None = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"")
    keypoints: list[float] | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str
    keypoints: list[str] | None = None


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class CocoReader(ColumnReader):
    """Images in the order of the file, with their objects.

    Category ids may have gaps; labels follow the ids' order, so that files written in different orders
    agree. Categories without annotations stay classes. Images without annotations, crowds and empty boxes
    are kept: evaluation needs them, and training leaves out what it cannot use.

    Args:
        split: `annotations`, the JSON file, and `images`, the folder that its file names start from.
        root: what their paths are relative to.
        classes: names that select and order the categories; annotations of others are left out.

    Raises:
        DataError: naming the file and the annotation, for JSON that is broken or not COCO's, boxes that are
            not four numbers with a width and height of 0 or more, and ids that nothing has.
    """

    def __init__(self, split: CocoSplit, root: Path, classes: Sequence[str] | None = None, **_: object) -> None:
        folder = existing(root, split.images, "images", folder=True)
        path = existing(root, split.annotations, "annotations", folder=False)
        columns = stored(f"coco {path.absolute()}", [path], lambda: parse(path))
        super().__init__(columns, folder, path, classes)


def parse(path: Path) -> Columns:
    """The columns of a COCO file.

    Raises:
        DataError: as `CocoReader`.
    """
    file = _parsed(path)
    if not file.images:
        raise DataError(f"{path}: the list of images is empty")
    ids = [image.id for image in file.images]
    if len(set(ids)) < len(ids):
        raise DataError(f"{path}: image id {Counter(ids).most_common(1)[0][0]!r} occurs more than once")
    if len({type(i) for i in ids}) > 1:
        raise DataError(f"{path}: some image ids are numbers and some are text; use one of the two")
    annotations = file.annotations
    count = len(annotations)
    index_of = {image_id: index for index, image_id in enumerate(ids)}
    images = np.fromiter((index_of.get(a.image_id, -1) for a in annotations), np.int64, count)
    _refuse(path, annotations, images < 0, "image_id", "images")
    classes = _classes(path, file.categories)
    label_of = classes.label_of
    labels = np.fromiter((label_of.get(a.category_id, -1) for a in annotations), np.int32, count)
    _refuse(path, annotations, labels < 0, "category_id", "categories")
    boxes = _boxes(path, annotations)
    areas = np.array([a.area if a.area is not None else a.bbox[2] * a.bbox[3] for a in annotations], np.float32)
    crowds = np.fromiter((bool(a.iscrowd) for a in annotations), np.bool_, count)

    # Grouped by image in the order of the file.
    order = np.argsort(images, kind="stable")
    grouped = [annotations[row] for row in order.tolist()]
    return Columns(
        classes=classes,
        names=Texts.of(image.file_name for image in file.images),
        ids=ids_of(ids),
        sizes=np.array([(image.height or 0, image.width or 0) for image in file.images], np.int32),
        starts=np.searchsorted(images[order], np.arange(len(ids) + 1)).astype(np.int64),
        boxes=boxes[order].astype(np.float32),
        labels=labels[order],
        areas=areas[order],
        crowds=crowds[order],
        objects=ids_of([a.id for a in grouped]),
        # As text until an image is read.
        segmentations=Texts.of(bytes(a.segmentation) for a in grouped),
        keypoints=_keypoints(path, grouped, len(classes.keypoints)) if classes.keypoints else None,
    )


def _classes(path: Path, categories: list[_Category]) -> Classes:
    categories = sorted(categories, key=lambda category: category.id)
    if not categories:
        raise DataError(f"{path}: the list of categories is empty")
    plain = checked_classes([category.name for category in categories], [category.id for category in categories], path)
    skeletons = {tuple(category.keypoints) for category in categories if category.keypoints}
    if len(skeletons) > 1:
        raise DataError(f"{path}: categories differ in their keypoints; all that have any must have the same")
    names = skeletons.pop() if skeletons else ()
    return Classes(plain.names, plain.ids, names, mirrored(names))


def mirrored(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The pairs of points whose names differ in left and right alone."""
    other = {name: name.replace("left", "\0").replace("right", "left").replace("\0", "right") for name in names}
    place = {name: number for number, name in enumerate(names)}
    return tuple(
        (place[name], place[other[name]]) for name in names if other[name] in place and place[name] < place[other[name]]
    )


def _boxes(path: Path, annotations: list[_Annotation]) -> NDArray[np.float64]:
    """(N, 4) xyxy."""
    boxes = np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4)
    negative = np.flatnonzero(~((boxes[:, 2:] >= 0).all(axis=1) & np.isfinite(boxes).all(axis=1)))
    if len(negative):
        first = annotations[negative[0]]
        raise DataError(
            f"{path}: {len(negative)} boxes have a negative or infinite side, first: annotation "
            f"{first.id}, bbox {list(first.bbox)}; a bbox is [x, y, width, height]"
        )
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _keypoints(path: Path, annotations: list[_Annotation], count: int) -> NDArray[np.float32]:
    """(N, P, 3); zeros for objects without points."""
    points = np.zeros((len(annotations), count * 3), np.float32)
    for row, annotation in enumerate(annotations):
        if annotation.keypoints:
            if len(annotation.keypoints) != count * 3:
                raise DataError(
                    f"{path}: annotation {annotation.id}: {len(annotation.keypoints)} numbers in keypoints, but its "
                    f"category names {count} points of three numbers each (x, y, visibility)"
                )
            points[row] = annotation.keypoints
    return points.reshape(-1, count, 3)


def _refuse(path: Path, annotations: list[_Annotation], wrong: NDArray[np.bool_], key: str, where: str) -> None:
    if wrong.any():
        first = annotations[int(np.argmax(wrong))]
        raise DataError(
            f"{path}: {int(wrong.sum())} annotations have a {key} that {where} does not list, first: "
            f"annotation {first.id} with {key} {getattr(first, key)!r}"
        )


def _parsed(path: Path) -> _File:
    """Typed parsing: several times faster than dicts, and in a fraction of their memory."""
    data = contents(path)
    try:
        return msgspec.json.decode(data, type=_File)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {_first_problem(data) or error}") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: broken JSON: {error}") from error


def _first_problem(data: bytes) -> str:
    """Names the entry that does not fit, which the parser's message does not."""
    raw = msgspec.json.decode(data)
    if not isinstance(raw, dict):
        return f"should hold images, annotations and categories, found {type(raw).__name__}; is it a results file?"
    for key, kind, word in (
        ("images", _Image, "image"),
        ("annotations", _Annotation, "annotation"),
        ("categories", _Category, "category"),
    ):
        if not isinstance(raw.get(key), list):
            return f"'{key}' is missing or no list; an instances file has images, annotations and categories"
        for number, item in enumerate(raw[key]):
            try:
                msgspec.convert(item, kind)
            except msgspec.ValidationError as error:
                name = item.get("id", f"number {number}") if isinstance(item, dict) else f"number {number}"
                return f"{word} {name}: {error}"
    return ""

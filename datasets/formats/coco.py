"""Detection, instance segmentation, keypoints and classes of images: COCO JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Container, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rehead.configs.readers import CocoSplit
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import LARGEST, Columns, Texts, ids_of
from rehead.datasets.cache import cached
from rehead.datasets.content import NO_UTF8, Content, ImageRecord, Notes, ObjectRecord, decimals, refuse_names
from rehead.datasets.parsing import Report, checked_classes, existing, refuse, with_unnamed
from rehead.datasets.text_files import file_named, utf8_of, wrong_name
from rehead.errors import DataError, quoted
from rehead.reading import reading
from rehead.types import Classes

NO_OUTLINE = {b"", b"null", b"[]", b"[[]]"}


Whole = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]


class _Image(msgspec.Struct, gc=False):
    id: Whole | str
    file_name: str
    # Some tools write 640.0.
    width: float | None = None
    height: float | None = None


class _Annotation(msgspec.Struct, gc=False):
    id: Whole | str
    image_id: Whole | str
    category_id: Whole
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool | None = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"")
    keypoints: list[float] | None = None


class _Category(msgspec.Struct, gc=False):
    id: Whole
    name: str
    keypoints: list[str] | None = None


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class CocoReader(AnnotationReader):
    """Images in the order of the file, with their objects.

    Category ids may have gaps; labels follow the ids' order, so that files written in different orders
    agree. Categories without annotations stay classes. Images without annotations, crowds and empty boxes
    are kept: evaluation needs them, and training leaves out what it cannot use.

    Args:
        split: `annotations`, the JSON file, and `images`, the folder that its file names start from.
        root: what their paths are relative to.
        classes: names that select and order the categories; annotations of others are left out.
        report: what is done about entries that cannot be used.
        optional: those of the classes that the file need not list; see `open_reader`.

    Raises:
        DataError: naming the file and the annotation, for JSON that is broken or not COCO's, boxes that are
            not four numbers with a width and height of 0 or more, and ids that nothing has.
    """

    def __init__(
        self,
        split: CocoSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        report: Report = refuse,
        optional: Collection[str] | None = (),
        **_: object,
    ) -> None:
        folder = existing(root, split.images, "images", folder=True)
        path = existing(root, split.annotations, "annotations", folder=False)
        columns = cached(f"coco {path.absolute()}", [path], lambda: parse(path, report), report)
        super().__init__(_with_files(columns, folder), folder, path, classes, optional=optional)


def _with_files(columns: Columns, folder: Path) -> Columns:
    """With the names that files have, where the annotation has back-slashes or the signs of addresses in them."""
    if not np.isin(columns.names.buffer, np.frombuffer(b"\\%", np.uint8)).any():
        return columns
    names = Texts.of(file_named(folder, columns.names[row]) for row in range(len(columns)))
    return replace(columns, names=names)


def parse(path: Path, report: Report = refuse) -> Columns:
    """The columns of a COCO file.

    Raises:
        DataError: as `CocoReader`.
    """
    file = _parsed(path, report)
    if not file.images:
        raise DataError(f"{path}: the list of images is empty")
    for image_id, count in Counter(image.id for image in file.images).items():
        if count > 1:
            report("duplicate_image", path, f"image id {quoted(image_id)} occurs more than once")
    file.images = list({image.id: image for image in reversed(file.images)}.values())[::-1]
    file.images = [image for image in file.images if _usable_image(path, image, report)]
    if not file.images:
        raise DataError(f"{path}: none of its images can be used")
    ids = [image.id for image in file.images]
    if len({type(i) for i in ids}) > 1:
        raise DataError(f"{path}: some image ids are numbers and some are text; use one of the two")
    classes = _classes(path, file.categories)
    index_of = {image_id: index for index, image_id in enumerate(ids)}
    label_of = classes.label_of
    points = len(classes.keypoints)
    annotations = _usable(path, file.annotations, index_of, label_of, points, report)
    if report is not refuse:
        _report_ids(path, file.annotations, report)
    named = len(classes)
    classes = with_unnamed(classes, (a.category_id for a in annotations))
    label_of = classes.label_of
    count = len(annotations)
    images = np.fromiter((index_of[a.image_id] for a in annotations), np.int64, count)
    labels = np.fromiter((label_of[a.category_id] for a in annotations), np.int32, count)
    boxes = np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    outlines = [_outline(a.segmentation) for a in annotations]
    areas = np.array([_area(a, outline) for a, outline in zip(annotations, outlines, strict=True)], np.float32)
    crowds = np.fromiter((bool(a.iscrowd) for a in annotations), np.bool_, count)

    # Grouped by image in the order of the file.
    order = np.argsort(images, kind="stable")
    grouped = [annotations[row] for row in order.tolist()]
    return Columns(
        classes=classes,
        names=Texts.of(image.file_name for image in file.images),
        ids=ids_of(ids),
        sizes=np.array([(int(image.height or 0), int(image.width or 0)) for image in file.images], np.int32),
        starts=np.searchsorted(images[order], np.arange(len(ids) + 1)).astype(np.int64),
        boxes=boxes[order].astype(np.float32),
        labels=labels[order],
        areas=areas[order],
        crowds=crowds[order],
        objects=ids_of([a.id for a in grouped]),
        # As text until an image is read.
        segmentations=Texts.of(outlines[row] for row in order.tolist()),
        keypoints=_keypoints(grouped, points) if points else None,
        unnamed=len(classes) - named,
    )


def _report_ids(path: Path, annotations: list[_Annotation], report: Report) -> None:
    """Annotations of one id: nothing here needs ids, but other programs tell annotations apart by them."""
    for number, count in Counter(one.id for one in annotations).items():
        if count > 1:
            report("duplicate_id", path, f"annotation id {quoted(number)} occurs {count} times")


def _usable_image(path: Path, image: _Image, report: Report) -> bool:
    """Whether its name can be that of a file; a size that can be none is not used."""
    if problem := wrong_name(image.file_name):
        report("broken_annotation", path, f"image {image.id}: its file_name {image.file_name[:60]!r} {problem}")
        return False
    for side in (image.height, image.width):
        if side is not None and not (0 <= side < LARGEST and side == int(side)):
            report("broken_annotation", path, f"image {image.id}: it is {image.width} wide and {image.height} high")
            image.width = image.height = None
            break
    return True


def _outline(raw: msgspec.Raw) -> bytes:
    """A segmentation as it stands in the file; empty for what tools write where there is none."""
    text = bytes(raw)
    return b"" if len(text) < 16 and b"".join(text.split()) in NO_OUTLINE else text


def _area(annotation: _Annotation, outline: bytes) -> float:
    """Square pixels; not a number where an outline says it and nobody has counted."""
    if annotation.area is not None:
        return annotation.area
    return math.nan if outline else annotation.bbox[2] * annotation.bbox[3]


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


def _usable(
    path: Path,
    annotations: list[_Annotation],
    images: Container[int | str],
    categories: Container[int],
    points: int,
    report: Report,
) -> list[_Annotation]:
    """Those of images that there are, with a box, and with this many points if with any."""
    boxes = np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4)
    wrong = ~((boxes[:, 2:] >= 0).all(axis=1) & (np.abs(boxes) < LARGEST).all(axis=1))
    areas = np.array([a.area or 0 for a in annotations], np.float64)
    wrong |= ~(np.abs(areas) < LARGEST**2)
    wrong |= np.fromiter((a.image_id not in images for a in annotations), np.bool_, len(annotations))
    nameless = np.fromiter((a.category_id not in categories for a in annotations), np.bool_, len(annotations))
    if points:
        counts = (len(a.keypoints) if a.keypoints else points * 3 for a in annotations)
        wrong |= np.fromiter(counts, np.int64, len(annotations)) != points * 3
        far = (any(abs(value) >= LARGEST for value in a.keypoints or ()) for a in annotations)
        wrong |= np.fromiter(far, np.bool_, len(annotations))
    for row in np.flatnonzero(wrong | nameless).tolist():
        one = annotations[row]
        where = f"annotation {one.id}"
        if nameless[row]:
            report("unknown_category", path, f"{where}: category_id {one.category_id}, which categories does not list")
        if not wrong[row]:
            continue
        if one.image_id not in images:
            report("unknown_image", path, f"{where}: image_id {quoted(one.image_id)}, which images does not list")
        elif one.keypoints and len(one.keypoints) != points * 3 and points:
            report(
                "broken_keypoints",
                path,
                f"{where}: {len(one.keypoints)} numbers in keypoints, but its category names {points} points of three "
                "numbers each (x, y, visibility)",
            )
        else:
            report(
                "negative_box",
                path,
                f"{where}: bbox {list(one.bbox)} has a negative or infinite side (or its area or keypoints are as "
                "large); a bbox is [x, y, width, height]",
            )
    return [one for one, bad in zip(annotations, wrong.tolist(), strict=True) if not bad]


def _keypoints(annotations: list[_Annotation], count: int) -> NDArray[np.float32]:
    """(N, P, 3); zeros for objects without points."""
    points = np.zeros((len(annotations), count * 3), np.float32)
    for row, annotation in enumerate(annotations):
        if annotation.keypoints:
            points[row] = annotation.keypoints
    return points.reshape(-1, count, 3)


def _parsed(path: Path, report: Report) -> _File:
    """Typed parsing: several times faster than dicts, and in a fraction of their memory."""
    data = utf8_of(path)
    with reading(path, "broken JSON"):
        try:
            return msgspec.json.decode(data, type=_File)
        except msgspec.ValidationError:
            return _entry_by_entry(path, _loaded(data), report)
        except msgspec.DecodeError as error:
            report("broken_annotation", path, f"broken JSON: {error}")
            # Python writes NaN, which is not JSON, and reads it.
            return _entry_by_entry(path, _loaded(data), report)


def _loaded(data: bytes) -> Any:
    """JSON as Python reads it, which takes any number; one of hundreds of digits is infinite."""
    return json.loads(data, parse_int=lambda digits: int(digits) if len(digits) < 100 else float(digits))


def _beyond(value: Any) -> bool:
    """Whether there is a number in it that JSON has none for, or that is larger than any that is used."""
    if isinstance(value, dict | list):
        return any(map(_beyond, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float | int) and not abs(value) < 2**63


def _entry_by_entry(path: Path, raw: Any, report: Report) -> _File:
    """The entries that fit; names those that do not, which the parser's message does not."""
    if not isinstance(raw, dict):
        raise DataError(
            f"{path}: should hold images, annotations and categories, found {type(raw).__name__}; is it a results file?"
        )
    fitting: dict[str, list[Any]] = {}
    for key, kind, word in (
        ("images", _Image, "image"),
        ("annotations", _Annotation, "annotation"),
        ("categories", _Category, "category"),
    ):
        if not isinstance(raw.get(key), list):
            raise DataError(
                f"{path}: '{key}' is missing or no list; an instances file has images, annotations and categories"
            )
        fitting[key] = []
        for number, item in enumerate(raw[key]):
            try:
                beyond = [name for name in kind.__struct_fields__ if isinstance(item, dict) and _beyond(item.get(name))]
                if beyond:
                    raise ValueError(f"{', '.join(beyond)}: a number that is NaN, infinite or too large")
                fitting[key].append(msgspec.json.decode(msgspec.json.encode(item), type=kind))
            except (msgspec.MsgspecError, ValueError, OverflowError) as error:
                name = item.get("id", f"number {number}") if isinstance(item, dict) else f"number {number}"
                report("broken_annotation", path, f"{word} {name}: {error}")
    return _File(**fitting)


def write_coco(content: Content, folder: Path, notes: Notes) -> dict[str, Any]:
    """Ids of images, objects and categories are the user's; objects without a number are numbered from 1."""
    refuse_names(content, "COCO JSON", NO_UTF8)
    classes = content.classes
    points = {"keypoints": list(classes.keypoints)} if classes.keypoints else {}
    categories = [{"id": i, "name": name, **points} for i, name in zip(classes.ids, classes.names, strict=True)]
    if classes.flip_pairs and all(name.isdecimal() for name in classes.keypoints):
        notes["which of the keypoints change places in a mirror: COCO's names say it, and these have none"] += 1
    (folder / "annotations").mkdir()
    options: dict[str, Any] = {}
    for split in content.splits:
        images: list[bytes] = []
        annotations: list[bytes] = []
        for picture in content.pictures(split):
            content.put(picture, folder / "images" / split)
            height, width = picture.size
            image = {"id": picture.image_id, "file_name": picture.name, "height": height, "width": width}
            images.append(msgspec.json.encode(image))
            for thing in picture.things:
                row = _annotation(picture, thing, len(annotations) + 1, classes.ids[thing.label])
                annotations.append(msgspec.json.encode(row))
        name = f"annotations/instances_{split}.json"
        with (folder / name).open("wb") as file:
            file.write(b'{"images": [\n' + b",\n".join(images) + b'\n],\n"annotations": [\n')
            file.write(b",\n".join(annotations))
            file.write(b'\n],\n"categories": ' + msgspec.json.encode(categories) + b"}\n")
        options[split] = {"images": f"images/{split}", "annotations": name}
    return options


def _annotation(picture: ImageRecord, thing: ObjectRecord, number: int, category: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (Decimal(repr(side)) for side in thing.box)
    row: dict[str, Any] = {
        "id": number if thing.number is None else thing.number,
        "image_id": picture.image_id,
        "category_id": category,
        # In decimals, so that 73.35 + 300.58 gives 373.93 again.
        "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
        **({} if thing.area is None else {"area": thing.area}),
        "iscrowd": int(thing.crowd),
    }
    if thing.segmentation:
        row["segmentation"] = msgspec.Raw(thing.segmentation)
    if thing.keypoints is not None:
        row["keypoints"] = decimals(thing.keypoints)
        row["num_keypoints"] = int((thing.keypoints[:, 2] > 0).sum())
    return row

"""Detection, instance segmentation and multi-label classification: COCO JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from rehead.configs.readers import CocoSplit
from rehead.data.instance_masks import RLE, code_of
from rehead.data.readers.base import Reader, checked_classes, existing, unknown_classes
from rehead.data.sample import Sample
from rehead.errors import DataError


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


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class CocoReader(Reader):
    """Images in the order of the file, with their boxes.

    Category ids may have gaps; labels follow the ids' order, so that files written in different orders
    agree. Categories without annotations stay classes. Images without annotations, crowds and empty boxes
    are kept: evaluation needs them, and training leaves out what it cannot use. With `presence`, an image's
    label is 1 for every class that it has an annotation of, crowds too, and 0 for the others.

    Args:
        split: `annotations`, the JSON file, and `images`, the folder that its file names start from.
        root: what their paths are relative to.
        classes: names that select and order the categories; annotations of others are left out.
        ignore_index: has no meaning here.

    Raises:
        DataError: naming the file and the annotation, for JSON that is broken or not COCO's, boxes that are
            not four numbers with a width and height of 0 or more, and ids that nothing has.
    """

    def __init__(
        self, split: CocoSplit, root: Path, classes: Sequence[str] | None = None, ignore_index: Sequence[int] = ()
    ) -> None:
        self.folder = existing(root, split.images, "images", folder=True)
        self.annotations = existing(root, split.annotations, "annotations", folder=False)
        file = _parse(self.annotations)
        categories = sorted(file.categories, key=lambda category: category.id)
        known = checked_classes(
            [category.name for category in categories], [category.id for category in categories], self.annotations
        )
        if classes is None:
            self.classes = known
        else:
            unknown_classes(classes, known.names, self.annotations)
            id_of = dict(zip(known.names, known.ids, strict=True))
            # Ids below 0 for classes that nothing is an example of.
            ids = [id_of.get(name, -1 - label) for label, name in enumerate(classes)]
            self.classes = checked_classes(classes, ids, self.annotations)
        self._read_images(file.images)
        self._read_annotations(file.annotations, set(known.ids))

    def _read_images(self, images: list[_Image]) -> None:
        if not images:
            raise DataError(f"{self.annotations}: the list of images is empty")
        # Kept as a list, since ids may be words; few enough not to matter to forked workers.
        self.image_ids = [image.id for image in images]
        if len(set(self.image_ids)) < len(images):
            twice = Counter(self.image_ids).most_common(1)[0][0]
            raise DataError(f"{self.annotations}: image id {twice!r} occurs more than once")
        if len({type(i) for i in self.image_ids}) > 1:
            raise DataError(f"{self.annotations}: some image ids are numbers and some are text; use one of the two")
        self._names = np.array([image.file_name for image in images])
        self._sizes = np.array([(image.height or 0, image.width or 0) for image in images])

    def _read_annotations(self, annotations: list[_Annotation], categories: set[int]) -> None:
        """Puts annotations into columns, grouped by image in the order of the file."""
        count = len(annotations)
        index_of = {image_id: index for index, image_id in enumerate(self.image_ids)}
        images = np.fromiter((index_of.get(a.image_id, -1) for a in annotations), np.int64, count)
        category = np.fromiter((a.category_id for a in annotations), np.int64, count)
        self._refuse(annotations, images < 0, "image_id", "images")
        self._refuse(annotations, ~np.isin(category, list(categories)), "category_id", "categories")

        boxes = np.array([a.bbox for a in annotations], np.float64).reshape(count, 4)
        negative = np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))
        if len(negative):
            first = annotations[negative[0]]
            raise DataError(
                f"{self.annotations}: {len(negative)} boxes have a negative width or height, first: annotation "
                f"{first.id}, bbox {list(first.bbox)}; a bbox is [x, y, width, height]"
            )
        areas = np.array([a.bbox[2] * a.bbox[3] if a.area is None else a.area for a in annotations], np.float32)
        crowds = np.fromiter((bool(a.iscrowd) for a in annotations), np.bool_, count)
        boxes[:, 2:] += boxes[:, :2]

        label_of = self.classes.label_of
        labels = np.fromiter((label_of.get(a.category_id, -1) for a in annotations), np.int64, count)
        kept = np.flatnonzero(labels >= 0)
        kept = kept[np.argsort(images[kept], kind="stable")]
        # As text until an image is read: one buffer for all, since forked workers copy every object they touch.
        texts = [bytes(annotations[row].segmentation) for row in kept]
        self._segmentations = np.frombuffer(b"".join(texts), np.uint8)
        self._ends = np.cumsum([0, *map(len, texts)])
        self._annotation_ids = np.array([str(annotations[row].id) for row in kept])
        self._boxes = boxes[kept].astype(np.float32)
        self._labels, self._areas, self._crowds = labels[kept], areas[kept], crowds[kept]
        self._starts = np.searchsorted(images[kept], np.arange(len(self.image_ids) + 1))

    def _refuse(self, annotations: list[_Annotation], wrong: np.ndarray, key: str, where: str) -> None:
        if wrong.any():
            first = annotations[int(np.argmax(wrong))]
            raise DataError(
                f"{self.annotations}: {int(wrong.sum())} annotations have a {key} that {where} does not list, first: "
                f"annotation {first.id} with {key} {getattr(first, key)!r}"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        rows = slice(self._starts[index], self._starts[index + 1])
        height, width = self._sizes[index]
        sample = Sample(
            image_id=self.image_ids[index],
            path=self.folder / str(self._names[index]),
            size=(int(height), int(width)) if height and width else None,
        )
        if self.presence:
            sample.label = np.zeros(len(self.classes), np.float32)
            sample.label[self._labels[rows]] = 1
        if self.boxes:
            sample.boxes, sample.labels = self._boxes[rows], self._labels[rows]
            sample.iscrowd, sample.areas = self._crowds[rows], self._areas[rows]
        return sample

    def segmentations(self, index: int, size: tuple[int, int]) -> list[RLE]:
        """The objects' masks, from polygons or either kind of run-length code."""
        found = []
        for row in range(self._starts[index], self._starts[index + 1]):
            text = self._segmentations[self._ends[row] : self._ends[row + 1]].tobytes()
            try:
                if not text:
                    raise ValueError("no segmentation, which instance masks are made from")
                found.append(code_of(msgspec.json.decode(text), size))
            except ValueError as error:
                raise DataError(f"{self.annotations}: annotation {self._annotation_ids[row]}: {error}") from error
        return found


def _parse(path: Path) -> _File:
    """Typed parsing: several times faster than dicts, and in a fraction of their memory."""
    data = path.read_bytes()
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

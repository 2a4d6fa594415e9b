"""Detection and segmentation: Pascal VOC (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import escape

from rehead.configs.readers import VocSplit
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Box, Builder, Columns, Texts
from rehead.datasets.cache import cached
from rehead.datasets.content import NO_LINE, Content, ImageRecord, Notes, ObjectRecord, refuse_names
from rehead.datasets.file_names import files_by_stem
from rehead.datasets.formats.masks import matched
from rehead.datasets.mask_values import Colour, MaskValues
from rehead.datasets.matching import matching_files, refuse_contested
from rehead.datasets.parsing import (
    Report,
    UnusableError,
    code_for,
    existing,
    finite,
    named_classes,
    reason,
    refuse,
    watched,
)
from rehead.datasets.text_files import lines_of, xml_of
from rehead.errors import DataError, quoted

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""VOC's own; its class maps are numbered in this order, after background."""

VOID = 255
"""The value of outlines and difficult objects in VOC's class maps."""


class VocReader(AnnotationReader):
    """Boxes from an XML file per image or, for a segmentation head, an image's class map.

    Coordinates count pixels from 1, the last one included, as VOC's do: xmin 1 and xmax W is the whole width.
    Difficult objects are not trained on, and to find one is neither right nor wrong, as VOC has it: they are
    `iscrowd`. The size in the file decides the orientation of its image.

    Args:
        split: the folders, relative to `root`, and the `image_set` that selects from them.
        root: what they are relative to.
        classes: names that select and order those of the objects; for class maps the names of values 0, 1, 2, ...
            (background and VOC's twenty unless given).
        ignore_index: values of class maps that do not count; 255, VOC's void, never does.
        values: the value or the colour of every name in class maps.
        task: `segmentation` for class maps.
        report: what is done about files and objects that cannot be used.

    Raises:
        DataError: naming the file and the object, for XML that is broken or not VOC's, and names in the image
            set that nothing belongs to.
    """

    first_pixel = 1

    def __init__(
        self,
        split: VocSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        ignore_index: Sequence[int] = (),
        values: Mapping[str, int | Colour] | None = None,
        task: str = "",
        report: Report = refuse,
        images_match: Literal["exact", "stem", "loose"] = "exact",
        **_: object,
    ) -> None:
        folder = existing(root, split.images, "images", folder=True)
        maps = task == "segmentation"
        key, option = ("masks", split.masks) if maps else ("annotations", split.annotations)
        annotations = existing(root, option, key, folder=True)
        image_set = None if split.image_set is None else existing(root, split.image_set, "image_set", folder=False)
        if maps:
            names = classes if classes or values else ["background", *CLASSES]
            meant = MaskValues(names, [*ignore_index, VOID], values, annotations)
            columns = _maps(folder, annotations, image_set, report, images_match)
            super().__init__(columns, folder, annotations, values=meant, mask_folder=annotations)
            return
        files = _selected(annotations, image_set, report)
        columns = cached(
            f"voc {annotations.absolute()} {folder.absolute()} {image_set}",
            [folder, *files.values(), *([image_set] if image_set else [])],
            lambda: parse(folder, files, report),
            report,
        )
        super().__init__(columns, folder, annotations, classes)


def _maps(
    folder: Path, masks: Path, image_set: Path | None, report: Report, how: Literal["exact", "stem", "loose"]
) -> Columns:
    pairs = matched(folder, masks, partial=True, report=report, how=how)
    by_stem = {PurePosixPath(image).with_suffix("").as_posix(): (image, mask) for image, mask in pairs}
    if image_set is not None:
        by_stem = {stem: by_stem[stem] for stem in _names(image_set, by_stem, masks, report)}
    return Columns(
        classes=None,
        names=Texts.of(image for image, _ in by_stem.values()),
        ids=Texts.of(by_stem),
        masks=Texts.of(mask for _, mask in by_stem.values()),
    )


def _selected(annotations: Path, image_set: Path | None, report: Report) -> dict[str, Path]:
    """XML files by name without suffix, in the order of the image set or of their names."""
    files = {stem: annotations / name for stem, name in files_by_stem(annotations, {".xml"}, report).items()}
    if not files:
        raise DataError(f"{annotations}: no XML files, which there should be one of for every image")
    if image_set is None:
        return files
    return {name: files[name] for name in _names(image_set, files, annotations, report)}


def _names(image_set: Path, known: Mapping[str, object], folder: Path, report: Report) -> list[str]:
    """The images of an image set that are in it: `000012`, or `000012  1` in a file of one class."""
    found: list[str] = []
    missing: list[str] = []
    for line in lines_of(image_set):
        name = line if line in known else line.replace("\\", "/")
        if name not in known:
            # The second column, -1, 0 or 1, says whether the class is in the image.
            name = re.sub(r"\s+-?[01]$", "", name)
        (found if name in known else missing).append(name)
    for name in missing:
        report("missing_annotation", image_set, f"{name} has no file in {folder}, as for {len(missing)} of its names")
    if not found:
        raise DataError(f"{image_set}: names no image")
    return list(dict.fromkeys(found))


def parse(folder: Path, files: Mapping[str, Path], report: Report = refuse) -> Columns:
    """The columns of XML files.

    Args:
        folder: of the images. An annotation belongs to the image of its own name; only where there is none, to
            the one that it names, since that name is often an old one.
        files: by name.
        report: what is done about files and objects that cannot be used.

    Raises:
        DataError: as `VocReader`.
    """
    builder = Builder(folder, report)
    found: list[_Annotation] = []
    for stem, path in watched(files.items()):
        try:
            root = xml_of(path)
        except DataError as error:
            report("broken_annotation", path, reason(error, path))
            continue
        if root.tag != "annotation":
            report("broken_annotation", path, f"its outermost element is <{root.tag}>, but VOC's is <annotation>")
            continue
        found.append(_annotation(root, stem, path, report))
    matches = matching_files(folder, [_names_of(one, folder) for one in found])
    for one, match in zip(found, matches, strict=True):
        if match.contested:
            refuse_contested(match, one.named or one.stem, one.path, folder, report)
            continue
        builder.image(match.file or _missing(one), one.stem, one.size)
        for number, name, box, difficult in one.objects:
            builder.object(name, box, f"{one.path.name} object {number}", crowd=difficult)
    return builder.columns()


class _Annotation(NamedTuple):
    """What is kept of an XML file: trees of thousands would not fit.

    Attributes:
        path: of the file.
        stem: its relative name without suffix.
        named: the image that it names; empty for none.
        size: of the image.
        objects: their numbers, classes, boxes, and whether they are difficult.
    """

    path: Path
    stem: str
    named: str
    size: tuple[float, float] | None
    objects: list[tuple[int, str, Box, bool]]


def _annotation(root: ElementTree.Element, stem: str, path: Path, report: Report) -> _Annotation:
    objects = []
    for number, element in enumerate(root.iter("object"), start=1):
        try:
            objects.append((number, *_object(element)))
        except ValueError as error:
            report(code_for(error), path, f"object {number}: {error}")
    return _Annotation(path, stem, (root.findtext("filename") or "").strip(), _size(root), objects)


def _is_plain(name: str) -> bool:
    """Whether a path names no folder."""
    return PurePosixPath(name.replace("\\", "/")).name == name


def _names_of(one: _Annotation, folder: Path) -> list[str]:
    """What the image of an XML file may be called, the surest first."""
    if not one.named:
        return [one.stem]
    inside = PurePosixPath(one.stem).parent
    if not inside.parts or not _is_plain(one.named):
        return [one.stem, one.named]
    # A name alone, in a file that is in a folder: an image in that folder, or right in the folder of all images.
    return [one.stem, (inside / one.named).as_posix(), str(folder.absolute() / one.named)]


def _missing(one: _Annotation) -> str:
    """The path that an image would have, which has none."""
    if one.named and not _is_plain(one.named):
        return one.named
    return (PurePosixPath(one.stem).parent / (one.named or f"{PurePosixPath(one.stem).name}.jpg")).as_posix()


def _size(root: ElementTree.Element) -> tuple[float, float] | None:
    """Height and width; some tools write zeros, which say nothing."""
    height, width = (finite(root.findtext(f"size/{side}") or "") or 0 for side in ("height", "width"))
    return (height, width) if height and width else None


NAMES = ("name", "class_name", "category_name", "label", "class", "category", "class_id", "category_id")
"""What tools call the class of an object, VOC's own first; ids only where nothing is called by a name."""


def _class_name(element: ElementTree.Element) -> str:
    """The class of an object.

    Raises:
        ValueError: for none, and for two different names.
    """
    said = {tag: text for tag in NAMES if (text := (element.findtext(tag) or "").strip())}
    if not said:
        raise ValueError("no <name>")
    # Where one is a number, it is the id of what another one names.
    words = {tag: text for tag, text in said.items() if not tag.endswith("_id") and not text.isdecimal()}
    if len(set(words.values())) > 1:
        both = " and ".join(f"<{tag}> is {quoted(text)}" for tag, text in words.items())
        raise ValueError(f"its class is not clear: {both}")
    return next(iter((words or said).values()))


def _object(element: ElementTree.Element) -> tuple[str, Box, bool]:
    name = _class_name(element)
    found = {}
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = element.findtext(f"bndbox/{side}")
        if text is None:
            raise ValueError(f"<bndbox> has no <{side}>")
        number = finite(text)
        if number is None:
            raise ValueError(f"<{side}> is {quoted(text.strip())}, not a number")
        found[side] = number
    # From the outer edge of the first pixel to that of the last. Files that count from 0 lose no more than a pixel.
    # Rounded, since 1.01 - 1 is more than 0.01.
    left, top = (max(round(found[side] - 1, 6), 0.0) for side in ("xmin", "ymin"))
    box = (left, top, found["xmax"], found["ymax"])
    if box[2] < box[0] or box[3] < box[1]:
        shown = list(found.values())
        raise UnusableError("negative_box", f"its box is {shown} (xmin, ymin, xmax, ymax): a side is negative")
    return name, box, (element.findtext("difficult") or "0").strip() in {"1", "true", "True"}


def write_voc(content: Content, folder: Path, notes: Notes) -> dict[str, Any]:
    """Crowds become difficult objects, which are treated the same. Coordinates count from 1 and keep their decimals."""
    refuse_names(content, "VOC", NO_LINE)
    classes = content.classes
    used: set[int] = set()
    taken: set[str] = set()
    options: dict[str, Any] = {}
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    for split in content.splits:
        stems = []
        for picture in content.pictures(split, stems=True, taken=taken):
            content.put(picture, folder / "JPEGImages")
            notes["{} images have an id that is not their name, which VOC has no place for"] += (
                str(picture.image_id) != picture.stem
            )
            for thing in picture.things:
                used.add(thing.label)
                _note(thing, notes)
            path = folder / "Annotations" / f"{picture.stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_xml(picture, classes.names), encoding="utf-8")
            stems.append(picture.stem)
        name = f"ImageSets/Main/{split}.txt"
        (folder / name).write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
        options[split] = {"image_set": name}
    unused = [name for label, name in enumerate(classes.names) if label not in used]
    notes["{} classes without an object are named in the configuration only"] += len(unused)
    plain = named_classes(classes.names)
    changed = set(zip(classes.names, classes.ids, strict=True)) - set(zip(plain.names, plain.ids, strict=True))
    notes["{} classes lose their ids: VOC's classes are names"] += len(changed)
    return {**options, "classes": list(classes.names)}


def _note(thing: ObjectRecord, notes: Notes) -> None:
    x1, y1, *_ = thing.box
    notes["{} masks or outlines are left out: VOC's objects are boxes"] += bool(thing.segmentation)
    notes["{} objects lose their keypoints: VOC has none"] += thing.keypoints is not None
    notes["{} areas that are not the box's are left out: VOC has none"] += thing.has_area_of_its_own
    notes["{} boxes begin left of or above their image, and are read from its edge on"] += min(x1, y1) < -1e-3


def _xml(picture: ImageRecord, names: tuple[str, ...]) -> str:
    height, width = picture.size
    file = picture.name.rpartition("/")[2]
    objects = "".join(_written_object(thing, names[thing.label]) for thing in picture.things)
    return (
        f"<annotation>\n  <filename>{escape(file)}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"  <segmented>0</segmented>\n{objects}</annotation>\n"
    )


def _written_object(thing: ObjectRecord, name: str) -> str:
    x1, y1, x2, y2 = (Decimal(repr(side)) for side in thing.box)
    sides = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
    box = "".join(f"<{side}>{_plain(value)}</{side}>" for side, value in sides.items())
    return (
        f"  <object>\n    <name>{escape(name)}</name>\n    <pose>Unspecified</pose>\n    <truncated>0</truncated>\n"
        f"    <difficult>{int(thing.crowd)}</difficult>\n    <bndbox>{box}</bndbox>\n  </object>\n"
    )


def _plain(value: Decimal) -> str:
    """In millionths, without needless zeros: whole numbers stay whole, as most tools want them."""
    text = f"{round(value, 6):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

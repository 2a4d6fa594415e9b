"""Writes Pascal VOC: an XML file per image, and the splits as image sets."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rehead.data.readers.base import named_classes
from rehead.data.writers.content import NO_LINE, Content, Notes, Picture, Thing, refuse_names


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


def _note(thing: Thing, notes: Notes) -> None:
    x1, y1, *_ = thing.box
    notes["{} masks or outlines are left out: VOC's objects are boxes"] += bool(thing.segmentation)
    notes["{} objects lose their keypoints: VOC has none"] += thing.keypoints is not None
    notes["{} areas that are not the box's are left out: VOC has none"] += thing.has_area_of_its_own
    notes["{} boxes begin left of or above their image, and are read from its edge on"] += min(x1, y1) < -1e-3


def _xml(picture: Picture, names: tuple[str, ...]) -> str:
    height, width = picture.size
    file = picture.name.rpartition("/")[2]
    objects = "".join(_object(thing, names[thing.label]) for thing in picture.things)
    return (
        f"<annotation>\n  <filename>{escape(file)}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"  <segmented>0</segmented>\n{objects}</annotation>\n"
    )


def _object(thing: Thing, name: str) -> str:
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

"""Detection and instance segmentation: the VGG Image Annotator's JSON (https://www.robots.ox.ac.uk/~vgg/software/via)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rehead.configs.readers import ViaSplit
from rehead.data.image_io import image_size
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import LARGEST, Builder, Columns
from rehead.datasets.cache import cached
from rehead.datasets.formats.yolo import polygon_area
from rehead.datasets.matching import matching_files, refuse_contested
from rehead.datasets.parsing import Report, UnusableError, code_for, existing, reason, refuse, watched
from rehead.datasets.text_files import utf8_of
from rehead.errors import DataError, listed, quoted
from rehead.reading import is_file, reading

CORNERS = 64
"""Of the polygon that stands for a circle or an ellipse."""


class ViaReader(AnnotationReader):
    """Regions of VIA 1 and 2, from a project or its JSON export: polygons, rectangles, circles and ellipses.

    The class is a region attribute: text, one of several, or the one box that is ticked. Regions without any
    attribute are of class `object`.

    Args:
        split: the JSON file, the folder of the images, and the attribute if there are several.
        root: what their paths are relative to.
        classes: names that select and order the classes; sorted unless given.
        report: what is done about images and regions that cannot be used.

    Raises:
        DataError: naming the file, the image and the region.
    """

    def __init__(
        self,
        split: ViaSplit,
        root: Path,
        classes: Sequence[str] | None = None,
        report: Report = refuse,
        **_: object,
    ) -> None:
        folder = existing(root, split.images, "images", folder=True)
        path = existing(root, split.annotations, "annotations", folder=False)
        columns = cached(
            f"via {path.absolute()} {folder.absolute()} {split.attribute}",
            [path, folder],
            lambda: parse(path, folder, split.attribute, report),
            report,
        )
        super().__init__(columns, folder, path, classes)


def parse(path: Path, folder: Path, attribute: str | None = None, report: Report = refuse) -> Columns:
    """The columns of a VIA file.

    Args:
        path: of the file.
        folder: of the images; those that are there say how large they are.
        attribute: the region attribute that holds the class.
        report: what is done about images and regions that cannot be used.

    Raises:
        DataError: as `ViaReader`.
    """
    data = utf8_of(path)
    with reading(path, "broken JSON"):
        content: Any = msgspec.json.decode(data)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    said = "not of the VGG Image Annotator: every image should have a filename and regions"
    if not isinstance(content, dict) or (content and not any(map(_is_image, content.values()))):
        raise DataError(f"{path}: {said}")
    for key in [key for key, entry in content.items() if not _is_image(entry)]:
        report("broken_annotation", path, f"image {quoted(key)}: {said}")
        del content[key]
    if not content:
        raise DataError(f"{path}: no images")
    regions = {key: _regions(entry["regions"]) for key, entry in content.items()}
    if attribute is None:
        attribute = _attribute(path, regions)
    matches = matching_files(folder, [[str(entry["filename"])] for entry in content.values()])
    builder = Builder(path, report)
    for (key, entry), match in watched(list(zip(content.items(), matches, strict=True))):
        if match.contested:
            refuse_contested(match, str(entry["filename"]), path, folder, report)
            continue
        name = match.file or str(entry["filename"])
        size = None
        if is_file(folder / name):
            try:
                size = image_size(folder / name)
            except DataError as error:
                report("unreadable_image", folder / name, reason(error, folder / name))
                continue
        builder.image(name, str(entry["filename"]), size)
        for number, region in enumerate(regions[key], start=1):
            try:
                with np.errstate(over="ignore", invalid="ignore"):
                    points = _outline(region.get("shape_attributes"))
                if not (np.abs(points) < LARGEST).all():
                    raise UnusableError("negative_box", "a number that no image is large enough for")
                label = _label(region.get("region_attributes"), attribute)
            except ValueError as error:
                report(code_for(error), path, f"{entry['filename']}: region {number}: {error}")
                continue
            (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
            segmentation = msgspec.json.encode([points.ravel().round(3).tolist()])
            builder.object(
                label,
                (x1, y1, x2, y2),
                f"{entry['filename']} region {number}",
                area=polygon_area(points),
                segmentation=segmentation,
            )
    return builder.columns()


def _is_image(entry: Any) -> bool:
    if not isinstance(entry, dict) or not {"filename", "regions"} <= entry.keys():
        return False
    return isinstance(entry["regions"], dict | list | None)


def _regions(regions: Any) -> list[Mapping[str, Any]]:
    """VIA 1 numbers them, VIA 2 lists them."""
    found = list(regions.values()) if isinstance(regions, dict) else regions if isinstance(regions, list) else []
    return [region if isinstance(region, dict) else {} for region in found]


def _attribute(path: Path, regions: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    attributes = [region.get("region_attributes") for own in regions.values() for region in own]
    names = {name for one in attributes if isinstance(one, dict) for name in one}
    usual = [name for name in ("class", "label", "name", "type", "category") if name in names]
    if len(names) > 1 and len(usual) != 1:
        raise DataError(f"{path}: regions have the attributes {listed(sorted(names))}; set attribute to the class's")
    return usual[0] if usual else next(iter(names), None)


def _label(attributes: Any, attribute: str | None) -> str:
    if attribute is None:
        return "object"
    value = attributes.get(attribute) if isinstance(attributes, dict) else None
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        if len(ticked) != 1:
            raise ValueError(f"attribute '{attribute}' has {listed(ticked)} ticked; an object is of one class")
        return str(ticked[0])
    if value is None or not str(value).strip():
        raise ValueError(f"attribute '{attribute}', its class, is missing or empty")
    return str(value).strip()


def _outline(shape: Any) -> NDArray[np.float64]:
    """(M, 2) corners of a polygon."""
    if not isinstance(shape, dict):
        raise ValueError("no shape_attributes")
    kind = shape.get("name")
    try:
        if kind == "polygon" or (kind == "polyline" and len(shape["all_points_x"]) > 2):
            across, down = shape["all_points_x"], shape["all_points_y"]
            if len(across) != len(down):
                raise ValueError(f"{len(across)} numbers in all_points_x, but {len(down)} in all_points_y")
            points = np.array([across, down], np.float64).T
            if points.ndim != 2:
                raise ValueError("points that are lists themselves")
            if len(points) < 3:
                raise UnusableError(
                    "broken_polygon", f"a polygon of {len(points)} points; there should be at least three"
                )
            return points
        if kind == "rect":
            x, y, w, h = (float(shape[key]) for key in ("x", "y", "width", "height"))
            if w < 0 or h < 0:
                raise UnusableError("negative_box", f"a rectangle of {w:g} by {h:g}")
            return np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
        if kind in ("circle", "ellipse"):
            rx, ry = (float(shape["r" if kind == "circle" else key]) for key in ("rx", "ry"))
            turn = np.arange(CORNERS) * 2 * np.pi / CORNERS
            theta = float(shape.get("theta", 0))
            rotation = np.array([[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]])
            centre = [float(shape["cx"]), float(shape["cy"])]
            round_: NDArray[np.float64] = np.stack([rx * np.cos(turn), ry * np.sin(turn)], axis=1) @ rotation + centre
            return round_
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"a {kind} that lacks {error}" if isinstance(error, KeyError) else f"a {kind}: {error}"
        ) from None
    raise ValueError(f"a {kind} encloses nothing; draw polygons, rectangles, circles or ellipses")

"""A repaired copy of a data set: what can be put right is, what cannot is left out, and the original stays."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rehead.data.image_io import read_image
from rehead.data.instance_masks import code_of, decode, encode, outline_of, to_json
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.annotations import Texts, id_at, ids_of
from rehead.datasets.audit.boxes import name_of_object, points_outside, shown
from rehead.datasets.audit.changes import FILE, Changes, left_out_as
from rehead.datasets.audit.findings import CODES, Finding
from rehead.datasets.audit.images import Facts, Size, by
from rehead.datasets.audit.run import Checked
from rehead.datasets.audit.sources import Source
from rehead.datasets.content import lines
from rehead.datasets.mask_values import MaskValues, opened_mask
from rehead.datasets.write import write
from rehead.errors import DataError, listed
from rehead.files import json_text
from rehead.progress import Progress
from rehead.reading import is_there

QUALITY = 95
"""Of the JPEG files that are written anew."""

SAME_SHAPE = 0.01
"""How far two aspect ratios may differ for one image to be the other resized."""


@dataclass
class _Work:
    """What a repair does, and counts.

    Attributes:
        scratch: a folder for images and masks that are made anew.
        channels: of the images.
        scale: the number in their files that becomes 255.
        done: what was done.
        made: how many files were.
    """

    scratch: Path
    channels: int
    scale: float | None
    done: Changes = field(default_factory=Changes)
    made: int = 0

    def new(self, suffix: str) -> Path:
        """Where a file may be made."""
        self.made += 1
        return self.scratch / f"{self.made}{suffix}"


class _RepairedReader(AnnotationReader):
    """Columns whose images are partly others than those in their folder."""

    paths: Sequence[Path] = ()

    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), path=self.paths[index])


def repair(checked: Checked, out: Path) -> list[str]:
    """Writes a repaired copy: objects as COCO, class maps as masks, classes of images in folders.

    Beside the data lies `repair.json`, which lists everything that was done.

    Args:
        checked: what the check has seen.
        out: a new or an empty folder.

    Returns:
        What was done, what could not be, and the configuration that reads it, as lines.

    Raises:
        DataError: for heads with several annotations, and colours without names.
        OutputError: for a folder that is not empty or cannot be written.
    """
    sources = checked.data.sources
    checked.data.refuse_several()
    if not sources:
        raise DataError("--fix: no split could be read, so there is nothing to repair")
    with tempfile.TemporaryDirectory(prefix="rehead-") as scratch:
        work = _Work(Path(scratch), checked.data.channels, checked.data.scale)
        readers: dict[str, Reader] = {}
        before: dict[str, Any] = {}
        for number, source in enumerate(sources):
            before[source.split] = _counts(source.reader, source.unread)
            work.done.add(source.unread, source.split)
            readers[source.split] = _repaired(checked, number, work)
        elsewhere = {id(one) for source in sources for one in source.unread}
        files = ("unlisted_image", "label_without_image", "passed_over")
        rest = checked.findings[: checked.read]
        rest += [one for one in checked.findings[checked.read :] if one.code in files]
        work.done.add([one for one in rest if id(one) not in elsewhere], "")
        report = work.done.to_json(before, {split: _counts(reader) for split, reader in readers.items()})
        first = sources[0].reader
        labels = first.columns.image_labels is not None
        form = "folders" if labels else "masks" if first.values is not None else "coco"
        written = write(readers, form, out, more={FILE: report})
        options, notes = written.options, lines(written.notes)
    if checked.data.scale is not None:
        options["scale"] = checked.data.scale
    left = [
        f"not repaired, {code}: {len(group)} ({CODES[code].meaning})"
        for code, group in checked.findings.grouped().items()
        if not CODES[code].repair and CODES[code].severity == "error"
    ]
    drawn = [f"{split}: sampled from the training images; say so again for the copy" for split in checked.data.drawn]
    said = [*work.done.lines(), f"every change: {out / FILE}"] if work.done else ["nothing had to be changed"]
    return [f"repaired copy: {out}", *said, *left, *notes, *drawn, f"data: {json_text(options, ensure_ascii=False)}"]


def _counts(reader: Reader, unread: Sequence[Finding] = ()) -> dict[str, Any]:
    """How much there is in a split, with what could not be read of it."""
    assert isinstance(reader, AnnotationReader)
    left = [left_out_as(one) for one in unread]
    counts: dict[str, Any] = {"images": len(reader) + left.count("images")}
    columns = reader.columns
    labels = columns.labels if columns.image_labels is None else columns.image_labels
    if columns.labels is not None:
        counts["objects"] = len(columns.labels) + left.count("objects")
    if labels is not None and columns.classes is not None:
        found = np.bincount(labels, minlength=len(columns.classes)).tolist()
        counts["by_class"] = dict(zip(columns.classes.names, found, strict=True))
    return counts


def _repaired(checked: Checked, number: int, work: _Work) -> Reader:
    """A reader of what is left of a source, with the images that were made anew."""
    source, facts = checked.data.sources[number], checked.facts[number]
    old = source.reader
    rows: list[int] = []
    paths: list[Path] = []
    names: list[str] = []
    masks: list[str] = []
    factors: list[tuple[float, float]] = []
    ids: set[int | str] = set()
    with Progress(f"repairing {source.split}", len(facts)) as bar:
        for row, fact in enumerate(facts):
            bar.advance()
            sample = old[row]
            image_id = id_at(old.columns.ids, row)
            problem = _problem(sample, fact, old.values)
            if image_id in ids:
                problem = "duplicate_image", f"another one of id {image_id!r} stays"
            if problem is not None:
                kind, said = problem
                work.done("images", kind, source.split, sample.path, said)
                if count := _count_of(old, row):
                    what = f"{count} object{'s' if count > 1 else ''} of an image that is left out"
                    work.done("objects", kind, source.split, sample.path, what, count)
                continue
            mask = _mask(old, row, fact, source.split, work)
            ids.add(image_id)
            if old.unlabelled is not None and old.unlabelled[row]:
                work.done("background", "missing_label_file", source.split, sample.path, "no label file")
            rows.append(row)
            path, name = _image(sample, old.columns.names[row], fact, source.split, work)
            paths.append(path)
            names.append(name)
            masks.append(mask)
            factors.append(_factor(sample, fact) or (1.0, 1.0))
    if not rows:
        raise DataError(f"--fix: nothing is left of {source.split}")
    columns = old.columns
    changed: dict[str, Any] = {
        "names": Texts.of(names),
        "ids": ids_of([id_at(columns.ids, row) for row in rows]),
        "unnamed": 0,
    }
    if columns.masks is not None:
        changed["masks"] = Texts.of(masks)
    if columns.image_labels is not None:
        changed["image_labels"] = columns.image_labels[rows]
    if columns.starts is not None:
        changed |= _objects(checked, number, rows, factors, work)
    values = old.values
    if values is not None and not source.named:
        values = _named_values(checked, source)
    reader = _RepairedReader(
        replace(columns, **changed),
        old.folder,
        old.annotations,
        None if values is not None or columns.classes is None else (*old.classes.names, *old.unnamed()),
        values=values,
        mask_folder=old.mask_folder,
    )
    reader.paths = paths
    return reader


def _named_values(checked: Checked, source: Source) -> MaskValues:
    """The values that occur, called by their number."""
    assert source.reader.values is not None
    if source.reader.values.colours:
        raise DataError("--fix: colours need names; say data.values=... or check a configuration")
    names = sorted(checked.counts, key=int)
    return MaskValues(names, [], {name: int(name) for name in names}, source.reader.annotations)


def _problem(sample: Sample, facts: Facts, values: MaskValues | None) -> tuple[str, str] | None:
    """Why an image must be left out, as a code and in words; None if it stays."""
    if facts.size is None:
        return ("unreadable_image" if is_there(sample.path) else "missing_image"), facts.problem
    if _factor(sample, facts) is None:
        assert sample.size is not None
        return "size_mismatch", f"the image is {by(facts.size)}, its annotation {by(sample.size)}: another shape"
    if values is None:
        return None
    if facts.mask_problem:
        return "unreadable_mask", facts.mask_problem
    if unknown := facts.values.keys() - values.labels.keys():
        return "mask_values", f"its mask holds {listed(sorted(unknown))}, which is no class"
    assert facts.mask_size is not None
    if _stretch(facts.mask_size, facts.size) is None:
        return "mask_size", f"the image is {by(facts.size)}, its mask {by(facts.mask_size)}: another shape"
    return None


def _count_of(old: AnnotationReader, row: int) -> int:
    starts = old.columns.starts
    return 0 if starts is None else int(starts[row + 1] - starts[row])


def _factor(sample: Sample, facts: Facts) -> tuple[float, float] | None:
    """What coordinates are multiplied with, (x, y); None where the image is of another shape."""
    assert facts.size is not None
    if sample.size is None or sample.size == facts.size:
        return 1.0, 1.0
    return _stretch(sample.size, facts.size)


def _stretch(before: Size, after: Size) -> tuple[float, float] | None:
    """(x, y) from one size to another of the same shape; None for another shape."""
    y, x = after[0] / before[0], after[1] / before[1]
    return (x, y) if abs(x / y - 1) <= SAME_SHAPE + 1 / min(before) else None


def _image(sample: Sample, name: str, facts: Facts, split: str, work: _Work) -> tuple[Path, str]:
    """The file to copy and its name: the original, or one that is made anew as training sees it."""
    turned = facts.orientation > 1
    if facts.numbers and work.scale is not None:
        return sample.path, name  # eight bits would be on another scale
    kinds = facts.kinds if work.channels == 3 else ()
    if not (turned or kinds) or sample.path.suffix.lower() == ".npy" or work.channels not in (1, 3, 4):
        return sample.path, name
    image = read_image(sample.path, work.channels, sample.size or facts.mask_size, work.scale)
    pixels = image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)
    jpeg = sample.path.suffix.lower() in {".jpg", ".jpeg"} and work.channels != 4
    made = work.new(".jpg" if jpeg else ".png")
    picture = Image.fromarray(pixels[:, :, 0] if work.channels == 1 else pixels)
    picture.save(made, quality=QUALITY)  # which PNG does not ask about
    why = ["exif_rotation", *facts.kinds] if turned else list(facts.kinds)
    work.done("written", why[0], split, sample.path, f"as {made.suffix}: {', '.join(why)}")
    return made, PurePosixPath(name).with_suffix(made.suffix).as_posix() if not jpeg else name


def _mask(old: AnnotationReader, row: int, facts: Facts, split: str, work: _Work) -> str:
    """The class map's name, or the path of one that is made anew."""
    if old.columns.masks is None:
        return ""
    name = old.columns.masks[row]
    if facts.mask_size == facts.size:
        return name
    assert facts.size is not None
    assert facts.mask_size is not None
    mask = opened_mask(old.mask_folder / name)
    made = work.new(".png")
    mask.resize(facts.size[::-1], Image.Resampling.NEAREST).save(made)
    said = f"from {by(facts.mask_size)} to {by(facts.size)}"
    work.done("masks", "mask_size", split, old.mask_folder / name, said)
    return made.as_posix()


def _objects(
    checked: Checked, number: int, rows: Sequence[int], factors: Sequence[tuple[float, float]], work: _Work
) -> dict[str, Any]:
    """The columns of the objects that are left: scaled with their image, and cut to it."""
    source, facts = checked.data.sources[number], checked.facts[number]
    useless, shapeless = checked.useless[number], checked.shapeless[number]
    old = source.reader
    columns = old.columns
    assert columns.starts is not None
    assert columns.boxes is not None
    kept: list[int] = []
    boxes: list[NDArray[np.float32]] = []
    areas: list[float] = []
    texts: list[bytes] = []
    points: list[NDArray[np.float32]] = []
    starts = [0]
    sizes = [size for row in rows if (size := facts[row].size) is not None]
    nameless = {int(place): name for name, places in old.unnamed().items() for place in places}
    asked = old.asked()
    for row, size, factor in zip(rows, sizes, factors, strict=True):
        limit = np.array([size[1], size[0]] * 2, np.float32)
        scale = np.array(factor * 2, np.float32)
        sample = old[row]

        def note(done: str, kind: str, place: int, what: str, count: int = 1, file: Path = sample.path) -> None:
            work.done(done, kind, source.split, file, f"{name_of_object(old, place)}: {what}", count)

        for place in range(int(columns.starts[row]), int(columns.starts[row + 1])):
            if place in nameless:
                note("named", "unknown_category", place, nameless[place])
            elif not asked[place]:
                assert columns.classes is not None
                assert columns.labels is not None
                name = columns.classes.names[int(columns.labels[place])]
                note("objects", "other_class", place, f"class '{name}', which was not asked for")
                continue
            scaled = columns.boxes[place] * scale
            box = np.clip(scaled, 0, limit)
            reason = useless[place] or ("" if (box[2:] > box[:2]).all() else "box_outside")
            if reason:
                note("objects", reason, place, shown(old, columns.boxes[place]))
                continue
            if (box != scaled).any():
                note("cut", "box_over_edge", place, f"{shown(old, scaled)} to {shown(old, box).removeprefix('box ')}")
            kept.append(place)
            boxes.append(box)
            text = b"" if columns.segmentations is None else columns.segmentations.raw(place)
            if shapeless[place]:
                note("outlines", shapeless[place], place, f"outline of {len(text)} characters")
                text = b""
            area = float(np.prod(box[2:] - box[:2]))
            if text and columns.areas is not None:
                area = float(columns.areas[place]) * factor[0] * factor[1]
            areas.append(area)
            texts.append(_scaled(text, factor, sample.size, size))
            if columns.keypoints is not None:
                own = columns.keypoints[place] * np.array([*factor, 1], np.float32)
                lost = points_outside(own, limit[:2])
                if lost.any():
                    note("unlabelled", "keypoint_outside", place, f"{int(lost.sum())} keypoints", int(lost.sum()))
                points.append(np.where(lost[:, None], np.float32(0), own))
        starts.append(len(kept))
        if factor != (1.0, 1.0):
            assert sample.size is not None
            work.done("scaled", "size_mismatch", source.split, sample.path, f"from {by(sample.size)} to {by(size)}")
    objects = columns.objects
    assert objects is not None
    assert columns.labels is not None
    return {
        "sizes": np.array(sizes, np.int32).reshape(-1, 2),
        "starts": np.array(starts, np.int64),
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": columns.labels[kept],
        "areas": np.array(areas, np.float32),
        "crowds": None if columns.crowds is None else columns.crowds[kept],
        "objects": ids_of([id_at(objects, place) for place in kept]),
        "segmentations": None if columns.segmentations is None else Texts.of(texts),
        "keypoints": None if columns.keypoints is None else np.array(points).reshape(-1, *columns.keypoints.shape[1:]),
    }


def _scaled(text: bytes, factor: tuple[float, float], before: Size | None, after: Size) -> bytes:
    """A segmentation's JSON for its image's real size."""
    if not text or factor == (1.0, 1.0) or before is None:
        return text
    segmentation = outline_of(text)
    if isinstance(segmentation, list):
        return msgspec.json.encode(
            [[round(value * factor[place % 2], 3) for place, value in enumerate(one)] for one in segmentation]
        )
    mask = decode([code_of(segmentation, before)], before)[0]
    resized = cv2.resize(mask, after[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return msgspec.json.encode(to_json(encode(resized[None])[0]))

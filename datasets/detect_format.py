"""`format: auto`: which format a folder of files is in, and where its splits are."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from rehead.configs.load import PLACES
from rehead.datasets.detect_yolo import detect_yolo
from rehead.datasets.file_names import WORDS, split_of
from rehead.datasets.formats.csv_boxes import table_of
from rehead.datasets.formats.huggingface import columns_by_task
from rehead.datasets.known_formats import known_formats, oriented_boxes
from rehead.datasets.mask_values import NUMBERED, opened_mask, read_mask
from rehead.datasets.tree import LOOKED_AT, MASK_WORDS, Found, Tree, holds_masks, one_per_split, ways
from rehead.errors import DataError, listed
from rehead.reading import open_file

logger = logging.getLogger("rehead")


def detect_format(
    root: Path, tasks: Collection[str], asked: str | None = None, said: Mapping[str, Any] | None = None
) -> Found:
    """The format of a folder that serves some tasks.

    Args:
        root: the folder.
        tasks: of the heads that are to learn from it; all must be served.
        asked: the format, where somebody has said another than `auto`; only its splits are looked for then.
        said: by split, what somebody has said of it, which settles what could be one thing or another.

    Raises:
        DataError: saying what there is, when nothing is detected, nothing that serves the tasks or is of the format
            that was asked for, or several things.
    """
    asked = None if asked == "auto" else asked
    try:
        try:
            found = _detected(Tree.of(root, said), tasks, asked)
        except DataError:
            if (part := _part_of(root, tasks, asked)) is None:
                raise
            return part
        if _is_nameless(found):
            return _part_of(root, tasks, asked) or found
        return found
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{root}: holds a file that cannot be read: {error}") from error


UP = 2
"""Folders above one that is called like a split where the file that is for all splits is looked for."""


def _is_nameless(found: Found) -> bool:
    """Whether the classes' names are in another file: of YOLO, in the one that is for all splits."""
    return found.format == "yolo" and not any("names" in own for own in found.splits.values())


def _part_of(root: Path, tasks: Collection[str], asked: str | None) -> Found | None:
    """What a folder inside a data set is (`coco8/train`, `coco8/images/val`), by the file above it."""
    here = root.absolute()
    for above in here.parents[:UP]:
        inside = here.relative_to(above)
        if not all(split_of(part) or part in ("images", "labels") for part in inside.parts):
            return None
        try:
            found = _detected(Tree.of(above), tasks, asked)
        except DataError:
            continue
        if _is_nameless(found):
            continue
        own = {
            split: {
                key: _moved(above, value, here) if key in (*PLACES, "names") else value for key, value in one.items()
            }
            for split, one in found.splits.items()
            if "images" in one and (above / one["images"]).resolve().is_relative_to(here.resolve())
        }
        if own:
            return replace(found, splits=own, wrong={}, saw=f"{found.saw} in {above}, which it is a part of")
    return None


def _moved(above: Path, value: str, here: Path) -> str:
    """A path of a folder above, as it is called from here."""
    return PurePosixPath(os.path.relpath(above / value, here)).as_posix()


def _detected(tree: Tree, tasks: Collection[str], asked: str | None) -> Found:
    """What a tree is. Of a file that could have been of a split but cannot be read, what is wrong with it is said.

    Raises:
        DataError: as `detect_format`.
    """
    try:
        found = _one_format(tree, tasks, asked)
    except DataError as error:
        if not tree.unread:
            raise
        raise DataError(f"{error}; cannot be read: {_unread(tree)}") from error
    if not tree.unread:
        return found
    logger.warning("%s: cannot be read, and could hold annotations: %s", tree.root, _unread(tree))
    said = {split_of(name): f"{tree.root / name}: {why}" for name, why in tree.unread.items()}
    wrong = {split: message for split, message in said.items() if split is not None and split not in found.splits}
    return replace(found, wrong={**wrong, **found.wrong}, unread=tree.unread)


def _unread(tree: Tree) -> str:
    return listed([f"{name} ({why})" for name, why in tree.unread.items()])


def _one_format(tree: Tree, tasks: Collection[str], asked: str | None) -> Found:
    root = tree.root
    found = [one for look in LOOKS if (one := look(tree, tasks)) is not None]
    if asked is not None:
        found = [one for one in found if one.format == asked] or found
    fitting = [one for one in found if set(tasks) <= set(one.serves)]
    # Folders of images, and of masks beside them, are in other formats too.
    sure = [one for one in fitting if one.format not in UNSURE]
    if len(sure) > 1:
        raise DataError(f"{root}: could be read in several ways: {ways(sure)}; choose one of them")
    known = [] if sure or asked is not None else known_formats(tree)
    if known:
        others = [f"or say data.format={one.format} for the {one.saw}" for one in fitting]
        raise DataError(f"{root}: {'; '.join([*known, *others])}")
    if fitting:
        best = (sure or fitting)[0]
        if best.format == "yolo" and asked is None and (oriented := oriented_boxes(tree, best)):
            raise DataError(f"{root}: {oriented}")
        if asked not in (None, best.format):
            raise DataError(f"{root}: data.format={asked}: it has {best.saw}, which is {best.format}")
        return best
    found = [one for look in LOOKS if (one := look(tree, ())) is not None]
    if found:
        seen = "; ".join(f"{one.saw} ({one.format})" for one in found)
        raise DataError(f"{root}: nothing for {' and '.join(sorted(tasks))}, but there is {seen}")
    there = [name for names in tree.files.values() for name in names]
    kinds = sorted({os.path.splitext(name)[1].lower() or name for name in there})
    raise DataError(
        f"{root}: no format is detected in {len(there)} files ({listed(kinds)}) in {len(tree.files)} folders "
        f"({listed(list(tree.files))}); docs/data.md shows how each format lays out its files"
    )


def _passed_over(names: Collection[str], splits: Mapping[str, str], why: str = "since they name no split") -> str:
    """What is said of paths that are of no split."""
    rest = [name for name in names if name not in splits.values()]
    return f" (passed over, {why}: {listed(rest)})" if rest else ""


def _json(tree: Tree, *words: bytes) -> list[str]:
    """JSON files that hold all of some words."""
    found = []
    for folder, names in tree.ending(".json"):
        for name in names:
            # What a repair did speaks of images and annotations too.
            content = b"" if name == "repair.json" else tree.text(folder, name)
            if all(content.find(word) >= 0 for word in words):
                found.append((PurePosixPath(folder) / name).as_posix())
    return found


def _coco(tree: Tree, tasks: Collection[str]) -> Found | None:
    files = _json(tree, b'"images"', b'"annotations"', b'"categories"')
    # COCO's own folder holds the same images several times.
    wanted = "person_keypoints" if "keypoint_detection" in tasks else "instances"
    files = [name for name in files if PurePosixPath(name).name.startswith(wanted)] or files
    if not files:
        return None
    splits, rest = _with_images(tree, files, b"file_name")
    return Found("coco", splits, f"COCO JSON in {listed(files)}{rest}")


def _via(tree: Tree, tasks: Collection[str]) -> Found | None:
    files = _json(tree, b'"regions"', b'"filename"')
    if not files:
        return None
    splits, rest = _with_images(tree, files, b"filename")
    return Found("via", splits, f"a VIA file, {listed(files)}{rest}")


def _with_images(tree: Tree, files: Collection[str], key: bytes) -> tuple[dict[str, dict[str, Any]], str]:
    """JSON files by split, with the folders of the images that they name under a key; and what is left over."""
    splits = {}
    by_split = one_per_split(tree, files, "annotations")
    for split, name in by_split.items():
        content = tree.text(*os.path.split(name))
        found = re.finditer(rb'"%s"\s*:\s*("(?:[^"\\]|\\.)*")' % key, content)
        images = [one for match in islice(found, LOOKED_AT) if (one := _word(match.group(1)))]
        folder = tree.holding(images, split, name)
        beside = PurePosixPath(name).parent.as_posix()
        splits[split] = {"images": folder or tree.with_some(images, split, beside, name), "annotations": name}
    return splits, _passed_over(files, by_split)


def _word(quoted: bytes) -> str:
    """A JSON text; empty where it is broken, which whoever reads the file will say."""
    try:
        return str(json.loads(quoted))
    except ValueError:
        return ""


def _csv(tree: Tree, tasks: Collection[str]) -> Found | None:
    files: dict[str, list[PurePosixPath]] = {}
    for folder, names in tree.ending(".csv"):
        for name in names:
            path = tree.root / folder / name
            try:
                open_file(path).close()
            except DataError as error:
                tree.cannot_read(path, error)
                continue
            try:
                images = table_of(path, lambda *_: None)
            except DataError:
                continue
            file = (PurePosixPath(folder) / name).as_posix()
            files[file] = [PurePosixPath(image) for image in islice(images, LOOKED_AT)]
    by_split = one_per_split(tree, files, "annotations")
    splits: dict[str, dict[str, Any]] = {}
    for split, file in by_split.items():
        # By their names alone only where no whole path leads anywhere.
        own = split_of(file)
        images_in = tree.holding([str(path) for path in files[file]], own, file) or tree.holding(
            [path.name for path in files[file]], own, file
        )
        if images_in is None:
            beside = PurePosixPath(file).parent.as_posix()
            images_in = tree.with_some([str(path) for path in files[file]], own, beside, file)
        splits[split] = {"images": images_in, "annotations": file}
    saw = f"a table of boxes, {listed(list(files))}{_passed_over(files, by_split)}"
    return Found("csv", splits, saw) if files else None


def _nearest(tree: Tree, folder: str, stems: set[str], images: dict[str, set[str]]) -> str:
    """The folder with the most images of some names, a few of which may be missing; of several, the closest."""
    ranks = {
        one: (count, one == folder, split_of(one) == split_of(folder), not holds_masks(one))
        for one, own in images.items()
        if (count := len(own & stems))
    }
    found = tree.best(ranks, split_of(folder), f"the images of {folder}")
    return found if found is not None else tree.with_some(stems, split_of(folder), folder, folder)


def _voc(tree: Tree, tasks: Collection[str]) -> Found | None:
    images = {folder: {os.path.splitext(name)[0] for name in names} for folder, names in tree.images().items()}
    folders = {}
    first = ""
    for folder, names in tree.ending(".xml"):
        # Not <annotations>, which is CVAT's.
        if re.search(rb"<annotation[\s>]", tree.text(folder, names[0])[:1000]):
            first = first or f"{folder}/{names[0]}"
            folders[folder] = _nearest(tree, folder, {os.path.splitext(name)[0] for name in names}, images)
    if not folders:
        return None
    if len(folders) == 1:
        (folder,) = folders
        base = PurePosixPath(folder).parent
        kind = "Segmentation" if "segmentation" in tasks else "Main"
        sets = {split: (base / f"ImageSets/{kind}/{split}.txt").as_posix() for split in WORDS}
        common = {"images": folders[folder], "annotations": folder}
        if (tree.root / base / "SegmentationClass").is_dir():
            common["masks"] = (base / "SegmentationClass").as_posix()
        elif "segmentation" in tasks:
            return None  # boxes only
        splits = {s: {**common, "image_set": name} for s, name in sets.items() if (tree.root / name).is_file()}
        lacking = "" if tasks or "masks" in common else ", without class maps in SegmentationClass"
        return Found("voc", splits or {"train": common}, f"Pascal VOC's XML in {folder}{lacking}", file=first)
    by_split = one_per_split(tree, folders, "annotations")
    splits = {split: {"images": folders[name], "annotations": name} for split, name in by_split.items()}
    return Found("voc", splits, f"Pascal VOC's XML in {listed(list(folders))}", file=first)


def _masks(tree: Tree, tasks: Collection[str]) -> Found | None:
    images = tree.images()
    stems = {folder: {os.path.splitext(name)[0] for name in names} for folder, names in images.items()}
    pairs = {}
    for masks in filter(holds_masks, stems):
        own = stems[masks] | {stem.removesuffix("_mask") for stem in stems[masks]}
        # Half and not all: the reader names an image without a mask, which otherwise would hide its whole split.
        fits = [
            folder
            for folder, other in stems.items()
            if not holds_masks(folder) and len(other & own) >= max(1, len(other) / 2)
        ]
        if fits:
            # Of several, the one of the same split, then the one beside the masks.
            split, parts = _split_of_masks(masks), set(PurePosixPath(masks).parts)
            pairs[masks] = max(
                fits, key=lambda folder: (split_of(folder) == split, len(parts & set(PurePosixPath(folder).parts)))
            )
    if not pairs:
        return None
    names = {pairs[masks]: masks for masks in pairs}
    by_split = one_per_split(tree, names, "images")
    splits = {split: {"images": folder, "masks": names[folder]} for split, folder in by_split.items()}
    if not splits:
        return None
    saw = f"images with masks of the same names in {listed(list(pairs))}"
    first = next(iter(splits.values()))["masks"]
    file = f"{first}/{images[first][0]}"
    if not {"segmentation"} & set(tasks):
        return Found("instance_masks", splits, saw, file=file)
    values = _values([tree.root / first / name for name in images[first]])
    if values == {0, 255}:
        more = {"values": {"background": 0, "foreground": 255}}
        return Found("masks", splits, f"{saw}, their values 0 and 255", more, file=file)
    kind = "in colour" if values is None else f"their values {_ranges(sorted(values))}"
    return Found("masks", splits, f"{saw}, {kind}", file=file)


def _ranges(numbers: list[int]) -> str:
    """`0 to 11, 255`."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return listed([f"{a} to {b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True)])


def _split_of_masks(folder: str) -> str | None:
    """`trainannot` is of `train`."""
    return split_of(re.sub("|".join(f"{word}[a-z]*" for word in MASK_WORDS), "", folder.lower()))


def _values(paths: list[Path]) -> set[int] | None:
    """The values of the first masks that can be read; None if they are in colour."""
    found: set[int] = set()
    bits: set[bool] = set()
    for path in paths[:LOOKED_AT]:
        try:
            mask = read_mask(path)
            (bits if mask.dtype == bool else found).update(mask.ravel().tolist())
        except DataError:
            with suppress(DataError):
                if opened_mask(path).mode not in NUMBERED:
                    return None
    # The 1 of one bit is what others of the same folder have for it.
    return found | {int(bit) * (255 if 255 in found else 1) for bit in bits}


def _folders(tree: Tree, tasks: Collection[str]) -> Found | None:
    images = [PurePosixPath(folder) for folder in tree.images()]
    # A class is a folder of images, which may have folders of its own; what holds classes is a split, or the root.
    holders = dict.fromkeys(holder for path in images if (holder := _split_above(path)))
    by_split: dict[str, str] = {}
    for name in sorted(holders, key=lambda name: len(PurePosixPath(name).parts)):
        by_split.setdefault(split_of(name) or "", name)
    if by_split:
        # Where somebody looks for other things, two folders of one split are nothing to stop at.
        saw = f"folders of images per class{_passed_over(list(holders), by_split, 'a second folder of a split')}"
        file = f"{images[0]}/{tree.images()[str(images[0])][0]}"
        return Found("folders", {split: {"images": name} for split, name in by_split.items()}, saw, file=file)
    classes = [path for path in images if len(path.parts) == 1]
    if len(classes) < 2 or any(split_of(str(path)) or holds_masks(str(path)) for path in classes):
        return None
    file = f"{classes[0]}/{tree.images()[str(classes[0])][0]}"
    saw = f"folders of images, {listed([str(path) for path in classes])}"
    return Found("folders", {"train": {"images": "."}}, saw, file=file)


def _split_above(path: PurePosixPath) -> str:
    """The innermost folder above one that names a split; empty for none."""
    above = (one for one in path.parents if one.parts and split_of(one.name))
    return next((one.as_posix() for one in above), "")


def _huggingface(tree: Tree, tasks: Collection[str]) -> Found | None:
    saved = [folder for folder, names in tree.files.items() if {"state.json", "dataset_info.json"} <= set(names)]
    if not saved:
        return None
    splits = {}
    for split, folder in one_per_split(tree, saved, "dataset").items():
        path = PurePosixPath(folder)
        # Several splits lie in the folder of a DatasetDict; one that was saved alone has no name.
        if "dataset_dict.json" in tree.files.get(path.parent.as_posix(), ()):
            splits[split] = {"dataset": path.parent.as_posix(), "split": path.name}
        else:
            splits[split] = {"dataset": folder, "split": split}
    columns = columns_by_task(tree.root / saved[0] / "dataset_info.json")
    kinds = {"detection": "boxes", "segmentation": "class maps", "classification": "classes"}
    if not columns:
        raise DataError(
            f"{tree.root / saved[0]}: a data set of Hugging Face without images, or with nothing to learn from"
        )
    held = [f"{kinds[task]} ({listed(names)})" for task, names in columns.items() if task in kinds]
    saw = f"a data set of Hugging Face's datasets saved in {listed(saved)}, with {', '.join(held)}"
    return Found("huggingface", splits, saw, tasks=tuple(columns))


LOOKS: tuple[Callable[[Tree, Collection[str]], Found | None], ...] = (
    _huggingface,
    detect_yolo,
    _coco,
    _voc,
    _via,
    _csv,
    _masks,
    _folders,
)
"""In the order of how sure they are."""

UNSURE = ("masks", "instance_masks", "folders")
"""What is detected by the names of files and folders alone."""

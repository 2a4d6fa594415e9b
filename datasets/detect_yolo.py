"""`format: auto` for YOLO: by a `data.yaml`, or by folders of images and labels."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from rehead.datasets.file_names import split_of
from rehead.datasets.known_formats import rows_of_labels
from rehead.datasets.text_files import yaml_of
from rehead.datasets.tree import Found, Tree, holds_masks, one_per_split, ways
from rehead.errors import DataError, listed
from rehead.reading import is_there

LABELS = {"boxes": "detection", "polygons": "instance_segmentation", "points": "keypoint_detection"}
"""The task that each kind of YOLO's labels is for."""


def detect_yolo(tree: Tree, tasks: Collection[str]) -> Found | None:
    """YOLO's splits, by a YAML file of theirs or by folders called labels.

    Raises:
        DataError: where files say different things, or splits are not where one says.
    """
    found: dict[str, tuple[Found, str]] = {}
    problems: list[DataError] = []
    for folder, names in tree.ending(".yaml", ".yml"):
        for name in names:
            path = tree.root / folder / name
            try:
                content = yaml_of(path)
            except DataError as error:
                tree.cannot_read(path, error)
                continue
            if isinstance(content, dict) and "names" in content and {"train", "val"} & content.keys():
                try:
                    one = _from_yaml(tree, path, content)
                    # Two files that say the same are one.
                    said = [{**own, "names": content["names"]} for own in one.splits.values()]
                    found.setdefault(repr(said), (one, _kind_of_labels(tree, one, content)))
                except DataError as error:
                    problems.append(error)
    if found:
        return _one_of(tree, list(found.values()), tasks)
    if problems:
        raise problems[0]
    labels = [folder for folder, _ in tree.ending(".txt") if "labels" in PurePosixPath(folder).parts]
    pairs = {}
    for folder in labels:
        images = "/".join("images" if part == "labels" else part for part in PurePosixPath(folder).parts)
        if images in tree.images():
            pairs[folder] = images
    if not pairs:
        return None
    by_split = one_per_split(tree, list(pairs.values()), "images")
    splits = {split: {"images": folder} for split, folder in by_split.items()}
    first = next(iter(pairs))
    file = f"{first}/{next(name for name in tree.files[first] if name.lower().endswith('.txt'))}"
    return Found("yolo", splits, f"text files in {listed(list(pairs))}", file=file)


def _one_of(tree: Tree, found: list[tuple[Found, str]], tasks: Collection[str]) -> Found:
    """Of several YAML files that with images of the same kind of labels as a task wants.

    Raises:
        DataError: where that does not leave one.
    """
    if len(found) == 1:
        return found[0][0]
    wanted = {kind for kind, task in LABELS.items() if task in tasks}
    fitting = [one for one, kind in found if kind in wanted]
    if len(fitting) == 1:
        others = [one.saw for one, _ in found if one is not fitting[0]]
        return replace(fitting[0], saw=f"{fitting[0].saw} with {' and '.join(wanted)} (not taken: {listed(others)})")
    kinds = "; ".join(f"{one.saw} with {kind}" for one, kind in found)
    raise DataError(f"{tree.root}: could be read in several ways: {kinds}; {ways([one for one, _ in found])}")


def _kind_of_labels(tree: Tree, found: Found, content: dict[str, Any]) -> str:
    """What the first label files of a YAML file hold: a key of `LABELS`, or in other words what else."""
    if content.get("kpt_shape"):
        return "points"
    kinds = {"boxes" if len(row) == 5 else "polygons" for _, row in rows_of_labels(tree, found)}
    return kinds.pop() if len(kinds) == 1 else "boxes and polygons" if kinds else "no labels"


def _from_yaml(tree: Tree, path: Path, content: dict[str, Any]) -> Found:
    root = tree.root
    splits = {}
    missing, wrong = {}, {}
    for split, keys in (("train", ("train",)), ("val", ("val", "valid")), ("test", ("test",))):
        value = next((content[key] for key in keys if content.get(key)), None)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is None:
            continue
        if not isinstance(value, str):
            raise DataError(f"{path}: {split} lists several folders; put their images in one text file")
        tried = _yolo_paths(path, str(content.get("path") or ""), value)
        images = next((one for one in tried if is_there(one)), None)
        if images is None:
            missing[split] = f"{path}: {split}: {value} is not there; looked for {', '.join(map(str, tried))}"
            continue
        splits[split] = {"images": os.path.relpath(os.path.abspath(images), root), "names": os.path.relpath(path, root)}
    for split, message in missing.items():
        wrong[split] = f"{message}; {_cure(tree, split, [own['images'] for own in splits.values()])}"
    return Found("yolo", splits, os.path.relpath(path, root), wrong=wrong)


def _cure(tree: Tree, split: str, used: Collection[str]) -> str:
    """What to say in place of a path of a split that is not there."""
    images = tree.images()
    free = [folder for folder in images if folder not in used and not holds_masks(folder)]
    there = [f"{folder} ({len(images[folder])} images)" for folder in images]
    best = next((folder for folder in free if split_of(folder) == split), free[0] if free else None)
    cures = [f"data.{split}.images={best}"] if best is not None else []
    if split == "val":
        cures.append("data.val={from_train: 0.2}")
    if split != "train":
        cures.append(f"data.{split}=null to do without")
    cures = cures or ["data.train.images=..."]
    there_are = f"has images in {listed(there)}" if there else "has no images at all"
    return f"{tree.root} {there_are}; say {' or '.join(cures)}"


def _yolo_paths(file: Path, base: str, value: str) -> list[Path]:
    """Where a split of `data.yaml` could be.

    Its path may start from `path`, which may start from the folder of the file or from a folder that only its author
    has; and Roboflow's exports write `../train/images` for what lies beside the file.
    """
    here = file.parent
    value, base = value.replace("\\", "/"), base.replace("\\", "/")
    plain = re.sub(r"^(\.\./)+", "", value)
    tried = [here / base / value, here / Path(base).name / value, here / value, here / plain]
    return list(dict.fromkeys(tried))

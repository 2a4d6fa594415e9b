"""A drawn split as text files of image names, which stay the same whatever is added to the images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rehead.configs.readers import SPLITS, FromTrainSplit
from rehead.configs.schema import SourceOptions
from rehead.datasets.open import open_reader
from rehead.datasets.subset import name_of, part, present_classes
from rehead.errors import DataError, listed
from rehead.files import atomic_folder
from rehead.reading import folder_named
from rehead.terminal import say


def write_split(
    source: SourceOptions, task: str, shares: Mapping[str, float], seed: int, folder: Path
) -> dict[str, Any]:
    """Draws splits from the training images and writes a text file for each of them, and for what is left to train on.

    Args:
        source: whose training images are split.
        task: that the source is read for.
        shares: of the training images, by split (`val`, `test`).
        seed: of the draw.
        folder: for the text files: a new or an empty one.

    Returns:
        The `data` of a configuration that reads the splits.

    Raises:
        DataError: where a split is there already, or there are too few images.
        OutputError: for a folder that is not empty or cannot be written.
    """
    for split in shares:
        own = getattr(source, split)
        if own is not None and not isinstance(own, FromTrainSplit):
            raise DataError(
                f"{source.root}: has a {split} already, {own.model_dump(exclude_defaults=True)}; give --{split} 0"
            )
    if isinstance(source.val, FromTrainSplit) and "val" not in shares:
        raise DataError(f"{source.root}: data.val is sampled from the training images too; give --val")
    given: dict[str, Any] = source.model_dump(
        mode="json", exclude_defaults=True, include={*SourceOptions.model_fields, "scale"}
    )
    root = folder_named(source.root)
    alone = source.model_copy(update=dict.fromkeys(shares))
    whole = open_reader(alone, "train", task=task)
    drawn = {split: FromTrainSplit(from_train=share, seed=seed) for split, share in shares.items()}
    present = present_classes(whole)
    with atomic_folder(folder) as temporary:
        for split in (one for one in SPLITS if one == "train" or one in shares):
            rows = part(whole, drawn, split, root).tolist()
            names = dict.fromkeys(name_of(whole, row) for row in rows)
            for name in names:
                if "\n" in name or "\r" in name or name != name.strip():
                    raise DataError(f"{source.root}: image '{name}' cannot be a line of a list; rename it")
            (temporary / f"{split}.txt").write_bytes(b"".join(os.fsencode(name) + b"\n" for name in names))
            there = frozenset().union(*(present[row] for row in rows))
            lacking = [name for label, name in enumerate(whole.classes.names) if label not in there]
            say(f"{split}: {len(rows)} images" + (f"; without an example of {listed(lacking)}" if lacking else ""))
    place = folder.absolute()
    place = place.relative_to(root.absolute()) if place.is_relative_to(root.absolute()) else place
    lists = {split: {"from_train": (place / f"{split}.txt").as_posix()} for split in shares}
    return {**given, "root": source.root, **lists}

"""How often each class occurs in each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.images import Facts
from rehead.datasets.audit.sources import Source
from rehead.datasets.parsing import NO_NAME
from rehead.types import UNUSED

Counts = dict[str, dict[str, int]]
"""By class, by split: objects, images or pixels."""


def counts_of(source: Source, facts: Sequence[Facts]) -> dict[str, int]:
    """Examples by class: objects (crowds apart), images with the class, or pixels of it.

    Args:
        source: the split.
        facts: of its images.
    """
    reader = source.reader
    columns = reader.columns
    names = reader.classes.names
    if reader.values is not None:
        counts = dict.fromkeys(names, 0)
        for one in facts:
            for value, pixels in one.values.items():
                label = reader.values.labels.get(value, len(names))
                if label < len(names):
                    counts[names[label]] += pixels
        # Of values without names, those that occur.
        return counts if source.named else {name: count for name, count in counts.items() if count}
    if columns.classes is None:
        return dict.fromkeys(names, 0)
    labels = columns.labels if columns.image_labels is None else columns.image_labels
    assert labels is not None
    if columns.crowds is not None:
        labels = labels[~columns.crowds]
    found = np.bincount(labels, minlength=len(columns.classes)).tolist()
    by_name = dict(zip(columns.classes.names, found, strict=False))
    return {name: by_name.get(name, 0) for name in names}


def report_classes(counts: Counts, source: Mapping[str, str], findings: Findings) -> None:
    """Notes classes that cannot be learned, or judged.

    Args:
        counts: by class, by split.
        source: by split, the file or folder that its classes come from.
        findings: take the notes.
    """
    if not source:
        return
    first = next(iter(source.values()))
    for name, by_split in counts.items():
        # Classes without a name are an error of their own, and what a repair made of it.
        if name.startswith(UNUSED) or name.endswith(NO_NAME):
            continue
        if not any(by_split.values()):
            findings("class_without_examples", first, f"'{name}' has no example")
        elif "train" in by_split and not by_split["train"]:
            others = ", ".join(f"{count} in {split}" for split, count in by_split.items() if count)
            findings("class_not_in_train", source["train"], f"'{name}' has {others}, but none in train")
        elif by_split.get("val") == 0:
            findings("class_not_in_val", source["val"], f"'{name}' has {by_split['train']} in train, but none in val")

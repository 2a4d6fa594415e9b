"""Several sources of annotations of the same images, for several heads."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rehead.data.instance_masks import RLE
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.errors import DataError

logger = logging.getLogger("rehead")

SHARED = ("image_id", "path", "size", "image")
"""What belongs to the image and not to one of its annotations."""


class JoinedReader(Reader):
    """Every image that any of the readers has, with all that they know of it.

    Images are the same where their paths are. An image that a reader lacks comes without that reader's kind
    of annotation, and the heads that learn from it skip the image.

    Attributes:
        by_head: the readers, by the heads that learn from them.

    Raises:
        DataError: where two readers give the same kind of annotation.
    """

    def __init__(self, by_head: Mapping[str, Reader]) -> None:
        self.by_head = dict(by_head)
        self.parts = list({id(reader): reader for reader in by_head.values()}.values())
        self.names = [next(key for key, reader in by_head.items() if reader is part) for part in self.parts]
        self.classes = self.parts[0].classes
        self._refuse_two_of_a_kind()
        places = [[os.path.abspath(part[index].path) for index in range(len(part))] for part in self.parts]
        order = {path: row for row, path in enumerate(dict.fromkeys(path for own in places for path in own))}
        # One column per reader: where it has the image, or -1.
        self._rows = np.full((len(order), len(self.parts)), -1, np.int64)
        for number, own in enumerate(places):
            self._rows[[order[path] for path in own], number] = np.arange(len(own))
        shared = (self._rows >= 0).sum(axis=1) > 1
        for name, part, column in zip(self.names, self.parts, self._rows.T, strict=True):
            if not (shared & (column >= 0)).any():
                logger.warning(
                    "no image of head '%s' has annotations for another head (its first is %s); images are the same "
                    "where their paths are",
                    name,
                    part[0].path.absolute(),
                )

    def _refuse_two_of_a_kind(self) -> None:
        giver: dict[str, str] = {}
        for name, part in zip(self.names, self.parts, strict=True):
            for kind in _kinds(part):
                if kind in giver:
                    raise DataError(
                        f"heads '{giver[kind]}' and '{name}' both learn from {kind}, but with different data or "
                        "classes; an image has one kind of each, so let them share a source and its classes"
                    )
                giver[kind] = name

    def of(self, head: str) -> Reader:
        """The head's own."""
        return self.by_head[head]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        rows = self._rows[index]
        samples = [part[int(row)] for part, row in zip(self.parts, rows, strict=True) if row >= 0]
        joined = samples[0]
        for other in samples[1:]:
            known = {
                field.name: value
                for field in fields(other)
                if field.name not in SHARED and (value := getattr(other, field.name)) is not None
            }
            joined = replace(joined, **known, size=joined.size or other.size)
        # Boxes are judged by the ids of their own files.
        with_boxes = next((sample for sample in samples if sample.boxes is not None), joined)
        return replace(joined, image_id=with_boxes.image_id)

    def complete(self, index: int, sample: Sample) -> Sample:
        """What every reader adds."""
        for part, row in zip(self.parts, self._rows[index], strict=True):
            if row >= 0:
                sample = part.complete(int(row), sample)
        return sample

    def segmentations(self, index: int, size: tuple[int, int]) -> list[RLE]:
        """Those of the reader that has masks."""
        for part, row in zip(self.parts, self._rows[index], strict=True):
            if row >= 0 and part.masks:
                return part.segmentations(int(row), size)
        return super().segmentations(index, size)

    def unmeasured(self, index: int) -> NDArray[np.bool_]:
        """Those of the reader that has masks."""
        for part, row in zip(self.parts, self._rows[index], strict=True):
            if row >= 0 and part.masks:
                return part.unmeasured(int(row))
        return super().unmeasured(index)


def _kinds(reader: Reader) -> list[str]:
    """What a reader gives: the words are those of the message above."""
    sample = reader[0] if len(reader) else Sample("", Path())
    given = {"boxes": sample.boxes, "class maps": sample.mask_path, "labels of whole images": sample.label}
    return [kind for kind, value in given.items() if value is not None]

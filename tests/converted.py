"""What came of a conversion, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rehead.configs.readers import READERS
from rehead.configs.schema import SourceOptions
from rehead.data.instance_masks import decode
from rehead.data.reader import Reader
from rehead.datasets.annotation_reader import AnnotationReader
from rehead.datasets.open import open_reader
from rehead.datasets.write import Written, write


def read(options: dict[str, Any], split: str = "train") -> AnnotationReader:
    kind = READERS.get(options["format"]).options
    splits = {key: kind.model_validate(own) for key, own in options.items() if key in ("train", "val", "test")}
    task = "segmentation" if options["format"] == "masks" else ""
    reader = open_reader(SourceOptions.model_validate({**options, **splits}), split, task=task)
    assert isinstance(reader, AnnotationReader)
    return reader


def there(reader: Reader, root: Path, *formats: str) -> tuple[AnnotationReader, list[Written]]:
    """A split written in one format after the other, each from what was read of the last one."""
    written = []
    for number, form in enumerate(formats):
        written.append(write({"train": reader}, form, root / f"{number}_{form}"))
        reader = read(written[-1].options)
    assert isinstance(reader, AnnotationReader)
    return reader, written


def same(one: AnnotationReader, other: AnnotationReader, *but: str, atol: float = 0.0) -> None:
    """Whether two readers give the same images and objects, up to their order."""
    assert len(one) == len(other)
    by_stem = {sample.path.stem: index for index, sample in enumerate(other)}
    for index, sample in enumerate(one):
        place = by_stem[sample.path.stem]
        twin = other[place]
        assert sample.size == twin.size
        assert "ids" in but or sample.image_id == twin.image_id
        assert one.read(index).pixels.shape == other.read(place).pixels.shape
        names = [
            [reader.classes.names[label] for label in own.labels] for reader, own in ((one, sample), (other, twin))
        ]  # type: ignore[union-attr]
        assert names[0] == names[1]
        for what in ("boxes", "areas", "iscrowd", "keypoints"):
            first, second = getattr(sample, what), getattr(twin, what)
            if what not in but and first is not None:
                np.testing.assert_allclose(second, first, atol=atol, rtol=1e-6 if atol else 0, err_msg=what)
        if "masks" not in but and one.columns.segmentations is not None and sample.size is not None:
            masks = [
                decode(reader.segmentations(at, sample.size), sample.size)
                for reader, at in ((one, index), (other, place))
            ]
            np.testing.assert_array_equal(*masks)

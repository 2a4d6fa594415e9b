"""Samples of a data set as the training will see them: as annotated, and after augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rehead.configs.heads import image_task, task_of
from rehead.configs.load import load_config
from rehead.configs.schema import Config
from rehead.configs.tasks import TASKS as SPECS
from rehead.configs.tasks import treatment_of
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.data.transforms.resize import Resize
from rehead.datasets.open import open_data
from rehead.progress import Progress
from rehead.tasks import task_named
from rehead.tasks.base import Picture
from rehead.tasks.images import augment_for, sampler_for
from rehead.terminal import say
from rehead.visualize.draw import draw_classes, draw_label, save, sheet

LONGER = 480
"""Pixels of the longer side of an image in the picture."""


def show_data(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
    out: str | Path,
    *,
    count: int = 4,
    draws: int = 3,
    split: str = "train",
) -> None:
    """Draws samples with all that is annotated on them, a row for each image and head.

    Args:
        source: as for `train`.
        overrides: as for `train`.
        out: the picture; its suffix says the format.
        count: how many images: of the training split the first ones that a training would see, else the first.
        draws: how many augmentations of each image, those of epochs 0, 1, ...; the training split alone has any.
        split: `train`, `val` or `test`.

    Raises:
        ConfigError: for a wrong configuration, or steps that cannot change these images.
        DataError: for data that cannot be used.
    """
    config = load_config(source, overrides)
    reader = open_data(config, split)
    resize = Resize(config.data.resize or treatment_of(image_task(config)).resize)
    channels = config.model.backbone.in_channels
    augment = augment_for(config, resize, reader) if split == "train" and draws else None
    indices = list(range(len(reader)))
    if split == "train":
        indices = [key.image for batch in sampler_for(config, reader).batches(0) for key in batch]
    indices = list(dict.fromkeys(indices))[:count]
    tiles, captions = [], []
    with Progress("drawing", len(indices)) as progress:
        for index in indices:
            sample = reader.read(index, channels)
            progress.advance(sample.path.name)
            versions = [(sample.path.name, _fitting(sample, resize, max(sample.pixels.shape[:2])))]
            for epoch in range(draws if augment else 0):
                assert augment is not None
                changed, _ = augment(sample, epoch, index, 0, reader)
                versions.append(
                    (f"epoch {epoch}", _fitting(changed, resize, max(resize.size_for(sample.pixels.shape[:2]))))
                )
            for key in config.model.heads:
                for caption, version in versions:
                    tiles.append(_drawn(config, reader, key, version))
                    captions.append(f"{key}: {caption}" if len(config.model.heads) > 1 else caption)
    columns = len(tiles) // max(1, len(indices) * len(config.model.heads))
    save(Path(out), sheet(tiles, columns if columns > 1 else 4, captions))
    say(f"{len(indices)} of {len(reader)} images of data.{split}: {out}")


def _fitting(sample: Sample, resize: Resize, longer: int) -> Sample:
    """A sample at the size at which it is drawn, where an image with this longer side gets `LONGER`."""
    height, width = sample.pixels.shape[:2]
    scale = min(1.0, LONGER / longer)
    return resize.to(sample, (max(1, round(height * scale)), max(1, round(width * scale))))


def _drawn(config: Config, reader: Reader, key: str, sample: Sample) -> Picture:
    """A sample with what one head learns from."""
    task = task_named(task_of(config.model.heads[key]))
    classes = reader.of(key).classes
    if not task.has_ground_truth(sample):
        return np.asarray(draw_label(sample.pixels, "nothing annotated for this head"))
    if isinstance(sample.label, np.ndarray) and SPECS[task_of(config.model.heads[key])].annotation in (
        "label",
        "labels",
    ):
        labels = np.flatnonzero(sample.label >= 0.005).tolist()
        return draw_classes(sample.pixels, labels, classes.names, sample.label[labels].tolist())
    return task.draw_truth(sample.pixels, sample, classes)

"""What a model wants to see: how an image of any kind becomes a batch for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rehead.data.collate import collate
from rehead.data.image_io import read_image
from rehead.data.sample import Sample
from rehead.data.transforms.resize import Resize
from rehead.errors import DataError
from rehead.types import ImageBatch


@dataclass(frozen=True)
class InputSpec:
    """What training, evaluation and prediction do alike to every image.

    Attributes:
        channels: of an image.
        resize: the one resize function: the size that the config says, the interpolation of the weights.
        divisor: what a batch's height and width must be multiples of, for every head.
        scale: the number in image files that becomes 255; see `rehead.data.image_io.read_image`.
    """

    channels: int
    resize: Resize
    divisor: int
    scale: float | None = None

    def batch(self, image: str | Path | np.ndarray[Any, Any]) -> ImageBatch:
        """One image as a batch.

        Args:
            image: a file, or (H, W, C) uint8 RGB.

        Raises:
            DataError: if the file cannot be read.
        """
        path = Path() if isinstance(image, np.ndarray) else Path(image)
        pixels = image if isinstance(image, np.ndarray) else read_image(path, self.channels, scale=self.scale)
        if pixels.ndim != 3 or pixels.shape[2] != self.channels or not pixels.size:
            raise DataError(f"an image should be (height, width, {self.channels}), found {pixels.shape}")
        sample = Sample(image_id=str(path), path=path, image=pixels)
        return collate([self.resize(sample)], self.divisor)[0]

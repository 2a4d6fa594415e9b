"""The options of the one resize. Imports no torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from rehead.configs.base import Options


class ResizeOptions(Options):
    """How an image reaches its network size, the same way in training, evaluation and prediction.

    Either `shorter` (with `longer` as a limit, or with `crop`), which keeps the aspect ratio, or
    `height` and `width`, which need not.
    """

    shorter: int | None = Field(None, ge=1, description="length of the shorter side, in pixels")
    longer: int | None = Field(None, ge=1, description="limit for the longer side")
    crop: int | None = Field(None, ge=1, description="central square cut out afterwards (classification)")
    height: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_way(self) -> ResizeOptions:
        exact = self.height is not None or self.width is not None
        if exact and (self.height is None or self.width is None):
            raise ValueError("height and width go together")
        if exact == (self.shorter is not None):
            raise ValueError("give either shorter (with longer or crop), or height and width")
        if exact and (self.longer is not None or self.crop is not None):
            raise ValueError("longer and crop go with shorter, not with height and width")
        if self.shorter is not None and self.longer is not None and self.longer < self.shorter:
            raise ValueError(f"longer ({self.longer}) is less than shorter ({self.shorter})")
        if self.shorter is not None and self.crop is not None and self.crop > self.shorter:
            raise ValueError(f"crop ({self.crop}) is more than shorter ({self.shorter})")
        if self.crop is not None and self.longer is not None:
            raise ValueError("crop and longer do not go together: longer could make an image smaller than the crop")
        return self

"""What every part of the configuration has in common."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Typed options: unknown keys are errors, defaults are checked too, and nothing changes after loading.

    Numbers are finite: JSON, in which a checkpoint holds them, has no others.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, allow_inf_nan=False)


class HeadOptions(Options):
    """What every head has: its name in the table of heads, its classes, and its weight among others.

    `fitted` names the options that weights were trained for and that their shapes do not show.
    """

    fitted: ClassVar[tuple[str, ...]] = ()

    name: str
    classes: list[str] | None = Field(
        None, min_length=1, description="names in order; the data's own (data.classes, or their files') unless given"
    )
    weight: float = Field(1.0, gt=0, description="of its losses, where several heads learn together")

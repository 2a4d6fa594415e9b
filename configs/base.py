"""What every part of the configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Typed options: unknown keys are errors, defaults are checked too, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)

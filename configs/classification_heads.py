"""Options of the classification heads. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rehead.configs.base import HeadOptions


class ClassificationOptions(HeadOptions):
    """What every classification head has."""

    fitted: ClassVar[tuple[str, ...]] = ("pooling", "multi_label")

    pooling: Literal["avg", "max"] = "avg"
    dropout: float = Field(0.0, ge=0, lt=1, description="of what the last layer sees")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that is spread evenly")
    multi_label: bool = Field(False, description="any number of classes per image, each with a yes or no of its own")


class LinearOptions(ClassificationOptions):
    """Pooling, dropout and one linear layer on the last feature map."""

    name: Literal["linear"] = "linear"


class MLPOptions(ClassificationOptions):
    """A hidden layer between pooling and the linear layer."""

    name: Literal["mlp"] = "mlp"
    hidden: int | None = Field(None, ge=1, description="channels of the hidden layer; the feature map's unless given")

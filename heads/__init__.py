"""Heads: features -> losses, or features -> predictions."""

from __future__ import annotations

from collections.abc import Mapping

from rehead.configs.base import HeadOptions
from rehead.configs.heads import HEADS
from rehead.heads.base import Head
from rehead.types import Classes, FeatureSpec

__all__ = ["Head", "build_head"]


def build_head(options: HeadOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> Head:
    """Builds a head for a backbone.

    Args:
        options: its checked options; `options.name` chooses the head.
        classes: what it tells apart.
        specs: the backbone's `feature_specs`.

    Raises:
        BuildError: if the features do not fit the head; names both sides.
    """
    head: Head = HEADS.get(options.name).load()(options, classes, specs)
    return head

"""What is said of another library's models: which there are, and what their tensors are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rehead.backbones.resnet import VARIANTS

HEAD = "heads.main."
Pairs = tuple[tuple[str, str], ...]
"""What names start with, ours and theirs; the first that fits counts."""

NETWORKS = [name for name, variant in VARIANTS.items() if variant.stem_stride == 4]
"""The residual networks that other libraries have, under the same names."""


@dataclass(frozen=True)
class Form:
    """How a kind of head is stored elsewhere.

    Attributes:
        library: `torchvision` or `smp`.
        pairs: of prefixes.
        counted: the tensor there, with one value per class, or per anchor and class.
        background: values of `counted` that are no class of ours.
    """

    library: str
    pairs: Pairs
    counted: str
    background: int = 0


@dataclass(frozen=True)
class Known:
    """A model of another library: our task, our options for it, and where its published classes are listed."""

    task: str
    form: Form
    """How its head is stored."""
    head: Mapping[str, Any]
    backbone: Mapping[str, Any]
    resize: Mapping[str, int] | None = None
    categories: Callable[[], Sequence[str]] | None = None
    frozen_eps: float | None = None
    """Of batch norms that the file's own form shows to be frozen; torchvision's `overwrite_eps`."""

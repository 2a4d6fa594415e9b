"""Weights: read without running anybody's code, and put where they belong."""

from __future__ import annotations

import argparse
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rehead.errors import WeightsError

if TYPE_CHECKING:
    from rehead.backbones.base import Backbone

logger = logging.getLogger("rehead")

# Where training scripts keep the state dict inside a checkpoint; averaged weights first, as timm does.
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
# What wrappers put before every key: DataParallel, torch.compile, torchvision's detectors, rehead.
WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model|backbone|body)\.)*")
# Read by BatchNorm without momentum only, and lacking in old files: loaded where it is, but no word about it.
COUNTER = "num_batches_tracked"
SHOWN = 8


@dataclass
class LoadReport:
    """What became of every tensor when weights were loaded, BatchNorm's counters of batches aside.

    Attributes:
        matched: the backbone's tensors that now hold the file's values.
        missing: the backbone's tensors that the file lacks; they stay random.
        unexpected: the file's tensors that the backbone has no place for, such as a classifier.
        mismatched: the backbone's tensors that have another shape in the file; they stay random.
        source: the file, or the repository on the hub.
        shapes: for each mismatched tensor, both shapes.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    source: str
    shapes: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the backbone was filled."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        """Counts first, then the names of whatever did not match."""
        parts = [f"{self.source}: {len(self.matched)} of {self._wanted()} backbone tensors loaded"]
        if self.missing:
            parts.append(f"missing in the file, left random ({len(self.missing)}): {_shortened(self.missing)}")
        if self.mismatched:
            described = [f"{name} {self.shapes.get(name, '')}".rstrip() for name in self.mismatched]
            parts.append(f"of another shape, left random ({len(self.mismatched)}): {_shortened(described)}")
        if self.unexpected:
            parts.append(f"not part of the backbone ({len(self.unexpected)}): {_shortened(self.unexpected)}")
        return "; ".join(parts)

    def _wanted(self) -> int:
        return len(self.matched) + len(self.missing) + len(self.mismatched)


def _shortened(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def read(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU, with nested dicts opened.

    Raises:
        WeightsError: when it is not there, holds no tensors, or would need code to be opened.
    """
    path = Path(file)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file (model.backbone.weights)")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path}: not a safetensors file: {error}") from error
    try:
        # A Namespace only holds values; many training scripts store their arguments in one.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path):
            raise WeightsError(f"{path}: not a PyTorch weights file, or one too old to open safely") from error
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        raise WeightsError(
            f"{path}: refused, since opening it would run code that it names ({_shortened(names)}). "
            "Save the state dict alone (torch.save(model.state_dict(), ...)), or as .safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path}: not a PyTorch weights file, or damaged: {error}") from error
    return _tensors(loaded, path)


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        inner = next((loaded[key] for key in NESTED if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    tensors = {}
    if isinstance(loaded, Mapping):
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    if not tensors:
        found = f"a {type(loaded).__name__}"
        if isinstance(loaded, Mapping):
            found = f"the keys {_shortened([str(key) for key in loaded])}" if loaded else "nothing"
        raise WeightsError(f"{path}: holds no tensors by name; found {found}")
    return tensors


def load(backbone: Backbone, tensors: dict[str, Tensor], source: str) -> LoadReport:
    """Copies tensors into a backbone, whatever wrapper their names went through, and logs the report.

    Half precision becomes the backbone's. The first convolution is adapted to the number of input
    channels as timm does: summed for one, repeated and rescaled for others.

    Args:
        backbone: filled in place.
        tensors: as from `read`; torchvision's, timm's or rehead's names.
        source: for the report.

    Raises:
        WeightsError: when not one tensor fits; the backbone is then unchanged.
    """
    fitting, report = _match(backbone, tensors, source)
    if not report.complete and (converted := backbone.converted(tensors)) is not None:
        fitting, report = _match(backbone, converted, f"{source} (converted by timm)")
    if not report.matched:
        wanted = [key for key in backbone.state_dict() if not key.endswith(COUNTER)]
        if report.mismatched:
            reason = f"all have other shapes: {_shortened([f'{n} {s}' for n, s in report.shapes.items()])}"
        else:
            reason = f"it has {_shortened(sorted(tensors))}; wanted {_shortened(wanted)}"
        raise WeightsError(f"{source}: no tensor fits {backbone.title()}: {reason}")
    backbone.load_state_dict(fitting, strict=False)
    logger.log(logging.INFO if report.complete else logging.WARNING, "%s", report)
    # Statistics left over mean something only where there are none: a classifier may have had a norm of its own.
    kept = any(key.endswith("running_mean") for key in backbone.state_dict())
    if not kept and any(name.endswith("running_mean") for name in report.unexpected):
        logger.warning("%s was trained with batch normalisation, which %s has not", source, backbone.title())
    if any(".downsample." in name for name in report.unexpected):
        logger.warning("%s was trained with projections, which %s has not", source, backbone.title())
    return report


def _match(backbone: Backbone, tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], LoadReport]:
    """Finds every tensor's place; nothing is written."""
    wanted = backbone.state_dict()
    prefix = _prefix(backbone, tensors)
    input_convs = backbone.input_convs()
    fitting: dict[str, Tensor] = {}
    report = LoadReport([], [], [], [], source)
    used = set()
    for key, place in wanted.items():
        name = next((prefix + name for name in backbone.names_in_files(key) if prefix + name in tensors), None)
        if name is None:
            if not key.endswith(COUNTER):
                report.missing.append(key)
            continue
        used.add(name)
        tensor = tensors[name]
        if key in input_convs:
            tensor = _adapted(tensor, place)
        if tensor.shape == place.shape:
            fitting[key] = tensor
            if not key.endswith(COUNTER):
                report.matched.append(key)
        else:
            report.mismatched.append(key)
            report.shapes[key] = f"{tuple(tensor.shape)} in the file, {tuple(place.shape)} wanted"
    report.unexpected = [name for name in tensors if name not in used and not name.endswith(COUNTER)]
    return fitting, report


def _prefix(backbone: Backbone, tensors: Mapping[str, Tensor]) -> str:
    """What stands before the backbone's keys in a file: of all wrappers found, the one with most hits."""
    names = {name for key in backbone.state_dict() for name in backbone.names_in_files(key)}
    hits: dict[str, int] = {"": sum(name in tensors for name in names)}
    for key in tensors:
        found = WRAPPERS.match(key)
        parts = found.group().split(".")[:-1] if found else []
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length]) + "."
            hits[prefix] = hits.get(prefix, 0) + (key.removeprefix(prefix) in names)
    return max(hits, key=lambda prefix: (hits[prefix], -len(prefix)))


def _adapted(tensor: Tensor, place: Tensor) -> Tensor:
    """A first convolution trained on RGB, for images with another number of channels."""
    if tensor.ndim != 4 or tensor.shape == place.shape or tensor.shape[1] != 3:
        return tensor
    from timm.models import adapt_input_conv

    adapted: Tensor = adapt_input_conv(place.shape[1], tensor)
    return adapted

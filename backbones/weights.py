"""Weights: read without running anybody's code, and put where they belong."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rehead.backbones.base import Backbone
from rehead.backbones.load_report import LoadReport
from rehead.backbones.tensor_files import check_file, read_pickled, read_safetensors, refuse_unfit
from rehead.errors import WeightsError, listed

logger = logging.getLogger("rehead")

# Where training scripts keep the state dict inside a checkpoint; averaged weights first, as timm does.
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
# What wrappers put before every key: DataParallel, torch.compile, torchvision's detectors, rehead.
WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model|backbone|body)\.)*")
WRAPPED = 8
"""Wrappers around each other that are looked for."""
# Read by BatchNorm without momentum only, and lacking in old files: loaded where it is, but no word about it.
COUNTER = "num_batches_tracked"


def read(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU, with nested dicts opened.

    Raises:
        WeightsError: when it is not there, holds no tensors, or would need code to be opened.
    """
    path = Path(file)
    check_file(path, "weights file (model.backbone.weights)")
    return read_safetensors(path) if path.suffix == ".safetensors" else _tensors(read_pickled(path), path)


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    opened: list[Any] = []
    # A dict may lie inside itself.
    while isinstance(loaded, Mapping) and not any(loaded is one for one in opened):
        opened.append(loaded)
        inner = next((loaded[key] for key in NESTED if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    tensors = {}
    if isinstance(loaded, Mapping):
        tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        found = f"a {type(loaded).__name__}"
        if isinstance(loaded, Mapping):
            keys = [key if isinstance(key, str) else f"a {type(key).__name__}" for key in loaded]
            found = f"the keys {listed(keys)}" if keys else "nothing"
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
            reason = f"all have other shapes: {listed([f'{n} {s}' for n, s in report.shapes.items()])}"
        else:
            reason = f"it has {listed(sorted(tensors))}; wanted {listed(wanted)}"
        raise WeightsError(f"{source}: no tensor fits {backbone.title()}: {reason}")
    # Averages of whole checkpoints hold counters that are no whole numbers.
    counted = {key: tensor for key, tensor in fitting.items() if not key.endswith(COUNTER)}
    refuse_unfit(counted, backbone.state_dict(), source)
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
        name = next((prefix + name for name in backbone.checkpoint_keys(key) if prefix + name in tensors), None)
        if name is None:
            if not key.endswith(COUNTER):
                report.missing.append(key)
            continue
        used.add(name)
        tensor = tensors[name]
        if key in input_convs:
            refuse_unfit({key: tensor}, wanted, source)  # adapting makes floating point numbers of all others
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
    names = {name for key in backbone.state_dict() for name in backbone.checkpoint_keys(key)}
    hits: dict[str, int] = {"": sum(name in tensors for name in names)}
    for key in tensors:
        found = WRAPPERS.match(key)
        parts = found.group().split(".")[:-1][:WRAPPED] if found else []
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

"""What a checkpoint says of itself, which somebody else may have written: checked whole before any of it is used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from rehead.backbones.tensor_files import reason
from rehead.configs.load import check_changed, set_aside
from rehead.configs.schema import BackboneOptions, Config
from rehead.errors import ConfigError, ReheadError, WeightsError, listed
from rehead.files import parsed_json
from rehead.models.lineage import Entry
from rehead.training.checkpoints import find_metadata, read_metadata
from rehead.types import Classes

SPARE = (250_000_000, 100_000)
"""Numbers, and tensors, that building a model may take beside three times those of its file: published classifiers
of many classes are built, and left out again."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Weights(_Part):
    weights: str
    hash: str


class _Training(_Part):
    task: str
    heads: dict[str, str]
    data: str
    steps: int
    hash: str


class _Classes(_Part):
    names: list[str]
    ids: list[int]
    keypoints: list[str] = []
    flip_pairs: list[list[int]] = []
    colours: list[list[int]] = []


class _Head(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    name: str


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    backbone: dict[str, Any]
    heads: dict[str, _Head]


class _Config(BaseModel):
    """The parts that are read without checking the whole, which takes plugins."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: _Model


class _Metadata(BaseModel):
    # What a later version adds is not read.
    model_config = ConfigDict(strict=True, extra="ignore")

    config: _Config
    classes: dict[str, _Classes]
    lineage: list[_Training | _Weights]
    versions: dict[str, str]


@dataclass(frozen=True)
class Described:
    """What a checkpoint says of itself.

    Attributes:
        path: the file.
        raw: its configuration, of which the form of `model` is checked.
        classes: of each head.
        lineage: see `rehead.models.lineage`.
        versions: of what wrote it.
    """

    path: Path
    raw: dict[str, Any]
    classes: dict[str, Classes]
    lineage: list[Entry]
    versions: dict[str, str]

    @property
    def heads(self) -> dict[str, dict[str, Any]]:
        """The options of each head, of which the name is checked."""
        heads: dict[str, dict[str, Any]] = self.raw["model"]["heads"]
        return heads

    @property
    def plugins(self) -> object:
        """What its configuration would have imported."""
        return self.raw.get("plugins", [])

    def backbone(self) -> BackboneOptions:
        """The options of its backbone.

        Raises:
            WeightsError: if they are none.
        """
        try:
            return BackboneOptions.model_validate(self.raw["model"]["backbone"])
        except ValidationError as error:
            raise WeightsError(f"{self.path}: its config: model.backbone: {_problems(error)}") from None

    def config(self, overrides: Mapping[str, Any], plugins: Sequence[str]) -> Config:
        """Its configuration, changed and checked whole.

        Args:
            overrides: values by dotted key.
            plugins: modules that may be imported.

        Raises:
            ConfigError: with every problem, and for plugins that the user did not name.
        """
        source = f"{self.path} with the command line" if overrides else str(self.path)
        raw = deepcopy(self.raw)
        data = raw["data"] if isinstance(raw.get("data"), dict) else {}
        sources = data["sources"] if isinstance(data.get("sources"), dict) else {}
        for own in (data, *sources.values()):
            # Training writes out what was found; whoever writes `auto` has any folder of this machine searched.
            if isinstance(own, dict) and own.get("format") == "auto":
                own["format"] = None
        # Splits of another format than the command line names give way.
        config = check_changed(raw, overrides, source, set_aside(raw, overrides), plugins=plugins)
        if other := sorted({*config.model.heads} ^ {*self.classes}):
            raise ConfigError([f"model.heads: it has heads without classes, or the reverse: {listed(other)}"], source)
        return config


def describe(path: Path) -> Described:
    """What a checkpoint says of itself; no tensor is read, and nothing imported.

    Raises:
        WeightsError: if it is no checkpoint of rehead, or says something else than one does.
    """
    return _described(path, read_metadata(path))


def find_description(path: Path) -> Described | None:
    """The same of weights that may be of another kind; None if they are, or not there.

    Raises:
        WeightsError: for a broken file.
    """
    found = find_metadata(path) if path.suffix == ".safetensors" and os.path.isfile(path) else None
    return None if found is None else _described(path, found)


def lineage_in(metadata: str, path: Path) -> list[Entry]:
    """The lineage in the metadata that `resume.pt` holds, as JSON text.

    Raises:
        WeightsError: if they are no metadata.
    """
    try:
        return _described(path, parsed_json(metadata)).lineage
    except ValueError as error:
        raise WeightsError(f"{path}: its metadata are broken: {reason(error)}") from error


def _described(path: Path, found: Any) -> Described:
    try:
        _Metadata.model_validate(found)
        classes = {key: Classes.from_json(value) for key, value in found["classes"].items()}
    except ValidationError as error:
        raise WeightsError(f"{path}: its metadata are not those of a checkpoint: {_problems(error)}") from None
    except (ConfigError, ValueError) as error:
        raise WeightsError(f"{path}: its classes are none: {reason(error)}") from error
    return Described(path, found["config"], classes, found["lineage"], found["versions"])


def _problems(error: ValidationError) -> str:
    return listed(
        (
            f"{'.'.join(str(part) for part in detail['loc']) or 'the whole'}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False, include_context=False)
        ),
        "; ",
    )


@contextmanager
def built_for(tensors: Mapping[str, Tensor], path: Path) -> Iterator[None]:
    """Inside, a model is built as somebody else's checkpoint says; it grows no larger than the file makes likely.

    A few letters of a config ask for a model that fills any memory.

    Raises:
        WeightsError: where it grows, or building it fails in whatever way.
    """
    numbers, count = 0, 0
    most = (
        3 * sum(tensor.numel() for tensor in tensors.values()) + SPARE[0],
        3 * len(tensors) + SPARE[1],
    )

    def grown(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal numbers, count
        if tensor is not None:
            numbers, count = numbers + tensor.numel(), count + 1
        if numbers > most[0] or count > most[1]:
            raise WeightsError(
                f"{path}: its config asks for a model far larger than its {len(tensors):,} tensors; it was not built"
            )

    hooks = [register_module_parameter_registration_hook(grown), register_module_buffer_registration_hook(grown)]
    try:
        yield
    except ReheadError:
        raise
    # Options go on to libraries, which fail at strange ones in their own ways; the cause stays with the error.
    except Exception as error:
        raise WeightsError(f"{path}: no model can be built from its config: {reason(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()

"""Model checkpoints (safetensors with metadata) and the state that a run resumes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rehead.errors import TrainingError, WeightsError
from rehead.files import atomic_path

FORMAT = "rehead"


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's state on the CPU, contiguous and unshared: safetensors refuses anything else."""
    return on_cpu(model.state_dict())


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def save_model(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes a model checkpoint, whole or not at all.

    Args:
        path: a `.safetensors` file.
        tensors: from `tensors_of`.
        metadata: JSON values by name: the config, the classes and so on.
    """
    strings = {"format": FORMAT, **{name: json.dumps(value) for name, value in metadata.items()}}
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=strings)
        except SafetensorError as error:  # its own kind of I/O error
            raise OSError(str(error)) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a model checkpoint, without reading a tensor.

    Raises:
        WeightsError: if the file is missing, broken, or no checkpoint of rehead.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            strings = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error
    if strings.get("format") != FORMAT or "config" not in strings:
        raise WeightsError(
            f"{path}: a safetensors file, but no checkpoint of rehead (it has no config inside); "
            f"to start from plain weights use model.backbone.weights={path}"
        )
    return {name: json.loads(value) for name, value in strings.items() if name != "format"}


def find_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of a checkpoint of rehead; None for weights of another kind."""
    if path.suffix != ".safetensors":
        return None
    try:
        return read_metadata(path)
    except WeightsError:
        return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a model checkpoint, on the CPU."""
    return load_file(path)


def save_resume(path: Path, state: Mapping[str, Any]) -> None:
    """Writes everything a run needs to go on, in one file, whose rename commits the step."""
    write_pickled(path, state)


def write_pickled(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a file of torch's, whole or not at all.

    Raises:
        OutputError: if it cannot be written, with the system's reason: torch's own error of a full disk says nothing.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise cause or error from None


def read_resume(path: Path) -> dict[str, Any]:
    """Reads `resume.pt`; never runs code from it.

    Raises:
        TrainingError: if there is none or it cannot be read.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such file, so there is no run to go on with; start one without --resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file, and each means the same here
        raise TrainingError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    return state

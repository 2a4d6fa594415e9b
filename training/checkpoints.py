"""Model checkpoints: one safetensors file, whose metadata say what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from rehead.backbones.tensor_files import check_file, read_safetensors, reason, safetensors_strings
from rehead.errors import WeightsError, shortened
from rehead.files import atomic_path, json_text, parsed_json

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
    strings = {"format": FORMAT, **{name: json_text(value) for name, value in metadata.items()}}
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=strings)
        except SafetensorError as error:  # its own kind of I/O error
            raise OSError(str(error)) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a model checkpoint, without reading a tensor: JSON values by name, of whatever form.

    Raises:
        WeightsError: if the file is missing, broken, or no checkpoint of rehead.
    """
    check_file(path, "checkpoint")
    found = find_metadata(path)
    if found is None:
        raise WeightsError(
            f"{path}: a safetensors file, but no checkpoint of rehead (it has no config inside); "
            f"to start from plain weights use model.backbone.weights={path}"
        )
    return found


def find_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of a checkpoint of rehead; None for weights of another kind.

    Raises:
        WeightsError: if the file is broken.
    """
    strings = safetensors_strings(path)
    if strings.get("format") != FORMAT or "config" not in strings:
        return None
    found = {}
    for name, value in strings.items():
        try:
            found[name] = parsed_json(value) if name != "format" else value
        except ValueError as error:
            raise WeightsError(f"{path}: its metadata '{shortened(name)}' is broken: {reason(error)}") from error
    del found["format"]
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a model checkpoint, on the CPU.

    Raises:
        WeightsError: if the file is broken.
    """
    return read_safetensors(path)


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


def says(path: Path, metadata: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is there, whole, and of these metadata."""
    try:
        return bool(read_metadata(path) == parsed_json(json_text(metadata)))
    except WeightsError:
        return False

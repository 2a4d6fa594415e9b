"""Files of tensors that somebody else may have written: read without running code, and refused in plain words."""

from __future__ import annotations

import argparse
import stat
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from rehead.backbones.pickle_cost import is_endless
from rehead.errors import WeightsError, listed, shortened


def check_file(path: Path, what: str) -> None:
    """Checks that a path is a file whose content ends: no folder, and no pipe or device, which would be waited for.

    Args:
        path: links are followed.
        what: it should be, for the message.

    Raises:
        WeightsError: saying what it is.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such {what}") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: no such {what} ({reason(error)})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise WeightsError(f"{path}: is {kind}, not a {what}; name the file")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the CPU.

    Raises:
        WeightsError: if it is none, or broken.
    """
    try:
        return load_file(path)
    # Beside its own error: OSError of the file, and what torch says to types and sizes that it does not have.
    except Exception as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({reason(error)})") from error


def safetensors_strings(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading a tensor.

    Raises:
        WeightsError: if it is none, or broken.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({reason(error)})") from error


def read_pickled(path: Path, *, summed: bool = False) -> Any:
    """What `torch.save` wrote, if it is tensors and plain values; nothing else is opened.

    Args:
        path: the file.
        summed: whether the content must be that of its checksums, which PyTorch writes and does not read. Others may
            write none.

    Raises:
        WeightsError: for what is no such file, is damaged, or would need code to be opened.
    """
    _check_archive(path, summed)
    if is_endless(path):
        raise WeightsError(f"{path}: refused, since reading its keys would take ages; PyTorch writes no such files")
    try:
        # A Namespace only holds values; many training scripts store their arguments in one.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch raises many kinds for a broken file. Its own words are not passed on: to most it says to allow code.
    except Exception as error:
        if names := _code_in(path):
            raise WeightsError(
                f"{path}: refused, since opening it would run code that it names ({listed(names)}). "
                "Save the state dict alone (torch.save(model.state_dict(), ...)), or as .safetensors"
            ) from error
        raise WeightsError(
            f"{path}: cannot be read: not a PyTorch weights file, damaged, or too old to open safely"
        ) from error


def _check_archive(path: Path, summed: bool) -> None:
    """Refuses an archive that unpacks to more than it is, since PyTorch compresses nothing; or that was changed."""
    damaged = None
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if summed and unpacked <= size:
                damaged = archive.testzip()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({reason(error)})") from error
    # Encrypted, of another compression, or broken in the middle.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        if summed:
            raise WeightsError(f"{path}: cannot be read: damaged ({reason(error)})") from error
        return  # older files are no archives, and torch says what is broken
    if damaged is not None:
        raise WeightsError(f"{path}: cannot be read: damaged ({shortened(damaged)} is not what was written)")
    if unpacked > size:
        raise WeightsError(
            f"{path}: refused, since its {size:,} bytes would unpack to {unpacked:,}; PyTorch writes no such files"
        )


def _code_in(path: Path) -> list[str]:
    """What a file names beside tensors and plain values; nothing where that cannot be seen."""
    with suppress(Exception):  # as above: the file may be broken in any way
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    return []


def differing(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Names that only one side has, or whose shapes differ."""
    same = {name for name in own if name in theirs and own[name].shape == theirs[name].shape}
    return sorted({*own, *theirs} - same)


def refuse_unfit(tensors: Mapping[str, Tensor], places: Mapping[str, Tensor], source: str) -> None:
    """Refuses weights that torch would copy, but that mean something else then, or nothing.

    Floating point numbers become the model's own precision; everything else must have its type.

    Args:
        tensors: by name, of the shapes of their places.
        places: the tensors of the model that they go to.
        source: the file, for the message.

    Raises:
        WeightsError: naming the tensors of another kind, and those that are not finite.
    """
    other = [
        f"{name} ({kind_of(tensor)}, wanted {kind_of(places[name])})"
        for name, tensor in tensors.items()
        if not (is_plain(tensor) or (tensor.is_meta and places[name].is_meta))
        or (tensor.dtype != places[name].dtype and not (_is_real(tensor) and _is_real(places[name])))
    ]
    if other:
        raise WeightsError(f"{source}: {len(other)} of its tensors hold another type of number: {listed(other)}")
    if bad := without_numbers(tensors):
        raise WeightsError(
            f"{source}: {len(bad)} of its tensors hold NaN or infinite values, so nothing that the model says would "
            f"mean anything: {listed(bad)}. Take an earlier checkpoint, or train anew with a lower learning rate"
        )


def without_numbers(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinite values."""
    return [name for name, tensor in tensors.items() if not (tensor.is_meta or torch.isfinite(tensor).all())]


def kind_of(tensor: Tensor) -> str:
    """The type of its numbers, such as `float32`."""
    layout = "" if is_plain(tensor) else f"{tensor.layout} on {tensor.device} ".removeprefix("torch.")
    return layout + str(tensor.dtype).removeprefix("torch.")


def is_plain(tensor: Tensor) -> bool:
    """Whether every number of it is there, one after the other."""
    return tensor.layout == torch.strided and tensor.device.type != "meta" and not tensor.is_quantized


def _is_real(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def reason(error: BaseException) -> str:
    """What a library said, on one line and not too long."""
    text = getattr(error, "strerror", None) or str(error)
    return shortened(" ".join(str(text).split()) or type(error).__name__)

"""A pretend GPU on a CPU: wrong devices raise, waits for the device are counted, async copies arrive late.

A tensor on `cuda:0` wraps one on the CPU. As with CUDA, tensors of two devices do not mix (numbers and indices may);
asking for a number waits for the device; and a copy to the CPU with `non_blocking` returns memory that holds anything
until the next wait, which is what `STALE` stands for. Waits are counted by where they are asked for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

CUDA = torch.device("cuda", 0)
STALE = 113

WAITING = (
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.equal",
    "aten.is_nonzero",
    "aten._unique2",
    "aten.unique_dim",
    "aten.bincount",
    "aten.repeat_interleave.Tensor",
    "torchvision.nms",
)
"""Kernels whose answer Python needs before it can go on: a number, or how large the result is."""

INDEXING = ("aten.index.", "aten.index_put", "aten._index_put_impl_")
MIXING = ("aten.copy_", "aten._to_copy", "aten.set_", *INDEXING)
"""Operations that take tensors of both devices."""


@dataclass
class Device:
    """What happened on the pretend GPU.

    Attributes:
        waits: by where they were asked for: a file of rehead with its line.
        late: tensors on the CPU whose numbers have not arrived, and those numbers.
    """

    waits: Counter[str] = field(default_factory=Counter)
    late: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def wait(self) -> None:
        """Counts a wait, at whose end all copies have arrived."""
        self.waits[_place()] += 1
        for into, numbers in self.late:
            with torch.inference_mode():
                into.copy_(numbers)
        self.late.clear()


_now = Device()


def _frames() -> Iterator[tuple[str, int]]:
    """Files and lines from the innermost call outwards."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


def _called_from(*parts: str) -> bool:
    return any(part in file for file, _ in _frames() for part in parts)


def _place() -> str:
    if _called_from("torch/autograd/graph.py"):
        return "backward pass"
    for file, line in _frames():
        if "/rehead/" in file and "pretend" not in file:
            return f"{file.rpartition('/rehead/')[2]}:{line}"
    return "outside of rehead"


class OnGPU(Tensor):
    """A tensor on `cuda:0`."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGPU:
        made: OnGPU = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=inner.device,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner.detach()
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made = OnGPU(self.inner.clone())
        return nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made

    def __reduce_ex__(self, protocol: Any) -> Any:
        # What is read with `map_location="cpu"`.
        return self.inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        flat, spec = tree_flatten((args, kwargs or {}))
        _refuse_mixed_devices(name, flat)
        _count_waits(name, flat)
        owners = {id(one.inner): one for one in flat if isinstance(one, OnGPU)}
        inner_args, inner_kwargs = tree_unflatten([one.inner if isinstance(one, OnGPU) else one for one in flat], spec)
        if isinstance(inner_kwargs.get("device"), torch.device):
            inner_kwargs["device"] = torch.device("cpu")
        results, spec = tree_flatten(func(*inner_args, **inner_kwargs))
        if name.startswith("aten.copy_") and not isinstance(args[0], OnGPU):
            return args[0]
        # What was changed in place stays the tensor that it was.
        results = [one if not isinstance(one, Tensor) else owners.get(id(one), one) for one in results]
        wrapped = [OnGPU(one) if isinstance(one, Tensor) and not isinstance(one, OnGPU) else one for one in results]
        return tree_unflatten(wrapped, spec)


def _refuse_mixed_devices(name: str, flat: list[Any]) -> None:
    on_cpu = [one for one in flat if isinstance(one, Tensor) and not isinstance(one, OnGPU) and one.ndim > 0]
    if on_cpu and not name.startswith(MIXING):
        what = f"{name} of {[tuple(one.shape) for one in on_cpu]} at {_place()}"
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({what})")
    copied = name.startswith("aten.copy_") and not isinstance(flat[0], OnGPU)
    # What autograd makes for itself in a backward pass is made below this pretence, on the CPU.
    if on_cpu and (copied or name.startswith(INDEXING)) and not _called_from("torch/autograd/graph.py"):
        _now.wait()


def _count_waits(name: str, flat: list[Any]) -> None:
    if name.startswith(WAITING):
        _now.wait()
    elif name.startswith(INDEXING):
        masks = [one for one in flat[1:] if isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)]
        # A number set through a mask is a kernel of its own, which need not know how many places there are.
        filled = name.startswith("aten.index_put") and len(flat) == 3 and flat[2].ndim == 0
        if masks and not filled:
            _now.wait()


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _to_gpu(value: Tensor, non_blocking: bool = False) -> Tensor:
    if isinstance(value, OnGPU):
        return value
    if not non_blocking:
        _now.wait()
    made = OnGPU(value.detach().clone())
    return made.requires_grad_(value.requires_grad) if value.is_floating_point() else made


def _to_cpu(value: Tensor, non_blocking: bool = False) -> Tensor:
    # Optimizers and clipping look up a gradient's device below this pretence, and find a CPU.
    if not isinstance(value, OnGPU) or _called_from("clip_grad", "torch/optim/"):
        return value
    numbers = value.inner.detach().clone()
    if not non_blocking:
        _now.wait()
        return numbers
    into = torch.full_like(numbers, 1 if numbers.dtype == torch.bool else STALE)
    _now.late.append((into, numbers))
    return into


class _Mode(TorchFunctionMode):
    """Sends what is made on or moved to `cuda` to the pretend device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return _moved(func, *args, **kwargs)
        if func is Tensor.pin_memory:
            return first.clone()
        if func is Tensor.is_pinned:
            return False
        if isinstance(first, OnGPU):
            if func is Tensor.numpy:
                raise TypeError(f"can't convert cuda:0 device type tensor to numpy (at {_place()})")
            if func is Tensor.tolist:
                _now.wait()
                return first.inner.tolist()
            if func is Tensor.new_tensor:
                _now.wait()
                return OnGPU(first.inner.new_tensor(*args[1:], **kwargs))
            if func is torch.nn.functional.one_hot:  # which makes a tensor below this mode
                _now.wait()
                return OnGPU(func(first.inner, *args[1:], **kwargs))
        if isinstance(kwargs.get("device"), str | torch.device) and _is_cuda(kwargs["device"]):
            if func in (torch.tensor, torch.as_tensor):
                _now.wait()
            made = func(*args, **{**kwargs, "device": torch.device("cpu")})
            return OnGPU(made) if type(made) is Tensor else made
        return func(*args, **kwargs)


def _moved(func: Any, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    non_blocking = kwargs.pop("non_blocking", False)
    if func is Tensor.cpu:
        return _to_cpu(value, non_blocking)
    if func is Tensor.cuda:
        return _to_gpu(value, non_blocking)
    device = kwargs.pop("device", None)
    rest = []
    for one in args:
        if isinstance(one, Tensor):
            device = one.device
            kwargs.setdefault("dtype", one.dtype)
        elif isinstance(one, str | torch.device):
            device = one
        else:
            rest.append(one)
    if device is not None:
        value = _to_gpu(value, non_blocking) if _is_cuda(device) else _to_cpu(value, non_blocking)
    if not kwargs.get("copy", True):
        kwargs.pop("copy")
    return func(value, *rest, **kwargs) if rest or kwargs else value


_module_to = nn.Module.to


def _module_moved(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """`nn.Module.to` as far as it is about devices and memory formats: what is registered moves, nothing else."""
    device = kwargs.get("device", args[0] if args else None)
    if isinstance(device, str | torch.device) and _is_cuda(device):
        made: dict[int, nn.Parameter] = {}
        for module in self.modules():
            for name, own in module._parameters.items():
                if own is not None and not isinstance(own, OnGPU):
                    made.setdefault(id(own), nn.Parameter(OnGPU(own.detach().clone()), own.requires_grad))
                    module._parameters[name] = made[id(own)]
            for name, buffer in module._buffers.items():
                if buffer is not None and not isinstance(buffer, OnGPU):
                    module._buffers[name] = OnGPU(buffer.detach().clone())
        return self
    if "memory_format" in kwargs and any(isinstance(one, OnGPU) for one in self.parameters()):
        for one in self.parameters():
            if one.ndim == 4 and isinstance(one, OnGPU):
                one.inner = one.inner.to(memory_format=kwargs["memory_format"])
                one.data = OnGPU(one.inner)
        return self
    return _module_to(self, *args, **kwargs)


@contextmanager
def pretend_gpu() -> Iterator[Device]:
    """Inside, `cuda` is the pretend device; yields what happens on it."""
    global _now
    before, _now = _now, Device()
    nn.Module.to = _module_moved  # type: ignore[method-assign, assignment]
    try:
        with _Mode():
            yield _now
    finally:
        nn.Module.to = _module_to  # type: ignore[method-assign]
        _now = before

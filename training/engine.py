"""Devices, precision and what makes a step repeatable; Accelerate does the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.utils.deterministic as determinism
from accelerate.accelerator import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils.dataclasses import DistributedDataParallelKwargs
from torch import nn

from rehead.configs.schema import TrainOptions
from rehead.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of a configuration; `auto` takes a GPU where there is one.

    Of several processes on GPUs, each takes the one of its number on its machine.

    Raises:
        ConfigError: for a device that this machine lacks, or one that several processes cannot share.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError([f"device: '{name}' is none of auto, cpu, cuda, cuda:1, mps"]) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError([f"device: '{name}', but torch sees {torch.cuda.device_count()} GPUs here; try device=cpu"])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > 1 and device.index is not None:
        raise ConfigError([f"device: '{name}' is one GPU, but {here} processes were started here; use device=cuda"])
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise ConfigError(
            [f"device: {here} processes were started here for {torch.cuda.device_count()} GPUs; start one for each"]
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(["device: 'mps', but torch sees no Apple GPU here; try device=cpu"])
    return device


def resolve_precision(precision: str, device: torch.device, key: str = "train.precision") -> str:
    """What `auto` means: bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere.

    Before Ampere (V100, T4, RTX 20) CUDA only emulates bf16: slower than fp32, and cuDNN lacks convolutions for it.
    fp16 has tensor cores there from Volta on; what is older computes it slowly, and takes fp32. On most CPUs bf16 is
    slower.

    Args:
        precision: as configured.
        device: that computes.
        key: where it was configured.

    Raises:
        ConfigError: for fp16 on a CPU, which has no use for loss scaling.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError([f"{key}: fp16 needs a GPU; on a CPU use fp32 or bf16"])
    if precision != "auto":
        return precision
    if device.type != "cuda":
        return "fp32"
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability() >= (7, 0) else "fp32"


def autocast(device: torch.device, precision: str, key: str = "train.precision") -> torch.autocast:
    """Mixed precision; does nothing in fp32. The arguments are those of `resolve_precision`."""
    precision = resolve_precision(precision, device, key)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


EVALUATE_PRECISION = "train.evaluate_precision"


@contextmanager
def evaluating_in(precision: str, model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, a model computes in this precision, even one that is being trained in another.

    Accelerate gives a model that it prepares for mixed precision a `forward` of its own, which knows the training's.
    """
    prepared = vars(model).pop("forward", None)
    try:
        with autocast(device, precision, EVALUATE_PRECISION):
            yield
    finally:
        if prepared is not None:
            model.forward = prepared


def build_accelerator(
    device: torch.device, precision: str, *, sharded: bool = False, deterministic: bool = False
) -> Accelerator:
    """An Accelerator for one device and precision; comes before anything is computed on a GPU.

    Args:
        device: of this process.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        sharded: whether parameters will be: their loss cannot be scaled, so `auto` is never fp16.
        deterministic: whether the training asks for deterministic algorithms.
    """
    precision = resolve_precision(precision, device)
    if sharded and precision == "fp16":
        precision = "fp32"
    if device.type == "cuda" and deterministic:
        # cuBLAS reads it once, when its handle is made; of a user's own the other value that it knows is as good.
        # https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    # The state is a singleton, and a second run in the same process may want another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    # Nothing of a training step reads the running statistics that DDP would send out at every step.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision, cpu=device.type == "cpu", kwargs_handlers=[ddp]
    )


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch for one step: what it draws depends on nothing that came before.

    Sampling of proposals and dropout draw from the global generator. Seeding it at every step
    means that no generator's state has to be saved for a resumed run to equal an uninterrupted one.
    """
    # Large odd multipliers spread neighbouring seeds, steps and ranks over all 64 bits.
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + rank * 0x8CB92BA72F3D8DD7) % 2**64
    if torch.cuda.is_initialized() or torch.backends.mps.is_available():  # type: ignore[no-untyped-call]
        torch.manual_seed(value)
    else:
        # What `torch.manual_seed` does on a CPU; for GPUs that nobody uses it formats a traceback each time.
        torch.default_generator.manual_seed(value)


@contextmanager
def repeatable(options: TrainOptions, device: torch.device) -> Iterator[None]:
    """Sets torch's global switches for training, and puts them back.

    On a CPU, deterministic algorithms are on unless the options say otherwise: with several threads,
    the backward of indexing adds in an order that differs from run to run. On a GPU a few operations have no
    deterministic form (the loss of class maps, NLLLoss in 2d, and adaptive pooling): torch warns of each and goes on,
    where it would otherwise raise. Denormal gradients, which make a convolution's backward many times slower, are
    flushed to zero.
    """
    deterministic = options.deterministic if options.deterministic is not None else device.type == "cpu"
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = determinism.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        # Who was strict before, outside of this training, stays so.
        torch.use_deterministic_algorithms(
            deterministic or before, warn_only=warn_only if before else device.type == "cuda"
        )
        # Filling fresh memory finds reads of it; nothing here reads any, and it costs time at every step.
        determinism.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.set_flush_denormal(True)
        yield
    finally:
        torch.set_flush_denormal(False)
        determinism.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


@contextmanager
def tuned_convolutions(fixed_size: bool, options: TrainOptions, device: torch.device) -> Iterator[None]:
    """Inside, cuDNN tries its algorithms on the first batch and keeps the fastest.

    Only where every batch has one size: it tries them anew for each other one. Not where the training is to be
    deterministic: which is the fastest differs from run to run.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = fixed_size and device.type == "cuda" and not options.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


COMPILER = "inductor"
"""The backend of torch.compile."""


def compile_for_training(network: nn.Module, device: torch.device, *, fixed_size: bool) -> None:
    """Compiles a network's calls; its parameters, their names and its copies stay those of an ordinary module.

    Sizes are symbols unless all batches have one: else each new size of a detection batch would be compiled anew.

    Args:
        network: changed in place.
        device: it computes on.
        fixed_size: whether every batch of the training has one size.

    Raises:
        ConfigError: where nothing can be compiled, such as without a C++ compiler.
    """
    try:
        torch.compile(torch.sin, backend=COMPILER)(torch.ones(2, device=device))
    except Exception as error:  # each compiler fails in its own way: torch's, Triton's, the system's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            [
                f"train.compile: torch cannot compile for {device.type} here ({reason[:200]}); it needs a C++ compiler "
                "(such as gcc) and on a GPU Triton; or leave train.compile out"
            ]
        ) from error
    network.compile(backend=COMPILER, dynamic=not fixed_size)


def uncompiled() -> AbstractContextManager[None]:
    """Inside, what was compiled runs as it is written: for other sizes and modes than those of training."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance

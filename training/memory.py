"""Memory: less of it for more time, how much fits, and what to do when it is not enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm
from torch.utils.checkpoint import checkpoint

from rehead.errors import ConfigError, TrainingError
from rehead.training.blocks import blocks

logger = logging.getLogger("rehead")

LARGEST = 1024
"""Images beyond which no larger batch is tried."""

MARGIN = 0.9
"""The part of the largest batch that fits which is taken: batches differ, in padding and in objects."""


def checkpoint_activations(network: nn.Module) -> int:
    """Keeps only the inputs of a network's blocks for the backward pass, which computes the rest once more.

    Chen et al., 1604.06174. Gradients are those without it. Running statistics of batch normalisation are updated
    by the first computation alone; drawn numbers, as dropout's, are the same in both.

    Args:
        network: changed in place; its state dict stays.

    Returns:
        How many blocks.

    Raises:
        ConfigError: for a network without any.
    """
    found = list(blocks(network))
    if not found:
        raise ConfigError(["train.activation_checkpointing: this backbone has no sequence of blocks; leave it out"])
    for block in found:
        block.forward = partial(_checkpointed, block, block.forward)
    return len(found)


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(
        forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _without_statistics(block)), **kwargs
    )


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Inside, batch norms update copies of their running statistics, which are thrown away."""
    norms = [module for module in block.modules() if isinstance(module, AnyBatchNorm)]
    own = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: None if one is None else one.clone() for name, one in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, own, strict=True):
            norm._buffers.update(buffers)


@contextmanager
def explain_oom(batch_size: int, step: int, kept: Callable[[], str], *, stated: bool = False) -> Iterator[None]:
    """Turns running out of memory in a training step into an error that says what to do.

    Args:
        batch_size: of a pass, for the message.
        step: for the message.
        kept: which checkpoint there is.
        stated: whether `train.global_batch_size` says how many images a step has.

    Raises:
        TrainingError: in place of torch's error.
    """
    half = max(1, batch_size // 2)
    passes = "" if stated else " train.accumulate=2"
    smaller = f"train.batch_size={half}{passes} (twice as many passes to a step), " if batch_size > 1 else ""
    ways = (
        f"{smaller}train.precision=bf16 on a GPU, train.activation_checkpointing=true (less memory for more time), a "
        "smaller data.resize, a larger model.backbone.freeze"
    )
    with out_of_memory_is(f"at step {step} with {_images(batch_size)} in a pass", ways, kept):
        yield


@contextmanager
def explain_oom_in_evaluation(batch_size: int, detections: Sequence[str], kept: str) -> Iterator[None]:
    """Turns running out of memory in an evaluation into an error that says what to do.

    Args:
        batch_size: images at a time.
        detections: dotted keys of the heads' options that say how many objects of an image are kept.
        kept: where the training went that this evaluation is a part of; empty for none.

    Raises:
        TrainingError: in place of torch's error.
    """
    smaller = f"train.batch_size={max(1, batch_size // 2)}, " if batch_size > 1 else ""
    fewer = "".join(f"fewer {key} (such as 50; metrics of crowded images fall), " for key in detections)
    ways = f"{smaller}{fewer}train.precision=bf16 on a GPU, a smaller data.resize"
    with out_of_memory_is(f"in an evaluation of {_images(batch_size)} at a time", ways, lambda: kept):
        yield


@contextmanager
def out_of_memory_is(where: str, ways: str, kept: Callable[[], str] = str) -> Iterator[None]:
    """Turns running out of memory into an error that says what to do.

    Args:
        where: it happened.
        ways: to need less, the cheapest first.
        kept: what there is of a training; nothing for none.

    Raises:
        TrainingError: in place of torch's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = " ".join(part for part in (kept(), f"({_first_line(error)})") if part)
        raise TrainingError(f"out of memory {where}. Try, the cheapest first: {ways}. {said}") from error


def _images(count: int) -> str:
    return f"{count} image{'s' if count != 1 else ''}"


SIGNS = (
    # CUDA's allocator and driver, and MPS.
    "out of memory",
    "cudaerrormemoryallocation",
    # The CPU's: torch's own, C++, oneDNN and MKL, the kernel.
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
    "failed to allocate memory",
    # The libraries beside the allocator, which ask CUDA for memory of their own. As cuDNN 9 and before it said it.
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "allocation_failed",
    "cusolver_status_alloc_failed",
    "cufft_alloc_failed",
)
"""What libraries say when memory is not enough, in small letters."""

DOUBTFUL_SIGNS = (
    # cuBLAS, whose handle takes memory: "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
    # (https://github.com/pytorch/serve/issues/1993).
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    "cudnn_status_internal_error",
    # cuDNN, each of whose plans needed more workspace than there was. torch has forgotten the error of each
    # (aten/src/ATen/native/cudnn/Conv_v8.cpp), and says the same where there is no plan, as for bfloat16 on a T4.
    "unable to find a valid cudnn algorithm",
    "unable to find an engine",
)
"""What libraries say when memory is not enough, and of other things too."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, a library of NVIDIA's or Python means that memory is not enough.

    Where the words leave it open, the GPU's memory decides: what still has most of it free did not run out.
    """
    said = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in said for sign in SIGNS):
        return True
    return any(sign in said for sign in DOUBTFUL_SIGNS) and _is_well_filled()


def _is_well_filled() -> bool:
    """Whether more than half of the current GPU's memory is taken; False without a GPU."""
    if not torch.cuda.is_available():
        return False
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:  # as after an error that CUDA does not recover from
        return False
    return free < total / 2


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def largest_batch(attempt: Callable[[int], None], limit: int = LARGEST) -> int:
    """The largest number of images that fits: doubled until it does not, then bisected, less a margin.

    Args:
        attempt: makes a training step with so many images, each time from a fresh state; may run out of memory.
        limit: no more than this is tried.

    Raises:
        TrainingError: if not even one image fits.
    """
    fits, fails = 0, limit + 1
    size = 1
    said = ""
    while size < fails and size > fits:
        said = _shortage(attempt, size)
        if not said:
            fits = size
            # Doubling until the first failure; halving what lies between after it.
            size = min(2 * size, limit) if fails > limit else (fits + fails) // 2
        else:
            fails = size
            size = (fits + fails) // 2
    if fits == 0:
        raise TrainingError(
            "train.batch_size: auto: not even one image fits; try train.precision=bf16, "
            "train.activation_checkpointing=true, a smaller data.resize or a larger model.backbone.freeze "
            f"({said})"
        )
    return fits if fails > limit else max(1, int(fits * MARGIN))


def _shortage(attempt: Callable[[int], None], size: int) -> str:
    """How an attempt ran out of memory, in one line; empty where it did not."""
    said = ""
    try:
        attempt(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = _first_line(error)
    # Outside the handler, whose traceback holds on to the tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    logger.info("train.batch_size: auto: %s %s", _images(size), "do not fit" if said else "fit")
    return said

"""Memory: less of it for more time, how much fits, and what to do when it is not enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
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
def says_what_to_lower(batch_size: int, step: int, kept: Callable[[], str], *, stated: bool = False) -> Iterator[None]:
    """Turns running out of memory into an error that says what to do.

    Args:
        batch_size: of a pass, for the message.
        step: for the message.
        kept: which checkpoint there is.
        stated: whether `train.global_batch_size` says how many images a step has.

    Raises:
        TrainingError: in place of torch's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        half = max(1, batch_size // 2)
        passes = "" if stated else " train.accumulate=2"
        smaller = f"train.batch_size={half}{passes} (twice as many passes to a step), " if batch_size > 1 else ""
        raise TrainingError(
            f"out of memory at step {step} with {batch_size} image{'s' if batch_size > 1 else ''} in a pass. Try, the "
            f"cheapest first: {smaller}train.precision=bf16 on a GPU, train.activation_checkpointing=true (less memory "
            f"for more time), a smaller data.resize, a larger model.backbone.freeze. {kept()} ({_first_line(error)})"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory is not enough."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in said for sign in ("out of memory", "can't allocate memory", "not enough memory")
    )


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
    while size < fails and size > fits:
        if _fits(attempt, size):
            fits = size
            # Doubling until the first failure; halving what lies between after it.
            size = min(2 * size, limit) if fails > limit else (fits + fails) // 2
        else:
            fails = size
            size = (fits + fails) // 2
    if fits == 0:
        raise TrainingError(
            "train.batch_size: auto: not even one image fits; try train.precision=bf16, "
            "train.activation_checkpointing=true, a smaller data.resize or a larger model.backbone.freeze"
        )
    return fits if fails > limit else max(1, int(fits * MARGIN))


def _fits(attempt: Callable[[int], None], size: int) -> bool:
    try:
        attempt(size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fitted = False
    else:
        fitted = True
    # Outside the handler, whose traceback holds on to the tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    logger.info("train.batch_size: auto: %d image%s %s", size, "s" if size > 1 else "", "fit" if fitted else "do not")
    return fitted

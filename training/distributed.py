"""Several processes that train as one: joining and leaving, agreeing, and ending together.

torchrun or `accelerate launch` starts the processes and says in the environment which one each is; Accelerate moves
gradients between them. What is here is what a run needs besides. Alone, everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from rehead.errors import OtherProcessError, ReheadError

Made = TypeVar("Made")

PATIENCE = timedelta(minutes=30)
"""How long one process waits for another: rank 0 may judge a large validation split by itself."""


def started() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the other processes that the launcher started, and leaves them when the block ends well.

    Objects and flags travel on gloo whatever the device is, so that agreeing never waits for a GPU. After an error
    nothing is said to the others: they may be waiting elsewhere, and the launcher ends them.

    Raises:
        OtherProcessError: if another process is gone.
    """
    if started() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
        wait_for_all()
    except RuntimeError as error:
        if is_rank_failure(error):
            raise OtherProcessError(f"lost another process of the {world()} of this run") from error
        raise
    dist.destroy_process_group()


@contextmanager
def fail_together() -> Iterator[None]:
    """A block whose error on any process is an error on all of them, so that none waits for one that is gone.

    Raises:
        ReheadError: the error of this block, on the first process that had one.
        OtherProcessError: on every other process.
    """
    problem: ReheadError | None = None
    try:
        yield
    except ReheadError as error:
        problem = error
    if world() > 1:
        failed = [number for number, one in enumerate(all_gather(problem is not None)) if one]
        if failed and rank() != failed[0]:
            raise OtherProcessError(f"process {failed[0]} of {world()} had to stop, and says why")
    if problem is not None:
        raise problem


def main_process_first(make: Callable[[], Made]) -> Made:
    """The same made on every process, by the first of each machine before the others: they find its caches filled.

    Args:
        make: may raise a ReheadError, which then ends all processes; see `fail_together`.
    """
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0 or world() == 1
    with fail_together():
        mine = make() if first else None
    with fail_together():
        return mine if mine is not None else make()


def all_gather(value: Made) -> list[Made]:
    """The values of all processes, in the order of their ranks, on every one of them."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def gather_to_main(value: Made) -> list[Made]:
    """The values of all processes, in the order of their ranks, on rank 0; nothing on the others."""
    if world() == 1:
        return [value]
    values: list[Any] | None = [None] * world() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def broadcast(value: Made) -> Made:
    """Rank 0's value, on every process."""
    if world() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values)
    agreed: Made = values[0]
    return agreed


def all_reduce_max(values: list[int]) -> list[int]:
    """The largest of all processes at each place: one message on gloo, cheap enough for every step."""
    if world() == 1:
        return values
    flags = torch.tensor(values)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    agreed: list[int] = flags.tolist()
    return agreed


def broadcast_buffers(model: nn.Module) -> None:
    """Gives every process rank 0's buffers, which are what checkpoints hold: running statistics differ by rank.

    Before an evaluation only; training uses the statistics of its own batch, so nothing waits at every step.
    """
    if world() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def is_rank_failure(error: RuntimeError) -> bool:
    """Whether a collective failed because a process at the other end is no more."""
    signs = ("closed by peer", "reset by peer", "gloo", "broken pipe")
    return world() > 1 and (isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs))


def wait_for_all() -> None:
    """Returns when every process has come here."""
    all_reduce_max([0])

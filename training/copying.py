"""The next batch on its way to the GPU while it computes with this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

Batch = TypeVar("Batch")


def copied_ahead(
    batches: Iterable[Batch], copy: Callable[[Batch], Batch], device: torch.device, streams: Any = torch.cuda
) -> Iterator[Batch]:
    """Batches on their device; on a GPU, each is copied on a stream of its own while the one before is in use.

    Args:
        batches: for a GPU, in memory that it copies from without waiting (pinned).
        copy: gives the same on the device.
        device: where they are used.
        streams: has `Stream`, `stream` and `current_stream` of `torch.cuda`.
    """
    if device.type != "cuda":
        yield from map(copy, batches)
        return
    side, arriving = streams.Stream(device), iter(batches)

    def following() -> Batch | None:
        batch = next(arriving, None)
        if batch is None:
            return None
        # The copy may take the memory of a batch that was given up. What is queued so far may still read that; the
        # batch that is about to be used is not queued yet, so the two run side by side.
        side.wait_stream(streams.current_stream(device))
        with streams.stream(side):
            return copy(batch)

    ready = following()
    while ready is not None:
        streams.current_stream(device).wait_stream(side)
        batch, ready = ready, following()
        yield batch
        # Before another one is copied: three at a time would be one too many.
        del batch

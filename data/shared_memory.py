"""How a batch comes from a worker process: through shared memory that is used again and again.

PyTorch gives every tensor that crosses fresh shared memory of its own. The kernel zeroes it, maps it page by page in
both processes and takes it apart again, which for a batch of photographs can cost as much as decoding them. Here a
worker has a few pieces of memory that stay, copies the arrays of a batch into a free one and sends the rest as bytes;
the piece is free again as soon as nothing in the receiving process refers to the batch, whatever it made of it.
"""

from __future__ import annotations

import itertools
import pickle
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

PIECES = 5
"""Of a worker: PyTorch lets it read two batches ahead, one is being made, and one or two are in use."""
SMALL = 1 << 14
"""Bytes. Less than that goes with the rest."""
ALIGNED = 64
"""Bytes, as allocators align."""
SPARE = 1.25
"""Batches differ in size; a piece that once was too small should not be so again."""


@dataclass
class SharedBatch:
    """A batch on its way.

    Attributes:
        content: pickled, without its large arrays.
        places: (first byte, last byte + 1) of each of these in the piece of memory.
        sender: numbers of the loader, the worker and the piece; a piece of -1 is for this batch alone.
        memory: the piece (uint8), where the receiver does not have it yet.
    """

    content: bytes
    places: Sequence[tuple[int, int]] = ()
    sender: tuple[int, int, int] = (0, 0, -1)
    memory: torch.Tensor | None = None

    def opened(self) -> Any:
        """What was packed, its arrays in shared memory; called in the process that made the `SharedMemory`."""
        if not self.places:
            return pickle.loads(self.content)
        loader, worker, piece = self.sender
        transport = SharedMemory.known[loader]
        if self.memory is not None:
            transport.received[worker, piece] = self.memory.numpy()
        # An array object of this batch's own: it lives exactly as long as what is made from it.
        memory = transport.received[worker, piece][:]
        if piece < 0:
            del transport.received[worker, piece]
        else:
            weakref.finalize(memory, transport.flags.numpy().__setitem__, (worker, piece), 0).atexit = False
        view = memoryview(memory)  # type: ignore[arg-type]  # mypy knows buffers from Python 3.12 on
        return pickle.loads(self.content, buffers=[view[first:end] for first, end in self.places])

    def pin_memory(self) -> Any:
        """Called by PyTorch's pinning thread, in the process that made the `SharedMemory`."""
        return self.opened().pin_memory()


@dataclass
class SharedMemory:
    """The memory of a loader's workers: made where batches arrive, and copied into every worker.

    Attributes:
        workers: how many.
        number: among the transports of this process.
        flags: (workers, PIECES) uint8 in shared memory, whether a piece is in use: 1 is written by the worker, 0 by
            the receiver.
        sent: a worker's pieces.
        received: the receiver's, by worker and piece.
    """

    workers: int
    number: int = field(default_factory=itertools.count().__next__)
    sent: dict[int, torch.Tensor] = field(default_factory=dict)
    received: dict[tuple[int, int], NDArray[np.uint8]] = field(default_factory=dict)

    known: ClassVar[weakref.WeakValueDictionary[int, SharedMemory]] = weakref.WeakValueDictionary()

    def __post_init__(self) -> None:
        self.flags = _shared(self.workers * PIECES).reshape(self.workers, PIECES)
        SharedMemory.known[self.number] = self

    def packed(self, batch: Any, worker: int) -> SharedBatch:
        """Copies the arrays of a batch into a free piece.

        Args:
            batch: anything that pickles; its contiguous NumPy arrays travel in shared memory.
            worker: the number of this one.
        """
        buffers: list[pickle.PickleBuffer] = []

        def large(buffer: pickle.PickleBuffer) -> bool:
            """Takes a buffer out of the bytes, or says that it stays there."""
            stays = buffer.raw().nbytes < SMALL
            if not stays:
                buffers.append(buffer)
            return stays

        content = pickle.dumps(batch, protocol=5, buffer_callback=large)
        if not buffers:
            return SharedBatch(content)
        places, end = [], 0
        for buffer in buffers:
            first = -(-end // ALIGNED) * ALIGNED
            end = first + buffer.raw().nbytes
            places.append((first, end))
        try:
            piece, new = self._piece(worker, end)
        except RuntimeError:
            # There is no room: Docker gives a container 64 MB unless told otherwise (--shm-size).
            return SharedBatch(pickle.dumps(batch, protocol=5))
        memory = new if new is not None else self.sent[piece]
        for buffer, (first, last) in zip(buffers, places, strict=True):
            memory.numpy()[first:last] = np.frombuffer(buffer.raw(), np.uint8)
        return SharedBatch(content, places, (self.number, worker, piece), new)

    def _piece(self, worker: int, size: int) -> tuple[int, torch.Tensor | None]:
        """A free piece of at least so many bytes, and its memory where that is new; -1 where all are in use."""
        free = [piece for piece in range(PIECES) if not self.flags[worker, piece]]
        if not free:
            return -1, _shared(size)
        for piece in free:
            if piece in self.sent and len(self.sent[piece]) >= size:
                self.flags[worker, piece] = 1
                return piece, None
        self.sent[free[0]] = _shared(int(size * SPARE))
        self.flags[worker, free[0]] = 1
        return free[0], self.sent[free[0]]


def _shared(size: int) -> torch.Tensor:
    """Zeros, (size,) uint8, that a process may hand to another."""
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)

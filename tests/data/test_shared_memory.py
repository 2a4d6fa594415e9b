"""Batches cross from a worker in memory that is used again, and never while anything still refers to it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rehead.data.shared_memory import PIECES, SMALL, SharedBatch, SharedMemory

SIZE = 4 * SMALL


class Numbered:
    """A batch with an array whose every byte is its number."""

    def __init__(self, number: int, size: int = SIZE) -> None:
        self.number, self.array = number, np.full(size, number, np.uint8)

    def pin_memory(self) -> str:
        return f"pinned {self.array[0]}"


class Source(Dataset[SharedBatch]):
    def __init__(self, transport: SharedMemory) -> None:
        self.transport = transport

    def __getitem__(self, index: int) -> SharedBatch:
        worker = get_worker_info()
        assert worker is not None
        return self.transport.packed(Numbered(index, SIZE + 1000 * (index % 7)), worker.id)


@pytest.fixture
def ends() -> tuple[SharedMemory, SharedMemory]:
    """A transport, and its copy as a worker has it, which shares the flags alone."""
    here = SharedMemory(1)
    return here, copy.copy(here)


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_as_soon_as_nothing_refers_to_it(ends: tuple[SharedMemory, SharedMemory]) -> None:
    here, there = ends
    assert here.number in SharedMemory.known
    first = there.packed(Numbered(1), 0)
    assert first.memory is not None
    batch = first.opened()
    kept = torch.from_numpy(batch.array)[5:9]
    where = address(batch.array)
    del batch
    second = there.packed(Numbered(2), 0)
    assert second.memory is not None  # the view of the first still lives
    assert kept.tolist() == [1] * 4
    del kept
    third = there.packed(Numbered(3), 0)
    assert third.memory is None
    assert third.sender == first.sender
    batch = third.opened()
    assert address(batch.array) == where
    assert (batch.array == 3).all()


def test_what_is_changed_on_arrival_stays_so(ends: tuple[SharedMemory, SharedMemory]) -> None:
    _, there = ends
    batch = there.packed(Numbered(1), 0).opened()
    batch.array += 1
    other = there.packed(Numbered(5), 0).opened()
    assert (batch.array == 2).all()
    assert (other.array == 5).all()


def test_more_batches_than_pieces_are_kept_whole(ends: tuple[SharedMemory, SharedMemory]) -> None:
    here, there = ends
    batches = [there.packed(Numbered(number), 0).opened() for number in range(PIECES + 3)]
    for batch in batches:
        assert (batch.array == batch.number).all()
    assert here.flags.sum() == PIECES
    assert len(here.received) == PIECES  # what was for one batch alone goes with it
    del batch, batches
    assert here.flags.sum() == 0


def test_a_larger_batch_takes_a_larger_piece_and_the_small_one_is_given_up(
    ends: tuple[SharedMemory, SharedMemory],
) -> None:
    here, there = ends
    there.packed(Numbered(1), 0).opened()
    batch = there.packed(Numbered(2, 3 * SIZE), 0).opened()
    assert (batch.array == 2).all()
    assert len(here.received) == len(there.sent) == 1
    del batch
    assert there.packed(Numbered(3, 3 * SIZE), 0).memory is None


def test_small_arrays_take_no_shared_memory(ends: tuple[SharedMemory, SharedMemory]) -> None:
    here, there = ends
    parcel = pickle.loads(pickle.dumps(there.packed(Numbered(7, SMALL - 1), 0)))
    assert (parcel.opened().array == 7).all()
    assert not here.received
    assert here.flags.sum() == 0


def test_without_room_for_shared_memory_a_batch_goes_the_slow_way(
    ends: tuple[SharedMemory, SharedMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = ends

    def full(size: int) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr("rehead.data.shared_memory._shared", full)
    parcel = pickle.loads(pickle.dumps(there.packed(Numbered(6), 0)))
    assert (parcel.opened().array == 6).all()
    assert here.flags.sum() == 0


def test_pytorch_pins_what_is_in_the_parcel(ends: tuple[SharedMemory, SharedMemory]) -> None:
    _, there = ends
    assert there.packed(Numbered(4), 0).pin_memory() == "pinned 4"


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_batches_of_real_workers_arrive_whole_whatever_is_kept(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # a process that does not fork imports this module
    transport = SharedMemory(2)
    numbers = list(range(60 if method == "fork" else 12))
    loader = DataLoader(
        Source(transport),
        batch_size=None,
        sampler=numbers,
        num_workers=2 if method == "fork" else 1,  # one that does not fork imports torch first
        collate_fn=_same,
        multiprocessing_context=method,
    )
    kept: list[tuple[int, Tensor]] = []
    for number, parcel in enumerate(loader):
        batch = parcel.opened()
        assert batch.number == number
        assert (batch.array == number).all()
        # Now none, now several are kept.
        kept = [] if number % 20 < 8 else [*kept, (number, torch.from_numpy(batch.array[:100]))]
        assert all((tensor == its_number).all() for its_number, tensor in kept)
    assert len(transport.received) <= 2 * PIECES


def _same(parcel: SharedBatch) -> SharedBatch:
    return parcel

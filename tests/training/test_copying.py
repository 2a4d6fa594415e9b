"""Batches are copied one ahead, in an order that a GPU's streams keep safe."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from rehead.training.copying import copied_ahead

GPU = torch.device("cuda", 0)


class Streams:
    """Stands for `torch.cuda`: notes what is queued where, and who waits for whom."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.main = self.now = StandIn("main", self.notes)

    def Stream(self, device: torch.device) -> StandIn:  # noqa: N802
        assert device == GPU
        return StandIn("side", self.notes)

    def current_stream(self, device: torch.device) -> StandIn:
        assert device == GPU
        return self.now

    @contextmanager
    def stream(self, stream: StandIn) -> Iterator[None]:
        before, self.now = self.now, stream
        yield
        self.now = before


class StandIn:
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def wait_stream(self, other: StandIn) -> None:
        self.notes.append(f"{self.name} waits for {other.name}")


class Batch:
    def __init__(self, number: int) -> None:
        self.number = number


def test_the_next_batch_is_copied_before_this_one_is_used() -> None:
    streams = Streams()

    def copy(number: str) -> str:
        streams.notes.append(f"{streams.now.name}: copy {number}")
        return number

    for number in copied_ahead("01", copy, GPU, streams):
        streams.notes.append(f"{streams.now.name}: use {number}")
    assert streams.notes == [
        "side waits for main",
        "side: copy 0",
        "main waits for side",  # what is used has arrived
        "side waits for main",  # memory that the copy takes is read no more
        "side: copy 1",
        "main: use 0",
        "main waits for side",
        "main: use 1",
    ]


def test_two_batches_are_there_at_a_time() -> None:
    there: weakref.WeakSet[Batch] = weakref.WeakSet()
    most = []

    def copy(batch: Batch) -> Batch:
        made = Batch(batch.number)
        there.add(made)
        gc.collect()
        most.append(len(there))
        return made

    used = []
    for batch in copied_ahead(map(Batch, range(5)), copy, GPU, Streams()):
        used.append(batch.number)
        del batch
    assert used == [0, 1, 2, 3, 4]
    assert max(most) == 2


def test_what_cannot_be_read_ends_it() -> None:
    def broken() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("the image is damaged")

    batches = copied_ahead(broken(), int, GPU, Streams())
    assert next(batches) == 0
    with pytest.raises(ValueError, match="damaged"):
        next(batches)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_elsewhere_a_batch_is_copied_when_it_is_asked_for(device: str) -> None:
    copied: list[int] = []

    def copy(number: int) -> int:
        copied.append(number)
        return number * 10

    batches = copied_ahead(iter(range(3)), copy, torch.device(device))
    assert next(batches) == 0
    assert copied == [0]
    assert list(batches) == [10, 20]
    assert list(copied_ahead([], copy, GPU, Streams())) == []

"""Which images when, and the processes that read them."""

from __future__ import annotations

import atexit
import errno
import logging
import multiprocessing
import os
import re
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rehead.data.allocation import keep_freed_memory
from rehead.data.collate import collate
from rehead.data.packed_masks import PackedMasks
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.data.sampler import BatchSampler, Key
from rehead.data.shared_memory import SharedBatch, SharedMemory
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.resize import Resize
from rehead.errors import DataError
from rehead.interrupts import hear_no_stops, stops_wait
from rehead.types import ImageBatch, Target

logger = logging.getLogger("rehead")

Truth = TypeVar("Truth", Target, Sample)

MOST_WORKERS = 16
"""Unless told otherwise. Each holds some batches ready, and 16 decode 3,000 photographs a second."""


class Loader(Generic[Truth]):
    """Batches in order, read ahead by worker processes; made by the two functions below.

    Iterating is a pass over `batches`: it yields `(ImageBatch, truths)` and raises `DataError`, with its message
    only, at the batch whose image cannot be used. The workers start with the first pass and wait for the next one, as
    long as the loader is there; with a pass that is broken off they end.

    Attributes:
        batches: the keys of the next pass, such as those of another epoch.
    """

    def __init__(
        self, source: _Source[Truth], batches: Sequence[Sequence[Key]], workers: int, pin_memory: bool
    ) -> None:
        self.batches = batches
        self._source: _Source[Truth] = source
        self._workers = min(workers, cores())
        self._pin_memory = pin_memory
        self._waiting: _Workers[Truth] | None = None
        self._passes: weakref.WeakSet[Generator[Any]] = weakref.WeakSet()
        _loaders.add(self)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[ImageBatch, list[Truth]]]:
        begun = self._pass()
        self._passes.add(begun)
        return begun

    def close(self) -> None:
        """Ends the workers, and breaks off a pass; another one starts new workers."""
        self._waiting = None
        for begun in list(self._passes):
            begun.close()

    def _pass(self) -> Generator[tuple[ImageBatch, list[Truth]]]:
        if not self._workers:
            keep_freed_memory()
        # They are put back at the end: what was read ahead for a pass that is broken off goes with its workers.
        workers, arriving = self._begun()
        try:
            for came in arriving:
                read = came.opened() if isinstance(came, SharedBatch) else came
                if read.images is None:
                    raise DataError(read.problem)
                yield read.images, read.truths
            self._waiting = workers
        finally:
            # Or the traceback of an error would keep them, for as long as somebody keeps that.
            del workers, arriving

    def _begun(self) -> tuple[_Workers[Truth], Iterator[_Read[Truth] | SharedBatch]]:
        """The workers, and what comes from them; none where there is no room for what processes share."""
        try:
            with stops_wait():
                workers, self._waiting = self._waiting or self._started(), None
                workers.batches[:] = self.batches
                return workers, iter(workers.loader)
        except (OSError, RuntimeError) as error:
            if not self._workers or not _is_full(error):
                raise
            logger.warning(
                "/dev/shm is full (%s): images are read in this process, which is slower. Make room there "
                "(docker run --shm-size=2g), or set data.workers=0",
                error,
            )
        self._workers = 0
        return self._begun()

    def _started(self) -> _Workers[Truth]:
        batches: list[Sequence[Key]] = []
        if self._workers:
            # At least what PyTorch is going to make: its half-made loader would print a traceback of its own.
            tried: list[Any] = [multiprocessing.Queue() for _ in range(self._workers + 3)]
            del tried
        self._source.transport = SharedMemory(self._workers)
        loader = DataLoader(
            self._source,
            batch_size=None,
            sampler=batches,
            collate_fn=_as_it_is,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=self._pin_memory,
            worker_init_fn=_start_worker,
            # Its own, since a loader draws a number from the global generator whenever it starts.
            generator=torch.Generator(),
        )
        return _Workers(loader, batches, self._source.transport)


def _is_full(error: OSError | RuntimeError) -> bool:
    """Whether there is no room for shared memory, or for the semaphores of queues, which lie there too."""
    return getattr(error, "errno", None) == errno.ENOSPC or "unable to allocate shared memory" in str(error)


@contextmanager
def says_why_workers_end(ways_on: str = "") -> Iterator[None]:
    """Turns the death of a worker into an error that says what to do; PyTorch raises it wherever the work just is.

    Args:
        ways_on: how to go on with what was done until then.

    Raises:
        DataError: in place of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"DataLoader worker \(pid.*?(exited unexpectedly|killed by signal: [^.]*)", str(error))
        if found is None:
            raise
        raise DataError(
            f"a process that reads images was ended from outside ({found[0]}), as the system does where memory is "
            "not enough. Fewer of them need less (data.workers=1, or data.workers=0 for none), and so do fewer images "
            f"at a time (train.batch_size).{ways_on}"
        ) from error


_loaders: weakref.WeakSet[Loader[Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Python's exit would send SIGTERM to workers that are left, which they ignore, and wait for them for ever."""
    for loader in list(_loaders):
        loader.close()


class _Workers(NamedTuple, Generic[Truth]):
    """PyTorch's loader, the list that it begins again with every pass, and what it shares with its workers."""

    loader: DataLoader[_Read[Truth] | SharedBatch]
    batches: list[Sequence[Key]]
    transport: SharedMemory


def make_loader(
    reader: Reader,
    *,
    resize: Resize,
    augment: Augment | None,
    batches: Sequence[Sequence[Key]],
    channels: int = 3,
    divisor: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Loader[Target]:
    """A loader for training, over an explicit list of batches: resuming at batch k is a slice.

    Args:
        reader: the split.
        resize: the resize of this model.
        augment: resizes and augments in its place; None for neither.
        batches: from `BatchSampler.batches`.
        channels: of the model's input.
        divisor: of the batch's height and width.
        workers: processes; 0 reads in this one.
        pin_memory: for copies to a GPU that do not wait.

    Returns:
        Yields batches with `Target`s in batch pixels.
    """
    source = _Training(reader, resize, channels, divisor, augment)
    return Loader(source, batches, workers, pin_memory)


def evaluation_loader(
    reader: Reader,
    *,
    resize: Resize,
    batch_size: int,
    channels: int = 3,
    divisor: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    world: int = 1,
    reduced: bool = False,
) -> Loader[Sample]:
    """A loader for evaluation: every image once over all ranks, in order.

    Args:
        reader: the split.
        resize: the resize of this model.
        batch_size: images at a time.
        channels: of the model's input.
        divisor: of the batch's height and width.
        workers: processes; 0 reads in this one.
        pin_memory: for copies to a GPU that do not wait.
        rank: of this process, from 0.
        world: number of processes.
        reduced: whether images of which less is enough are decoded at a reduced scale.

    Returns:
        Yields batches with `Sample`s: the annotation in ORIGINAL pixels, with `semantic` and `size`, without
        the image.
    """
    batches = BatchSampler(len(reader), batch_size, shuffle=False, rank=rank, world=world).batches(0)
    return Loader(_Evaluation(reader, resize, channels, divisor, reduced), batches, workers, pin_memory)


@dataclass
class _Read(Generic[Truth]):
    """A batch, or the message of the error met on the way.

    torch repeats a worker's exception with the traceback inside the message, which says nothing to the
    user whose image is broken; a message that travels as data arrives clean.
    """

    images: ImageBatch | None = None
    truths: list[Truth] = field(default_factory=list)
    problem: str = ""

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "truths": [_changed(truth, _ready_to_go) for truth in self.truths]}
        if self.images is not None:
            # As it lies in memory: channels last.
            pixels = self.images.pixels.permute(0, 2, 3, 1).numpy()
            state.update(images=None, pixels=pixels, frames=self.images.frames)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "pixels" in state:
            pixels = torch.from_numpy(state.pop("pixels")).permute(0, 3, 1, 2)
            state["images"] = ImageBatch(pixels, state.pop("frames"))
        vars(self).update(state, truths=[_changed(truth, _arrived) for truth in state["truths"]])

    def pin_memory(self) -> _Read[Truth]:
        """Called by torch's pinning thread, which knows no other way into a class of ours."""
        if self.images is None:
            return self
        images = replace(self.images, pixels=self.images.pixels.pin_memory())
        return _Read(images, [_changed(truth, _pinned) for truth in self.truths])


class _Array(NamedTuple):
    """A tensor on its way: arrays can go through shared memory of ours."""

    value: NDArray[Any]


class _Bits(NamedTuple):
    """The masks of a `Sample` on their way: eight pixels to a byte, packed along the rows."""

    value: NDArray[np.uint8]
    width: int


def _ready_to_go(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype == np.uint8:
        return _Bits(np.packbits(value, axis=2), value.shape[2])
    return _Array(value.numpy()) if isinstance(value, Tensor) else value


def _arrived(value: Any) -> Any:
    if isinstance(value, _Bits):
        return np.unpackbits(value.value, axis=2, count=value.width)
    return torch.from_numpy(value.value) if isinstance(value, _Array) else value


def _pinned(value: Any) -> Any:
    return value.pin_memory() if isinstance(value, (Tensor, PackedMasks)) else value


def _changed(truth: Truth, change: Callable[[Any], Any]) -> Truth:
    """What is true of an image, with each of its parts changed."""
    return replace(truth, **{name: change(value) for name, value in vars(truth).items()})


class _Source(Dataset[_Read[Truth] | SharedBatch], Generic[Truth]):
    """Reads a whole batch at a time."""

    transport: SharedMemory

    def __init__(self, reader: Reader, resize: Resize, channels: int, divisor: int) -> None:
        self.reader = reader
        self.resize = resize
        self.channels = channels
        self.divisor = divisor

    def __getitem__(self, keys: Sequence[Key]) -> _Read[Truth] | SharedBatch:
        try:
            read = self.batch(keys)
        except DataError as error:
            read = _Read(problem=str(error))
        worker = get_worker_info()
        return read if worker is None else self.transport.packed(read, worker.id)

    @abstractmethod
    def batch(self, keys: Sequence[Key]) -> _Read[Truth]:
        """Images and what is true of them."""


class _Training(_Source[Target]):
    def __init__(
        self, reader: Reader, resize: Resize, channels: int, divisor: int, augment: Augment | None = None
    ) -> None:
        super().__init__(reader, resize, channels, divisor)
        self.augment = augment

    def batch(self, keys: Sequence[Key]) -> _Read[Target]:
        items = []
        for key in keys:
            shrink = None if self.augment is None else self.augment.shrink(*key)
            sample = self.reader.read(key.image, self.channels, shrink)
            items.append(self.resize(sample) if self.augment is None else self.augment(sample, *key, self.reader))
        return _Read(*collate(items, self.divisor, None if self.augment is None else self.augment.canvas))


class _Evaluation(_Source[Sample]):
    def __init__(self, reader: Reader, resize: Resize, channels: int, divisor: int, reduced: bool) -> None:
        super().__init__(reader, resize, channels, divisor)
        self.reduced = reduced

    def batch(self, keys: Sequence[Key]) -> _Read[Sample]:
        items, truths = [], []
        for key in keys:
            sample = self.reader.read(key.image, self.channels, self.resize.shrink if self.reduced else None)
            # Only the image is resized: the annotation is judged against as it is.
            items.append(self.resize(Sample(sample.image_id, sample.path, image=sample.pixels, full=sample.full)))
            truths.append(replace(sample, image=None, size=sample.full_size, full=None, reduction=1))
        return _Read(collate(items, self.divisor)[0], truths)


def workers_for(chosen: int | Literal["auto"], device: torch.device) -> int:
    """How many processes read images for one that trains or evaluates on a device.

    Args:
        chosen: `data.workers`. `auto` is 2 beside a CPU, which the model needs itself; beside a GPU it is the cores
            that this process may use, divided by the processes on this machine, less one, and at most `MOST_WORKERS`.
        device: of the model.

    Returns:
        A number of at least 1 for `auto`; the chosen one, if it is one.
    """
    if chosen != "auto":
        return chosen
    share = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(share, 1), 2) if device.type == "cpu" else min(max(share - 1, 1), MOST_WORKERS)


def cores() -> int:
    """Cores that this process may use: more workers than that would only wait for one another."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_it_is(read: Any) -> Any:
    return read


def _start_worker(number: int) -> None:
    # Ctrl-C and a cluster's SIGTERM reach every process of the run; the one that trains ends its step, and still
    # needs its workers for that. They end with it.
    hear_no_stops()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The workers are the parallelism; and OpenCV's threads do not survive a fork.
    cv2.setNumThreads(0)
    keep_freed_memory()


def _end_with_parent() -> None:
    """Ends this worker when the process that trains is gone, killed maybe.

    PyTorch's worker looks whether it has another parent process; but where a server forks it (Python 3.14's default),
    that one lives as long as its workers do.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

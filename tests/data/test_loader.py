from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rehead.configs.augment import step_options
from rehead.configs.readers import CocoSplit, FoldersSplit, MasksSplit
from rehead.configs.resize import ResizeOptions
from rehead.data.loader import MOST_WORKERS, Loader, evaluation_loader, make_loader, says_why_workers_end, workers_for
from rehead.data.reader import Reader
from rehead.data.sampler import BatchSampler, Key
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext
from rehead.datasets.formats.coco import CocoReader
from rehead.datasets.formats.folders import FoldersReader
from rehead.datasets.formats.masks import MasksReader
from rehead.errors import DataError
from rehead.types import IGNORE, ImageBatch, Target

DETECTION = Resize(ResizeOptions(shorter=24, longer=48))


@pytest.fixture
def boxes(tmp_path: Path) -> CocoReader:
    """Seven images of different sizes with a box each."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number in range(7):
        height, width = 20 + 3 * number, 40 - 2 * number
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3))
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), pixels)
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "bbox": [2, 3, 10, 12], "iscrowd": number == 3}
        )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return CocoReader(CocoSplit(images="images", annotations="a.json"), tmp_path)


LENGTHS = st.integers(0, 60)
COUNTS = st.integers(1, 7)


@settings(deadline=None)
@given(length=LENGTHS, size=COUNTS, world=st.integers(1, 4), seed=st.integers(0, 2**40), epoch=st.integers(0, 9))
def test_training_batches(length: int, size: int, world: int, seed: int, epoch: int) -> None:
    ranks = [
        BatchSampler(length, size, seed, shuffle=True, rank=rank, world=world).batches(epoch) for rank in range(world)
    ]
    again = BatchSampler(length, size, seed, shuffle=True, rank=world - 1, world=world)
    again.batches(epoch + 1)
    assert again.batches(epoch) == ranks[-1]
    assert len({len(batches) for batches in ranks}) == 1
    drawn = [key for batches in ranks for batch in batches for key in batch]
    assert all(key.epoch == epoch and 0 <= key.image < length for key in drawn)
    assert len(drawn) == len(set(drawn))
    together = size * world
    if length >= together:
        assert all(len(batch) == size for batches in ranks for batch in batches)
        assert len(drawn) == len({key.image for key in drawn}) == length // together * together
    elif length:
        assert all(len(batches) == 1 and batches[0] for batches in ranks)
        assert len({key.image for key in drawn}) == min(len(drawn), length)
        assert len(drawn) == max(length // world, 1) * world
        assert len({len(batch) for batches in ranks for batch in batches}) == 1
    else:
        assert not drawn


@settings(deadline=None)
@given(length=LENGTHS, size=COUNTS, world=st.integers(1, 4))
def test_evaluation_covers_every_image_once(length: int, size: int, world: int) -> None:
    ranks = [BatchSampler(length, size, shuffle=False, rank=rank, world=world).batches(0) for rank in range(world)]
    drawn = Counter(key.image for batches in ranks for batch in batches for key in batch)
    assert drawn == Counter(range(length))
    assert all(0 < len(batch) <= size for batches in ranks for batch in batches)
    assert ranks[0] == sorted(ranks[0])


@settings(deadline=None)
@given(size=COUNTS, world=st.integers(1, 3), step=st.integers(0, 2))
def test_ranks_share_the_batches_that_one_process_would_have(size: int, world: int, step: int) -> None:
    alone = BatchSampler(100, size * world, 5, shuffle=True).batches(2)[step]
    shares = [BatchSampler(100, size, 5, shuffle=True, rank=r, world=world).batches(2)[step] for r in range(world)]
    assert sorted(alone) == sorted(key for share in shares for key in share)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(key.image for batch in BatchSampler(50, 5, seed, shuffle=True).batches(epoch) for key in batch)
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def equal(a: tuple[ImageBatch, list[Target]], b: tuple[ImageBatch, list[Target]]) -> bool:
    boxes = [
        torch.equal(x.boxes, y.boxes)
        for x, y in zip(a[1], b[1], strict=True)
        if x.boxes is not None and y.boxes is not None
    ]
    return (
        torch.equal(a[0].pixels, b[0].pixels) and a[0].frames == b[0].frames and len(boxes) == len(a[1]) and all(boxes)
    )


MIXED = [
    {"name": "mosaic", "p": 0.5},
    {"name": "large_scale_jitter", "scale": [0.5, 2]},
    {"name": "mixup", "p": 0.5},
    {"name": "OneOf", "transforms": [{"name": "GaussNoise"}, {"name": "ElasticTransform"}], "p": 0.8},
]


@pytest.mark.parametrize("steps", ["light", MIXED])
def test_workers_and_resuming_change_nothing(boxes: CocoReader, steps: Any) -> None:
    chosen = steps if isinstance(steps, str) else [step_options(step) for step in steps]
    augment = Augment(chosen, AugmentContext("detection", DETECTION), seed=1)
    batches = BatchSampler(len(boxes), 2, 1, shuffle=True, repeats=np.full(7, 1.0)).batches(4)
    common = {"resize": DETECTION, "augment": augment, "divisor": 16}
    whole = list(make_loader(boxes, batches=batches, workers=0, **common))  # type: ignore[arg-type]
    assert len(whole) == 3
    assert whole[0][0].pixels.shape[2] % 16 == 0
    for workers, start in ((2, 0), (1, 1), (0, 2)):
        loader = make_loader(boxes, batches=batches[start:], workers=workers, **common)  # type: ignore[arg-type]
        assert len(loader) == 3 - start
        rest = list(loader)
        assert len(rest) == 3 - start
        assert all(equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def started(boxes: CocoReader, epoch: int, workers: int) -> Loader[Target]:
    augment = Augment([step_options(step) for step in MIXED], AugmentContext("detection", DETECTION), seed=1)
    batches = BatchSampler(len(boxes), 2, 1, shuffle=True).batches(epoch)
    return make_loader(boxes, resize=DETECTION, augment=augment, batches=batches, workers=workers)


def children() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def test_workers_stay_for_the_next_epoch_and_end_with_the_loader(boxes: CocoReader) -> None:
    before = children()
    loader = started(boxes, 0, workers=2)
    seen = []
    for epoch in (0, 1, 2):
        loader.batches = BatchSampler(len(boxes), 2, 1, shuffle=True).batches(epoch)[epoch:]
        assert len(loader) == 3 - epoch
        wanted = list(started(boxes, epoch, workers=0))[epoch:]
        assert all(equal(a, b) for a, b in zip(loader, wanted, strict=True))
        seen.append(children() - before)
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == min(2, len(os.sched_getaffinity(0)))
    del loader
    assert children() == before


def test_a_pass_that_is_broken_off_leaves_nothing_for_the_next(boxes: CocoReader) -> None:
    wanted = list(started(boxes, 0, workers=0))
    loader = started(boxes, 0, workers=1)
    first = iter(loader)
    next(first)
    # While it goes on, another one has workers of its own.
    assert all(equal(a, b) for a, b in zip(loader, wanted, strict=True))
    assert equal(next(first), wanted[1])
    loader.close()
    assert next(first, None) is None
    assert all(equal(a, b) for a, b in zip(loader, wanted, strict=True))


def test_an_error_that_is_kept_keeps_no_workers(boxes: CocoReader) -> None:
    before = children()
    (boxes.folder / "2.png").write_bytes(b"")
    loader = started(boxes, 0, workers=1)
    with pytest.raises(DataError) as kept:
        list(loader)
    assert children() == before
    assert kept.traceback


@pytest.mark.slow
@pytest.mark.parametrize("done", ["list(loader)", "begun = iter(loader); next(begun)"])
def test_python_ends_while_workers_wait(boxes: CocoReader, done: str) -> None:
    """Its exit sends them SIGTERM and waits for them, and they ignore it: a training must end its step first."""
    code = (
        "import sys; from pathlib import Path; from rehead.configs.readers import CocoSplit; "
        "from rehead.configs.schema import ResizeOptions; from rehead.data.loader import Key, make_loader; "
        "from rehead.datasets.formats.coco import CocoReader; from rehead.data.transforms.resize import Resize\n"
        "reader = CocoReader(CocoSplit(images='images', annotations='a.json'), Path(sys.argv[1]))\n"
        "batches = [[Key(0, index)] for index in range(7)]; resize = Resize(ResizeOptions(shorter=24))\n"
        f"loader = make_loader(reader, resize=resize, augment=None, batches=batches, workers=1); {done}; print('end')"
    )
    command = [sys.executable, "-c", code, str(boxes.folder.parent)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert ended.stdout == "end\n"


@pytest.mark.parametrize(
    ("cores", "processes", "device", "workers"),
    [
        *((1, 1, "cpu", 1), (2, 1, "cpu", 2), (64, 1, "cpu", 2), (64, 64, "cpu", 1)),
        *((1, 1, "cuda", 1), (2, 1, "cuda", 1), (8, 1, "cuda", 7), (8, 1, "cuda:1", 7), (64, 8, "cuda", 7)),
        *((4, 8, "cuda", 1), (256, 1, "cuda", MOST_WORKERS), (10, 1, "mps", 9)),
    ],
)
def test_workers_follow_the_cores(
    cores: int, processes: int, device: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehead.data.loader.cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert workers_for("auto", torch.device(device)) == workers
    assert workers_for(0, torch.device(device)) == 0
    assert workers_for(5, torch.device(device)) == 5


def test_two_ranks_make_the_images_that_one_process_would(boxes: CocoReader) -> None:
    augment = Augment([step_options(step) for step in MIXED], AugmentContext("detection", DETECTION), seed=1)

    def images(size: int, world: int, workers: int) -> dict[Any, Any]:
        made = {}
        for rank in range(world):
            batches = BatchSampler(len(boxes), size, 1, shuffle=True, rank=rank, world=world).batches(4)
            for batch, targets in make_loader(
                boxes, resize=DETECTION, augment=augment, batches=batches, workers=workers
            ):
                for pixels, frame, target in zip(batch.pixels, batch.frames, targets, strict=True):
                    assert target.boxes is not None
                    inside = pixels[:, : frame.size[0], : frame.size[1]]
                    made[frame.image_id] = (inside.numpy().tobytes(), target.boxes.numpy().tobytes())
        return made

    assert images(2, 2, workers=2) == images(4, 1, workers=0)


def test_a_worker_keeps_the_memory_order(boxes: CocoReader) -> None:
    batches = BatchSampler(len(boxes), 2, shuffle=False).batches(0)
    for images, _ in make_loader(boxes, resize=DETECTION, augment=None, batches=batches, workers=1):
        assert len(images) == 1 or images.pixels.is_contiguous(memory_format=torch.channels_last)


def test_starting_a_loader_draws_nothing_from_the_global_generator(boxes: CocoReader) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert list(make_loader(boxes, resize=DETECTION, augment=None, batches=[[Key(0, 1)]]))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_reaches_the_user_by_its_message_alone(boxes: CocoReader, workers: int) -> None:
    broken = boxes.folder / "2.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    batches = BatchSampler(len(boxes), 2, shuffle=False).batches(0)
    loader = iter(make_loader(boxes, resize=DETECTION, augment=None, batches=batches, workers=workers))
    assert len(next(loader)[1]) == 2
    with pytest.raises(DataError) as caught:
        next(loader)
    assert str(caught.value).startswith(f"{broken}: the image is damaged or cut short")
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


class Dying:
    """A reader whose process is ended by the system at an image."""

    def __init__(self, reader: CocoReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, index: int, *further: Any) -> Any:
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.reader.read(index, *further)


def test_a_worker_that_the_system_ends_is_said_with_what_to_do(boxes: CocoReader) -> None:
    loader = evaluation_loader(Dying(boxes), resize=DETECTION, batch_size=2, workers=1)  # type: ignore[arg-type]
    with (
        pytest.raises(
            DataError, match=r"ended from outside \(DataLoader worker.*memory.*data\.workers=1.* Go on so\.$"
        ),
        says_why_workers_end(" Go on so."),
        closing(loader),
    ):
        list(loader)


@pytest.mark.parametrize("what", ["semaphores", "memory"])
@pytest.mark.parametrize("training", [True, False])
def test_without_room_in_dev_shm_images_are_read_in_this_process(
    boxes: CocoReader, what: str, training: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever of it comes first: the semaphores of queues between processes, or the memory for batches."""

    def full(*arguments: Any, **named: Any) -> Any:
        if what == "semaphores":
            raise OSError(errno.ENOSPC, "No space left on device")
        if arguments == (0,):
            return torch.zeros(0, dtype=torch.uint8)
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    def begun(workers: int) -> Loader[Any]:
        if training:
            return started(boxes, 0, workers)
        return evaluation_loader(boxes, resize=DETECTION, batch_size=2, workers=workers)

    expected = [batch.pixels for batch, _ in begun(0)]
    target = (
        "multiprocessing.synchronize.SemLock.__init__" if what == "semaphores" else "rehead.data.shared_memory._shared"
    )
    loader = begun(2)
    with monkeypatch.context() as patch:
        patch.setattr(target, full)
        found = [batch.pixels for batch, _ in loader]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert "/dev/shm is full" in caplog.text
    assert "--shm-size" in caplog.text
    assert len(list(loader)) == len(expected)
    assert not children()


def test_evaluation_gives_annotations_as_they_are(boxes: CocoReader) -> None:
    seen = []
    for images, truths in evaluation_loader(boxes, resize=DETECTION, batch_size=3, divisor=8, workers=1):
        assert len(images) == len(truths)
        for frame, truth in zip(images.frames, truths, strict=True):
            wanted = boxes[len(seen)]
            assert truth.image is None
            assert truth.size == frame.original == wanted.size
            assert truth.iscrowd is not None
            np.testing.assert_array_equal(truth.boxes, wanted.boxes)
            np.testing.assert_array_equal(truth.iscrowd, wanted.iscrowd)
            seen.append(truth.image_id)
    assert seen == list(range(7))


def test_segmentation_is_judged_at_the_original_size_and_trained_at_the_resized(tmp_path: Path) -> None:
    for folder, shape in (("images", (20, 30, 3)), ("masks", (20, 30))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), np.full(shape, 1, np.uint8))
    reader = MasksReader(MasksSplit(images="images", masks="masks"), tmp_path, ["a", "b"])
    resize = Resize(ResizeOptions(shorter=10))
    ((images, (truth,)),) = evaluation_loader(reader, resize=resize, batch_size=4)
    assert truth.semantic is not None
    assert truth.semantic.shape == (20, 30)
    assert images.frames[0].size == (10, 15)
    ((images, (target,)),) = make_loader(reader, resize=resize, augment=None, batches=[[Key(0, 0)]], divisor=8)
    assert target.semantic is not None
    assert target.semantic.shape == images.pixels.shape[2:] == (16, 16)
    assert (target.semantic == 1).sum() == 150
    assert (target.semantic == IGNORE).sum() == 256 - 150


def test_classification_trains_and_evaluates_at_one_size(tmp_path: Path) -> None:
    for name, size in (("cat/a.png", (30, 50)), ("dog/b.png", (70, 40))):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), np.zeros((*size, 3), np.uint8))
    reader: Reader = FoldersReader(FoldersSplit(images="."), tmp_path)
    resize = Resize(ResizeOptions(shorter=28, crop=24))
    augment = Augment("light", AugmentContext("classification", resize))
    ((images, targets),) = make_loader(
        reader, resize=resize, augment=augment, batches=[[Key(0, 1), Key(0, 0)]], divisor=8
    )
    assert images.pixels.shape == (2, 3, 24, 24)
    assert [int(target.label) for target in targets if target.label is not None] == [1, 0]
    ((images, truths),) = evaluation_loader(reader, resize=resize, batch_size=4, divisor=8)
    assert images.pixels.shape == (2, 3, 24, 24)
    assert [truth.label for truth in truths] == [0, 1]


def test_what_crosses_to_another_process_arrives_whole_and_may_be_changed(boxes: CocoReader) -> None:
    batches = BatchSampler(len(boxes), 3, shuffle=False).batches(0)
    here, there = (
        list(make_loader(boxes, resize=DETECTION, augment=None, batches=batches, divisor=8, workers=workers))
        for workers in (0, 1)
    )
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))
    for images, targets in there:
        for target in targets:
            assert target.boxes is not None
            target.boxes += 1
        images.pixels[:] = 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is another")
def test_memory_of_one_image_serves_the_next(tmp_path: Path) -> None:
    """Decoding a photograph again takes no new pages from the kernel."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (1200, 1600, 3), np.uint8)).save(tmp_path / "photograph.jpg", quality=50)
    code = (
        "import resource, sys, cv2; from pathlib import Path; from rehead.data.allocation import keep_freed_memory; "
        "from rehead.data.image_io import read_image; keep_freed_memory()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3): read_image(Path(sys.argv[1]), 3)\n"
        "before = faults(); read_image(Path(sys.argv[1]), 3); print(faults() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "photograph.jpg"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1200 * 1600 * 3 / resource.getpagesize() / 4

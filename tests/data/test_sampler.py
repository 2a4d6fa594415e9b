"""Which images an epoch holds, and which go into batches together: pure functions of (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from rehead.configs.schema import SamplingOptions
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.data.sampler import BatchSampler, orientations, repeats
from rehead.errors import ConfigError, DataError
from rehead.types import Classes


class Annotations(Reader):
    """A reader of annotations alone."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.classes = Classes(("a", "b", "c", "d"))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def objects(*labels: int, crowds: Any = None) -> Sample:
    boxes = np.zeros((len(labels), 4), np.float32)
    return Sample(0, Path("a"), boxes=boxes, labels=np.array(labels, np.int64), iscrowd=crowds)


def options(name: Any, threshold: float | None = None) -> SamplingOptions:
    return SamplingOptions(name=name, threshold=threshold)


def test_shuffled_shows_every_image_once() -> None:
    assert repeats(options("shuffled"), Annotations([objects(0)])) is None


def test_repeat_factors_are_those_of_the_paper() -> None:
    """Gupta et al.: max(1, sqrt(t / f)) of an image's rarest class; an image without objects is shown once."""
    reader = Annotations([objects(0)] * 90 + [objects(0, 1, 1)] * 9 + [objects(2)] + [objects()] * 100)
    times = repeats(options("repeat_factor", 0.18), reader)
    assert times is not None
    np.testing.assert_allclose(times[:90], 1)  # a: in 99 of 200 images
    np.testing.assert_allclose(times[90:99], (0.18 / (9 / 200)) ** 0.5)
    np.testing.assert_allclose(times[99], (0.18 / (1 / 200)) ** 0.5)
    np.testing.assert_allclose(times[100:], 1)
    np.testing.assert_allclose(repeats(options("repeat_factor"), reader), 1)


def test_balanced_classes_are_shown_equally_often_in_as_many_images_as_there_are() -> None:
    reader = Annotations([objects(0)] * 60 + [objects(1, 1)] * 15 + [objects(3)] * 5 + [objects()] * 20)
    times = repeats(options("class_balanced"), reader)
    assert times is not None
    np.testing.assert_allclose([times[:60].sum(), times[60:75].sum(), times[75:80].sum(), times[80:].sum()], 25)
    # An image with two classes stands for both.
    np.testing.assert_allclose(repeats(options("class_balanced"), Annotations([objects(0, 1), objects(0)])), [1.5, 0.5])


class TestSkippingEmptyImages:
    """Detectron2 and torchvision train on COCO without the images that have no object of use."""

    def some(self, *crowds: bool, width: float = 4, keypoints: int | None = None) -> Sample:
        boxes = np.array([[1, 1, 1 + width, 5]] * len(crowds), np.float32).reshape(-1, 4)
        points = None
        if keypoints is not None:
            points = np.zeros((len(crowds), 17, 3), np.float32)
            points[:, :keypoints] = (2, 2, 1)
        labels = np.zeros(len(crowds), np.int64)
        return Sample(0, Path("a"), boxes=boxes, labels=labels, iscrowd=np.array(crowds, bool), keypoints=points)

    def test_crowds_and_boxes_without_area_are_nothing(self) -> None:
        samples = [self.some(False), self.some(), self.some(True), self.some(True, False), self.some(False, width=0)]
        times = repeats(SamplingOptions(skip_empty=True), Annotations(samples))
        assert times is not None
        assert times.tolist() == [1, 0, 0, 1, 0]

    def test_keypoints_are_counted_over_the_image(self) -> None:
        samples = [self.some(False, keypoints=count) for count in (0, 1, 9, 10)]
        samples += [self.some(False, False, keypoints=5), self.some(True, keypoints=17)]
        for least, kept in ((1, [0, 1, 1, 1, 1, 0]), (10, [0, 0, 0, 1, 1, 0])):
            options = SamplingOptions(skip_empty=True, min_keypoints=least)
            times = repeats(options, Annotations(samples), keypoints=True)
            assert times is not None
            assert times.tolist() == kept
            # To a head that learns boxes alone they do not matter.
            times = repeats(options, Annotations(samples))
            assert times is not None
            assert times.tolist() == [1, 1, 1, 1, 1, 0]

    def test_an_epoch_shows_each_of_the_others_once_and_is_shorter(self) -> None:
        reader = Annotations([self.some(False) if index % 3 else self.some() for index in range(30)])
        times = repeats(SamplingOptions(skip_empty=True), reader)
        keys = [key for batch in BatchSampler(30, 4, shuffle=True, repeats=times).batches(0) for key in batch]
        assert sorted(key.image for key in keys) == [index for index in range(30) if index % 3]

    def test_other_ways_of_sampling_go_on_without_them(self) -> None:
        reader = Annotations([self.some(False)] * 3 + [self.some()])
        times = repeats(SamplingOptions(name="class_balanced", skip_empty=True), reader)
        assert times is not None
        np.testing.assert_allclose(times, [2 / 3] * 3 + [0])

    def test_annotations_of_other_kinds_count(self) -> None:
        sample = self.some()
        sample.mask_path = Path("m.png")
        maps = Sample(0, Path("a"), mask_path=Path("m.png"))
        times = repeats(SamplingOptions(skip_empty=True), Annotations([sample, maps]))
        assert times is not None
        assert times.tolist() == [1, 1]

    def test_nothing_left_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="none of the training images"):
            repeats(SamplingOptions(skip_empty=True), Annotations([self.some(True)]))


def test_labels_of_images_count_and_crowds_do_not() -> None:
    labels = [Sample(0, Path("a"), label=0)] * 3 + [Sample(0, Path("a"), label=np.array([0, 1, 1], np.float32))]
    np.testing.assert_allclose(repeats(options("class_balanced"), Annotations(labels)), [4 / 9] * 3 + [8 / 3])
    crowd = objects(1, 0, crowds=np.array([True, False]))
    np.testing.assert_allclose(repeats(options("class_balanced"), Annotations([crowd, objects(0)])), 1)


def test_annotations_that_name_no_class_are_refused_unless_others_do() -> None:
    only_a_map = Sample(0, Path("a.png"), mask_path=Path("m"))
    with pytest.raises(ConfigError, match=r"data\.sampling: the annotations do not say which classes an image has"):
        repeats(options("repeat_factor"), Annotations([only_a_map]))
    np.testing.assert_allclose(repeats(options("repeat_factor", 1), Annotations([objects(0), only_a_map])), [2**0.5, 1])
    np.testing.assert_allclose(repeats(options("class_balanced"), Annotations([objects()] * 3)), 1)


TIMES = st.lists(st.floats(0, 4), min_size=1, max_size=40).filter(lambda times: sum(times) > 0.6)


@settings(deadline=None)
@given(times=TIMES, size=st.integers(1, 5), world=st.integers(1, 3), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_an_image_comes_as_often_as_it_should_rounded_by_chance(
    times: list[float], size: int, world: int, seed: int, epoch: int
) -> None:
    def batches(rank: int, epoch: int) -> Any:
        wanted = np.array(times)
        sampler = BatchSampler(len(times), size, seed, shuffle=True, rank=rank, world=world, repeats=wanted)
        return sampler.batches(epoch)

    ranks = [batches(rank, epoch) for rank in range(world)]
    assert ranks == [batches(rank, epoch) for rank in range(world)]
    # Every epoch has as many steps, on every rank.
    assert len({len(own) for own in [*ranks, batches(0, epoch + 1)]}) == 1
    drawn = [key for own in ranks for batch in own for key in batch]
    counts = Counter(key.image for key in drawn)
    total = round(sum(times))
    scale = total / sum(times)
    if total >= size * world:
        assert len(drawn) == total // (size * world) * size * world
        assert all(counts[image] <= np.ceil(wanted * scale + 1e-6) for image, wanted in enumerate(times))
        if len(drawn) == total:
            assert all(counts[image] >= np.floor(wanted * scale - 1e-6) for image, wanted in enumerate(times))
    # Copies of an image are drawn anew by the augmentation.
    assert len(set(drawn)) == len(drawn)


def test_on_average_an_image_comes_exactly_as_often_as_it_should() -> None:
    times = np.array([0.25, 0.5, 1, 1.75, 2.5])
    sampler = BatchSampler(5, 2, shuffle=True, repeats=times)
    counts = Counter(key.image for epoch in range(2000) for batch in sampler.batches(epoch) for key in batch)
    np.testing.assert_allclose([counts[image] / 2000 for image in range(5)], times, atol=0.05)


@settings(deadline=None)
@given(
    groups=st.lists(st.integers(0, 2), min_size=1, max_size=60),
    size=st.integers(1, 5),
    world=st.integers(1, 3),
    epoch=st.integers(0, 5),
)
def test_images_of_a_group_go_together_on_all_ranks(groups: list[int], size: int, world: int, epoch: int) -> None:
    ranks = [
        BatchSampler(len(groups), size, 3, shuffle=True, rank=rank, world=world, groups=np.array(groups)).batches(epoch)
        for rank in range(world)
    ]
    drawn = [key.image for own in ranks for batch in own for key in batch]
    if len(groups) >= size * world:
        # As many as without groups, none twice, and no more mixed steps than there are further groups.
        assert len(drawn) == len(set(drawn)) == len(groups) // (size * world) * size * world
        steps = [[key.image for own in ranks for key in own[step]] for step in range(len(ranks[0]))]
        mixed = [len({groups[image] for image in step}) > 1 for step in steps]
        assert sum(mixed) <= len(set(groups)) - 1


def test_groups_do_not_make_the_order_the_same_in_every_epoch() -> None:
    sampler = BatchSampler(64, 4, shuffle=True, groups=np.arange(64) % 2)
    first, second = ([batch[0].image % 2 for batch in sampler.batches(epoch)] for epoch in range(2))
    assert first != second
    assert first != sorted(first)


def test_orientations_come_from_the_annotation_or_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    np.save(tmp_path / "high.npy", np.zeros((9, 5, 6), np.uint8))
    samples = [Sample(0, tmp_path / name) for name in ("wide.png", "turned.jpg", "high.npy")]
    samples += [Sample(0, Path("none"), size=(10, 11)), Sample(0, Path("none"), size=(10, 10))]
    assert orientations(Annotations(samples)).tolist() == [1, 0, 0, 1, 0]
    for name, said in (("none.png", "no such file"), ("text.png", "not an image of a known kind")):
        (tmp_path / "text.png").write_text("text")
        with pytest.raises(DataError, match=f"{name}: {said}"):
            orientations(Annotations([Sample(0, tmp_path / name)]))

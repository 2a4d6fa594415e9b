"""Steps of rehead's own: sizes are those that the resize allows, and whatever lies on an image goes along."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.configs.augment import STEPS, TransformOptions, step_options
from rehead.configs.resize import ResizeOptions
from rehead.configs.tasks import MULTITASK, PRESETS, TASKS
from rehead.data.loader import make_loader
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.data.sampler import Key
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.mix import on_canvas
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext, Step, cut, tightened
from rehead.demo.synthetic import SHAPES, draw_scene
from rehead.errors import ConfigError
from rehead.types import IGNORE, Classes

RESIZE = {
    "longer": Resize(ResizeOptions(shorter=48, longer=64)),
    "fixed": Resize(ResizeOptions(height=40, width=56)),
    "crop": Resize(ResizeOptions(shorter=48, crop=40)),
}


def scene(number: int, height: int = 80, width: int = 80) -> Sample:
    """Shapes whose colour tells their label, on black, with all that can be annotated."""
    drawn = draw_scene(np.random.default_rng(number), 80, range(1, 6))
    step = (slice(0, height), slice(0, width))
    semantic, masks = drawn.semantic[step], drawn.masks[:, step[0], step[1]].astype(np.uint8)
    image = np.repeat((semantic * 30)[:, :, None], 3, 2)
    one = Sample(f"scene {number}", Path(f"{number}.png"), size=(height, width), image=image, semantic=semantic)
    one.boxes, one.labels, one.masks, one.mask_path = drawn.boxes, drawn.labels, masks, Path("m.png")
    one.iscrowd, one.areas = np.zeros(len(masks), bool), drawn.labels.astype(np.float32)
    centres = [np.argwhere(mask)[mask.sum() // 2][::-1] if mask.any() else (0, 0) for mask in masks]
    one.keypoints = np.array([[[x + 0.5, y + 0.5, 2], [0, 0, 0]] for x, y in centres], np.float32).reshape(-1, 2, 3)
    whole = one.clipped().select(masks.any(axis=(1, 2)))
    return tightened(whole, np.ones(len(whole.boxes), bool)) if whole.boxes is not None else whole


class Scenes(Reader):
    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.classes = Classes(SHAPES)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return replace(self.samples[index], image=None, semantic=None, masks=None)

    def read(self, index: int, channels: int = 3, shrink: Any = None) -> Sample:
        return self.samples[index]


READER = Scenes([scene(0), scene(1, 60, 80), scene(2, 80, 50), scene(3), scene(4, 70, 80)])


def step(name: str, resize: str = "fixed", task: str = "instance_segmentation", **more: Any) -> Step:
    options = step_options({"name": name, **more})
    built: Step = STEPS.get(name).load()(options, AugmentContext(task, RESIZE[resize], classes=5))
    return built


def changed(built: Step, sample: Sample, seed: int, extra_samples: list[Sample] | None = None) -> Sample:
    others = extra_samples or [READER.read(number) for number in range(1, 1 + built.extra_samples)]
    return built(sample, others, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([entry.name for entry in STEPS if entry.name != "mixup"]),
    resize=st.sampled_from(["longer", "fixed"]),
    number=st.integers(0, len(READER) - 1),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_everything_stays_together(name: str, resize: str, number: int, seed: int, dtype: Any) -> None:
    before = READER.read(number)
    before = replace(before, image=before.pixels.astype(dtype))
    more = {"scale": [0.5, 2]} if name == "large_scale_jitter" else {}
    after = changed(step(name, resize, **more), before, seed)
    assert after.image_id == before.image_id
    assert after.pixels.dtype == dtype
    height, width = after.pixels.shape[:2]
    assert after.boxes is not None
    assert after.labels is not None
    assert after.masks is not None
    assert after.semantic is not None
    assert after.keypoints is not None
    assert after.areas is not None
    assert after.semantic.shape == (height, width)
    assert after.masks.shape == (len(after.boxes), height, width)
    assert after.boxes.dtype == np.float32
    assert (after.boxes >= 0).all()
    assert (after.boxes <= np.array([width, height, width, height]) + 1e-4).all()
    np.testing.assert_array_equal(after.areas, after.labels)
    # Every pixel has its class's colour, but for edges that are blurred.
    told = after.pixels[:, :, 0].astype(float) - after.semantic * 30.0
    assert (np.abs(told) <= 15).mean() > 0.7
    for box, label, mask, points in zip(after.boxes, after.labels, after.masks, after.keypoints, strict=True):
        assert (after.semantic[mask > 0] == label + 1).mean() > 0.95
        y, x = np.nonzero(mask)
        # Thin tips of a mask are lost where it shrinks; its box never lies inside of it.
        assert x.min() >= box[0] - 1.5
        assert y.min() >= box[1] - 1.5
        assert x.max() + 1 <= box[2] + 1.5
        assert y.max() + 1 <= box[3] + 1.5
        assert points[1].tolist() == [0, 0, 0]
        if points[0, 2]:
            around = mask[max(0, int(points[0, 1]) - 2) :, max(0, int(points[0, 0]) - 2) :][:5, :5]
            assert around.any() or name == "copy_paste"


def test_the_box_of_an_object_that_was_cut_is_that_of_what_is_left_of_its_mask() -> None:
    one = Sample(0, Path("a"), image=np.zeros((20, 20, 3), np.uint8), labels=np.array([0, 1]))
    one.boxes = np.array([[2, 2, 18, 18], [1, 12, 5.5, 16]], np.float32)
    one.masks = np.zeros((2, 20, 20), np.uint8)
    one.masks[0, 2:18, 2:6], one.masks[0, 14:18, 2:18], one.masks[1, 13:15, 2:4] = 1, 1, 1
    part = cut(one, (0, 0, 12, 20), 0.1)
    assert part.boxes is not None
    assert part.boxes.tolist() == [[2, 2, 6, 12]]
    # A box that is not cut stays as it was annotated, though its mask is smaller.
    whole = cut(one, (1, 1, 19, 19), 0.1)
    assert whole.boxes is not None
    assert whole.boxes.tolist() == [[1, 1, 17, 17], [0, 11, 4.5, 15]]
    # Nothing is left of the mask, whatever the box says.
    corner = cut(one, (0, 8, 13, 12), 0.1)
    assert corner.boxes is not None
    assert len(corner.boxes) == 0


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 999), resize=st.sampled_from(list(RESIZE))
)
def test_sizes_are_those_that_the_resize_allows(height: int, width: int, seed: int, resize: str) -> None:
    one = Sample(0, Path("a"), image=np.zeros((height, width, 3), np.uint8))
    wanted = np.array(RESIZE[resize].size_for((height, width)))

    def size(name: str, **more: Any) -> tuple[int, ...]:
        return changed(step(name, resize, **more), one, seed, [one] * 3).pixels.shape[:2]

    fixed = RESIZE[resize].fixed
    assert size("resized_crop") == (fixed or tuple(wanted))
    if resize == "crop":
        return
    assert (np.array(size("large_scale_jitter")) <= wanted).all()
    assert size("large_scale_jitter", scale=[1.5, 2]) == tuple(wanted)
    assert (np.array(size("multi_scale", scale=[0.5, 0.8])) <= np.ceil(wanted * 0.8)).all()
    assert (np.array(size("multi_scale", scale=[1.2, 1.5])) >= wanted).all()
    assert size("mosaic") == (height, width)


def test_jitter_shows_random_parts_at_random_scales() -> None:
    one = Sample(0, Path("a"), image=np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (100, 1, 3)))
    jitter = step("large_scale_jitter", scale=[0.25, 4])
    left, shares = set(), []
    for seed in range(30):
        pixels = changed(jitter, one, seed).pixels[0, :, 0].astype(int)
        left.add(int(pixels[0]))
        shares.append((pixels[-1] - pixels[0]) / 200)
    assert len(left) > 10
    assert min(shares) < 0.35
    assert max(shares) > 0.95


class TestCanvas:
    """`large_scale_jitter` with a canvas: every batch has its size, whatever the images' were."""

    @settings(max_examples=60, deadline=None)
    @given(height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 999))
    def test_no_image_is_larger_and_each_has_the_drawn_scale(self, height: int, width: int, seed: int) -> None:
        one = Sample(0, Path("a"), image=np.zeros((height, width, 3), np.uint8))
        canvas = (24, 40)
        jitter = step("large_scale_jitter", "longer", scale=[0.5, 2], canvas=canvas)
        scale = np.random.default_rng(seed).uniform(0.5, 2)
        scaled = [max(1, round(side * scale)) for side in RESIZE["longer"].size_for((height, width))]
        found = changed(jitter, one, seed).pixels.shape[:2]
        assert found == tuple(min(side, most) for side, most in zip(scaled, canvas, strict=True))

    def test_what_is_cut_keeps_its_scale(self) -> None:
        """Along the axis that is cut, a pixel of the original is as large as along the other."""
        ramp = np.arange(160, dtype=np.uint8)
        one = Sample(0, Path("a"), image=np.tile(ramp[None, :, None], (80, 1, 3)))
        jitter = step("large_scale_jitter", "longer", scale=[1, 1], canvas=(400, 32))  # 32 x 64 before it is cut
        starts = set()
        for seed in range(20):
            pixels = changed(jitter, one, seed).pixels[:, :, 0].astype(int)
            assert pixels.shape == (32, 32)
            assert pixels[0, -1] - pixels[0, 0] == pytest.approx(31 * 160 / 64, abs=2)
            starts.add(int(pixels[0, 0]))
        assert len(starts) > 10

    def test_batches_are_padded_to_it_and_the_padding_is_no_part_of_the_images(self) -> None:
        steps = [step_options({"name": "large_scale_jitter", "scale": [0.1, 0.4], "canvas": [48, 72]})]
        augment = Augment(steps, AugmentContext("instance_segmentation", RESIZE["longer"]), seed=0)
        loader = make_loader(
            READER, resize=RESIZE["longer"], augment=augment, batches=[[Key(0, 0), Key(0, 1)]], divisor=32
        )
        ((images, targets),) = list(loader)
        assert images.pixels.shape == (2, 3, 64, 96)
        for frame, target, pixels in zip(images.frames, targets, images.pixels, strict=True):
            assert frame.padded == (64, 96)
            assert max(frame.size) <= 26
            assert not pixels[:, frame.size[0] :].any()
            assert not pixels[:, :, frame.size[1] :].any()
            assert target.semantic is not None
            assert (target.semantic[frame.size[0] :] == IGNORE).all()

    def test_without_one_batches_are_as_large_as_their_largest_image(self) -> None:
        assert Augment("strong", AugmentContext("detection", RESIZE["longer"])).canvas is None


class TestShorterSides:
    """`multi_scale` as Detectron2 and torchvision's references have it: one of some lengths of the shorter side."""

    def test_each_length_is_drawn_and_the_longer_side_limits_it(self) -> None:
        built = step("multi_scale", "longer", shorter=[32, 40, 60])
        seen = {changed(built, scene(0), seed).pixels.shape[:2] for seed in range(40)}
        assert seen == {(32, 32), (40, 40), (60, 60)}
        wide = Sample(0, Path("a"), image=np.zeros((40, 80, 3), np.uint8))
        assert {changed(built, wide, seed).pixels.shape[:2] for seed in range(40)} == {(32, 64)}

    @pytest.mark.parametrize(
        ("resize", "said"), [("fixed", "goes with data.resize"), ("longer", "100 is more than data.resize.longer 64")]
    )
    def test_it_needs_a_resize_by_the_shorter_side_that_allows_it(self, resize: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            step("multi_scale", resize, shorter=[40, 100])


class TestMosaic:
    def test_four_images_meet_in_a_point_and_leave_no_gap(self) -> None:
        colours = [Sample(n, Path("a"), image=np.full((30 + n, 50 - n, 3), 50 * n + 50, np.uint8)) for n in range(4)]
        corners = set()
        for seed in range(20):
            pixels = changed(step("mosaic"), colours[0], seed, colours[1:]).pixels[:, :, 0]
            y, x = int((pixels[:, 0] == 50).sum()), int((pixels[0] == 50).sum())
            for part, colour in zip(
                (pixels[:y, :x], pixels[:y, x:], pixels[y:, :x], pixels[y:, x:]), range(4), strict=True
            ):
                assert (part == 50 * colour + 50).all()
            corners.add((y, x))
            assert 0.25 <= y / 30 <= 0.75
            assert 0.25 <= x / 50 <= 0.75
        assert len(corners) > 10

    def test_images_too_small_to_divide_stay_as_they_are(self) -> None:
        one = Sample(0, Path("a"), image=np.zeros((1, 9, 3), np.uint8))
        assert changed(step("mosaic"), one, 0, [one] * 3) is one


class TestMixup:
    @pytest.mark.parametrize("channels", [1, 3, 6])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_labels_are_mixed_as_pixels_are(self, channels: int, dtype: Any) -> None:
        shape = (20, 30, channels)
        one = Sample(0, Path("a"), label=1, image=np.full(shape, 200, dtype))
        # Of another size and type.
        other = Sample(1, Path("b"), label=4, image=np.full((9, 40, channels), 100, np.float32))
        for seed in range(10):
            mixed = changed(step("mixup", task="classification", alpha=1.0), one, seed, [other])
            assert mixed.pixels.dtype == dtype
            assert mixed.pixels.shape == shape
            label = mixed.label
            assert isinstance(label, np.ndarray)
            assert label.dtype == np.float32
            assert label.shape == (5,)
            assert label.sum() == pytest.approx(1)
            assert label[1] + label[4] == pytest.approx(1)
            np.testing.assert_allclose(mixed.pixels, 200 * label[1] + 100 * label[4], atol=1)
            again = changed(step("mixup", task="classification", alpha=1.0), mixed, seed, [other])
            assert isinstance(again.label, np.ndarray)
            assert again.label.sum() == pytest.approx(1)

    def test_a_class_with_itself_is_still_that_class(self) -> None:
        one = Sample(0, Path("a"), label=2, image=np.zeros((4, 4, 3), np.uint8))
        label = changed(step("mixup", task="classification"), one, 0, [one]).label
        np.testing.assert_allclose(label, [0, 0, 1, 0, 0], atol=1e-6)  # type: ignore[arg-type]

    def test_boxes_of_both_stay_and_the_second_image_is_cut_to_the_first(self) -> None:
        first, second = READER.read(2), READER.read(0)
        assert first.boxes is not None
        for seed in range(8):
            mixed = changed(step("mixup"), first, seed, [second])
            assert mixed.pixels.shape == first.pixels.shape
            assert mixed.boxes is not None
            assert mixed.labels is not None
            np.testing.assert_array_equal(mixed.boxes[: len(first.boxes)], first.boxes)
            assert len(mixed.boxes) == len(mixed.labels) > len(first.boxes)

    def test_where_the_second_image_ends_the_first_is_as_it_was(self) -> None:
        first = Sample(0, Path("a"), image=np.full((40, 40, 3), 200, np.uint8))
        second = Sample(1, Path("b"), image=np.zeros((10, 20, 3), np.uint8))
        pixels = changed(step("mixup"), first, 3, [second]).pixels[:, :, 0]
        assert (pixels != 200).sum() == 200
        assert (pixels == 200).sum() == 1400


class TestCopyPaste:
    def blocks(self) -> tuple[Sample, Sample]:
        """Two objects side by side, and an image of one object, equally large, in another colour."""
        own = Sample(0, Path("a"), image=np.full((20, 40, 3), 10, np.uint8))
        own.masks = np.zeros((2, 20, 40), np.uint8)
        own.masks[0, 5:15, 2:18], own.masks[1, 5:15, 22:38] = 1, 1
        own.boxes, own.labels = np.array([[2, 5, 18, 15], [22, 5, 38, 15]], np.float32), np.array([0, 1])
        other = Sample(1, Path("b"), image=np.full((20, 40, 3), 99, np.uint8))
        other.masks = np.zeros((1, 20, 40), np.uint8)
        other.masks[0, 5:15, 10:38] = 1
        other.boxes, other.labels = np.array([[10, 5, 38, 15]], np.float32), np.array([2])
        return own, other

    def test_what_is_covered_is_cut_or_gone(self) -> None:
        own, other = self.blocks()
        after = changed(step("copy_paste", share=1.0), own, 0, [other])
        assert after.masks is not None
        assert after.boxes is not None
        assert after.labels is not None
        assert after.labels.tolist() == [0, 2]
        assert after.boxes.tolist() == [[2, 5, 10, 15], [10, 5, 38, 15]]
        assert (after.masks.sum(axis=0) <= 1).all()
        np.testing.assert_array_equal(after.pixels[:, :, 0] == 99, after.masks[1] == 1)

    def test_each_object_is_pasted_by_chance_and_crowds_never(self) -> None:
        own, other = self.blocks()
        half = [changed(step("copy_paste"), own, seed, [other]) for seed in range(60)]
        assert 15 < sum(2 in one.labels for one in half if one.labels is not None) < 45
        other.iscrowd = np.array([True])
        assert changed(step("copy_paste", share=1.0), own, 0, [other]) is own


class TestPartners:
    def augment(self, names: list[str], **more: Any) -> Augment:
        return Augment(
            [step_options({"name": name, "p": 1}) for name in names],
            AugmentContext("detection", RESIZE["fixed"]),
            **more,
        )

    def test_they_depend_on_epoch_image_and_copy_alone_and_differ_between_them(self) -> None:
        augment = self.augment(["large_scale_jitter", "mosaic", "mixup"])
        pixels = {
            key: augment(READER.read(key[1]), *key, READER)[0].pixels.tobytes()
            for key in [(0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0), (2, 3, 0)]
        }
        assert len(set(pixels.values())) == len(pixels)
        for key in reversed(pixels):
            assert augment(READER.read(key[1]), *key, READER)[0].pixels.tobytes() == pixels[key]

    def test_another_image_lacks_what_this_one_has_and_is_not_taken(self) -> None:
        one = READER.read(0)
        bare = Sample("bare", Path("b"), image=np.full((30, 30, 3), 255, np.uint8))
        augment = self.augment(["mosaic"])
        alone, _ = augment(one, 0, 0, 0, Scenes([one, bare]))
        np.testing.assert_array_equal(alone.pixels, RESIZE["fixed"](one)[0].pixels)
        several = [augment(one, epoch, 0, 0, Scenes([one, bare, READER.read(3)]))[0] for epoch in range(5)]
        assert all(several_one.pixels.max() < 255 for several_one in several)

    def test_a_single_image_is_its_own_partner(self) -> None:
        mixed, _ = self.augment(["mosaic"])(READER.read(0), 0, 0, 0, Scenes([READER.read(0)]))
        assert mixed.pixels.shape == (40, 56, 3)

    def test_a_probability_of_zero_reads_no_other_image(self) -> None:
        never = [step_options({"name": "mosaic", "p": 0}), step_options({"name": "resized_crop", "p": 0})]
        augment = Augment(never, AugmentContext("detection", RESIZE["longer"]))
        changed_one, frame = augment(READER.read(1), 0, 1)
        wanted, wanted_frame = RESIZE["longer"](READER.read(1))
        np.testing.assert_array_equal(changed_one.pixels, wanted.pixels)
        assert frame == wanted_frame

    def test_steps_that_cannot_be_set_up(self) -> None:
        with pytest.raises(ConfigError, match="needs a reader of other images"):
            self.augment(["mosaic"])(READER.read(0), 0, 0)
        with pytest.raises(ConfigError) as caught:
            Augment(
                [
                    step_options({"name": "resized_crop"}),
                    step_options({"name": "mixup"}),
                    TransformOptions(name="Blur", p=3),
                ],
                AugmentContext("classification", RESIZE["longer"]),
            )
        assert [problem.split(":")[0] for problem in caught.value.problems] == [
            "data.resize",
            "data.augment",
            "data.augment.2.p",
        ]


def test_maps_are_ignored_where_no_image_is() -> None:
    small = Sample(0, Path("a"), image=np.ones((2, 3, 3), np.uint8), semantic=np.zeros((2, 3), np.int16))
    there = on_canvas(small, (4, 5), 1, 2, np.dtype(np.uint8))
    assert there.semantic is not None
    assert (there.semantic == 32767).sum() == 20 - 6
    assert (there.semantic[1:3, 2:5] == 0).all()
    assert np.iinfo(np.uint8).max == IGNORE


@pytest.mark.parametrize("task", [*TASKS, MULTITASK.name])
@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (1, np.uint8), (6, np.float32)])
def test_every_preset_works_on_any_image_and_crosses_to_worker_processes(task: str, channels: int, dtype: Any) -> None:
    samples = [replace(one, image=np.repeat(one.pixels[:, :, :1], channels, 2).astype(dtype)) for one in READER.samples]
    reader = Scenes(samples)
    context = AugmentContext(task, Resize(ResizeOptions(height=40, width=40)), classes=5)
    for name in PRESETS:
        augment = pickle.loads(pickle.dumps(Augment(name, context, channels=channels)))
        augment.check(reader, channels)
        for index in range(len(reader)):
            after, frame = augment(reader.read(index), 0, index, 0, reader)
            assert after.pixels.dtype == dtype
            assert after.pixels.shape == (*frame.size, channels)

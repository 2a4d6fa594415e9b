from __future__ import annotations

import pickle
import random
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehead.configs.augment import TransformOptions
from rehead.configs.resize import ResizeOptions
from rehead.data.sample import Sample
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext
from rehead.errors import ConfigError, ReheadError
from rehead.types import IGNORE

RESIZE = {
    "detection": Resize(ResizeOptions(shorter=40, longer=80)),
    "segmentation": Resize(ResizeOptions(shorter=40, longer=80)),
    "classification": Resize(ResizeOptions(shorter=40, crop=32)),
}
TASKS = list(RESIZE)


def augment_for(task: str, steps: Any = "light", seed: int = 0, **more: Any) -> Augment:
    return Augment(steps, AugmentContext(task, RESIZE[task], **more), seed)


AUGMENTS = {task: augment_for(task, seed=3) for task in TASKS}


def sample(task: str, height: int = 50, width: int = 70, channels: int = 3, dtype: Any = np.uint8) -> Sample:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, channels)).astype(dtype)
    one = Sample(image_id="a", path=Path("a.png"), image=pixels)
    if task == "detection":
        one.boxes = np.array([[5, 5, 20, 30], [0, 0, width, height], [30, 2, 31, 49]], np.float32)
        one.labels = np.array([4, 5, 6])
        one.iscrowd = np.array([False, True, False])
        one.areas = np.array([1, 2, 3], np.float32)
    elif task == "segmentation":
        one.semantic = pixels[:, :, 0].astype(np.uint8) % 5
    else:
        one.label = 3
    return one


def same(a: Sample, b: Sample) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y

    return all(equal(value, vars(b)[name]) for name, value in vars(a).items())


@settings(max_examples=40, deadline=None)
@given(
    task=st.sampled_from(TASKS),
    keys=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 100_000)), min_size=2, max_size=6, unique=True),
    shuffle=st.randoms(use_true_random=False),
)
def test_a_draw_depends_on_epoch_and_index_alone(
    task: str, keys: list[tuple[int, int]], shuffle: random.Random
) -> None:
    here = {key: AUGMENTS[task](sample(task), *key)[0] for key in keys}
    shuffle.shuffle(keys)
    other_worker = augment_for(task, seed=3)
    np.random.seed(shuffle.randrange(2**31))
    random.seed(shuffle.random())
    for key in keys:
        assert same(other_worker(sample(task), *key)[0], here[key])


@pytest.mark.parametrize("task", TASKS)
def test_epochs_indices_and_seeds_differ(task: str) -> None:
    other = augment_for(task, seed=4)
    drawn = [AUGMENTS[task](sample(task), epoch, index)[0] for epoch in range(4) for index in range(4)]
    drawn += [other(sample(task), epoch, index)[0] for epoch in range(4) for index in range(4)]
    different = {one.pixels.tobytes() for one in drawn}
    # Detection changes nothing in a quarter of the draws.
    assert len(different) > 16


def correlation(a: Any, b: Any) -> float:
    return abs(float(np.corrcoef(np.asarray(a, float), np.asarray(b, float))[0, 1]))


def test_transforms_draw_independently() -> None:
    """Whether one flips says nothing about the other flip, nor about whether the colour changes and by how much."""
    one = Sample(image_id=0, path=Path("a"), image=np.full((4, 6, 3), 100, np.uint8))
    one.pixels[:, :3] += 20
    one.pixels[:2] += 10
    steps = [
        TransformOptions(name="HorizontalFlip"),
        TransformOptions(name="VerticalFlip"),
        TransformOptions(name="RandomBrightnessContrast"),
    ]
    augment = Augment(steps, AugmentContext("detection", Resize(ResizeOptions(height=4, width=6))))
    across, down, changed, brightness = [], [], [], []
    for index in range(600):
        pixels = augment(one, 0, index)[0].pixels[:, :, 0].astype(int)
        across.append(pixels[0, 0] < pixels[0, -1])
        down.append(pixels[0, 0] < pixels[-1, 0])
        changed.append(set(np.unique(pixels)) != {100, 110, 120, 130})
        brightness.append(pixels.mean())
    for drawn in (across, down, changed):
        assert 0.4 < np.mean(drawn) < 0.6
    # Of 600 independent draws, a correlation has a standard deviation of 0.04.
    pairs = [(across, down), (across, changed), (down, changed), (across, brightness), (down, brightness)]
    assert all(correlation(a, b) < 0.16 for a, b in pairs)


@settings(max_examples=15, deadline=None)
@given(epoch=st.integers(0, 1000), index=st.integers(0, 1000), first=st.integers(0, 3), second=st.integers(0, 3))
def test_draws_do_not_follow_one_another(epoch: int, index: int, first: int, second: int) -> None:
    """Of steps, epochs, images and copies: the streams of any two are unrelated, and equal only if all are the same."""
    augment = AUGMENTS["detection"]
    paths = [(epoch, index, 0, first), (epoch, index, 0, second), (epoch + 1, index, 0, first)]
    paths += [(epoch, index + 1, 0, first), (epoch, index, 1, first), (epoch, index, 0, first, 0, second)]
    drawn = [augment._rng(path).random(400) for path in paths]
    for a in range(len(paths)):
        for b in range(a):
            if paths[a] == paths[b]:
                np.testing.assert_array_equal(drawn[a], drawn[b])
            else:
                assert correlation(drawn[a], drawn[b]) < 0.3


def test_a_step_at_the_end_leaves_the_draws_before_it_alone() -> None:
    flip, blur = TransformOptions(name="HorizontalFlip"), TransformOptions(name="Blur", p=1)
    short, long = augment_for("detection", [flip]), augment_for("detection", [flip, blur])
    boxes = [[augment(sample("detection"), 0, index)[0].boxes for index in range(20)] for augment in (short, long)]
    assert all(np.array_equal(a, b) for a, b in zip(*boxes, strict=True))  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(task=st.sampled_from(TASKS), height=st.integers(1, 120), width=st.integers(1, 120), index=st.integers(0, 1000))
def test_sizes_and_frames_are_those_of_the_resize(task: str, height: int, width: int, index: int) -> None:
    changed, frame = AUGMENTS[task](sample(task, height, width), 0, index)
    assert frame.original == (height, width)
    assert frame.size == changed.pixels.shape[:2] == RESIZE[task].size_for((height, width))
    assert frame.image_id == "a"
    assert changed.semantic is None or changed.semantic.shape == frame.size


@settings(max_examples=80, deadline=None)
@given(
    index=st.integers(0, 1000),
    corners=st.lists(st.tuples(*[st.floats(-300, 300, width=32)] * 4), max_size=5),
)
def test_boxes_lie_inside_and_keep_what_belongs_to_them(index: int, corners: list[tuple[float, ...]]) -> None:
    one = sample("detection")
    one.boxes = np.array(corners, np.float32).reshape(-1, 4)
    one.labels = np.arange(len(corners))
    one.areas = np.arange(len(corners), dtype=np.float32)
    one.iscrowd = np.arange(len(corners)) % 2 == 1
    changed, frame = AUGMENTS["detection"](one, 0, index)
    assert changed.boxes is not None
    assert changed.labels is not None
    assert changed.areas is not None
    assert changed.iscrowd is not None
    assert changed.boxes.dtype == np.float32
    assert (changed.boxes >= 0).all()
    assert (changed.boxes <= np.array([frame.size[1], frame.size[0]] * 2)).all()
    assert (changed.boxes[:, :2] < changed.boxes[:, 2:]).all()
    np.testing.assert_array_equal(changed.areas, changed.labels)
    np.testing.assert_array_equal(changed.iscrowd, changed.labels % 2 == 1)
    # Those with a pixel of their own inside the image are all still there.
    inside = np.clip(one.boxes, 0, [70, 50, 70, 50])
    large = ((inside[:, 2:] - inside[:, :2]) > 0.1).all(axis=1)
    assert set(np.flatnonzero(large)) <= set(changed.labels.tolist())


def test_boxes_as_thin_as_a_rounding_error_never_shift_the_labels_of_others() -> None:
    x = np.linspace(1, 69, 40, dtype=np.float32)
    thin = np.stack([x, x, np.nextafter(x, np.float32(99)), x + 5], axis=1)
    wide = np.stack([x - 1, x * 0, x + 1, x * 0 + 30], axis=1)
    for index in range(10):
        one = sample("detection")
        one.boxes = np.stack([thin, wide], axis=1).reshape(-1, 4)
        one.labels = np.tile([0, 1], 40)
        one.areas, one.iscrowd = np.zeros(80, np.float32), np.zeros(80, bool)
        changed, _ = AUGMENTS["detection"](one, 0, index)
        assert changed.boxes is not None
        assert changed.labels is not None
        assert changed.areas is not None
        assert len(changed.boxes) == len(changed.labels) == len(changed.areas)
        widths = changed.boxes[:, 2] - changed.boxes[:, 0]
        np.testing.assert_array_equal(changed.labels, widths > 0.5)
        assert changed.labels.sum() == 40


def test_a_flip_takes_boxes_and_masks_along() -> None:
    for task in ("detection", "segmentation"):
        one = Sample(image_id=0, path=Path("a"), image=np.zeros((40, 60, 3), np.uint8))
        one.pixels[10:20, 5:25] = 200
        if task == "detection":
            one.boxes, one.labels = np.array([[5, 10, 25, 20]], np.float32), np.array([0])
        else:
            one.semantic = (one.pixels[:, :, 0] > 0).astype(np.uint8)
        sides = set()
        for index in range(20):
            changed, _ = AUGMENTS[task](one, 0, index)
            white = changed.pixels[:, :, 0] > 100
            columns = np.flatnonzero(white.any(axis=0))
            sides.add(bool(columns.mean() > 30))
            if changed.boxes is not None:
                assert [columns[0], columns[-1] + 1] == changed.boxes[0, [0, 2]].round().tolist()
            else:
                assert changed.semantic is not None
                assert ((changed.semantic == 1) == white).mean() > 0.97
        assert sides == {True, False}


def test_segmentation_ignores_what_came_from_outside_the_image() -> None:
    one = Sample(
        image_id=0, path=Path("a"), image=np.full((40, 60, 3), 200, np.uint8), semantic=np.zeros((40, 60), np.uint8)
    )
    shares = []
    for index in range(60):
        changed, _ = AUGMENTS["segmentation"](one, 0, index)
        assert changed.semantic is not None
        assert set(np.unique(changed.semantic)) <= {0, IGNORE}
        assert (changed.pixels[changed.semantic == 0] > 60).mean() > 0.97
        shares.append((changed.semantic == IGNORE).mean())
    assert min(shares) == 0
    assert 0.2 < max(shares) < 0.7


def test_classification_crops_from_the_original_image() -> None:
    # What the resize would leave is coarse grey; the original holds fine stripes.
    one = Sample(image_id=0, path=Path("a"), label=1, image=np.zeros((400, 400, 3), np.uint8))
    one.pixels[:, ::2] = 255
    resize = Resize(ResizeOptions(shorter=300, crop=290))
    augment = Augment("light", AugmentContext("classification", resize))
    spread = max(float(augment(one, 0, index)[0].pixels.std()) for index in range(20))
    assert spread > 60


def test_where_an_image_may_have_several_classes_all_of_it_is_kept() -> None:
    one = Sample(image_id=0, path=Path("a"), label=np.ones(2, np.float32), image=np.zeros((60, 90, 3), np.uint8))
    one.pixels[:, :30], one.pixels[:, 60:] = (200, 0, 0), (0, 200, 0)
    resize = Resize(ResizeOptions(height=40, width=60))
    augment = Augment("light", AugmentContext("multi_label_classification", resize))
    changed = [augment(one, 0, index)[0].pixels for index in range(20)]
    for pixels in changed:
        assert [int((pixels[:, :, colour] > 100).sum()) for colour in (0, 1)] == [40 * 20, 40 * 20]
    assert len({pixels[0, 0, 0] > 100 for pixels in changed}) == 2


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (4, np.uint8), (6, np.uint8), (3, np.float32), (6, np.float32)]
)
@pytest.mark.parametrize("size", [(50, 70), (20, 25)])
def test_any_channels_and_floating_point(task: str, channels: int, dtype: Any, size: tuple[int, int]) -> None:
    for index in range(6):
        changed, frame = AUGMENTS[task](sample(task, *size, channels=channels, dtype=dtype), 0, index)
        assert changed.pixels.dtype == dtype
        assert changed.pixels.shape == (*frame.size, channels)
        assert changed.pixels.min() >= 0
        assert 100 < changed.pixels.max() <= 255


@pytest.mark.parametrize("task", TASKS)
def test_none_is_the_resize_alone(task: str) -> None:
    changed, frame = augment_for(task, "none")(sample(task), 1, 2)
    wanted, wanted_frame = RESIZE[task](sample(task))
    assert same(changed, wanted)
    assert frame == wanted_frame


def test_it_crosses_to_worker_processes_that_do_not_fork() -> None:
    copy = pickle.loads(pickle.dumps(AUGMENTS["detection"]))
    assert same(copy(sample("detection"), 0, 1)[0], AUGMENTS["detection"](sample("detection"), 0, 1)[0])


def test_unknown_presets_and_missing_sizes() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'lihgt'; did you mean 'light'"):
        augment_for("detection", "lihgt")
    with pytest.raises(ConfigError, match="classification needs one size for all"):
        Augment("light", AugmentContext("classification", RESIZE["detection"]))


def test_the_agpl_successor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = metadata.distribution
    monkeypatch.setattr(
        metadata, "distribution", lambda name: genuine("albumentations" if name == "albumentationsx" else name)
    )
    with pytest.raises(ReheadError, match=r"albumentationsx \(AGPL\).*albumentations==2\.0\.8.*data\.allow_albument"):
        augment_for("detection")
    augment_for("detection", "none")
    augment_for("detection", allow_albumentationsx=True)

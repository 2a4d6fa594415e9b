"""JPEGs of which less than all pixels are decoded: what is annotated stays where it is."""

from __future__ import annotations

import json
from dataclasses import replace
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
from rehead.configs.readers import CocoSplit, MasksSplit
from rehead.configs.resize import ResizeOptions
from rehead.data.image_io import EXIF_ORIENTATION, decode_image, read_image
from rehead.data.loader import evaluation_loader, make_loader
from rehead.data.sample import Sample
from rehead.data.sampler import BatchSampler, Key
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext
from rehead.datasets.formats.coco import CocoReader
from rehead.datasets.formats.masks import MasksReader
from rehead.errors import DataError

BOX = (128, 96, 300, 262)
"""x1, y1, x2, y2 of what is red."""


def picture(height: int = 401, width: int = 517, box: tuple[int, int, int, int] = BOX) -> np.ndarray:
    """A red rectangle on blue, with green corners, so that every orientation looks different."""
    image = np.full((height, width, 3), (20, 40, 200), np.uint8)
    image[:40, :60] = (0, 200, 0)
    image[box[1] : box[3], box[0] : box[2]] = (230, 20, 20)
    return image


def save(path: Path, image: np.ndarray, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(image).save(path, quality=95, exif=exif)
    return path


def red(image: np.ndarray) -> list[float]:
    """The box of what is red, an edge lying where the colour is half the one and half the other."""
    share = np.clip((image[:, :, 0].astype(float) - 20) / 210, 0, 1)
    found = []
    for axis in (0, 1):
        profile = share.max(axis=axis)
        inside = np.flatnonzero(profile > 0.5)
        first, last = int(inside[0]), int(inside[-1])
        found.append((first + 1 - profile[first - 1 : first + 1].sum(), last + profile[last : last + 2].sum()))
    (x1, x2), (y1, y2) = found
    return [x1, y1, x2, y2]


def coco(root: Path, boxes: dict[str, tuple[int, int, tuple[int, int, int, int]]]) -> CocoReader:
    """A data set of pictures of a (height, width) with a box, its polygon and a keypoint in its middle."""
    images, annotations = [], []
    for number, (name, (height, width, box)) in enumerate(boxes.items()):
        save(root / name, picture(height, width, box))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        x1, y1, x2, y2 = box
        annotations.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "area": (x2 - x1) * (y2 - y1),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                "keypoints": [(x1 + x2) / 2, (y1 + y2) / 2, 2],
                "num_keypoints": 1,
            }
        )
    categories = [{"id": 1, "name": "thing", "keypoints": ["middle"], "skeleton": []}]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    reader = CocoReader(CocoSplit(images=".", annotations="a.json"), root)
    reader.masks = True
    return reader


@pytest.fixture
def reader(tmp_path: Path) -> CocoReader:
    """Odd sizes, and boxes that end at the border."""
    return coco(
        tmp_path,
        {
            "a.jpg": (401, 517, BOX),
            "b.jpg": (519, 402, (130, 200, 402, 519)),
            "c.jpg": (400, 640, (99, 77, 640, 210)),
            "d.jpg": (487, 643, (301, 111, 402, 303)),
        },
    )


def always(factor: float) -> Any:
    return lambda size: factor


@pytest.mark.parametrize(("shrink", "reduction"), [(1.99, 1), (2, 2), (3.9, 2), (4, 4), (7.9, 4), (8, 8), (100, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_never_smaller_than_what_is_needed(tmp_path: Path, shrink: float, reduction: int, channels: int) -> None:
    path = save(tmp_path / "a.jpg", picture())
    image, found, full, _ = decode_image(path, channels, shrink=always(shrink))
    assert found == reduction
    assert full == (None if reduction == 1 else (401, 517))
    assert image.shape == (-(-401 // reduction), -(-517 // reduction), channels)
    assert image.dtype == np.uint8
    if reduction == 1:
        np.testing.assert_array_equal(image, read_image(path, channels))
    elif channels == 3:
        np.testing.assert_allclose(red(image), np.array(BOX) / reduction, atol=0.2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("by", ["camera", "annotation"])
@pytest.mark.parametrize("side", [401, 517])
def test_the_same_way_up_as_when_decoded_fully(tmp_path: Path, orientation: int, by: str, side: int) -> None:
    path = save(tmp_path / "a.jpg", picture(side), orientation)
    size = (side, 517) if by == "annotation" else None
    whole = read_image(path, size=size)
    image, reduction, full, _ = decode_image(path, 3, size, always(2))
    assert reduction == 2
    assert full == whole.shape[:2]
    theirs = cv2.resize(whole, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(theirs.astype(int) - image).mean() < 2


def test_only_a_jpeg_is_reduced(tmp_path: Path) -> None:
    for name in ("a.png", "a.webp", "a.tiff"):
        Image.fromarray(picture()).save(tmp_path / name)
        image, reduction, full, _ = decode_image(tmp_path / name, shrink=always(8))
        assert (reduction, full) == (1, None)
        np.testing.assert_array_equal(image, read_image(tmp_path / name))
    np.save(tmp_path / "a.npy", picture())
    assert decode_image(tmp_path / "a.npy", shrink=always(8)).reduction == 1
    deep = picture().astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert decode_image(tmp_path / "deep.png", shrink=always(8)).image.dtype == np.float32


@pytest.mark.parametrize("left", [0.3, 0.97])
def test_a_jpeg_cut_short_is_the_same_error(tmp_path: Path, left: float) -> None:
    path = save(tmp_path / "a.jpg", picture())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    with pytest.raises(DataError, match=r"a\.jpg: .*cut short"):
        decode_image(path, shrink=always(8))


def test_a_wrong_size_in_the_annotation_is_the_same_error(reader: CocoReader) -> None:
    save(reader.folder / "a.jpg", picture(400, 517))
    for shrink in (None, always(8)):
        with pytest.raises(DataError, match=r"a\.jpg: the image is 517x400 but its annotation says 517x401"):
            reader.read(0, 3, shrink)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    reduction=st.sampled_from([2, 4, 8]),
)
def test_maps_and_masks_take_the_pixel_under_the_centre(height: int, width: int, reduction: int) -> None:
    semantic = np.add.outer(np.arange(height), 100 * np.arange(width)).astype(np.int32)
    reduced = np.zeros((-(-height // reduction), -(-width // reduction), 3), np.uint8)
    one = Sample(0, Path("a"), image=reduced, semantic=semantic, masks=semantic[None].astype(np.uint8))
    one.reduction, one.full = reduction, (height, width)
    after = one.aligned()
    assert after.reduction == 1
    assert after.full_size == (height, width)
    assert after.semantic is not None
    assert after.masks is not None
    rows, columns = after.semantic[:, 0] % 100, after.semantic[0] // 100
    for found, side in ((rows, height), (columns, width)):
        centres = (np.arange(len(found)) + 0.5) * reduction
        assert (np.abs(found + 0.5 - np.minimum(centres, side)) <= 0.5).all()
    np.testing.assert_array_equal(after.masks[0], after.semantic.astype(np.uint8))


STEPS: dict[str, list[dict[str, Any]]] = {
    "resize": [],
    "multi_scale": [{"name": "multi_scale", "scale": [0.5, 1.5]}],
    "large_scale_jitter": [{"name": "large_scale_jitter", "scale": [0.3, 1.6]}],
    "canvas": [{"name": "large_scale_jitter", "scale": [0.3, 1.6], "canvas": [60, 80]}],
    "shorter": [{"name": "multi_scale", "shorter": [40, 70, 90]}],
    "resized_crop": [{"name": "resized_crop", "scale": [0.5, 1]}],
    "sometimes": [{"name": "multi_scale", "p": 0.5}, {"name": "HorizontalFlip"}],
}


def augment(steps: list[dict[str, Any]], reduced: bool = True, resize: Resize | None = None) -> Augment:
    resize = resize or Resize(ResizeOptions(shorter=90, longer=160))
    return Augment([step_options(step) for step in steps], AugmentContext("detection", resize), seed=3, reduced=reduced)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_what_is_annotated_lies_where_it_is_seen_and_where_it_lies_without(
    reader: CocoReader, steps: list[dict[str, Any]]
) -> None:
    ours, whole = augment(steps), augment(steps, reduced=False)
    reductions = set()
    for index in range(len(reader)):
        for epoch in range(4):
            key = Key(epoch, index)
            assert whole.shrink(*key) is None
            read = reader.read(index, 3, ours.shrink(*key))
            reductions.add(read.reduction)
            one, frame = ours(read, *key, reader)
            other, wanted = whole(reader.read(index), *key, reader)
            # The same draws: one size, one part, and nearly the same pixels.
            assert frame == wanted
            assert np.abs(one.pixels.astype(int) - other.pixels).mean() < 6
            assert one.boxes is not None
            assert other.boxes is not None
            assert one.boxes.shape == other.boxes.shape
            # The part and, where that cuts an object, its mask begin and end at whole pixels of what was decoded.
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1.5)
            if not len(one.boxes):
                continue
            (box,) = one.boxes
            assert one.keypoints is not None
            assert one.masks is not None
            height, width = frame.size
            # Where the object goes on beyond the picture, its edge is not to be seen.
            edges = np.array([box[0] > 1, box[1] > 1, box[2] < width - 1.5, box[3] < height - 1.5])
            framed = np.pad(one.pixels, ((1, 1), (1, 1), (0, 0)))
            np.testing.assert_allclose((np.array(red(framed)) - 1)[edges], box[edges], atol=0.5)
            rows, columns = np.flatnonzero(one.masks[0].any(1)), np.flatnonzero(one.masks[0].any(0))
            np.testing.assert_allclose([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], box, atol=1.01)
            assert other.keypoints is not None
            np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1)
    assert max(reductions) >= 4 if steps == [] else len(reductions) > 1


def test_a_step_that_comes_before_the_size_gets_the_whole_image(reader: CocoReader) -> None:
    crop = augment([{"name": "RandomCrop", "height": 300, "width": 300}, {"name": "multi_scale"}])
    shrink = crop.shrink(0, 0)
    assert shrink is not None
    assert shrink((4000, 4000)) == 1
    mosaic = augment([{"name": "mosaic", "p": 0.5}, {"name": "multi_scale"}])
    found = {reader.read(0, 3, mosaic.shrink(epoch, 0)).reduction for epoch in range(20)}
    assert 1 in found
    assert len(found) > 1


def test_the_other_images_of_a_step_are_reduced_alike(reader: CocoReader) -> None:
    steps = [{"name": "multi_scale", "scale": [0.5, 1]}, {"name": "mixup", "p": 1}]
    read: list[int] = []

    class Watched(CocoReader):
        def read(self, *arguments: Any) -> Sample:
            sample = CocoReader.read(self, *arguments)
            read.append(sample.reduction)
            return sample

    watched = Watched(CocoSplit(images=".", annotations="a.json"), reader.folder)
    ours = augment(steps)
    for index in range(len(reader)):
        sample = watched.read(index, 3, ours.shrink(0, index))
        one, frame = ours(sample, 0, index, 0, watched)
        assert one.boxes is not None
        assert len(one.boxes) == 2
        assert (one.boxes[:, 2:] <= np.array(frame.size[::-1]) + 1e-3).all()
    assert len(read) == 2 * len(reader)
    assert min(read) > 1


def test_workers_and_ranks_change_nothing(reader: CocoReader) -> None:
    chosen = augment([*STEPS["multi_scale"], {"name": "mixup", "p": 0.5}, {"name": "HorizontalFlip"}])
    made = []
    for workers, world in ((0, 1), (2, 1), (1, 2)):
        images: dict[Any, Any] = {}
        for rank in range(world):
            batches = BatchSampler(4, 4 // world, 1, shuffle=True, rank=rank, world=world).batches(2)
            loader = make_loader(reader, resize=chosen.resize, augment=chosen, batches=batches, workers=workers)
            for batch, targets in loader:
                for pixels, frame, target in zip(batch.pixels, batch.frames, targets, strict=True):
                    assert target.boxes is not None
                    inside = pixels[:, : frame.size[0], : frame.size[1]]
                    images[frame.image_id] = (inside.numpy().tobytes(), target.boxes.numpy().tobytes())
        made.append(images)
    assert made[0] == made[1] == made[2]


def test_evaluation_decodes_fully_unless_asked(reader: CocoReader) -> None:
    resize = Resize(ResizeOptions(shorter=100))
    ((batch, truths),) = evaluation_loader(reader, resize=resize, batch_size=4)
    ((less, same),) = evaluation_loader(reader, resize=resize, batch_size=4, reduced=True)
    for row, truth in enumerate(truths):
        wanted, _ = resize(Sample(0, truth.path, image=read_image(truth.path)))
        height, width = wanted.pixels.shape[:2]
        np.testing.assert_array_equal(batch.pixels[row, :, :height, :width].permute(1, 2, 0).numpy(), wanted.pixels)
        # The annotation stays in original pixels either way.
        assert same[row].size == truth.size == reader[row].size
        assert (same[row].reduction, same[row].full) == (1, None)
        np.testing.assert_array_equal(same[row].boxes, reader[row].boxes)
        np.testing.assert_array_equal(same[row].masks, truth.masks)
    assert less.frames == batch.frames
    difference = (less.pixels.int() - batch.pixels.int()).abs().float()
    assert 0 < difference.mean() < 6
    assert not torch.equal(less.pixels, batch.pixels)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_class_maps_follow(tmp_path: Path, steps: list[dict[str, Any]]) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "images/a.jpg", picture())
    semantic = np.zeros((401, 517), np.uint8)
    semantic[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    cv2.imwrite(str(tmp_path / "masks/a.png"), semantic)
    maps = MasksReader(MasksSplit(images="images", masks="masks"), tmp_path, ["ground", "thing"])
    resize = Resize(ResizeOptions(shorter=90, longer=160))
    ours = Augment([step_options(step) for step in steps], AugmentContext("segmentation", resize), seed=3, reduced=True)
    for epoch in range(4):
        read = maps.read(0, 3, ours.shrink(epoch, 0))
        after, _ = ours(read, epoch, 0, 0, maps)
        assert after.semantic is not None
        seen = after.pixels[:, :, 0] > 125
        assert (seen == after.semantic).mean() > 0.985


def test_a_sample_that_was_not_reduced_is_its_own(reader: CocoReader) -> None:
    one = reader.read(0)
    assert one.aligned() is one
    assert one.full_size == (401, 517)
    assert replace(one, full=(802, 1034)).full_size == (802, 1034)

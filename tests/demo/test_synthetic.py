import contextlib
import io
import json
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from rehead.demo.synthetic import (
    LEAST_VISIBLE,
    MASK_CLASSES,
    SHAPES,
    SMALLEST,
    Scene,
    draw_scene,
    draw_tile,
    write_classification,
    write_scenes,
)
from rehead.errors import DataError

SIZE = 64


def scenes(count: int = 40, objects: int | range = range(1, 5)) -> list[Scene]:
    return [draw_scene(np.random.default_rng(index), SIZE, objects) for index in range(count)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, "train", 12, SIZE, seed=3)
    write_scenes(folder, "val", 12, SIZE, seed=3)
    return folder


def test_a_scene_has_the_documented_shapes_and_types() -> None:
    for scene in scenes(10):
        n = len(scene.labels)
        assert n >= 1
        assert (scene.image.shape, scene.image.dtype) == ((SIZE, SIZE, 3), np.uint8)
        assert (scene.boxes.shape, scene.boxes.dtype) == ((n, 4), np.float32)
        assert (scene.labels.shape, scene.labels.dtype) == ((n,), np.int64)
        assert (scene.masks.shape, scene.masks.dtype) == ((n, SIZE, SIZE), np.bool_)
        assert (scene.semantic.shape, scene.semantic.dtype) == ((SIZE, SIZE), np.uint8)


def test_the_generator_decides_everything() -> None:
    one, same, other = (draw_scene(np.random.default_rng(seed), SIZE) for seed in (5, 5, 6))
    for name in ("image", "boxes", "labels", "masks", "semantic"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert (one.image != other.image).any()


def test_boxes_are_tight_around_the_visible_pixels() -> None:
    for scene in scenes():
        for (x1, y1, x2, y2), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0
            for edge in (mask[y1, x1:x2], mask[y2 - 1, x1:x2], mask[y1:y2, x1], mask[y1:y2, x2 - 1]):
                assert edge.any()


def test_every_pixel_belongs_to_one_object_or_to_the_background() -> None:
    for scene in scenes():
        assert scene.masks.sum(0).max() == 1
        expected = (scene.masks * (scene.labels + 1)[:, None, None]).sum(0)
        np.testing.assert_array_equal(scene.semantic, expected)


def test_masks_lie_on_what_is_seen() -> None:
    # Colour changes across an outline: the edges of masks are edges of the picture far more often than chance.
    on_edges, elsewhere = [], []
    for scene in scenes():
        grey = cv2.GaussianBlur(cv2.cvtColor(scene.image, cv2.COLOR_RGB2LAB).astype(np.float32), (0, 0), 1)
        slope = np.abs(np.diff(grey, axis=1)).sum(2)
        edge = np.diff(scene.semantic.astype(int), axis=1) != 0
        on_edges.append(slope[edge].mean())
        elsewhere.append(slope[~edge].mean())
    assert np.mean(on_edges) > 3 * np.mean(elsewhere)


def test_covered_objects_stay_recognisable() -> None:
    crowded = scenes(60, objects=4)
    touching = 0
    for scene in crowded:
        dilated = [cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) for mask in scene.masks]
        touching += any((a & b).any() for i, a in enumerate(dilated) for b in dilated[:i])
        for (x1, y1, x2, y2), label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            # The smallest solid form, a star of the least size, is about a fifth of its diameter's square.
            whole = 0.2 * (0.2 * SIZE) ** 2
            assert mask.sum() >= LEAST_VISIBLE * whole * 0.7, (SHAPES[label], x1, y1, x2, y2)
    assert 3 <= touching <= 50, "some objects should overlap, but most scenes should be easy to read"


@pytest.mark.parametrize("objects", [1, 3])
def test_the_number_of_objects_is_an_upper_limit(objects: int) -> None:
    counts = Counter(len(scene.labels) for scene in scenes(30, objects))
    assert max(counts) == objects
    assert counts[objects] > 20


def test_scenes_hold_one_to_four_objects_of_every_class() -> None:
    drawn = scenes(80)
    assert {len(scene.labels) for scene in drawn} == {1, 2, 3, 4}
    assert {int(label) for scene in drawn for label in scene.labels} == set(range(len(SHAPES)))


def test_a_tile_shows_its_class_large_and_alone() -> None:
    for label in range(len(SHAPES)):
        for index in range(5):
            scene = draw_tile(np.random.default_rng(index), SIZE, label)
            assert scene.labels.tolist() == [label]
            assert (scene.boxes[0, 2:] - scene.boxes[0, :2]).max() > 0.2 * SIZE


def test_only_a_ring_has_a_hole() -> None:
    for label, name in enumerate(SHAPES):
        for index in range(8):
            mask = draw_tile(np.random.default_rng(index), SIZE, label).masks[0].astype(np.uint8)
            _, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            assert (hierarchy[0, :, 3] >= 0).any() == (name == "ring"), (name, index)


def test_classes_do_not_differ_in_colour() -> None:
    # The mean colour of a class is within its own sampling error of the mean of all (four standard errors).
    colours = [
        [draw_tile(np.random.default_rng([label, i]), 32, label) for i in range(40)] for label in range(len(SHAPES))
    ]
    means = np.asarray([[scene.image[scene.masks[0]].mean(0) for scene in tiles] for tiles in colours])
    error = means.std(axis=(0, 1)) / np.sqrt(means.shape[1])
    assert (np.abs(means.mean(1) - means.mean((0, 1))) < 4 * error).all()


def test_classification_folders_are_balanced(tmp_path: Path) -> None:
    write_classification(tmp_path, "train", 20, 32, seed=0)
    counts = {folder.name: len(list(folder.glob("*.png"))) for folder in (tmp_path / "train").iterdir()}
    assert set(counts) == set(SHAPES)
    assert sum(counts.values()) == 20
    assert max(counts.values()) - min(counts.values()) <= 1
    assert read(tmp_path / "train" / "star" / "00001.png").shape == (32, 32, 3)


def test_files_are_pure_functions_of_seed_split_and_index(tmp_path: Path) -> None:
    # Also says that the files are RGB, and that a folder holds pictures of its class.
    write_classification(tmp_path, "train", len(SHAPES), 32, seed=7)
    for label, name in enumerate(SHAPES):
        rng = np.random.default_rng([7, zlib.crc32(b"tiles/train"), label])
        written = read(tmp_path / "train" / name / "00001.png")[:, :, ::-1]
        np.testing.assert_array_equal(written, draw_tile(rng, 32, label).image)


@pytest.mark.parametrize("write", [write_classification, write_scenes])
def test_files_are_the_same_for_the_same_seed_only(write, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(tmp_path / folder, "train", 6, 32, seed)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a") != files(tmp_path / "c")


@pytest.mark.parametrize("write", [write_classification, write_scenes])
def test_splits_share_no_picture(write, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path, split, 12, 32, 0)
    pictures = [set(files(tmp_path / split).values()) for split in ("train", "val")]
    assert [len(found) for found in pictures] == [12, 12]
    assert not pictures[0] & pictures[1]


def test_a_longer_set_starts_with_the_shorter_one(tmp_path: Path) -> None:
    write_scenes(tmp_path, "train", 3, 32, 0)
    short = files(tmp_path / "train")
    write_scenes(tmp_path, "train", 5, 32, 0)
    longer = files(tmp_path / "train")
    assert len(longer) == 5
    assert short.items() <= longer.items()


def test_pycocotools_reads_the_annotations_and_agrees_with_the_masks(root: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(root / "annotations" / "train.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(SHAPES)
    assert coco.getCatIds() == list(range(1, len(SHAPES) + 1))
    assert len(coco.getImgIds()) == 12
    for image in coco.loadImgs(coco.getImgIds()):
        assert read(root / "train" / image["file_name"]).shape == (image["height"], image["width"], 3)
        semantic = np.zeros((SIZE, SIZE), np.uint8)
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert annotations
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            x, y, width, height = annotation["bbox"]
            assert x >= 0
            assert y >= 0
            assert x + width <= SIZE
            assert y + height <= SIZE
            rows, columns = np.nonzero(mask)
            assert [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] == [x, y, width, height]
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            semantic[mask] = annotation["category_id"]
        np.testing.assert_array_equal(read(root / "train_masks" / image["file_name"]), semantic)


def test_annotation_ids_are_unique_and_start_at_one(root: Path) -> None:
    # pycocotools takes an annotation id of 0 for "no match" when it scores.
    ids = [annotation["id"] for annotation in json.loads((root / "annotations/val.json").read_text())["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_masks_have_one_channel_of_known_values(root: Path) -> None:
    for path in sorted((root / "val_masks").iterdir()):
        mask = read(path)
        assert (mask.ndim, mask.dtype) == (2, np.uint8)
        assert mask.max() < len(MASK_CLASSES)
        assert (root / "val" / path.name).is_file()


@pytest.mark.parametrize(
    "place",
    ["train/holiday.jpg", "train/00009.png", "train_masks/00009.png"],
)
def test_foreign_files_in_the_folder_are_an_error_and_nothing_is_written(place: str, tmp_path: Path) -> None:
    stranger = tmp_path / place
    stranger.parent.mkdir()
    stranger.write_bytes(b"not ours")
    with pytest.raises(DataError, match=stranger.name):
        write_scenes(tmp_path, "train", 3, 32, 0)
    assert files(tmp_path) == {place: b"not ours"}


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / ".00001-x1y2.png").write_bytes(b"half")
    write_scenes(tmp_path, "train", 2, 32, 0)
    assert (tmp_path / "annotations" / "train.json").is_file()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: draw_scene(np.random.default_rng(0), SMALLEST - 1), f"size {SMALLEST - 1}"),
        (lambda path: draw_scene(np.random.default_rng(0), SIZE, 0), "objects=0"),
        (lambda path: draw_scene(np.random.default_rng(0), SIZE, range(0)), "at least one object"),
        (lambda path: draw_tile(np.random.default_rng(0), SIZE, len(SHAPES)), f"found {len(SHAPES)}"),
        (lambda path: write_scenes(path, "train", 0, SIZE, 0), "at least one picture"),
        (lambda path: write_scenes(path, "train", 1, SIZE, -1), "found -1"),
        (lambda path: write_classification(path, "train", 6, 8, 0), "size 8"),
    ],
)
def test_bad_input_is_named(call, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        call(tmp_path)

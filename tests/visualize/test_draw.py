from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rehead.types import IGNORE
from rehead.visualize import draw

NAMES = ["a", "traffic light", "x" * 60, *(f"class {i}" for i in range(77))]
SIZES = st.sampled_from([(96, 96), (20, 300), (300, 20), (1, 1), (240, 320), (480, 640)])


@settings(max_examples=60, deadline=None)
@given(
    size=SIZES,
    corners=st.lists(st.tuples(*[st.floats(-50, 700, width=32)] * 4), max_size=12),
    label=st.integers(0, 79),
    scored=st.booleans(),
)
def test_any_box_can_be_drawn(size: tuple[int, int], corners: list[Any], label: int, scored: bool) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    labels = (np.arange(len(boxes)) + label) % 80
    picture = draw.draw_boxes(image, boxes, labels, NAMES, np.linspace(0, 1, len(boxes)) if scored else None)
    factor = draw.enlargement(image)
    assert picture.dtype == np.uint8
    assert picture.shape == (size[0] * factor, size[1] * factor, 3)
    assert (image == 90).all()
    assert len(boxes) == 0 or (picture != 90).any()


def test_a_box_has_the_colour_of_its_class_along_its_edges() -> None:
    picture = draw.draw_boxes(np.zeros((400, 400, 3), np.uint8), np.array([[50, 100, 300, 350]]), np.array([4]), NAMES)
    for y, x in ((200, 50), (200, 299), (349, 200)):
        assert tuple(picture[y, x].tolist()) == draw.colour_of(4)
    assert not picture[150:300, 100:250].any()


def test_names_lie_inside_the_picture_wherever_the_box_is(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[draw.Box] = []
    genuine = draw._tag

    def noted(*arguments: Any) -> None:
        genuine(*arguments)
        places.extend(arguments[-1])

    monkeypatch.setattr(draw, "_tag", noted)
    for box in ([0, 0, 30, 30], [280, 0, 300, 10], [0, 190, 10, 200], [290, 195, 300, 200], [0, 0, 300, 200]):
        for label in range(3):
            draw.draw_boxes(np.zeros((200, 300, 3), np.uint8), np.array([box]), np.array([label]), NAMES, np.ones(1))
    assert len(places) == 15
    assert all(0 <= x1 < x2 <= 300 and 0 <= y1 < y2 <= 200 for x1, y1, x2, y2 in places)


def test_names_never_cover_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[draw.Box] = []
    genuine = draw._tag

    def noted(*arguments: Any) -> None:
        genuine(*arguments)
        taken[:] = arguments[-1]

    monkeypatch.setattr(draw, "_tag", noted)
    boxes = np.random.default_rng(0).uniform(0, 300, (40, 4))
    boxes[:, 2:] += boxes[:, :2]
    draw.draw_boxes(np.zeros((400, 400, 3), np.uint8), boxes, np.arange(40), NAMES, np.linspace(0, 1, 40))
    assert len(taken) > 10
    assert not any(draw._overlaps(a, np.array(taken[:i]).reshape(-1, 4)) for i, a in enumerate(taken))


def test_names_never_cover_small_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[draw.Box] = []
    genuine = draw._tag

    def noted(*arguments: Any) -> None:
        genuine(*arguments)
        taken[:] = arguments[-1]

    monkeypatch.setattr(draw, "_tag", noted)
    # A crowd of small objects, one at every edge, and a large one around all of them.
    corners = [(x, y) for x in range(0, 400, 40) for y in range(0, 400, 40)]
    small = np.array([(x, y, x + 12, y + 9) for x, y in corners], float)
    boxes = np.concatenate([small, [(0, 0, 400, 400)]])
    draw.draw_boxes(np.zeros((400, 400, 3), np.uint8), boxes, np.arange(len(boxes)) % 80, NAMES)
    assert taken
    assert not any(draw._overlaps(place, small) for place in taken)


def test_class_maps_are_coloured_with_a_legend_of_what_occurs() -> None:
    semantic = np.full((300, 400), IGNORE, np.uint8)
    semantic[:100], semantic[100:200] = 2, 5
    names = ["a", "b", "c", "d", "e", "f"]
    picture = draw.draw_semantic(np.full((300, 400, 3), 200, np.uint8), semantic, names)
    assert picture.shape[1:] == (400, 3)
    assert 10 < picture.shape[0] - 300 < 60
    for row, label in ((50, 2), (150, 5)):
        wanted = 0.45 * 200 + 0.55 * np.array(draw.colour_of(label))
        np.testing.assert_allclose(picture[row, 200], wanted, atol=1)
    assert picture[250, 200].tolist() == [100, 100, 100]
    legend = {tuple(pixel) for pixel in picture[300:].reshape(-1, 3).tolist()}
    assert [draw.colour_of(label) in legend for label in range(6)] == [False, False, True, False, False, True]


def test_background_keeps_the_images_colours_and_classes_those_of_their_boxes() -> None:
    semantic = np.zeros((300, 400), np.uint8)
    semantic[100:] = 1
    picture = draw.draw_semantic(np.full((300, 400, 3), 200, np.uint8), semantic, ["background", "cat"])
    assert picture[50, 200].tolist() == [200, 200, 200]
    np.testing.assert_allclose(picture[200, 200], 0.45 * 200 + 0.55 * np.array(draw.colour_of(0)), atol=1)


@settings(max_examples=30, deadline=None)
@given(size=SIZES, count=st.integers(1, 80), seed=st.integers(0, 9))
def test_any_class_map_can_be_drawn(size: tuple[int, int], count: int, seed: int) -> None:
    semantic = np.random.default_rng(seed).integers(0, count, size).astype(np.uint8)
    picture = draw.draw_semantic(np.zeros((*size, 3), np.uint8), semantic, NAMES[:count])
    factor = draw.enlargement(semantic)
    assert picture.shape[1] == size[1] * factor
    assert picture.shape[0] > size[0] * factor


@settings(max_examples=30, deadline=None)
@given(size=SIZES, labels=st.lists(st.integers(0, 79), max_size=12, unique=True), scored=st.booleans())
def test_any_classes_are_listed_below_the_image(size: tuple[int, int], labels: list[int], scored: bool) -> None:
    image = np.full((*size, 3), 90, np.uint8)
    scores = np.linspace(1, 0.5, len(labels)).tolist() if scored else None
    picture = draw.draw_classes(image, labels, NAMES, scores)
    factor = draw.enlargement(image)
    assert picture.shape[1] == size[1] * factor
    assert (picture[: size[0] * factor] == 90).all()
    below = {tuple(colour) for colour in picture[size[0] * factor :].reshape(-1, 3).tolist()}
    assert len(below) > 1
    if size[1] * factor > 100:
        assert {draw.colour_of(label) for label in labels} <= below


@pytest.mark.parametrize(("good", "channel"), [(True, 1), (False, 0)])
def test_right_is_green_and_wrong_is_red(good: bool, channel: int) -> None:
    picture = draw.draw_label(np.full((300, 300, 3), 128, np.uint8), "cat 0.98", good)
    assert picture.shape == (300, 300, 3)
    assert picture[0, 0].argmax() == picture[-1, 5].argmax() == channel
    assert picture[100, 100].tolist() == [128, 128, 128]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 50, 1), np.uint8),
        np.zeros((40, 50, 6), np.uint8),
        np.full((40, 50, 2), 300.0, np.float32),
    ],
)
def test_pictures_of_images_of_any_channels(image: Any) -> None:
    for picture in (
        draw.draw_boxes(image, np.zeros((0, 4)), np.zeros(0, int), NAMES),
        draw.draw_semantic(image, np.zeros((40, 50), np.uint8), NAMES),
        draw.draw_label(image, NAMES[2]),
        draw.sheet([image], 1),
    ):
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3


def test_small_images_are_enlarged_by_a_whole_factor() -> None:
    assert [draw.enlargement(np.zeros((side, side // 2, 3))) for side in (96, 128, 224, 1920)] == [3, 2, 1, 1]


def test_a_sheet_holds_every_tile_untouched() -> None:
    tiles = [np.full((20 + 7 * i, 60 - 5 * i, 3), 10 + i, np.uint8) for i in range(5)]
    page = draw.sheet(tiles, 3, ["one", "", "", "two", ""])
    for i, tile in enumerate(tiles):
        assert (page == 10 + i).all(axis=2).sum() == tile.shape[0] * tile.shape[1]
    plain = draw.sheet(tiles, 3)
    assert plain.shape[1] == page.shape[1]
    assert plain.shape[0] < page.shape[0]
    assert draw.sheet(tiles[:2], 9).shape[1] < 150


def test_class_colours_are_distinct_and_constant() -> None:
    colours = [draw.colour_of(label) for label in range(80)]
    assert len(set(colours)) == 80
    first = np.array(colours[:12], float)
    distances = np.linalg.norm(first[:, None] - first[None], axis=2) + 999 * np.eye(12)
    assert distances.min() > 50


def test_saving_reads_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    draw.save(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_many_masks_on_one_place_hide_the_image_no_more_than_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    masks = np.zeros((8, 300, 400), np.uint8)
    masks[:, 50:250, 50:350] = 1
    one = draw.draw_instances(image, masks[:1], np.zeros(1, int))
    many = draw.draw_instances(image, masks, np.zeros(8, int))
    np.testing.assert_array_equal(many, one)


class TestHostileSizes:
    @pytest.mark.parametrize("name", ["x" * 100_000, "a\nb" * 9, "\u202e\0\x1b[2J", "\ud800", "", "\u732b" * 5000])
    def test_any_name_can_be_drawn_and_is_cut_to_what_fits(self, name: str) -> None:
        image = np.zeros((400, 400, 3), np.uint8)
        box, label = np.array([[50, 100, 300, 350]]), np.array([0])
        assert draw.draw_boxes(image, box, label, [name], np.ones(1)).shape == (400, 400, 3)
        assert draw.draw_label(image, name).shape == (400, 400, 3)
        assert draw.draw_semantic(image, np.zeros((400, 400), np.uint8), [name]).shape[0] < 500
        assert draw.draw_classes(image, [0], [name]).shape[0] < 500

    def test_cutting_a_name_measures_it_a_few_times_not_once_for_each_of_its_characters(self) -> None:
        measured: list[int] = []

        class Font:
            def getlength(self, text: str) -> float:
                measured.append(len(text))
                return 10.0 * len(text)

        assert draw._shortened("x" * 100_000, Font(), 105) == "x" * 9 + "…"
        assert len(measured) < 20
        assert max(measured) < 1000

    def test_a_picture_of_a_very_large_image_is_smaller_and_its_boxes_are_where_they_were(self) -> None:
        image = np.zeros((1000, 5 * draw.LARGEST, 3), np.uint8)
        box = np.array([[10_000.0, 200, 15_000, 800]])
        picture = draw.draw_boxes(image, box, np.array([4]), NAMES)
        assert picture.shape == (200, draw.LARGEST, 3)
        for y, x in ((40, 2500), (159, 2500), (100, 2000), (100, 2999)):
            assert tuple(picture[y, x].tolist()) == draw.colour_of(4)

    def test_so_are_masks_and_points_and_class_maps(self) -> None:
        image = np.zeros((100, 2 * draw.LARGEST, 3), np.uint8)
        semantic = np.zeros((100, 2 * draw.LARGEST), np.uint8)
        semantic[:, draw.LARGEST :] = 1
        under = draw.draw_instances(image, semantic[None], np.array([4]))
        assert under.shape == (50, draw.LARGEST, 3)
        assert under[25, draw.LARGEST // 2 - 9].max() == 0
        assert under[25, draw.LARGEST // 2 + 9].max() > 0
        boxed = draw.draw_boxes(under, np.array([[0.0, 0, 200, 100]]), np.array([4]), NAMES, size=image.shape)
        assert tuple(boxed[25, 99].tolist()) == draw.colour_of(4)
        pointed = draw.draw_keypoints(under, np.array([[[8000.0, 50, 1]]]), image.shape)
        assert pointed[25, 4000].tolist() == list(draw.colour_of(0))
        assert draw.draw_semantic(image, semantic, ["a", "b"]).shape[1] == draw.LARGEST

    def test_thousands_of_boxes_are_drawn_with_the_names_of_the_best(self, monkeypatch: pytest.MonkeyPatch) -> None:
        named: list[str] = []
        monkeypatch.setattr(draw, "_tag", lambda pen, size, box, text, *_: named.append(text))
        count = 3000
        boxes = np.tile([[1.0, 1, 300, 300]], (count, 1))
        scores = np.linspace(0, 1, count)
        draw.draw_boxes(np.zeros((400, 400, 3), np.uint8), boxes, np.zeros(count, int), ["a"], scores)
        assert len(named) == draw.MOST_NAMES
        assert named[0] == "a 1.00"

    def test_a_legend_of_thousands_of_classes_says_how_many_more_there_are(self) -> None:
        labels = list(range(30_000))
        picture = draw.draw_classes(np.zeros((400, 400, 3), np.uint8), labels, [f"class {n}" for n in labels])
        assert picture.shape[0] < 4000

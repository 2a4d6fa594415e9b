"""No table of Hugging Face's ends in a traceback: rows are read right or named, and `data check` goes on with the rest.

Types of columns are changed, values are missing, huge or not numbers, images cut; and files of a saved table mutated.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import CHANGES, SETTINGS, mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rehead.configs.readers import HuggingFaceSplit
from rehead.configs.schema import DataOptions
from rehead.datasets.audit.run import check_data
from rehead.datasets.detect_format import detect_format
from rehead.datasets.formats.huggingface import _content
from rehead.datasets.open import open_reader
from rehead.errors import DataError, ReheadError

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

FEW, MANY = 15, 600


def _png(mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8) if mode == "L" else (6, 8, 3), 1, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


NUMBERS = [None, 0, 1, -1, 3, 2**40, 1e300, float("nan"), float("inf")]
IMAGES: list[Any] = [
    *(None, {"bytes": b"", "path": None}, {"bytes": _png()[:40], "path": None}, {"bytes": b"x" * 99, "path": None}),
    *({"bytes": _png("L"), "path": None}, {"bytes": _png(), "path": "\0"}, {"bytes": _png(), "path": None}),
]
BOXES = [None, [], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, -3.0, 4.0], [None, 1.0, 1.0, 1.0], [1e300] * 4]
KINDS = {
    "class": datasets.ClassLabel(names=["cat", "dog"]),
    "whole": datasets.Value("int64"),
    "text": datasets.Value("string"),
    "float": datasets.Value("float64"),
}
VALUES = {
    "class": [0, 1, None, -1],
    "whole": [0, 1, None, -1, 2**62],
    "text": ["cat", "", None, "x" * 5000, "\0", "a\nb"],
    "float": NUMBERS,
}


@st.composite
def tables(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(list(KINDS)))
    box = datasets.List(datasets.Value("float64"))
    listed = draw(st.booleans())
    inner = {"bbox": box, "category": KINDS[kind], "iscrowd": datasets.Value("bool")}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "map": datasets.Image(),
            "label": KINDS["class"],
            "objects": datasets.List(inner) if listed else {name: datasets.List(own) for name, own in inner.items()},
        }
    )
    rows: dict[str, list[Any]] = {name: [] for name in features}
    for _ in range(draw(st.integers(0, 3))):
        rows["image"].append(draw(st.sampled_from(IMAGES)))
        rows["map"].append(draw(st.sampled_from(IMAGES)))
        rows["label"].append(draw(st.sampled_from(VALUES["class"])))
        one = st.fixed_dictionaries(
            {
                "bbox": st.sampled_from(BOXES),
                "category": st.sampled_from(VALUES[kind]),
                "iscrowd": st.sampled_from([None, True, False]),
            }
        )
        if listed:
            rows["objects"].append(draw(st.none() | st.lists(st.none() | one, max_size=2)))
        else:
            lengths = draw(st.tuples(*[st.integers(0, 2)] * 3))
            own = [
                draw(st.lists(value, min_size=n, max_size=n))
                for value, n in zip(
                    (st.sampled_from(BOXES), st.sampled_from(VALUES[kind]), st.booleans()), lengths, strict=True
                )
            ]
            rows["objects"].append(draw(st.none() | st.just(dict(zip(inner, own, strict=True)))))
    return datasets.Dataset.from_dict(rows, features=features)


def use(root: Path) -> None:
    """Everything that a training or a check asks of a table; what it gives must make sense."""
    split = HuggingFaceSplit(dataset="data", split="train")
    for task in ("detection", "classification", "segmentation"):
        more: dict[str, Any] = {"classes": ["a", "b"]} if task == "segmentation" else {}
        options = DataOptions(format="huggingface", root=str(root), train=split, **more)
        try:
            reader = open_reader(options, "train", task=task)
        except ReheadError:
            continue
        for row in range(len(reader)):
            annotation = reader[row]
            if annotation.boxes is not None:
                assert annotation.labels is not None
                assert np.isfinite(annotation.boxes).all()
                assert ((annotation.labels >= 0) & (annotation.labels < len(reader.classes))).all()
            if annotation.label is not None:
                assert annotation.label in (0, 1)
    for ask in (lambda: detect_format(root, set()), lambda: check_data(root, workers=0)):
        try:
            ask()
        except ReheadError:
            continue


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REHEAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "root"


def fuzz_values(root: Path, examples: int) -> None:
    @settings(max_examples=examples, **SETTINGS)
    @given(tables())
    def check(table: Any) -> None:
        shutil.rmtree(root, ignore_errors=True)
        datasets.DatasetDict({"train": table}).save_to_disk(str(root / "data"))
        use(root)

    check()


def fuzz_files(root: Path, examples: int) -> None:
    rows = {"image": [{"bytes": _png(), "path": None}] * 2, "label": [0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": KINDS["class"]})
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table}).save_to_disk(str(root / "data"))
    good = {path: path.read_bytes() for path in sorted((root / "data").rglob("*")) if path.is_file()}

    @settings(max_examples=examples, **SETTINGS)
    @given(st.sampled_from(list(good)), CHANGES)
    def check(path: Path, changes: list[tuple[str, float, float, bytes]]) -> None:
        path.write_bytes(mutated(good[path], changes))
        use(root)
        path.write_bytes(good[path])

    check()


def test_any_values(root: Path) -> None:
    fuzz_values(root, FEW)


def test_any_files(root: Path) -> None:
    fuzz_files(root, FEW)


@pytest.mark.parametrize(
    "cell", [{"bytes": None, "path": path} for path in ("/dev/zero", "\0", "nowhere.png", "/", "x" * 5000, None)]
)
def test_images_that_a_table_only_names(cell: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        _content(cell, tmp_path)


@pytest.mark.matrix
def test_any_values_for_long(root: Path) -> None:
    fuzz_values(root, MANY)


@pytest.mark.slow
def test_any_files_for_long(root: Path) -> None:
    fuzz_files(root, MANY)


def test_the_check_names_rows_and_goes_on(root: Path) -> None:
    image = {"bytes": _png(), "path": None}
    inner = {"bbox": datasets.List(datasets.Value("float64")), "category": KINDS["class"]}
    features = datasets.Features({"image": datasets.Image(), "objects": datasets.List(inner)})
    right = {"bbox": [1.0, 1.0, 2.0, 2.0], "category": 0}
    rows = {
        "image": [image, {"bytes": _png()[:40], "path": None}, image, None],
        "objects": [[right, {"bbox": [1.0], "category": 0}], [right], [{**right, "category": None}, right], []],
    }
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table}).save_to_disk(str(root / "data"))
    checked = check_data(root, workers=0)
    said = [(one.code, one.message) for one in checked.findings[: checked.read]]
    assert [code for code, _ in said] == [
        "broken_annotation",
        "unreadable_image",
        "unknown_category",
        "unreadable_image",
    ]
    assert [message.partition(":")[0] for _, message in said] == ["row 0 object 1", "row 1", "row 2 object 0", "row 3"]
    assert len(checked.data.sources[0].reader) == 2

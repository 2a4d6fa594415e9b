"""No value of any key may end in a traceback or take long: a configuration is valid, or a ConfigError says what is not.

Every key of the schema, of every head, data format and step of the augmentation, is given values of wrong types, huge
numbers, deep nests and hostile texts. A few seconds of it run by default, and more as `matrix`.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import CHANGES as TEXT_CHANGES
from hostile import SETTINGS, mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from rehead.configs.heads import HEADS
from rehead.configs.load import dump, load_config, to_yaml
from rehead.configs.overrides import override, parse_overrides
from rehead.configs.readers import READERS, FromTrainSplit
from rehead.configs.schema import Config
from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.sources import open_all
from rehead.datasets.every_split import source_of
from rehead.errors import ReheadError

FEW, MANY = 500, 20_000
LONGEST_MESSAGE = 120_000

BASES: dict[str, dict[str, Any]] = {
    "detection": {
        "task": "detection",
        "data": {"format": "coco", "train": {"images": "a", "annotations": "b"}, "val": {"from_train": 0.2}},
        "model": {"head": "faster_rcnn"},
    },
    "segmentation": {
        "task": "segmentation",
        "data": {"format": "masks", "classes": ["sky", "road"], "train": {"images": "a", "masks": "b"}},
        "model": {"head": "unet"},
    },
    "classification": {"task": "classification", "data": {"format": "folders"}, "model": {"head": "linear"}},
    "multitask": {
        "task": "multitask",
        "data": {"sources": {"boxes": {"format": "coco"}, "maps": {"format": "masks", "classes": ["x"]}}},
        "model": {"heads": {"boxes": "retinanet", "maps": "unet"}},
    },
}


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a schema, those of the models inside it too."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _models(field.annotation):
            yield from keys_of(inner, f"{prefix}{name}.")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models(inner)]


def all_keys() -> list[str]:
    own = list(keys_of(Config))
    heads = [f"model.head.{key}" for entry in HEADS for key in keys_of(entry.options)]
    splits = [
        f"data.{split}.{key}"
        for split in ("train", "val")
        for options in (*(entry.options for entry in READERS), FromTrainSplit)
        for key in keys_of(options)
    ]
    sources = [f"data.sources.boxes.{key.removeprefix('data.')}" for key in own if key.startswith("data.")]
    return list(dict.fromkeys([*own, *heads, *splits, *sources, "", "nonsense", "model.heads", "data.augment.0.name"]))


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"x": value}
    return value


HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 1 << 200_000),
    *(0.0, -0.0, 1.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "x" * 5000,
        "../" * 2000,
        "~nobody/x",
        "~",
        "\ud800",
        "\x1b[2J",
        "\u202e",
        "猫",
        "1",
        "1e400",
    ),
    *("auto", "none", "nan", "null", "true", "coco", "yolo", "folders", "masks", "faster_rcnn", "unet", "linear"),
    *([], {}, [[]], [{}], [None], {"": None}, {None: 1}, {1: 2}, {(1, 2): 3}, ["x" * 5000] * 30, [1] * 20_000),
    *({"name": None}, {"name": []}, {"name": {}}, {"name": "x" * 5000}, {"name": 1}, {"name": "\0"}),
    *({"from_train": value} for value in (0.2, "x", "\0", None, [], 1e400, -1)),
    *({f"key{number}": number for number in range(3000)}, nested(50), nested(400)),
    *(b"bytes", datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), {1, 2}, 1j, (1, 2)),
]

VALUES: st.SearchStrategy[Any] = st.sampled_from(HOSTILE) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.lists(st.tuples(st.sampled_from(all_keys()), VALUES), min_size=1, max_size=3)


ARGUMENTS = [
    *("data=5", "data=null", "data.train=[]", "data.format=auto", "data.format=yolo", "data.root=/dev/null", "task=x"),
    *("model.head={}", "model.heads=[1]", "data.sources=1", "x=[[[[[[", "a=&a [*a]", "data.train.images=~nobody/\\x00"),
    *("data.augment.0.name=5", "data.augment=[HorizontalFlip]", "=", "data..=1", "data.root=" + "x" * 5000),
]


def try_out(base: dict[str, Any], changes: dict[str, Any]) -> None:
    said = ""
    try:
        config = load_config(override(deepcopy(base), changes), {})
    except ReheadError as error:
        said = str(error)
    if said:
        assert len(said) < LONGEST_MESSAGE
        return
    # What is valid survives being written and read.
    to_yaml(config)
    assert load_config(dump(config)) is not None


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`format: auto` looks through the current folder."""
    monkeypatch.chdir(tmp_path)


def fuzz_values(examples: int) -> None:
    @settings(max_examples=examples, **SETTINGS)
    @given(st.sampled_from(list(BASES)), CHANGES)
    def check(base: str, changes: list[tuple[str, Any]]) -> None:
        try_out(BASES[base], dict(changes))

    check()


def fuzz_files(examples: int) -> None:
    file = Path("config.yaml").absolute()
    good = [yaml.safe_dump(base).encode() for base in BASES.values()]
    good += [yaml.safe_dump({"data": base["data"]}).encode() for base in BASES.values()]

    @settings(max_examples=examples, **SETTINGS)
    @given(st.sampled_from(good), TEXT_CHANGES, st.lists(st.sampled_from(ARGUMENTS), max_size=2))
    def check(text: bytes, changes: list[tuple[str, float, float, bytes]], arguments: list[str]) -> None:
        file.write_bytes(mutated(text, changes))
        for read in (load_config, source_of, open_every):
            with contextlib.suppress(ReheadError):
                read(file, parse_overrides(arguments))

    check()


def open_every(file: Path, overrides: dict[str, Any]) -> None:
    open_all(file, overrides, Findings())


@pytest.mark.parametrize("base", BASES)
def test_what_is_changed_is_valid(base: str) -> None:
    load_config(BASES[base])


def test_any_value_of_any_key() -> None:
    fuzz_values(FEW)


def test_any_bytes_of_a_file() -> None:
    fuzz_files(FEW)


@pytest.mark.matrix
def test_any_value_of_any_key_for_long() -> None:
    fuzz_values(MANY)


@pytest.mark.matrix
def test_any_bytes_of_a_file_for_long() -> None:
    fuzz_files(MANY // 5)


@pytest.mark.matrix
@pytest.mark.parametrize("base", BASES)
def test_every_hostile_value_of_every_key(base: str) -> None:
    for key in all_keys():
        for value in HOSTILE:
            try_out(BASES[base], {key: value})

"""Everything that is written as JSON is JSON. Python's own writer puts NaN into it, which is none."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_house import FILES, REPOSITORY

from rehead.configs.load import load_config
from rehead.errors import ConfigError, OutputError
from rehead.files import DEEPEST, json_text, measured, parsed_json
from rehead.training.loggers import FileLogger

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=20,
)


def test_one_function_alone_writes_it() -> None:
    """Whoever calls `json.dumps` forgets NaN one day."""
    for path in FILES.values():
        called = [
            f"{path.relative_to(REPOSITORY)}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text()))
            if (isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps", "JSONEncoder"))
            and isinstance(node.value, ast.Name)
            and node.value.id == "json"
        ]
        called += [
            f"{path.relative_to(REPOSITORY)}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module in ("json", "simplejson", "orjson")
        ]
        assert len(called) == (path == REPOSITORY / "core/files.py"), called


def strictly(text: str) -> object:
    return json.loads(text, parse_constant=pytest.fail)


@given(VALUES)
@settings(max_examples=30, deadline=None)
def test_whatever_is_written_can_be_read(value: object) -> None:
    text = json_text(measured(value))
    assert strictly(text) == parsed_json(text) == measured(value)
    try:
        assert strictly(json_text(value)) == value
    except OutputError:
        assert measured(value) != value


def test_numbers_that_are_none_are_named() -> None:
    value = {"main": {"mAP": float("nan"), "AP": [0.5, float("inf")]}}
    with pytest.raises(OutputError, match=r"main\.mAP is nan, main\.AP\.1 is inf"):
        json_text(value)
    assert measured(value) == {"main": {"mAP": None, "AP": [0.5, None]}}


@given(st.text() | st.binary())
@settings(max_examples=30, deadline=None)
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    try:
        parsed_json(text)
    except ValueError:
        return


@pytest.mark.parametrize(
    "text", ["NaN", "[-Infinity]", "1e999", "[" * 200_000, '{"a":' * 99 + "1" + "}" * 99, "9" * 5000]
)
def test_strange_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"finite|deep|digits"):
        parsed_json(text)
    assert parsed_json("[" * DEEPEST + "]" * DEEPEST) is not None


@pytest.mark.parametrize(
    "line", ["3", "[]", '{"step": "1"}', '{"step": true}', '{"step": 1, "loss": NaN}', "\\ud800", "{"]
)
def test_rows_that_no_run_wrote_end_what_is_kept(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(f'{{"step": 1}}\n{line}\n'.encode() + b"\xff\xfe\n")
    assert FileLogger(tmp_path, keep=9).rows == [{"step": 1}]


def test_a_configuration_holds_no_such_numbers() -> None:
    raw = {"task": "detection", "model": {"head": {"name": "fcos", "score_threshold": float("nan")}}}
    with pytest.raises(ConfigError, match="score_threshold: Input should be a finite number"):
        load_config(raw)
    for value in (np.inf, -np.inf):
        with pytest.raises(ConfigError):
            load_config({**raw, "train": {"clip_norm": value}})

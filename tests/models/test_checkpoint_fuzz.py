"""Whatever a checkpoint is changed to, it is read right, or refused in plain words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rehead
from rehead.errors import ReheadError
from rehead.models.checkpoints import describe

FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["main", "linear", "resnet18", "none", "[/red]", "\x1b[2J", "\ud800", "a" * 5000]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("whole") / "whole.safetensors"
    rehead.build_model(TINY, "linear", ["a", "b"]).save(path)
    return path.read_bytes()


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: object, tensors: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tensors


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a value of dicts and lists, as what it is in and its key."""
    found: list[tuple[Any, Any]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += [(value, key), *places(value[key])]
    return found


def changed(data: st.DataObject, value: Any) -> None:
    """Changes some places of a value."""
    for _ in range(data.draw(st.integers(1, 3))):
        inside, key = data.draw(st.sampled_from(places(value)))
        how = data.draw(st.sampled_from(["other", "other", "gone", "more"]))
        if how == "gone":
            del inside[key]
        elif how == "more" and isinstance(inside, dict):
            inside[data.draw(st.text(max_size=8))] = data.draw(JSON)
        else:
            inside[key] = data.draw(JSON)
        if not places(value):
            return


def is_understood(command: Any, path: Path) -> None:
    """A right reading, or a message and exit code 2: never a traceback."""
    outcome = command("show", path)
    assert outcome.code in (0, 2), outcome
    assert "Traceback" not in outcome.err
    assert len(outcome.err) < 150_000
    try:
        describe(path)
    except ReheadError:
        assert outcome.code == 2


def other_metadata(data: st.DataObject, whole: bytes) -> bytes:
    header, tensors = parts(whole)
    texts = header["__metadata__"]
    key = data.draw(st.sampled_from(sorted(texts)))
    if key == "format" or data.draw(st.integers(0, 9)) == 0:
        texts[key] = data.draw(st.text())
    else:
        value = json.loads(texts[key])
        changed(data, value)
        texts[key] = json.dumps(value)
    return joined(header, tensors)


def other_header(data: st.DataObject, whole: bytes) -> bytes:
    header, tensors = parts(whole)
    changed(data, header)
    return joined(header, tensors)


def other_bytes(data: st.DataObject, whole: bytes) -> bytes:
    content = bytearray(whole)
    start = data.draw(st.integers(0, 20_000))
    content[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    return bytes(content[: data.draw(st.sampled_from([len(content), len(content), 0, 7, 9, 5000]))])


KINDS = {"metadata": other_metadata, "header": other_header, "bytes": other_bytes}


@pytest.mark.parametrize("kind", KINDS)
def test_changed_somewhere(kind: str, whole: bytes, tmp_path: Path, rehead_command: Any) -> None:
    @FEW
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path = tmp_path / "changed.safetensors"
        path.write_bytes(KINDS[kind](data, whole))
        is_understood(rehead_command, path)

    check()


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
def test_changed_somewhere_for_long(kind: str, whole: bytes, tmp_path: Path, rehead_command: Any) -> None:
    @MANY
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path = tmp_path / "changed.safetensors"
        path.write_bytes(KINDS[kind](data, whole))
        is_understood(rehead_command, path)

    check()

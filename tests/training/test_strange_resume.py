"""`resume.pt` may be damaged, or somebody else's: a run goes on from what it saved itself, or says what is wrong."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rehead.errors import ReheadError, TrainingError
from rehead.training.averaging import WeightAverage
from rehead.training.resume import read_resume, restore, save_resume

Change = Callable[[dict[str, Any]], object]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


def parts(kind: type[torch.optim.Optimizer] = torch.optim.SGD) -> tuple[Net, torch.optim.Optimizer, WeightAverage]:
    torch.manual_seed(0)
    model = Net()
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    return model, kind(model.parameters(), lr=0.1, **options), WeightAverage(model, 0.9)  # type: ignore[call-arg]


def saved(kind: type[torch.optim.Optimizer] = torch.optim.SGD) -> dict[str, Any]:
    """What a run saves after a step."""
    model, optimizer, average = parts(kind)
    model.norm(model.layer(torch.rand(4, 3))).square().sum().backward()
    optimizer.step()
    average.update()
    return {
        "model": model.state_dict(),
        "average": {"tensors": average.tensors, "updates": 1},
        "optimizer": optimizer.state_dict(),
        "scaler": None,
        "state": {"step": 1, "best": 0.5, "best_step": 1, "not_better": 0, "due": False},
        "unlogged": [{"sums": {"loss": torch.tensor(1.0)}, "summed": {"loss": 1}}],
        "rows": 1,
        "conditions": {"processes": 1},
        "metadata": "{}",
    }


def go_on(path: Path, kind: type[torch.optim.Optimizer] = torch.optim.SGD) -> Net:
    model, optimizer, average = parts(kind)
    restore(model, optimizer, average, read_resume(path), path)
    return model


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_what_a_run_saved_it_goes_on_with(kind: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    state = saved(kind)
    save_resume(tmp_path / "resume.pt", state)
    model = go_on(tmp_path / "resume.pt", kind)
    assert all(torch.equal(value, state["model"][name]) for name, value in model.state_dict().items())


def replaced(*place: str | int, by: object) -> Change:
    def change(state: Any) -> None:
        for part in place[:-1]:
            state = state[part]
        state[place[-1]] = by

    return change


MOMENTUM = ("optimizer", "state", 0, "momentum_buffer")
WEIGHT = ("model", "layer.weight")
STRANGE: dict[str, tuple[Change, str]] = {
    **{f"no {key}": (lambda state, key=key: state.pop(key), f"{key}: Field required") for key in saved()},  # type: ignore[misc]
    "foreign key": (replaced("foreign", by=1), "foreign: Extra inputs"),
    "foreign counter": (replaced("state", "foreign", by=1), "state.foreign"),
    "text for a step": (replaced("state", "step", by="1"), "state.step"),
    "truth for a step": (replaced("state", "step", by=True), "state.step"),
    "step below 0": (replaced("state", "step", by=-1), "state.step"),
    "step beyond all": (replaced("state", "step", by=10**30), "state.step"),
    "best is NaN": (replaced("state", "best", by=float("nan")), "state.best"),
    "text for tensors": (replaced("model", by="x"), "model: Input should be"),
    "text for a tensor": (replaced(*WEIGHT, by="x"), "model.layer.weight"),
    "weights are NaN": (replaced(*WEIGHT, by=torch.full((2, 3), torch.nan)), "NaN or infinite values"),
    "weights are integers": (replaced(*WEIGHT, by=torch.ones(2, 3, dtype=torch.int64)), "int64, wanted float32"),
    "weights are sparse": (replaced(*WEIGHT, by=torch.ones(2, 3).to_sparse()), "sparse"),
    "weights are nowhere": (replaced(*WEIGHT, by=torch.ones(2, 3, device="meta")), "on meta"),
    "weights of another shape": (replaced(*WEIGHT, by=torch.ones(6)), "layer.weight"),
    "weights of another model": (replaced("model", by={f"x {i}": torch.ones(1) for i in range(1000)}), "more"),
    "average of one number": (replaced("average", "tensors", "layer.weight", by=torch.ones(())), "of its average"),
    "no average": (replaced("average", by=None), "other options"),
    "momentum is NaN": (replaced(*MOMENTUM, by=torch.full((2, 3), torch.nan)), "0.momentum_buffer"),
    "momentum of another shape": (replaced(*MOMENTUM, by=torch.ones(1)), "(1,) for a parameter of (2, 3)"),
    "momentum is a number": (replaced(*MOMENTUM, by=3), "0.momentum_buffer"),
    "something else is kept": (replaced("optimizer", "state", 0, "foreign", by=torch.ones(1)), "0.foreign"),
    "of another parameter": (replaced("optimizer", "state", 9, by={"momentum_buffer": torch.ones(1)}), "parameter 9"),
    "no groups": (replaced("optimizer", "param_groups", by=[]), "optimizer.param_groups"),
    "groups without parameters": (replaced("optimizer", "param_groups", by=[{}]), "its optimizer does not fit"),
    "groups of another form": (replaced("optimizer", "param_groups", 0, "params", by=3), "its optimizer does not fit"),
    "sums of several numbers": (replaced("unlogged", 0, "sums", by={"loss": torch.ones(2)}), "should be one number"),
    "sums of nothing": (replaced("unlogged", 0, "summed", by={}), "the same names"),
    "more processes": (lambda state: state["unlogged"].append(deepcopy(state["unlogged"][0])), "other options"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_it_did_not_save_is_said(name: str, tmp_path: Path) -> None:
    change, said = STRANGE[name]
    state = saved()
    change(state)
    save_resume(tmp_path / "resume.pt", state)
    with pytest.raises(TrainingError) as caught:
        go_on(tmp_path / "resume.pt")
    message = str(caught.value)
    assert said in message
    assert "resume.pt" in message
    assert len(message) < 2000


def test_how_the_optimizer_steps_is_said_by_the_configuration_alone(tmp_path: Path) -> None:
    state = saved()
    state["optimizer"]["param_groups"][0] |= {"lr": "x", "momentum": 7.0, "maximize": True}
    save_resume(tmp_path / "resume.pt", state)
    model, optimizer, average = parts()
    restore(model, optimizer, average, read_resume(tmp_path / "resume.pt"), tmp_path / "resume.pt")
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["maximize"]) == (0.1, 0.9, False)


class Code:
    """What a pickle may have run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it ran",)


def archive(pickled: bytes, *, compression: int = zipfile.ZIP_STORED, more: int = 0) -> bytes:
    """A file in PyTorch's form."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        if more:
            file.writestr("archive/data/0", bytes(more))
    return content.getvalue()


def doubled(times: int) -> bytes:
    """A tuple that holds another twice, which holds another twice, ..., as the key of a dict."""
    levels = b"".join(b"h%ch%c\x86q%c" % (level, level, level + 1) for level in range(times))
    return b"\x80\x02K\x01\x85q\x00" + levels + b"}h%cK\x01s." % times


FILES = {
    "nothing": b"",
    "text": b"half a file",
    "half": archive(pickle.dumps({}))[:60],
    "code": archive(pickle.dumps({"model": Code()}, protocol=2)),
    "code, older form": pickle.dumps(Code()),
    "a list": archive(pickle.dumps([1], protocol=2)),
    "deep": archive(b"\x80\x02" + b"]" * 5_000 + b"a" * 4_999 + b"."),
    "bomb": archive(pickle.dumps({}), compression=zipfile.ZIP_DEFLATED, more=10_000_000),
    "hashed for ages": archive(doubled(60)),
}


SAID = {"code": "would run code", "bomb": "would unpack to", "hashed for ages": "reading its keys would take ages"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_no_run_saved(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resume.pt").write_bytes(FILES[name])
    with pytest.raises(TrainingError, match=r"resume\.pt") as caught:
        read_resume(tmp_path / "resume.pt")
    assert "weights_only" not in str(caught.value)
    assert SAID.get(name, "") in str(caught.value)
    assert not (tmp_path / "it ran").exists()


def test_a_folder_or_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(TrainingError, match="name the file"):
            read_resume(path)


def test_whatever_is_damaged_is_said_or_did_not_matter(tmp_path: Path) -> None:
    path, state = tmp_path / "resume.pt", saved()
    save_resume(path, state)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        content = bytearray(whole)
        start = int(generator.integers(len(content)))
        length = int(generator.integers(1, 64))
        content[start : start + length] = generator.bytes(length)
        path.write_bytes(content)
        try:
            model = go_on(path)
        except ReheadError:
            refused += 1
        else:
            assert all(torch.equal(value, state["model"][name]) for name, value in model.state_dict().items())
    assert refused > 20

"""A checkpoint from somebody else never runs code, is never believed unread, and says in plain words what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import rehead
from rehead.configs.load import load_config
from rehead.errors import ConfigError, WeightsError
from rehead.models.checkpoints import built_for

CLASSES = ["circle", "heart", "ring", "square", "star", "triangle"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint, as rehead writes it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    rehead.build_model(TINY, "linear", CLASSES).save(path)
    return path


@pytest.fixture
def changed(good: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the checkpoint with other metadata, as texts, or other tensors."""

    def write(metadata: dict[str, str] | None = None, tensors: dict[str, Tensor] | None = None) -> Path:
        path = tmp_path / "strange.safetensors"
        save_file({**load_file(good), **(tensors or {})}, path, metadata={**strings_of(good), **(metadata or {})})
        return path

    return write


def strings_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def config_of(path: Path, **changes: Any) -> str:
    return json.dumps({**json.loads(strings_of(path)["config"]), **changes})


def commands(checkpoint: Path, synthetic: Path, out: Path) -> Iterator[tuple[object, ...]]:
    """Every command that loads a checkpoint."""
    image = next((synthetic / "shapes/val").rglob("*.png"))
    data = ["data.format=folders", f"data.root={synthetic}/shapes", "data.val={images: val}", "data.workers=0"]
    yield "show", checkpoint
    yield "evaluate", checkpoint, *data, "data.resize={height: 64, width: 64}", "--json", out / "metrics.json"
    yield "predict", checkpoint, image, "--out", out / "predicted"
    yield "swap", checkpoint, "--head", "unet", "--classes", "a,b", "--out", out / "swapped.safetensors"
    yield "export-weights", checkpoint, "--out", out / "theirs.pth"


def training(synthetic: Path, out: Path, *overrides: str) -> tuple[object, ...]:
    """A run of one step."""
    raw = {
        "task": "classification",
        "data": {
            **{
                "format": "folders",
                "root": str(synthetic / "shapes"),
                "workers": 0,
                "resize": {"height": 64, "width": 64},
            },
            **{"train": {"images": "train"}, "val": {"images": "val"}},
        },
        "model": {"backbone": {"name": "resnet18", "weights": "none", "width": 8}, "head": {"name": "linear"}},
        "train": {"max_steps": 1, "batch_size": 4, "pictures": 0},
        **{"device": "cpu", "out": str(out / "run")},
    }
    (out / "config.yaml").write_text(json.dumps(raw))
    return "train", out / "config.yaml", *overrides


def refused(outcome: Any, *said: str) -> None:
    text = " ".join(outcome.err.split())
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert "weights_only" not in outcome.err
    assert all(part in text for part in said), text


# Plugins


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module in the current folder, from which Python imports, that leaves a file when it is imported."""
    marker = tmp_path / "it ran"
    (tmp_path / "evil_plugin.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marker
    sys.modules.pop("evil_plugin", None)


def test_no_command_imports_the_plugins_of_a_checkpoint_and_each_does_when_the_user_names_them(
    good: Path, changed: Callable[..., Path], evil: Path, synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    checkpoint = changed({"config": config_of(good, plugins=["evil_plugin"])})
    for command in commands(checkpoint, synthetic, tmp_path):
        outcome = rehead_command(*command)
        if command[0] == "show":
            assert outcome.code == 0
            assert "evil_plugin: not imported" in outcome.out
            assert "linear" in outcome.out
            assert "circle, heart" in outcome.out
        else:
            refused(outcome, "evil_plugin", "nothing was imported", "--plugins evil_plugin")
        assert not evil.exists(), command
    for command in commands(checkpoint, synthetic, tmp_path):
        outcome = rehead_command(*command, "--plugins", "evil_plugin")
        assert outcome.code == 0, outcome
        assert evil.exists(), command
        evil.unlink()
        del sys.modules["evil_plugin"]


def test_from_python_too(good: Path, changed: Callable[..., Path], evil: Path) -> None:
    checkpoint = changed({"config": config_of(good, plugins=["evil_plugin"])})
    for load in (rehead.load, rehead.evaluate):
        with pytest.raises(ConfigError, match="nothing was imported"):
            load(checkpoint)
    assert not evil.exists()
    model = rehead.load(checkpoint, plugins=["evil_plugin"])
    assert evil.exists()
    assert model.swap_head("unet", ["a"]).config.plugins == ["evil_plugin"]


def test_as_a_module_in_the_folder_of_the_plugin(good: Path, evil: Path) -> None:
    # Then Python looks for modules in the current folder first. A run folder is the quickest to be refused.
    (evil.parent / "config.yaml").write_text(config_of(good, plugins=["evil_plugin"]))
    arguments = [sys.executable, "-m", "rehead", "train", "--resume", "."]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=evil.parent)
    assert done.returncode == 2, done.stderr
    assert "nothing was imported" in done.stderr
    assert not evil.exists()


def test_a_run_folder_is_somebody_elses_and_a_named_config_the_users_own(
    evil: Path, synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    assert rehead_command(*training(synthetic, tmp_path)).code == 0
    run = tmp_path / "run"
    config = (run / "config.yaml").read_text().replace("plugins: []", "plugins: [evil_plugin]")
    (run / "config.yaml").write_text(config)
    refused(rehead_command("train", "--resume", run), "nothing was imported", "--plugins evil_plugin")
    refused(rehead_command("train", "--resume", run, "plugins=[]"), "nothing was imported")
    assert not evil.exists()
    outcome = rehead_command("train", "--resume", run, "--plugins", "evil_plugin")
    assert (outcome.code, evil.exists()) == (0, True), outcome.err
    evil.unlink()
    del sys.modules["evil_plugin"]
    load_config(run / "config.yaml")
    assert evil.exists()


def test_starting_from_a_checkpoint_imports_nothing(
    good: Path, changed: Callable[..., Path], evil: Path, synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    checkpoint = changed({"config": config_of(good, plugins=["evil_plugin"])})
    for key in ("model.init", "model.backbone.weights"):
        outcome = rehead_command(*training(synthetic, tmp_path, f"{key}={checkpoint}"), "--overwrite")
        assert (outcome.code, evil.exists()) == (0, False), outcome.err


# Weights


def not_finite(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = torch.nan
    return tensor


FIRST = "backbone.conv1.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (not_finite, "hold NaN or infinite values"),
        (lambda tensor: tensor * torch.inf, "hold NaN or infinite values"),
        (lambda tensor: tensor.long(), "(int64, wanted float32)"),
        (lambda tensor: tensor.to(torch.complex64), "(complex64, wanted float32)"),
        (lambda tensor: tensor.to(torch.float8_e4m3fn), "(float8_e4m3fn, wanted float32)"),
    ],
    ids=["nan", "inf", "int64", "complex64", "float8"],
)
def test_weights_that_are_none_are_refused_by_name(
    change: Callable[[Tensor], Tensor],
    said: str,
    good: Path,
    changed: Callable[..., Path],
    synthetic: Path,
    tmp_path: Path,
    rehead_command: Any,
) -> None:
    checkpoint = changed(tensors={FIRST: change(load_file(good)[FIRST])})
    for command in commands(checkpoint, synthetic, tmp_path):
        refused(rehead_command(*command), FIRST, said)
    for key in ("model.init", "model.backbone.weights"):
        refused(rehead_command(*training(synthetic, tmp_path, f"{key}={checkpoint}")), "conv1.weight", said)


def test_other_floating_point_numbers_are_weights(good: Path, changed: Callable[..., Path]) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        halved = {name: each.to(kind) for name, each in load_file(good).items() if each.is_floating_point()}
        assert next(rehead.load(changed(tensors=halved)).parameters()).dtype == torch.float32


def test_numbers_that_grow_too_large_inside_the_model_are_never_written(
    good: Path, changed: Callable[..., Path], synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    large = {name: each * 1e30 for name, each in load_file(good).items() if name.endswith("conv1.weight")}
    checkpoint = changed(tensors=large)
    _, evaluate, predict, *_ = commands(checkpoint, synthetic, tmp_path)
    refused(rehead_command(*predict), "what head 'main' says of", "is not finite (probabilities)")
    outcome = rehead_command(*evaluate)
    assert "what is predicted is not finite" in outcome.err
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)


# Metadata


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("config", "{", "its metadata 'config' is broken"),
        ("config", "[" * 100_000, "nested too deeply"),
        ("config", '{"a": ' * 100 + "1" + "}" * 100, "nested too deeply"),
        ("config", '{"task": NaN}', "is not finite"),
        ("config", '{"task": 1e400}', "is not finite"),
        ("config", "[]", "config: Input should be"),
        ("config", "{}", "config.model: Field required"),
        ("config", '{"model": {"backbone": {}, "heads": {"main": 3}}}', "config.model.heads.main"),
        ("classes", "{}", "heads without classes, or the reverse: main"),
        ("classes", '{"main": {"names": ["a", "a"], "ids": [0, 1]}}', "class name given twice: a"),
        ("classes", '{"main": {"names": ["a"], "ids": ["0"]}}', "classes.main.ids.0"),
        ("classes", '{"main": {"names": ["a"], "ids": [0], "flip_pairs": [[1]]}}', "its classes are none"),
        ("classes", f'{{"main": {{"names": ["a"], "ids": [{"9" * 5000}]}}}}', "broken"),
        ("lineage", '[{"hash": 3}]', "lineage.0"),
        ("lineage", "{}", "lineage: Input should be"),
        ("versions", "[]", "versions: Input should be"),
    ],
)
def test_metadata_that_are_not_those_of_a_checkpoint(
    key: str, text: str, said: str, changed: Callable[..., Path], synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    checkpoint = changed({key: text})
    refused(rehead_command("show", checkpoint), "strange.safetensors", said)
    for command in commands(checkpoint, synthetic, tmp_path) if text in ("{", "{}") else ():
        refused(rehead_command(*command), "strange.safetensors", said)


def test_what_starts_from_a_checkpoint_believes_it_no_more(
    changed: Callable[..., Path], synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    for text in ("{", '{"model": {"backbone": {"norm_eps": -1}, "heads": {}}}'):
        for key in ("model.init", "model.backbone.weights"):
            outcome = rehead_command(*training(synthetic, tmp_path, f"{key}={changed({'config': text})}"))
            refused(outcome, "strange.safetensors")


def test_a_hundred_thousand_names_are_ten_in_a_message(good: Path, changed: Callable[..., Path]) -> None:
    foreign = {f"foreign {number}": torch.zeros(1) for number in range(2000)}
    with pytest.raises(WeightsError, match=r"2000 of its tensors do not fit .* and 1,990 more") as caught:
        rehead.load(changed(tensors=foreign))
    assert len(str(caught.value)) < 1000
    names = [f"class {number}" for number in range(100_000)]
    classes = json.dumps({"main": {"names": names, "ids": list(range(100_000))}})
    with pytest.raises(ConfigError, match=r"100000 classes .* and 99,990 more") as other:
        rehead.evaluate(changed({"classes": classes}), {"data.classes": ["a"]})
    assert len(str(other.value)) < 1000
    wrong = {f"key {number}": 0 for number in range(2000)}
    with pytest.raises(ConfigError, match="and 1950 more"):
        rehead.load(changed({"config": config_of(good, **wrong)}))


@pytest.mark.parametrize("change", [{"width": 10**9}, {"width": 10**30}])
def test_a_config_cannot_ask_for_a_model_that_fills_the_memory(
    change: dict[str, Any], good: Path, changed: Callable[..., Path]
) -> None:
    model = json.loads(strings_of(good)["config"])["model"]
    model["backbone"] |= change
    with pytest.raises((ConfigError, WeightsError)):
        rehead.load(changed({"config": config_of(good, model=model)}))


def test_a_checkpoint_that_makes_images_too_large_is_said(
    good: Path, changed: Callable[..., Path], synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    data = {**json.loads(strings_of(good)["config"])["data"], "resize": {"height": 10**6, "width": 10**6}}
    _, _, predict, *_ = commands(changed({"config": config_of(good, data=data)}), synthetic, tmp_path)
    refused(rehead_command(*predict), "data.resize makes 1000000x1000000 pixels")


def test_a_checkpoint_has_no_folder_searched(
    good: Path, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rehead.configs.load._detect", lambda *_: pytest.fail("it was searched"))
    data = json.loads(strings_of(good)["config"])["data"]
    for own in ({"format": "auto", "root": "/"}, {"sources": {"main": {"format": "auto", "root": "/"}}}):
        checkpoint = changed({"config": config_of(good, data={**data, **own})})
        with contextlib.suppress(ConfigError):
            rehead.load(checkpoint)


def test_a_model_is_not_built_far_larger_than_its_file(good: Path) -> None:
    def build() -> None:
        with built_for({"a": torch.zeros(1)}, good):
            for _ in range(100):
                torch.nn.Linear(2000, 2000, device="meta")

    with pytest.raises(WeightsError, match="far larger than its 1 tensors"):
        build()
    torch.nn.Linear(20_000, 20_000, device="meta")  # outside, nobody counts


# Files


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        (2**63).to_bytes(8, "little") + b"{}",
        (99_000_000).to_bytes(8, "little") + b"{}",
        header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}) + b"\0" * 4,
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + b"\0" * 4,
        header({"a": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}),
        header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}) + b"\0" * 4,
        header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + b"\0" * 4,
        (6).to_bytes(8, "little") + b"[" * 6,
    ],
    ids=["empty", "no header", "endless", "long", "shape", "negative", "overflow", "overlap", "type", "deep"],
)
def test_a_file_that_is_no_safetensors_file(
    content: bytes, synthetic: Path, tmp_path: Path, rehead_command: Any
) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    refused(rehead_command("show", path), "broken.safetensors: not a readable safetensors file")
    if not content:
        for command in commands(path, synthetic, tmp_path):
            refused(rehead_command(*command), "broken.safetensors: not a readable safetensors file")
        refused(rehead_command(*training(synthetic, tmp_path, f"model.backbone.weights={path}")), "broken.safetensors")


def test_what_is_no_file_is_not_waited_for(good: Path, synthetic: Path, tmp_path: Path, rehead_command: Any) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    (tmp_path / "endless.safetensors").symlink_to("/dev/zero")
    said = {"pipe": "a pipe or a device", "folder": "is a folder", "loop": "no such", "endless": "a pipe or a device"}
    for name, words in said.items():
        path = tmp_path / f"{name}.safetensors"
        refused(rehead_command("show", path), words)
        refused(
            rehead_command("import", "torchvision", path, "--as", "resnet18", "--out", tmp_path / "o.safetensors"),
            words,
        )
    (tmp_path / "link.safetensors").symlink_to(good)
    assert rehead_command("show", tmp_path / "link.safetensors").code == 0

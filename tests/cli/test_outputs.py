"""What a command writes never costs what it reads, and costs what is there only where `--overwrite` says so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import typer
from helpers import TINY
from safetensors.torch import save_file

import rehead
from rehead.cli import app
from rehead.errors import ConfigError, OutputError
from rehead.files import check_output

COMMANDS: dict[tuple[str, str], list[str]] = {
    ("demo", "out"): ["demo", "--out", "OUT"],
    ("init", "out"): ["init", "DATA", "--out", "OUT"],
    ("evaluate", "json_file"): ["evaluate", "CHECKPOINT", "--json", "OUT"],
    ("predict", "out"): ["predict", "CHECKPOINT", "DATA/val", "--out", "OUT"],
    ("swap", "out"): ["swap", "CHECKPOINT", "--head", "linear", "--classes", "a", "--out", "OUT"],
    ("import", "out"): ["import", "torchvision", "CHECKPOINT", "--as", "resnet18", "--out", "OUT"],
    ("export-weights", "out"): ["export-weights", "CHECKPOINT", "--out", "OUT"],
    ("backbones", "picture"): ["backbones", "resnet18", "--picture", "OUT"],
    ("data check", "json_file"): ["data", "check", "DATA", "--json", "OUT"],
    ("data check", "html"): ["data", "check", "DATA", "--html", "OUT"],
    ("data check", "picture"): ["data", "check", "DATA", "--picture", "OUT"],
    ("data check", "fix"): ["data", "check", "DATA", "--fix", "OUT"],
    ("data show", "out"): ["data", "show", "CONFIG", "--out", "OUT"],
    ("data convert", "dest"): ["data", "convert", "DATA", "OUT", "--to", "folders"],
    ("data split", "out"): ["data", "split", "DATA", "--val", "0", "--test", "0.5", "--out", "OUT"],
}
"""Every option that says where a command writes, with the rest of a command line; `train` says it by `out=`."""

READ = {
    ("init", "folder"),
    ("train", "resume"),
    ("evaluate", "checkpoint"),
    ("predict", "checkpoint"),
    ("predict", "paths"),
    ("swap", "checkpoint"),
    ("show", "checkpoint"),
    ("import", "file"),
    ("export-weights", "checkpoint"),
}
"""Every path that is only read."""

SUFFIXES = {"init": ".yaml", "html": ".html", "picture": ".png", "data show": ".png", "json_file": ".json"}


def paths_of(commands: typer.Typer, before: str = "") -> Iterator[tuple[str, str]]:
    """Every parameter that is a path, or several, of every command."""
    for group in commands.registered_groups:
        assert group.typer_instance is not None
        yield from paths_of(group.typer_instance, f"{group.typer_instance.info.name} ")
    for command in commands.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        for parameter, hint in get_type_hints(command.callback).items():
            if hint is Path or Path in get_args(hint):
                yield before + name, parameter


@pytest.fixture
def places(synthetic: Path, tmp_path: Path) -> dict[str, Path]:
    """Data, a checkpoint and a configuration, all of one's own."""
    data = tmp_path / "data"
    for image in (synthetic / "shapes").rglob("*.png"):
        copy = data / image.relative_to(synthetic / "shapes")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(image.read_bytes())
    torch.manual_seed(0)
    checkpoint = tmp_path / "model.safetensors"
    rehead.build_model(TINY, "linear", ["a", "b"]).save(checkpoint)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {{format: folders, root: {data}, train: {{images: train}}, val: {{images: val}}, workers: 0, "
        "resize: {height: 64, width: 64}}\n"
        "task: classification\nmodel: {backbone: {name: resnet18, weights: none, width: 8}, head: linear}\n"
    )
    return {"DATA": data, "CHECKPOINT": checkpoint, "CONFIG": config}


def suffix_of(key: tuple[str, str]) -> str:
    return next((SUFFIXES[one] for one in key if one in SUFFIXES), ".safetensors")


def filled(arguments: list[str], places: dict[str, Path], out: Path) -> list[str]:
    for name, path in {**places, "OUT": out}.items():
        arguments = [one.replace(name, str(path)) for one in arguments]
    return arguments


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_path_of_every_command_is_known_as_read_or_written() -> None:
    """A new option that writes belongs into the table above, and its command calls `check_output`."""
    assert set(paths_of(app)) == {*COMMANDS, *READ}


@pytest.mark.parametrize("key", COMMANDS, ids=" ".join)
def test_what_is_there_is_not_written_over(
    key: tuple[str, str], places: dict[str, Path], tmp_path: Path, rehead_command: Any
) -> None:
    out = tmp_path / f"there{suffix_of(key)}"
    folder = key in (("demo", "out"), ("predict", "out"), ("data convert", "dest"), ("data split", "out")) or (
        key[1] == "fix"
    )
    mine = out / "mine.txt" if folder else out
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("months of work")
    before = content(tmp_path)
    outcome = rehead_command(*filled(COMMANDS[key], places, out))
    assert outcome.code == 2, outcome
    assert str(out) in outcome.err
    assert ("--overwrite" in outcome.err) != ("nothing is overwritten" in outcome.err)
    assert content(tmp_path) == before


@pytest.mark.parametrize("key", [key for key in COMMANDS if key[0] not in ("demo", "backbones")], ids=" ".join)
def test_what_is_read_is_not_written_over_or_into(
    key: tuple[str, str], places: dict[str, Path], tmp_path: Path, rehead_command: Any
) -> None:
    """Whatever `--overwrite` says, and by whatever name."""
    read = next(name for name in places if any(name in one for one in COMMANDS[key]))
    force = [] if key[0] in ("data convert", "data split") or key[1] == "fix" else ["--overwrite"]
    link = tmp_path / f"link{suffix_of(key)}"
    if read == "CHECKPOINT" and key[0] != "predict":
        link.symlink_to(places[read])
        outs = [places[read], link]
    else:
        inside = places["DATA"] / "val" / f"out{suffix_of(key)}"
        link.symlink_to(places["DATA"] / "val")
        outs = [inside, link / inside.name]
    before = content(tmp_path)
    for out in outs:
        outcome = rehead_command(*filled(COMMANDS[key], places, out), *force)
        assert outcome.code == 2, outcome
        assert "which is read" in outcome.err
        assert content(tmp_path) == before


def test_overwrite_replaces(places: dict[str, Path], tmp_path: Path, rehead_command: Any) -> None:
    out = tmp_path / "out"
    image, other = tmp_path / "image.png", tmp_path / "other.png"
    for path in (image, other):
        path.write_bytes(next((places["DATA"] / "val").rglob("*.png")).read_bytes())
    assert rehead_command("predict", places["CHECKPOINT"], image, "--out", out).code == 0
    assert rehead_command("predict", places["CHECKPOINT"], other, "--out", out).code == 2
    assert rehead_command("predict", places["CHECKPOINT"], other, "--out", out, "--overwrite").code == 0
    # No picture of the earlier one is left to pass for this one's.
    assert [path.stem for path in (out / "pictures").iterdir()] == [other.stem]
    (tmp_path / "new.safetensors").write_text("")
    swap = filled(COMMANDS["swap", "out"], places, tmp_path / "new.safetensors")
    assert rehead_command(*swap).code == 2
    assert rehead_command(*swap, "--overwrite").code == 0
    rehead.load(tmp_path / "new.safetensors")


def test_predicting_a_folder_into_itself_is_refused(
    places: dict[str, Path], tmp_path: Path, rehead_command: Any
) -> None:
    """A second time, it would have predicted its own pictures."""
    for out in (places["DATA"], places["DATA"] / "predicted", tmp_path):
        outcome = rehead_command("predict", places["CHECKPOINT"], places["DATA"], "--out", out, "--overwrite")
        assert outcome.code == 2
        assert "which is read" in outcome.err
    assert not list(tmp_path.rglob("predictions.json"))


def test_figures_are_not_written_over_the_data_that_they_are_of(
    places: dict[str, Path], tmp_path: Path, synthetic: Path, rehead_command: Any
) -> None:
    annotations = tmp_path / "val.json"
    annotations.write_bytes((synthetic / "scenes/annotations/val.json").read_bytes())
    torch.manual_seed(0)
    rehead.build_model(TINY, {"name": "fcos", "channels": 32}, SHAPES).save(tmp_path / "fcos.safetensors")
    data = [
        "data.format=coco",
        f"data.root={synthetic}/scenes",
        f"data.val={{images: val, annotations: {annotations}}}",
    ]
    outcome = rehead_command("evaluate", tmp_path / "fcos.safetensors", *data, "--json", annotations, "--overwrite")
    assert outcome.code == 2
    assert f"{annotations} is {annotations}, which is read" in outcome.err
    assert json.loads(annotations.read_text())["images"]


SHAPES = ["circle", "square", "triangle", "star", "heart", "ring"]


class TestTraining:
    @pytest.fixture
    def train(self, places: dict[str, Path], rehead_command: Any) -> Any:
        def run(out: Path | str, *more: str) -> Any:
            return rehead_command("train", places["CONFIG"], f"out={out}", "train.max_steps=1", *more)

        return run

    def test_a_run_among_the_images_would_be_a_class(self, train: Any, places: dict[str, Path]) -> None:
        before = content(places["DATA"])
        for out in (places["DATA"] / "train/run", places["DATA"] / "val", places["DATA"]):
            outcome = train(out, "--overwrite")
            assert outcome.code == 2
            assert "which is read" in outcome.err
        assert content(places["DATA"]) == before

    def test_a_run_over_the_checkpoint_that_it_starts_from(self, train: Any, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        checkpoint = tmp_path / "run/last.safetensors"
        torch.manual_seed(0)
        rehead.build_model(TINY, "linear", ["a", "b"]).save(checkpoint)
        weights = tmp_path / "run/weights.safetensors"
        save_file({"a": torch.zeros(1)}, weights)
        before = content(tmp_path)
        for key, file in (("model.init", checkpoint), ("model.backbone.weights", weights)):
            outcome = train(tmp_path / "run", f"{key}={file}", "--overwrite")
            assert outcome.code == 2
            assert f"holds {file}, which is read" in outcome.err
        assert content(tmp_path) == before

    def test_files_that_no_run_left_are_not_replaced(self, train: Any, tmp_path: Path) -> None:
        """`pictures/` may be somebody's photographs."""
        folder = tmp_path / "holiday"
        (folder / "pictures").mkdir(parents=True)
        (folder / "pictures/beach.png").write_bytes(b"irreplaceable")
        (folder / "config.yaml").write_text("of: something else")
        before = content(tmp_path)
        outcome = train(folder)
        assert outcome.code == 2
        assert "holds config.yaml, pictures/*.png, which no run there has left" in outcome.err
        assert content(tmp_path) == before

    def test_what_a_run_left_that_had_no_checkpoint_yet_is(self, train: Any, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        assert train(folder).code == 0
        for name in ("resume.pt", "last.safetensors", "best.safetensors"):
            (folder / name).unlink()
        assert train(folder).code == 0

    @pytest.mark.parametrize("out", ["a\0b", "x" * 5000], ids=["NUL", "too long"])
    def test_what_is_no_name_of_a_folder(self, train: Any, places: dict[str, Path], out: str) -> None:
        config = places["CONFIG"]
        config.write_text(config.read_text() + f"out: {json.dumps(out)}\n")
        with pytest.raises((OutputError, ConfigError), match=r"out: (.* cannot be written|should be text)"):
            rehead.train(config, {"train.max_steps": 1})


class TestCheckOutput:
    def test_a_new_place_and_an_empty_folder_are_free(self, tmp_path: Path) -> None:
        check_output(tmp_path / "new/file.txt", inputs=[tmp_path / "none"])
        check_output(tmp_path, folder=True)

    def test_the_same_file_by_another_name(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("")
        os.link(tmp_path / "a", tmp_path / "b")
        with pytest.raises(OutputError, match="which is read"):
            check_output(tmp_path / "b", inputs=[tmp_path / "a"], overwrite=True)

    def test_the_wrong_kind(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("")
        with pytest.raises(OutputError, match="is a folder; name a file"):
            check_output(tmp_path, overwrite=True)
        with pytest.raises(OutputError, match="is a file; nothing is overwritten"):
            check_output(tmp_path / "a", folder=True, overwrite=True)

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(OutputError, match="cannot be written"):
            check_output(tmp_path / "a")

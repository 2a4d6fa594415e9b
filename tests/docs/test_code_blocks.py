"""The code in the documentation runs, its configurations are valid, its commands exist."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from docs_pages import Block, blocks
from pydantic import BaseModel

import rehead
from rehead.cli import app
from rehead.configs.augment import STEPS
from rehead.configs.backbones import BACKBONES
from rehead.configs.heads import HEADS
from rehead.configs.load import load_config, recipes
from rehead.configs.overrides import parse_overrides
from rehead.configs.readers import READERS
from rehead.configs.schema import Config
from rehead.configs.tasks import TASKS
from rehead.datasets.write import WRITERS
from rehead.errors import ConfigError
from rehead.tasks.metrics import METRICS

OFFLINE = [block for block in blocks("python") if block.page.name != "extend.md" and "rehead.load(" not in block.code]
"""The first of README asks for published weights."""
EXTEND = [block for block in blocks("python") if block.page.name == "extend.md"]
DETECTION = {
    "task": "detection",
    "data": {"format": "coco", "root": ".", "train": {"images": "a", "annotations": "a.json"}},
    "model": {"backbone": {"name": "resnet18"}, "head": {"name": "fcos"}},
}
SEGMENTATION = {
    "task": "segmentation",
    "data": {"format": "masks", "root": ".", "train": {"images": "a", "masks": "b"}, "classes": ["sky", "road"]},
    "model": {"backbone": {"name": "resnet18"}, "head": {"name": "unet"}},
}


@pytest.mark.parametrize("block", OFFLINE, ids=str)
def test_python_runs(block: Block) -> None:
    exec(compile(block.code, str(block), "exec"), {})


PARTS = {"heads": 0, "backbones": 2, "readers": 3, "writers": 4, "steps": 5, "metrics": 6, "tasks": 7}
"""The modules of the package of docs/extend.md, and which block each is."""
ALONE = (1, 8, 9)
"""The blocks that are no module of it."""


@pytest.fixture
def my_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package of docs/extend.md; what it registers is forgotten afterwards."""
    assert sorted([*PARTS.values(), *ALONE]) == list(range(len(EXTEND)))
    (tmp_path / "my_package").mkdir()
    for name, place in PARTS.items():
        (tmp_path / "my_package" / f"{name}.py").write_text(EXTEND[place].code)
    monkeypatch.syspath_prepend(tmp_path)
    for table in (BACKBONES, HEADS, READERS, STEPS):
        monkeypatch.setattr(table, "_entries", dict(table._entries))
    before: list[tuple[Any, Any]] = [(table, dict(table)) for table in (WRITERS, METRICS, TASKS)]
    yield tmp_path
    for table, content in before:
        table.clear()
        table.update(content)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_a_head_is_under_sixty_lines() -> None:
    assert len(EXTEND[PARTS["heads"]].code.splitlines()) < 60


def test_a_head_and_a_backbone_of_another_package_work_as_docs_extend_says(my_package: Path) -> None:
    (block,) = [block for block in blocks("yaml") if block.page.name == "extend.md"]
    raw = yaml.safe_load(block.code)
    raw["plugins"].append("my_package.backbones")
    raw["model"]["backbone"]["name"] = "small"
    config = load_config(raw)
    assert config.model.heads["main"].name == "mean_max"

    options = config.model.backbone
    for backbone in (options, "resnet18"):
        model = rehead.build_model(backbone, config.model.heads["main"], ["rose", "tulip"], weights="none")
        frames = [rehead.Frame(size=(64, 64), original=(64, 64))] * 2
        features = model.backbone(torch.rand(2, 3, 64, 64))
        head = model.heads["main"]
        targets = [rehead.Target(image_id=i, label=torch.tensor(i)) for i in (0, 1)]
        assert all(map(head.has_targets, targets))
        head.loss(features, frames, targets)["loss_classifier"].backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        (first, _) = head.predict(features, frames)
        assert first.probabilities.sum().item() == pytest.approx(1, abs=1e-5)

    small = rehead.build_model(options.model_copy(update={"freeze": 1}), "fcos", ["rose"], weights="none")
    small.backbone.freeze(1)
    assert not any(parameter.requires_grad for parameter in small.backbone.stage2.parameters())
    assert all(parameter.requires_grad for parameter in small.backbone.stage3.parameters())
    exec(EXTEND[1].code, {"rehead": rehead})


def test_data_steps_metrics_and_tasks_of_another_package_train_as_docs_extend_says(
    my_package: Path, synthetic: Path, rehead_command: Any
) -> None:
    """The synthetic shapes are written by its writer, read by its reader, and judged by its metric and its task."""
    out, plugins = my_package / "lines", [f"my_package.{name}" for name in PARTS]
    shapes = {"format": "folders", "root": str(synthetic / "shapes"), "train": {"images": "train"}}
    body = {"backbone": {"name": "small", "weights": "none"}}
    source = {"plugins": plugins, "task": "classification", "data": shapes, "model": {**body, "head": "linear"}}
    source["data"]["val"] = {"images": "val"}
    (my_package / "shapes.yaml").write_text(yaml.safe_dump(source))
    wrote = rehead_command("data", "convert", my_package / "shapes.yaml", out, "--to", "json_lines")
    assert wrote.code == 0, wrote.err
    splits = {split: {"images": split, "lines": f"{split}.jsonl"} for split in ("train", "val")}
    data: dict[str, Any] = {"format": "json_lines", "root": str(out), "workers": 0, **splits}
    data |= {"resize": {"height": 64, "width": 64}, "augment": [{"name": "grey", "p": 0.5}]}
    head = "from my_package.heads import MeanMax, MeanMaxOptions\nimport rehead\n"
    head += "class Options(MeanMaxOptions):\n    name: str = 'ordered'\n"
    head += "rehead.register_head('ordered', Options, task='ordinal_classification')(MeanMax)\n"
    (my_package / "my_package" / "ordered.py").write_text(head)
    for task, name, metrics in (
        ("classification", "mean_max", {"top1", "top5", "balanced"}),
        ("ordinal_classification", "ordered", {"closeness"}),
    ):
        raw = {
            "plugins": [*plugins, "my_package.ordered"],
            "task": task,
            "data": data,
            "model": {**body, "head": name},
            "train": {"epochs": 1, "batch_size": 4, "pictures": 1},
            "device": "cpu",
            "out": str(my_package / task),
        }
        run = rehead.train(raw)
        found = rehead.evaluate(run / "best.safetensors", plugins=raw["plugins"])["main"]
        assert set(found) == metrics


@pytest.mark.parametrize("place", ALONE[1:])
def test_loops_and_datasets_of_one_s_own_are_as_docs_extend_says(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXTEND[place].code, str(EXTEND[place]), "exec"), {"__name__": "mine"})
    assert (tmp_path / "runs/squares/last.safetensors").is_file() == (place == ALONE[-1])


CONFIGURATIONS = [
    block for block in blocks("yaml") if not re.search("^plugins:|format: auto", block.code, re.MULTILINE)
]
"""`auto` needs the files, plugins their package."""


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=str)
def test_a_configuration_is_valid(block: Block) -> None:
    """A whole one as it is; a part of one in place of the same part of a detection's or a segmentation's."""
    raw = yaml.safe_load(block.code)
    if "task" in raw:
        load_config(raw)
        return
    problems = []
    for whole in (DETECTION, SEGMENTATION):
        try:
            load_config(_with(whole, raw))
        except ConfigError as error:
            problems.append(str(error))
    assert len(problems) < 2, problems


def _with(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A configuration with a part of it replaced; a part that stands alone belongs to `data`."""
    if not part.keys() <= Config.model_fields.keys() or "images" in part.get("train", {}):
        part = {"data": part}
    return {**whole, **{key: {**whole.get(key, {}), **value} for key, value in part.items()}}


def commands() -> list[tuple[str, list[str]]]:
    """Every `rehead ...` of the shell's blocks, and behind `$` in what is shown of a terminal."""
    found = []
    for block in [*blocks("sh"), *blocks("")]:
        for line in block.code.replace("\\\n", " ").splitlines():
            if block.language == "" and not line.startswith("$ "):
                continue
            line = line.split(" > ")[0].removeprefix("$ ")
            match = re.search(r"\brehead (?P<arguments>[a-z].*)", line)
            if match and "$" not in line:
                found.append((f"{block}: {match[0]}", shlex.split(match["arguments"], comments=True)))
    return found


@pytest.mark.parametrize("arguments", [pytest.param(arguments, id=name) for name, arguments in commands()])
def test_a_command_exists_with_its_options_and_keys(arguments: list[str]) -> None:
    # By what it has, not by its class: newer typers have a copy of click in them.
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands
        command = command.commands[name]
    command.make_parser(command.context_class(command)).parse_args(args=list(arguments))
    words = [argument for argument in arguments if not argument.startswith("-")]
    overrides = parse_overrides([word for word in words if re.match(r"[a-z_]+(\.\w+)*=", word)])
    recipe = next((word for word in words if word in recipes()), None)
    if recipe:
        load_config(recipe, overrides)
    for key in overrides:
        options: Any = Config
        # `model.head` is short for `model.heads.main`.
        for part in key.removesuffix(".head").partition(".head.")[0].split(".")[:2]:
            assert part in options.model_fields, key
            options = options.model_fields[part].annotation
            if not (isinstance(options, type) and issubclass(options, BaseModel)):
                break

"""A configuration is checked whole, before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rehead.configs.load import dump, load_config, recipes, to_yaml
from rehead.configs.overrides import override, parse_overrides
from rehead.errors import ConfigError


def minimal(**more: Any) -> dict[str, Any]:
    return {"task": "detection", "model": {"head": {"name": "faster_rcnn"}}, **more}


def tagging(data: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """A classification head with several classes per image, and data that COCO files hold unless given."""
    head = {"name": "linear", "multi_label": True, **options}
    return {"task": "classification", "model": {"head": head}, "data": data or {"format": "coco"}}


def problems_of(raw: dict[str, Any], overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(raw, overrides)
    return caught.value.problems


@pytest.mark.parametrize("name", recipes())
def test_a_shipped_recipe_is_valid_and_survives_a_round_trip_through_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config
    assert load_config(dump(config)) == config


def test_a_recipe_is_named_by_path_or_by_name() -> None:
    assert load_config("configs/camvid_unet_r18.yaml") == load_config("camvid_unet_r18")
    assert load_config("configs/paper/resnet56.yaml") == load_config("paper/resnet56")


def test_head_is_short_for_one_head_called_main() -> None:
    short = load_config(minimal())
    assert short == load_config({"task": "detection", "model": {"heads": {"main": {"name": "faster_rcnn"}}}})
    assert load_config({"task": "detection", "model": {"head": "faster_rcnn"}}) == short


def test_head_overrides_reach_the_main_head_of_a_resolved_config() -> None:
    resolved = dump(load_config(minimal()))
    config = load_config(resolved, {"model.head.score_threshold": 0.2})
    assert config.model.heads["main"].model_dump()["score_threshold"] == 0.2


def test_every_problem_is_reported_at_once_with_the_key_and_a_near_match() -> None:
    problems = problems_of(
        {
            "task": "detection",
            "model": {"head": {"name": "faster_rcnn", "nmss": 0.5}, "bakbone": {"name": "resnet18"}},
            "data": {"format": "coco", "train": {"images": "a", "annotaions": "b"}},
            "train": {"epoch": 3, "optimizer": {"lr": -1}},
        }
    )
    text = "\n".join(problems)
    assert "model.heads.main.nmss: unknown key; did you mean 'nms'?" in text
    assert "model.bakbone: unknown key; did you mean 'backbone'?" in text
    assert "data.train.annotations: missing" in text
    assert "data.train.annotaions: unknown key; did you mean 'annotations'?" in text
    assert "train.epoch: unknown key; did you mean 'epochs'?" in text
    assert "train.optimizer.lr" in text
    assert "found -1" in text
    assert len(problems) == 6


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (minimal(model={"head": {"name": "faster_rcn"}}), "did you mean 'faster_rcnn'"),
        (minimal(model={"head": {"name": "unet"}}), "'unet' is a segmentation head but task is detection"),
        (minimal(data={"format": "folders", "train": {"images": "x"}}), "'folders' gives classification"),
        (tagging(multi_label=False), "use folders or huggingface, or set model.heads.main.multi_label=true"),
        (
            tagging(data={"format": "masks", "classes": ["a"]}),
            "head 'main' is a multi_label_classification head; use folders or coco",
        ),
        (tagging(data={"resize": {"shorter": 10, "longer": 20}}, multi_label=False), "needs one size for all"),
        (tagging(label_smoothing=1.0), "model.heads.main.label_smoothing: Input should be less than 1"),
        (tagging(hidden=3), "model.heads.main.hidden: unknown key"),
        (minimal(model={"head": {"name": ["faster_rcnn"]}}), "unknown head '['faster_rcnn']'"),
        (minimal(data={"format": ["coco"]}), "unknown data format"),
        (minimal(model={"head": "faster_rcnn", "backbone": {"std": [0, 1, 1]}}), "std must be greater than 0"),
        (minimal(data={"format": "cocoo"}), "unknown data format 'cocoo'; did you mean 'coco'?"),
        (minimal(data={"train": {"images": "x"}}), "data.format: missing"),
        (minimal(data={"resize": {"shorter": 10, "height": 3, "width": 3}}), "either shorter"),
        (minimal(data={"resize": {"shorter": 10, "crop": 8}}), "only classification crops"),
        (minimal(data={"values": {"a": 1, "b": [1, 2, 3]}}), "values are all numbers or all [red, green, blue]"),
        (minimal(data={"values": {"a": 1, "b": 2, "c": 1}}), "values: a and c have the same value"),
        (minimal(train={"schedule": {"name": "multistep"}}), "needs milestones"),
        (minimal(train={"schedule": {"name": "cosine", "milestones": [3]}}), "milestones belongs to multistep"),
        (minimal(train={"schedule": {"name": "cosine", "power": 2}}), "power belongs to poly, not to cosine"),
        (minimal(data={"sampling": {"min_keypoints": 10}}), "min_keypoints belongs to skip_empty: true"),
        (minimal(model={"head": "faster_rcnn", "backbone": {"in_channels": 4}}), "mean and std must be given"),
        (minimal(plugins=["no_such_module_here"]), "cannot import 'no_such_module_here'"),
        ({"task": "detection"}, "model: missing"),
        (
            {"task": "segmentation", "model": {"head": "unet"}, "data": {"format": "masks"}},
            "list the names of values 0, 1, 2",
        ),
    ],
)
def test_what_does_not_fit_is_said(raw: dict[str, Any], said: str) -> None:
    assert said in "\n".join(problems_of(raw))


@pytest.mark.parametrize(
    "data", [{"format": "coco"}, {"format": "folders"}, {"format": "coco", "resize": {"shorter": 10, "longer": 20}}]
)
def test_several_classes_per_image_come_from_coco_or_folders_at_any_size(data: dict[str, Any]) -> None:
    assert load_config(tagging(data)).model.heads["main"].model_dump()["multi_label"]


def test_overrides_are_yaml_values() -> None:
    parsed = parse_overrides(["train.epochs=3", "data.classes=[a, b]", "model.backbone.freeze=all", "out=runs/a=b"])
    assert parsed == {
        "train.epochs": 3,
        "data.classes": ["a", "b"],
        "model.backbone.freeze": "all",
        "out": "runs/a=b",
    }
    assert load_config(minimal(), {"train.optimizer.lr": "1e-4"}).train.optimizer.lr == 1e-4


def test_an_override_that_is_no_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="should read key=value"):
        parse_overrides(["train.epochs"])


def test_another_heads_name_leaves_the_options_of_the_first_behind() -> None:
    raw = minimal(model={"head": {"name": "faster_rcnn", "representation": 64, "nms": 0.4}})
    swapped = load_config(raw, {"model.head.channels": 64, "model.head.name": "retinanet"})
    assert swapped == load_config(minimal(model={"head": {"name": "retinanet", "channels": 64}}))
    assert load_config(raw, {"model.head.name": "faster_rcnn"}) == load_config(raw)
    assert load_config(minimal(model={"head": "faster_rcnn"}), {"model.head.name": "retinanet"}) == load_config(
        minimal(model={"head": "retinanet"})
    )


def test_an_override_below_a_plain_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="task is 'detection' and has nothing inside"):
        override(minimal(), {"task.name": "x"})


def test_a_missing_config_names_near_recipes() -> None:
    with pytest.raises(ConfigError, match="did you mean 'camvid_unet_r18'"):
        load_config("camvid_unet_r8")
    with pytest.raises(ConfigError, match="did you mean 'paper/resnet56'"):
        load_config("configs/paper/resnet5.yaml")


def test_a_file_or_key_that_is_elsewhere_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "photos.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such file or recipe; did you mean '.*photos\.yaml'\?$"):
        load_config(tmp_path / "photos.yml")
    with pytest.raises(ConfigError, match=r"no such file or recipe$"):
        load_config(tmp_path / "other" / "mine.yaml")
    with pytest.raises(ConfigError, match=r"is a folder; `rehead init .*` writes a configuration"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=r"epochs: unknown key; did you mean 'train\.epochs'\?"):
        load_config("camvid_unet_r18", {"epochs": 3})


def test_a_plugin_registers_a_head_that_the_config_may_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_plugin.py").write_text(
        "from typing import Literal\n"
        "from rehead import HeadOptions, register_head\n"
        "class MineOptions(HeadOptions):\n"
        "    name: Literal['a_plugins_head'] = 'a_plugins_head'\n"
        "    depth: int = 2\n"
        "@register_head('a_plugins_head', MineOptions, task='detection')\n"
        "class Mine: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    raw = minimal(plugins=["a_plugin"], model={"head": {"name": "a_plugins_head", "depth": 3}})
    config = load_config(raw)
    head = config.model.heads["main"].model_dump()
    assert (head["name"], head["depth"]) == ("a_plugins_head", 3)
    assert load_config(dump(config)) == config


def test_checking_a_config_imports_no_torch() -> None:
    code = (
        "import sys; from rehead import load_config; load_config('camvid_unet_r18'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""YAML of a stranger: ten lines may not fill the memory, and what is refused is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from rehead import plain_yaml
from rehead.configs.load import load_config, read_yaml
from rehead.configs.overrides import parse_overrides
from rehead.datasets.audit.run import check_data
from rehead.datasets.formats.yolo import class_names
from rehead.errors import ConfigError, DataError, quoted
from rehead.plain_yaml import LONGEST, MOST_CHARACTERS, MOST_DEEP, YamlError, YamlLimitError, load_yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def bomb(levels: int = 12, item: str = "[{0}]") -> str:
    """Each level stands for ten times the one before."""
    aliases = [", ".join([f"*a{level}"] * 10) for level in range(levels - 1)]
    lines = [f"a{level}: &a{level} {item.format(own)}" for level, own in enumerate(aliases, start=1)]
    return "\n".join(["a0: &a0 [lol]", *lines]) + "\n"


MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))

HOSTILE = {
    "aliases": (bomb(), "more than 1000000 values"),
    "merged keys": (MERGES, "more than 1000000 values"),
    "itself": ("a: &a [1, *a]", "line 1: '\\*a' stands for itself"),
    "itself, merged": ("a: &a\n  <<: *a", "line 2: '\\*a' stands for itself"),
    "deep": ("[" * 5000, f"more than {MOST_DEEP} levels"),
    "deep and closed": ("[" * 5000 + "]" * 5000, f"more than {MOST_DEEP} levels"),
    "deep blocks": ("".join(" " * n + "a:\n" for n in range(300)) + " " * 300 + "x", f"more than {MOST_DEEP} levels"),
    "long": ("x: " + "y" * (MOST_CHARACTERS + 1), "characters; at most"),
    "a long value": ("x: " + "y" * (LONGEST + 1), f"line 1: a value of {LONGEST + 1} characters"),
    "a number of an hour's arithmetic": ("x: " + "1" + ":59" * LONGEST, "a value of"),
}
BROKEN = {
    "a date": "x: 2020-40-40",
    "a number": "x: " + "9" * 5000,
    "a tag": "x: !!python/object/apply:os.system [true]",
    "a binary": "x: !!binary 猫",
    "a key": "? [a]\n: b",
    "an unknown name": "x: *nowhere",
    "a control character": "x: \x07",
    "cut": "x: [1, ",
}


@pytest.mark.parametrize("loader", [plain_yaml._LOADER, yaml.SafeLoader])
@pytest.mark.parametrize("name", HOSTILE)
def test_more_than_is_read_is_refused_before_it_is_built(
    name: str, loader: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_yaml, "_LOADER", loader)
    text, message = HOSTILE[name]
    with pytest.raises(YamlLimitError, match=message):
        load_yaml(text)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_one_kind_of_error(name: str) -> None:
    with pytest.raises(YamlError) as caught:
        load_yaml(BROKEN[name])
    assert len(str(caught.value)) < 1100


def test_what_people_write_is_read() -> None:
    text = "base: &base {lr: 0.1, steps: [1, 2]}\none: {<<: *base, lr: 0.2}\ntwo: *base\nnames: {0: cat, 1: dog}\n"
    assert load_yaml(text) == {
        "base": {"lr": 0.1, "steps": [1, 2]},
        "one": {"lr": 0.2, "steps": [1, 2]},
        "two": {"lr": 0.1, "steps": [1, 2]},
        "names": {0: "cat", 1: "dog"},
    }
    names = [f"class {number}" for number in range(20_000)]
    assert load_yaml("names:\n" + "".join(f"- {name}\n" for name in names)) == {"names": names}


def test_a_configuration_and_the_command_line_refuse_a_bomb(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(bomb())
    with pytest.raises(ConfigError, match=r"a\.yaml:\n  - not YAML: more than 1000000 values"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"data\.classes: more than 64 levels"):
        parse_overrides(["data.classes=" + "[" * 5000])


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_bytes(b"x: \xff"), lambda path: None])
def test_a_configuration_that_cannot_be_read_is_named(make: object, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    make(file)  # type: ignore[operator]
    for read in (load_config, read_yaml):
        with pytest.raises(ConfigError, match=re.escape(str(file))):
            read(file)


def test_a_data_yaml_that_is_a_bomb_is_an_error_and_a_finding(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "labels").mkdir()
        Image.effect_noise((32, 24), len(name)).save(tmp_path / name / "images/a.png")
        (tmp_path / name / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5")
    file = tmp_path / "data.yaml"
    file.write_text(bomb() + "names: *a11\ntrain: train/images\nval: val/images\n")
    with pytest.raises(DataError, match=r"data\.yaml: broken YAML: more than 1000000 values"):
        class_names(file)
    findings = check_data(tmp_path, {"data.classes": ["cat"]}).findings
    (found,) = (one for one in findings if one.file == str(file))
    assert found.code == "broken_annotation"


def test_there_is_no_other_loader() -> None:
    files = [*REPOSITORY.glob("[cdeht]*/**/*.py"), *REPOSITORY.glob("backbones/*.py")]
    loaders = re.compile(r"yaml\.(safe_|full_|unsafe_)?load|yaml\.\w*Loader")
    mine = REPOSITORY / "core/plain_yaml.py"
    others = [path for path in files if path != mine and "tests" not in path.parts and loaders.search(path.read_text())]
    assert others == []


def test_values_in_messages_are_short_whatever_they_are() -> None:
    deep: list[object] = []
    for _ in range(900):
        deep = [deep]
    for value in ("x" * 10**6, 10**5000, deep, list(range(10**5)), {str(n): n for n in range(10**5)}, b"x" * 10**6):
        assert len(quoted(value)) < 400
    assert quoted({"a": [1, "b", None]}) == "{'a': [1, 'b', None]}"
    raw = {"task": "detection", "model": {"head": "fcos"}, "x" * 10**6: 1, "train": {"epochs": ["y" * 10**6]}}
    with pytest.raises(ConfigError) as caught:
        load_config(raw)
    assert len(str(caught.value)) < 10_000

"""The hooks of the site: each room has a page, links lead on, and nothing is loaded from elsewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from docs_pages import REPOSITORY
from mkdocs.exceptions import PluginError

import rehead


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", REPOSITORY / "docs" / ".site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_file_of_every_room(hooks: ModuleType) -> None:
    pages = [line for room, purpose in hooks._rooms().items() for line in hooks._reference(room, purpose)]
    shown = [name for line in pages for name in re.findall(r"^::: (\S+)", line)]
    files = [path for folder in hooks.PACKAGES.values() for path in folder.glob("[a-z]*.py")]
    assert sorted(shown) == sorted([*hooks.PACKAGES, *map(hooks._module, files)])


def test_every_folder_with_code_is_a_room_or_part_of_one(hooks: ModuleType) -> None:
    """Also one without `__init__.py`."""
    apart = {"tests", "benchmarks", "docs", "build", "dist", "site", "runs"}
    roots = [path for path in REPOSITORY.glob("[a-z]*/") if path.name not in apart]
    assert {path.parent for root in roots for path in root.rglob("*.py")} == set(hooks.PACKAGES.values())


def test_what_an_init_file_imports_is_shown_where_it_is_written(hooks: ModuleType) -> None:
    code = (
        "from x import Head\nlog = 1\nTABLE: dict = {}\n_inner = 2\ndef build(): ...\nclass Own: ...\nclass _Own: ..."
    )
    assert list(hooks._defined(code)) == ["log", "TABLE", "build", "Own"]


def test_a_room_that_contributing_does_not_list_stops_the_build(
    hooks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hooks.PACKAGES, "rehead.attic", REPOSITORY / "attic")
    with pytest.raises(PluginError, match=r"has: rehead\.attic"):
        hooks._rooms()


def test_a_room_that_is_gone_stops_the_build(hooks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(hooks.PACKAGES, "rehead.heads")
    with pytest.raises(PluginError, match=r"has: rehead\.heads"):
        hooks._rooms()


def test_every_name_of_rehead_is_in_the_index(hooks: ModuleType) -> None:
    hooks._mirror()
    index = "\n".join(hooks._index(hooks._rooms()))
    assert re.findall(r"^\| \[`(\w+)`\]\[rehead\.\w+\] \| \S", index, re.MULTILINE) == sorted(rehead.__all__)


@pytest.mark.parametrize(
    ("page", "link", "led_on"),
    [
        ("heads.md", "[x](data.md#coco)", "[x](data.md#coco)"),
        ("heads.md", "[x](../benchmarks/RESULTS.md)", "[x](measurements.md)"),
        ("heads.md", "[x](../README.md#licence)", "[x](index.md#licence)"),
        ("heads.md", "[`x`](../heads/roi_align.py)", "[`x`][rehead.heads.roi_align]"),
        ("heads.md", "[x](../core/types.py)", "[x][rehead.types]"),
        ("heads.md", "[x](../configs/paper)", "x"),
        ("heads.md", "[x](../configs/no_such_file.py)", "[x](../configs/no_such_file.py)"),
        (
            "heads.md",
            "![x](demo.jpg) [x](https://arxiv.org) [x](#here)",
            "![x](demo.jpg) [x](https://arxiv.org) [x](#here)",
        ),
        ("heads.md", "```\n[x](../configs/paper)\n```\n", "```\n[x](../configs/paper)\n```\n"),
        ("contributing.md", "[x](docs/extend.md#a-head)", "[x](extend.md#a-head)"),
        ("measurements.md", "[x](../docs/heads.md) [x](train_step.py)", "[x](heads.md) x"),
    ],
)
def test_links_that_lead_out_of_docs_lead_to_what_the_site_has(
    hooks: ModuleType, page: str, link: str, led_on: str
) -> None:
    file = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    assert hooks.on_page_markdown(link, file, None, None) == led_on


@pytest.mark.parametrize(
    "asset",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<img alt="" src="http://example.org/x.png">',
        '<img srcset="x.png 1x, https://example.org/x.png 2x">',
        '<p style="background: url(https://example.org/x.png)">',
        "<style>@import 'https://example.org/x.css';</style>",
        '<pre class="mermaid">',
    ],
)
def test_an_asset_of_another_machine_stops_the_build(hooks: ModuleType, tmp_path: Path, asset: str) -> None:
    (tmp_path / "index.html").write_text(f'<a href="https://example.org">a person may go there</a>{asset}')
    with pytest.raises(PluginError, match=r"index\.html"):
        hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))


def test_the_site_s_own_assets_and_links_for_people_are_fine(hooks: ModuleType, tmp_path: Path) -> None:
    page = '<a href="https://example.org">x</a><link rel="canonical" href="https://example.org"><script src="x.js">'
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "x.css").write_text(
        "a { mask: url('data:image/svg+xml;utf8,<svg xmlns=\"http://www.w3.org/2000/svg\"/>') }"
    )
    hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))

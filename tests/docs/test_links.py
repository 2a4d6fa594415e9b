"""Every link of the documentation leads somewhere, on a code host as on the site."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from docs_pages import PAGES, REPOSITORY, anchors, links

ROOMS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()
FOLDERS = {"docs", "tests", "benchmarks", ".ci", *(room.split("/")[0] for room in ROOMS)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_link_of_a_page_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    lost = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        if ":" in name:
            continue
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and (there.suffix != ".md" or anchor not in anchors(there))):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`([\w.]+/(?:[\w/.]*(?:/|\.py|\.yaml|\.md))?)`", page.read_text())
    assert not [name for name in named if name.split("/")[0] in FOLDERS and not (REPOSITORY / name).exists()]


def test_every_page_and_picture_is_linked_from_somewhere() -> None:
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in PAGES for target in links(page)}
    files = {path.resolve() for suffix in ("md", "png", "jpg") for path in (REPOSITORY / "docs").rglob(f"*.{suffix}")}
    assert files <= linked

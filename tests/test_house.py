"""Imports only point down the list of rooms, and files do not import one another in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

ROOMS = (
    "cli",
    "demo",
    "tasks",
    "interop",
    "models",
    "training",
    "evaluation",
    "heads",
    "backbones",
    "datasets",
    "data",
    "visualize",
    "configs",
    "core",
)
"""From the top down; CONTRIBUTING.md says what lives in each."""

DOORS = {"rehead", "rehead.__main__"}
"""`rehead` gives the public names, imported when they are first used, and `python -m rehead` is the command."""


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    parts = parts[1:] if parts[0] == "core" else parts
    return ".".join(("rehead", *parts)).removesuffix(".__init__")


FILES = {module_of(path): path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))}


def room_of(module: str) -> str:
    return FILES[module].relative_to(REPOSITORY).parts[0]


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports: at its top, inside functions, and for type checkers alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rehead":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "rehead")


IMPORTS = {module: {name for name in imported(path) if name in FILES} for module, path in FILES.items()}


def test_every_folder_with_code_is_a_room() -> None:
    apart = {"tests", "benchmarks", "docs", "build", "dist", "site"}
    found = {path.relative_to(REPOSITORY).parts[0] for path in REPOSITORY.glob("[a-z]*/*.py")}
    assert found - apart == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room: str) -> None:
    above = set(ROOMS[: ROOMS.index(room)])
    up = {
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if module not in DOORS and room_of(module) == room
        for name in names
        if room_of(name) in above
    }
    assert not up


def test_no_circle_of_files() -> None:
    graph = {module: names - {module} for module, names in IMPORTS.items() if module not in DOORS}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these files import one another: {error.args[1]}")


def test_the_documents_list_the_same_rooms() -> None:
    table = [
        line.split("`")[1].rstrip("/")
        for line in (REPOSITORY / "CONTRIBUTING.md").read_text().splitlines()
        if line.startswith("| `") and line.split("`")[1].endswith("/")
    ]
    assert tuple(table) == ROOMS


def test_hugging_faces_package_is_found_from_the_root() -> None:
    """The folder `datasets` has no `__init__.py`: with one, it would stand before the package of that name."""
    script = "import datasets; assert datasets.load_from_disk"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY)

"""What the benchmarks use of rehead is there: nobody runs them each time that a name changes."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).resolve().parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_name_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rehead":
            for alias in node.names:
                try:
                    found = hasattr(importlib.import_module(node.module), alias.name)
                    found = found or importlib.import_module(f"{node.module}.{alias.name}") is not None
                except ModuleNotFoundError:
                    found = False
                assert found, f"{path.name}:{node.lineno}: {node.module} has no {alias.name}"

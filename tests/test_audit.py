"""The audit of the dependencies in `.ci`: a known vulnerability fails, and what was not asked is said."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any

import pytest
from conftest import REPOSITORY

AUDIT = REPOSITORY / ".ci" / "audit"


@pytest.fixture(scope="module")
def audit() -> Any:
    if not AUDIT.is_file():
        pytest.skip("there is no .ci folder here")
    spec = spec_from_loader("audit", SourceFileLoader("audit", str(AUDIT)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = written
    return module


HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}


def test_a_known_vulnerability_fails(audit: Any) -> None:
    packages = [{"name": "a", "version": "1.0", "vulns": [HOLE]}, {"name": "b", "version": "1.0", "vulns": []}]
    code, lines = audit.verdict("osv", packages)
    assert code == 1
    assert lines == [
        "audit: a 1.0: PYSEC-1 CVE-1, fixed in 2.0",
        "audit: osv knows 1 vulnerabilities of 2 packages",
    ]


def test_packages_that_nobody_was_asked_about_are_named(audit: Any) -> None:
    packages = [{"name": "a", "version": "1.0", "vulns": []}, {"name": "b", "skip_reason": "not found"}]
    assert audit.verdict("pypi", packages) == (0, ["audit: pypi knows 0 vulnerabilities of 1 packages, NOT of b"])


@pytest.mark.parametrize("packages", [[], [{"name": "a", "skip_reason": "Dependency not found on PyPI"}]])
def test_a_service_that_knows_nothing_is_no_all_clear(audit: Any, packages: list[dict[str, Any]]) -> None:
    assert audit.verdict("pypi", packages)[0] is None


def test_without_any_service_it_says_so_and_passes(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "ask", lambda wanted, service: [])
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: None)
    assert audit.main() == 0
    assert "audit: NOT DONE" in capsys.readouterr().out

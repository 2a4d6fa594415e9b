"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Before anything imports albumentations: it asks the network for its newest version otherwise.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# Before torch: on tensors as small as these, threads cost more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def all_cores_for_slow_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Slow tests train on larger tensors, where threads pay: each process of `-n` takes its share of the cores."""
    if request.node.get_closest_marker("slow") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Annotations are kept beside the tests' own files, not among the user's."""
    before = os.environ.get("REHEAD_CACHE")
    os.environ["REHEAD_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["REHEAD_CACHE"]
    if before is not None:
        os.environ["REHEAD_CACHE"] = before


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights, beside the repository or at $REHEAD_SHARED."""
    folder = Path(os.environ.get("REHEAD_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir() or not (folder / "weights").is_dir():
        pytest.skip(f"real images and weights are not here: no data/ and weights/ in {folder} (set REHEAD_SHARED)")
    return folder


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic data: `shapes/` in folders per class; `scenes/` as COCO and as masks; splits train and val."""
    from rehead.demo.synthetic import write_classification, write_scenes

    root = tmp_path_factory.mktemp("synthetic")
    for split, count in (("train", 12), ("val", 6)):
        write_classification(root / "shapes", split, count, size=64, seed=0)
        write_scenes(root / "scenes", split, count, size=64, seed=0)
    return root


@dataclass
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def rehead_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs `rehead ...` through the real entry point, in this process, since importing torch takes seconds."""

    def run(*arguments: object) -> Outcome:
        from rehead.cli import main

        monkeypatch.setattr(sys, "argv", ["rehead", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run

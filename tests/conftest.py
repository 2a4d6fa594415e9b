"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports albumentations: it asks the network for its newest version otherwise.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights, beside the repository or at $REHEAD_SHARED."""
    folder = Path(os.environ.get("REHEAD_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir() or not (folder / "weights").is_dir():
        pytest.skip(f"real images and weights are not here: no data/ and weights/ in {folder} (set REHEAD_SHARED)")
    return folder

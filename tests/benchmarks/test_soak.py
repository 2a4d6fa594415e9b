"""`benchmarks/soak.py`, in a form of less than a minute: what is killed goes on as if it had not been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks/soak.py"


@pytest.mark.matrix
def test_kills_at_renames_and_at_random_moments_leave_no_difference(tmp_path: Path) -> None:
    kinds = ["--kinds", "two processes"]
    short = ["--renames", "2", "--random-kills", "1", "--steps", "0", "--work", tmp_path / "work"]
    outcome = subprocess.run(
        [sys.executable, FILE, *kinds, *map(str, short)], capture_output=True, text=True, timeout=300
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    rows = [line.strip("| ").split(" | ") for line in outcome.stdout.splitlines() if line.startswith("| all")]
    kills, _, tensors, differing = map(int, rows[0][1:])
    assert kills >= 3
    assert tensors > 1000
    assert differing == 0

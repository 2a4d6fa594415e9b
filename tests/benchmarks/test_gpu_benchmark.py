"""`benchmarks/gpu.py`, tried out where there is no GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from torch.autograd import DeviceType

from rehead.training import engine

FILE = Path(__file__).resolve().parents[2] / "benchmarks/gpu.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_it_checks_measures_and_writes_its_tables(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "COMPILER", engine.COMPILER)  # put back afterwards
    out = tmp_path / "results.md"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--tiny", "--out", str(out)])
    assert benchmark.main() == 0
    rows = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")]
    measured = [row for row in rows if row[1] in ("rehead", "torchvision", "smp")]
    assert {(row[1], row[2], row[3]) for row in measured} == {
        *((side, precision, "no") for side in ("rehead", "torchvision", "smp") for precision in ("fp32", "bf16")),
        ("rehead", "fp32", "backbone"),
    }
    assert all(float(row[4]) > 0 for row in measured)
    assert all(float(row[5]) > 0 for row in measured if row[1] == "rehead")
    checks = [row for row in rows if row[-1] == "yes |"]
    # The device is the CPU: it equals itself to the bit.
    assert [(row[1], row[2]) for row in checks] == [("0.0e+00", "0.0e+00")] * 3


def test_a_device_that_computes_something_else_fails(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    case = list(benchmark.cases(benchmark.TINY))[-1]
    genuine, calls = benchmark.copy.deepcopy, []

    def second_is_off(model: torch.nn.Module) -> torch.nn.Module:
        copied = genuine(model)
        calls.append(copied)
        if len(calls) == 2:
            with torch.no_grad():
                for parameter in copied.heads.parameters():
                    parameter.mul_(1.5)
        return copied

    monkeypatch.setattr(benchmark, "copy", SimpleNamespace(deepcopy=second_is_off))
    line, good = benchmark.check(case, benchmark.TINY, torch.device("cpu"))
    assert not good
    assert line.endswith("| NO |")


def test_the_shares_are_of_kernels_that_overlap_and_of_waits_of_the_host(benchmark: ModuleType) -> None:
    def event(name: str, start: float, end: float, kind: DeviceType) -> SimpleNamespace:
        return SimpleNamespace(name=name, device_type=kind, time_range=SimpleNamespace(start=start, end=end))

    events = [
        event("kernel", 0, 200_000, DeviceType.CUDA),
        event("beside it", 100_000, 300_000, DeviceType.CUDA),
        event("inside", 150_000, 160_000, DeviceType.CUDA),
        event("later", 500_000, 700_000, DeviceType.CUDA),
        event("cudaStreamSynchronize", 200_000, 300_000, DeviceType.CPU),
        event("cudaDeviceSynchronize", 900_000, 990_000, DeviceType.CPU),  # the benchmark's own
    ]
    idle, (count, share) = benchmark.shares(events, seconds=1.0, steps=2)
    assert idle == pytest.approx(0.5)
    assert (count, share) == (0.5, pytest.approx(0.1))

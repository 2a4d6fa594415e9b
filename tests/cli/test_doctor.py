"""`rehead doctor`: what there is, and what is known to go wrong with it."""

from __future__ import annotations

import importlib
import json
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from rehead import environment
from rehead.environment import Cuda, Environment, Gpu, Memory, Package, Processor, folder_size, reach_hub, runs_on
from rehead.known_bad import known_bad

GIB = 1024**3
T4 = Gpu("Tesla T4", 14 * GIB, 15 * GIB, (7, 5), bf16=False, built_for=True)
FINE = Environment(
    rehead="0.1.0",
    python="3.11.7",
    system="Linux",
    packages=(
        Package("torch", ">=2.11", "2.15.0+cu132"),
        Package("torchvision", ">=0.26", "0.29.2"),
        Package("albumentations", "==2.0.8", "2.0.8"),
    ),
    torch_of_torchvision="==2.15.0",
    rivals=(),
    processor=Processor("a CPU", 8, "NEON", None, 8, None),
    cuda=Cuda("13.2", "92600", "595.45", True, (replace(T4, capability=(9, 0), bf16=True),)),
    memory=Memory(30 * GIB, 32 * GIB, 16 * GIB, 16 * GIB, 50 * GIB, 100 * GIB),
    caches=(),
    hub="answers",
)

OLD_TORCH = (Package("torch", ">=2.11", "2.14.1"), *FINE.packages[1:])
WITHOUT = Cuda("13.2", "92600")
BAD = {
    "does not exist": replace(FINE, packages=OLD_TORCH),
    "albumentationsx (AGPL)": replace(FINE, rivals=("albumentationsx 2.1.0",)),
    "opencv-python beside opencv-python-headless": replace(FINE, rivals=("opencv-python 4.12",)),
    "timm is not installed": replace(FINE, packages=(*FINE.packages, Package("timm", ">=1", None, "is not installed"))),
    "cannot be imported (OSError: libGL": replace(FINE, packages=(Package("cv2", "", "4.1", "OSError: libGL"),)),
    "albumentations is 1.4": replace(FINE, packages=(Package("albumentations", "==2.0.8", "1.4"),)),
    "its driver is 450.80": replace(FINE, cuda=replace(WITHOUT, driver="450.80", hardware=True, said="too old")),
    "a build without CUDA": replace(FINE, cuda=Cuda(driver="595.45", hardware=True)),
    "which this torch has no code for": replace(FINE, cuda=replace(FINE.cuda, gpus=(replace(T4, built_for=False),))),
    "/dev/shm has only 64 MB": replace(FINE, memory=replace(FINE.memory, shared_total=64 * 1024**2)),
}
KNOWN = {
    "no usable NVIDIA driver": replace(FINE, cuda=WITHOUT),
    "only emulates bfloat16": replace(FINE, cuda=replace(FINE.cuda, gpus=(T4,))),
    "1x1 convolutions of stride 2": replace(FINE, processor=replace(FINE.processor, capability="AVX2")),
    "with fewer than 16 input channels": replace(FINE, processor=replace(FINE.processor, capability="AVX512")),
    "without AVX-512": replace(FINE, processor=replace(FINE.processor, onednn_max_isa="avx2")),
}


def test_nothing_is_wrong_with_a_machine_that_is_fine() -> None:
    assert known_bad(FINE) == []


@pytest.mark.parametrize("words", BAD)
def test_what_has_to_be_put_right_comes_with_what_to_do(words: str) -> None:
    (found,) = known_bad(BAD[words])
    assert words in found.what
    assert found.harmful
    assert found.remedy


@pytest.mark.parametrize("words", KNOWN)
def test_what_rehead_deals_with_itself_is_said_and_does_not_count(words: str) -> None:
    (found,) = known_bad(KNOWN[words])
    assert words in found.what
    assert not found.harmful


def test_the_remedy_names_the_versions_that_belong_together() -> None:
    (found,) = known_bad(BAD["does not exist"])
    assert "torch==2.15.0" in found.remedy
    assert "torchvision==0.29.2" in found.remedy


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((12, 0), ["sm_90a", "sm_120"], True),
        ((9, 4), ["gfx942"], True),
    ],
)
def test_a_build_of_torch_runs_on_its_own_generation_and_later_ones_by_intermediate_code(
    capability: tuple[int, int], architectures: list[str], runs: bool
) -> None:
    assert runs_on(capability, architectures) is runs


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few packages to import, and nobody to ask."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    needed = {"rehead": [("torch", ">=2.11"), ("numpy", ">=2")], "torchvision": [("torch", ">=2")]}
    monkeypatch.setattr(environment, "_requirements", needed.__getitem__)


@pytest.mark.usefixtures("quick")
def test_doctor_reports_this_machine(rehead_command) -> None:
    import torch

    outcome = rehead_command("doctor")
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["versions", "torch", metadata.version("torch")] in lines
    assert ["processor", "torch", "computes", "with", torch.backends.cpu.get_cpu_capability()] in lines
    for words in (
        "ONEDNN_MAX_CPU_ISA",
        "threads",
        "driver",
        "CUDA, cuDNN",
        "RAM",
        "/dev/shm",
        "disk of",
        "annotations",
    ):
        assert words in outcome.out
    assert "not asked: HF_HUB_OFFLINE is set" in outcome.out
    assert outcome.code == int("problem:" in outcome.out)


@pytest.mark.usefixtures("quick")
def test_doctor_writes_json(rehead_command) -> None:
    outcome = rehead_command("doctor", "--json")
    said = json.loads(outcome.out)
    assert said["packages"][0]["name"] == "torch"
    assert said["memory"]["disk_free"] > 0
    assert outcome.code == int(any(one["harmful"] for one in said["findings"]))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [OSError("libcudart.so.13: cannot open"), RuntimeError("torchvision::nms"), None])
def test_a_broken_package_is_a_line_and_exit_code_1(
    error: Exception | None, rehead_command, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, version = importlib.import_module, metadata.version

    def without_torch(name: str) -> object:
        if name == "torch":
            raise error or ModuleNotFoundError("No module named 'torch'")
        return genuine(name)

    def versions(name: str) -> str:
        if name == "torch" and error is None:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib, "import_module", without_torch)
    monkeypatch.setattr(metadata, "version", versions)
    outcome = rehead_command("doctor")
    assert outcome.code == 1
    assert (f"BROKEN: {type(error).__name__}: {error}" if error else "NOT INSTALLED") in outcome.out
    assert "what to do: pip install" in outcome.out
    assert "Traceback" not in outcome.out + outcome.err


def test_a_hub_that_cannot_be_reached_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in reach_hub()
    # As resolving a name may hang, which knows no timeout.
    monkeypatch.setattr(environment, "_ask", lambda *_: time.sleep(5))
    began = time.monotonic()
    assert "does not answer within 0.1 s" in reach_hub(0.1)
    assert time.monotonic() - began < 2


def test_the_size_of_a_cache_counts_each_file_once_and_gives_up_in_time(tmp_path: Path) -> None:
    assert folder_size(tmp_path / "none") == (None, True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/a").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to(tmp_path / "blobs/a")
    assert folder_size(tmp_path) == (1000, True)
    assert folder_size(tmp_path, seconds=-1)[1] is False

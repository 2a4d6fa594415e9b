"""What a run stands on: versions, processor, memory, GPUs, caches, the hub.

Nothing here fails for want of a package. Packages are imported by name, one by one, so that a broken one is a fact
like any other and not a traceback.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rehead.files import cache_folder

IMPORT_NAMES = {"opencv-python-headless": "cv2", "pillow": "PIL", "pyyaml": "yaml"}
"""Where they differ from the package's name."""
RIVALS = ("albumentationsx", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
"""Packages that install under the import name of one of ours."""
HUB = "https://huggingface.co"
HUB_SECONDS = 4.0
CACHE_SECONDS = 3.0


@dataclass(frozen=True)
class Package:
    """One that rehead needs.

    Attributes:
        name: as installed.
        wanted: the versions that rehead works with, such as `>=2.11`.
        version: None where it is not installed.
        problem: what importing it raised; None where it works.
    """

    name: str
    wanted: str
    version: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Processor:
    """The CPU, its threads, and what torch makes of it.

    Attributes:
        model: as the system names it.
        cores: that this process may use.
        capability: the instructions that torch uses: `DEFAULT`, `AVX2`, `AVX512`; None without torch.
        onednn_max_isa: the environment variable ONEDNN_MAX_CPU_ISA.
        threads: of torch.
        omp_num_threads: the environment variable OMP_NUM_THREADS.
    """

    model: str
    cores: int
    capability: str | None = None
    onednn_max_isa: str | None = None
    threads: int | None = None
    omp_num_threads: str | None = None


@dataclass(frozen=True)
class Gpu:
    """One that torch sees.

    Attributes:
        name: of the model.
        free: bytes of its memory.
        total: bytes of its memory.
        capability: of CUDA, such as (8, 0).
        bf16: whether the hardware computes in bfloat16 itself.
        built_for: whether this build of torch has code for it.
    """

    name: str
    free: int
    total: int
    capability: tuple[int, int]
    bf16: bool
    built_for: bool


@dataclass(frozen=True)
class Cuda:
    """GPUs and what drives them.

    Attributes:
        built: the CUDA version that torch was built with; None for a CPU build.
        cudnn: its version.
        driver: of the system, as `nvidia-smi` says.
        hardware: whether the machine has an NVIDIA GPU, whatever torch says.
        gpus: those that torch can use.
        said: torch's warning or error while looking for them.
    """

    built: str | None = None
    cudnn: str | None = None
    driver: str | None = None
    hardware: bool = False
    gpus: tuple[Gpu, ...] = ()
    said: str | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes; None where the system does not say."""

    free: int | None
    total: int | None
    shared_free: int | None
    shared_total: int | None
    disk_free: int
    disk_total: int


@dataclass(frozen=True)
class Cache:
    """A folder that fills up by itself.

    Attributes:
        what: it holds.
        path: of the folder.
        size: bytes; None where it is not there.
        whole: whether all of it was counted in the time there was.
    """

    what: str
    path: str
    size: int | None
    whole: bool


@dataclass(frozen=True)
class Environment:
    """All of it.

    Attributes:
        torch_of_torchvision: the version of torch that the installed torchvision was built for.
        rivals: packages that took the place of one of ours.
        hub: whether published weights can be downloaded, in words.
    """

    rehead: str
    python: str
    system: str
    packages: tuple[Package, ...]
    torch_of_torchvision: str | None
    rivals: tuple[str, ...]
    processor: Processor
    cuda: Cuda
    memory: Memory
    caches: tuple[Cache, ...]
    hub: str
    folder: str = field(default_factory=lambda: str(Path.cwd()))

    def version(self, name: str) -> str | None:
        """Of an installed package."""
        return next((package.version for package in self.packages if package.name == name), None)


def look() -> Environment:
    """Looks at everything; takes the seconds that importing the packages takes, and a few for the hub."""
    import rehead

    # albumentations asks the network for its newest version when it is imported, unless told not to.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    packages = tuple(_package(requirement) for requirement in _requirements("rehead"))
    torch = _imported("torch")[0]
    return Environment(
        rehead=rehead.__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        system=platform.platform(),
        packages=packages,
        torch_of_torchvision=next((wanted for name, wanted in _requirements("torchvision") if name == "torch"), None),
        rivals=tuple(f"{name} {version}" for name in RIVALS if (version := _version(name)) is not None),
        processor=_processor(torch),
        cuda=_cuda(torch),
        memory=_memory(),
        caches=_caches(torch),
        hub=reach_hub(),
    )


def _requirements(package: str) -> list[tuple[str, str]]:
    """What an installed package always needs: (name in small letters, versions)."""
    try:
        listed = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
    needed = [line.split(";")[0].strip() for line in listed if "extra ==" not in line]
    return [(match[1].lower(), match[2].strip(" ()")) for line in needed if (match := re.match(r"([\w.-]+)(.*)", line))]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package(requirement: tuple[str, str]) -> Package:
    name, wanted = requirement
    version = _version(name)
    if version is None:
        return Package(name, wanted, None, "is not installed")
    return Package(name, wanted, version, _imported(IMPORT_NAMES.get(name, name.replace("-", "_")))[1])


def _imported(name: str) -> tuple[Any, str | None]:
    """A module, or None and the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name), None
    except Exception as error:  # a broken package raises anything: ImportError, OSError, RuntimeError, AttributeError
        return None, first_line(error)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


def _processor(torch: Any) -> Processor:
    model = platform.processor() or platform.machine()
    if sys.platform == "linux" and (found := re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.M)):
        model = found[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    capability = threads = None
    if torch is not None:
        capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    isa, threads_asked = os.environ.get("ONEDNN_MAX_CPU_ISA"), os.environ.get("OMP_NUM_THREADS")
    return Processor(model, cores, capability, isa, threads, threads_asked)


def _cuda(torch: Any) -> Cuda:
    driver, hardware = _driver(), _has_nvidia()
    if torch is None:
        return Cuda(driver=driver, hardware=hardware)
    gpus: list[Gpu] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            gpus = [_gpu(torch, index) for index in range(count)]
            said = str(heard[0].message).splitlines()[0] if heard else None
        except RuntimeError as error:
            said = first_line(error)
    cudnn = torch.backends.cudnn.version()
    return Cuda(torch.version.cuda, str(cudnn) if cudnn else None, driver, hardware, tuple(gpus), said)


def _gpu(torch: Any, index: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(index)
    capability = torch.cuda.get_device_capability(index)
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    built_for = runs_on(capability, torch.cuda.get_arch_list())
    return Gpu(torch.cuda.get_device_name(index), free, total, capability, bf16, built_for)


def runs_on(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a build has code for a GPU: binaries of its own generation, or intermediate code of an earlier one.

    Args:
        capability: of the GPU.
        architectures: such as `sm_80` and `compute_90`; those of AMD's GPUs are not judged.
    """
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", one) for one in architectures]
    for found in filter(None, known):
        one = int(found[2]), int(found[3])
        if one <= capability and (found[1] == "compute" or one[0] == capability[0]):
            return True
    return not any(known)


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else None


def _has_nvidia() -> bool:
    """On Linux, from the list of PCI devices: displays and 3D controllers (class 0x03) of NVIDIA (0x10de)."""
    devices = Path("/sys/bus/pci/devices")
    seen = (
        _read(f"{one}/vendor").strip() == "0x10de" and _read(f"{one}/class").startswith("0x03")
        for one in (devices.iterdir() if devices.is_dir() else ())
    )
    return any(seen) or Path("/proc/driver/nvidia/version").exists()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _memory() -> Memory:
    lines = dict(re.findall(r"^(\w+):\s*(\d+) kB", _read("/proc/meminfo"), re.M))
    free, total = (int(lines[name]) * 1024 if name in lines else None for name in ("MemAvailable", "MemTotal"))
    # What a container may use.
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    used = _read("/sys/fs/cgroup/memory.current").strip()
    if total is not None and free is not None and limit.isdigit() and int(limit) < total:
        total, free = int(limit), min(free, int(limit) - int(used or 0))
    shared = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    disk = shutil.disk_usage(Path.cwd())
    return Memory(free, total, shared.free if shared else None, shared.total if shared else None, disk.free, disk.total)


def _caches(torch: Any) -> tuple[Cache, ...]:
    constants = _imported("huggingface_hub.constants")[0]
    folders = {"annotations": cache_folder()}
    if constants is not None:
        folders["Hugging Face hub"] = Path(constants.HF_HUB_CACHE)
    if torch is not None:
        folders["torch.hub"] = Path(torch.hub.get_dir())
    return tuple(Cache(what, str(path), *folder_size(path)) for what, path in folders.items())


def folder_size(path: Path, seconds: float = CACHE_SECONDS) -> tuple[int | None, bool]:
    """Bytes of the files below a folder, links not followed; None where it is not there; and whether time sufficed."""
    if not path.is_dir():
        return None, True
    size, deadline = 0, time.monotonic() + seconds
    for folder, _, names in os.walk(path):
        for name in names:
            if time.monotonic() > deadline:
                return size, False
            try:
                found = os.lstat(os.path.join(folder, name))
            except OSError:  # gone in the meantime
                continue
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return size, True


def reach_hub(seconds: float = HUB_SECONDS) -> str:
    """Whether the hub answers, in words; asks nobody where HF_HUB_OFFLINE says so.

    Args:
        seconds: the longest that this takes: resolving a name knows no timeout of its own, so it is left behind.
    """
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f"not asked: {name} is set, so only what is in the cache can be used"
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    answers: list[str] = []
    thread = threading.Thread(target=_ask, args=(endpoint, seconds, answers.append), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"{endpoint} does not answer within {seconds:g} s; {OFFLINE}"


OFFLINE = "weights that are not in the cache need a file (model.backbone.weights=FILE) or a mirror (HF_ENDPOINT)"


def _ask(endpoint: str, seconds: float, answer: Callable[[str], None]) -> None:
    try:
        request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": "rehead"})
        with urllib.request.urlopen(request, timeout=seconds) as response:
            answer(f"{endpoint} answers ({response.status})")
    except urllib.error.HTTPError as error:
        # Some mirrors know no front page; but a proxy that refuses is none.
        refused = error.code in (403, 407) or error.code >= 500
        answer(f"{endpoint} answers {error.code}{f': refused on the way; {OFFLINE}' if refused else ''}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        answer(f"{endpoint} cannot be reached ({reason}); {OFFLINE}")

"""Combinations that are known to go wrong, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from rehead.environment import Environment

SMALL_SHARED = 512 * 1024**2
"""Bytes of /dev/shm; Docker gives a container 64 MB unless told otherwise."""
WITHOUT_AVX512 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")
"""Values of ONEDNN_MAX_CPU_ISA."""


@dataclass(frozen=True)
class Finding:
    """Something known.

    Attributes:
        what: was found.
        remedy: what to do.
        harmful: whether it has to be put right; else rehead does something about it itself, and this says what.
    """

    what: str
    remedy: str
    harmful: bool = True


def known_bad(environment: Environment) -> list[Finding]:
    """What is wrong with an environment, the harmful first."""
    found = [*_packages(environment), *_gpus(environment), *_processor(environment), *_memory(environment)]
    return sorted(found, key=lambda finding: not finding.harmful)


def _packages(here: Environment) -> Iterator[Finding]:
    torch, wanted = here.version("torch"), here.torch_of_torchvision
    if torch and wanted and not _fits(torch, wanted):
        yield Finding(
            f"torchvision {here.version('torchvision')} was built for torch{wanted}, but torch is {torch}: its "
            "operators do not load (operator torchvision::nms does not exist)",
            f"install the two together: pip install 'torch{wanted}' torchvision=={here.version('torchvision')}",
        )
    rivals = {rival.split()[0] for rival in here.rivals}
    for package in here.packages:
        install = f"pip install '{package.name}{package.wanted}'"
        if package.version is None:
            yield Finding(f"{package.name} is not installed", install)
        elif package.problem is not None:
            again = install.replace("install ", "install --force-reinstall ", 1)
            yield Finding(f"{package.name} {package.version} cannot be imported ({package.problem})", again)
        if package.version and not _fits(package.version, package.wanted):
            yield Finding(f"{package.name} is {package.version}; rehead needs {package.wanted}", install)
    if "albumentationsx" in rivals:
        yield Finding(
            "albumentationsx (AGPL) is installed and takes albumentations' import name",
            "pip uninstall albumentationsx albumentations, then pip install albumentations==2.0.8 "
            "(or allow it: data.allow_albumentationsx=true)",
        )
    several = sorted(name for name in rivals if name.startswith("opencv"))
    if several:
        yield Finding(
            f"{' and '.join(several)} beside opencv-python-headless: all of them write the same files of cv2",
            f"pip uninstall {' '.join(several)} opencv-python-headless, then pip install opencv-python-headless",
        )


def _fits(version: str, wanted: str) -> bool:
    """Whether a version is wanted; what cannot be understood is not judged. 2.15.0+cu132 is 2.15.0."""
    try:
        return SpecifierSet(wanted).contains(version.split("+")[0], prereleases=True)
    except InvalidSpecifier:
        return True


def _gpus(here: Environment) -> Iterator[Finding]:
    cuda = here.cuda
    said = f" ({cuda.said})" if cuda.said else ""
    if cuda.built and not cuda.gpus and cuda.hardware:
        driver = f"its driver is {cuda.driver}" if cuda.driver else "its driver does not answer (nvidia-smi)"
        yield Finding(
            f"torch was built for CUDA {cuda.built} but cannot use the NVIDIA GPU that is here: {driver}{said}",
            f"install a driver for CUDA {cuda.built}, or a torch for the CUDA that nvidia-smi shows; in a container, "
            "start it with --gpus all; and see that CUDA_VISIBLE_DEVICES is not empty",
        )
    elif cuda.built and not cuda.gpus:
        yield Finding(
            f"torch was built for CUDA {cuda.built}, but there is no usable NVIDIA driver{said}",
            "nothing where there is no GPU: everything runs on the CPU, and a CPU build of torch takes less room",
            harmful=False,
        )
    elif cuda.hardware and not cuda.built and here.version("torch"):
        yield Finding(
            "there is an NVIDIA GPU, but torch is a build without CUDA, so everything runs on the CPU",
            "install a torch with CUDA (https://pytorch.org/get-started/locally)",
        )
    for index, gpu in enumerate(cuda.gpus):
        capability = "{}.{}".format(*gpu.capability)
        if not gpu.built_for:
            yield Finding(
                f"cuda:{index} ({gpu.name}) has CUDA capability {capability}, which this torch has no code for",
                "install a torch that was built for it (python -c 'import torch; print(torch.cuda.get_arch_list())' "
                "lists what this one knows), or use device=cpu",
            )
        elif not gpu.bf16:
            yield Finding(
                f"cuda:{index} ({gpu.name}, capability {capability}) only emulates bfloat16: slow, and cuDNN lacks "
                "convolutions for it",
                "nothing: train.precision=auto takes fp16 there; do not ask for bf16",
                harmful=False,
            )


def _processor(here: Environment) -> Iterator[Finding]:
    isa = (here.processor.onednn_max_isa or "").upper()
    without = here.processor.capability == "AVX2" or isa in WITHOUT_AVX512
    if without or here.processor.capability == "AVX512":
        which = "without AVX-512 here" if without else "with AVX-512 here"
        narrow = "2 to 7 input channels" if without else "fewer than 16 input channels and large maps"
        yield Finding(
            f"oneDNN computes {which}, where its weight gradient of 1x1 convolutions of stride 2, with {narrow}, "
            "channels last, is wrong or ends the process (https://github.com/uxlfoundation/oneDNN/issues/6035)",
            "nothing: rehead computes that gradient another way; code of your own should avoid such convolutions",
            harmful=False,
        )


def _memory(here: Environment) -> Iterator[Finding]:
    shared = here.memory.shared_total
    if shared is not None and shared < SMALL_SHARED:
        yield Finding(
            f"/dev/shm has only {shared / 1024**2:.0f} MB: batches that do not fit are copied through pipes, slower",
            "start the container with --shm-size=2g (or --ipc=host), or use data.workers=0",
        )

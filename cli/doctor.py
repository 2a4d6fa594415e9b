"""`rehead doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from rehead.files import json_text
from rehead.terminal import Table, results

if TYPE_CHECKING:
    from rehead.environment import Environment, Package

Line = tuple[str, str, str]


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Say what rehead runs on, and what is known to go wrong with it: begin a bug report with this.

    Exit code 0 if nothing has to be put right, 1 if something has.

    Example: rehead doctor > environment.txt
    """
    from rehead.environment import look
    from rehead.known_bad import known_bad

    here = look()
    findings = known_bad(here)
    if as_json:
        results().data(json_text({**asdict(here), "findings": [asdict(one) for one in findings]}, indent=2))
    else:
        _print(list(_lines(here)))
        console = results()
        for one in findings:
            mark, style = ("problem", "red") if one.harmful else ("known", "yellow")
            console.print(f"{mark}: {one.what}", f"  what to do: {one.remedy}", style=style)
        if not any(one.harmful for one in findings):
            console.print("nothing that has to be put right", style="green")
    raise typer.Exit(int(any(one.harmful for one in findings)))


def _print(lines: list[Line]) -> None:
    """A table on a terminal; elsewhere lines that survive being pasted."""
    console = results()
    if not console.is_terminal:
        for part, name, value in lines:
            console.print(f"{part:<10} {name:<28} {value}")
        return
    table = Table("", "", "", headings=False, lines=True)
    before = ""
    for part, name, value in lines:
        if part != before:
            table.section()
        table.row("" if part == before else part, name, value)
        before = part
    console.print(table)


def _lines(here: Environment) -> Iterator[Line]:
    yield "versions", "rehead", here.rehead
    yield "versions", "python", here.python
    yield "versions", "system", here.system
    for package in here.packages:
        yield "versions", package.name, _package(package)
    for rival in here.rivals:
        yield "versions", "also installed", rival
    cpu = here.processor
    yield "processor", "model", cpu.model
    yield "processor", "torch computes with", cpu.capability or "?"
    yield "processor", "ONEDNN_MAX_CPU_ISA", cpu.onednn_max_isa or "not set"
    asked = f", OMP_NUM_THREADS={cpu.omp_num_threads}" if cpu.omp_num_threads else ""
    yield "processor", "threads", f"{cpu.threads or '?'} of torch, {cpu.cores} cores to use{asked}"
    cuda = here.cuda
    if not cuda.gpus:
        yield "GPU", "cuda", "none that torch can use"
    for index, gpu in enumerate(cuda.gpus):
        kind = "bf16" if gpu.bf16 else "no bf16 of its own"
        capability = "{}.{}".format(*gpu.capability)
        free = f"{_size(gpu.free)} free of {_size(gpu.total)}"
        yield "GPU", f"cuda:{index}", f"{gpu.name}, capability {capability}, {kind}, {free}"
    yield "GPU", "driver", cuda.driver or "none that answers"
    yield "GPU", "CUDA, cuDNN of torch", f"{cuda.built}, {cuda.cudnn}" if cuda.built else "a build without CUDA"
    if cuda.said:
        yield "GPU", "torch says", cuda.said
    memory = here.memory
    yield "memory", "RAM", f"{_size(memory.free)} free of {_size(memory.total)}"
    yield "memory", "/dev/shm", f"{_size(memory.shared_free)} free of {_size(memory.shared_total)}"
    yield "memory", f"disk of {here.folder}", f"{_size(memory.disk_free)} free of {_size(memory.disk_total)}"
    for cache in here.caches:
        size = "not there yet" if cache.size is None else _size(cache.size)
        yield "caches", cache.what, f"{cache.path} ({size}{'' if cache.whole else ' at least'})"
    yield "network", "hub", here.hub


def _package(package: Package) -> str:
    if package.version is None:
        return "NOT INSTALLED"
    return package.version if package.problem is None else f"{package.version}, BROKEN: {package.problem}"


def _size(size: int | None) -> str:
    """Bytes for people, in powers of 1024."""
    if size is None:
        return "?"
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"

"""Forward pass and gradients of convolutions against float64, each in a process that may die.

    [ONEDNN_MAX_CPU_ISA=AVX2] uv run python benchmarks/convolutions.py [--dtype bf16] [--protected]

Names every convolution that is wrong, dies or hangs, of kernels 1 to 7, strides 1 to 4, groups 1, 2 and depthwise,
1 to 32 channels, both memory formats. `ONEDNN_MAX_CPU_ISA` plays an older processor. `--protected` computes those that
rehead computes another way as it does. `--narrow` is a quick part of the sweep: 1x1 and 3x3, few channels.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from rehead.backbones.onednn import protect

SECONDS = 10
"""After which a convolution of a few pixels hangs."""

TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}


class Case(NamedTuple):
    """One convolution."""

    channels_in: int
    channels_out: int
    kernel: int
    stride: int
    groups: int
    channels_last: bool
    size: int


def cases(narrow: bool) -> Iterator[Case]:
    """The sweep."""
    kernels, strides = ((1, 3), (1, 2, 4)) if narrow else ((1, 2, 3, 5, 7), (1, 2, 3, 4))
    widths = range(1, 18) if narrow else (*range(1, 11), 12, 14, 15, 16, 17, 20, 24, 31, 32)
    sizes = (32,) if narrow else (17, 32, 56)
    for last, kernel, stride, size, width in itertools.product((True, False), kernels, strides, sizes, widths):
        for groups, out in ((1, 16), (1, 9), (2, 16), (width, width)):
            if width % groups == 0 and (groups, out) != (1, 1):
                yield Case(width, out, kernel, stride, groups, last, size)


def errors(case: Case, dtype: str, protected: bool) -> list[float]:
    """Largest relative differences of the output and of the gradients of input and weight."""
    torch.manual_seed(0)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    conv = nn.Conv2d(
        case.channels_in, case.channels_out, case.kernel, case.stride, case.kernel // 2, groups=case.groups, bias=False
    )
    pixels = torch.randn(4, case.channels_in, case.size, case.size)
    if dtype == "bf16":
        conv, pixels = conv.bfloat16(), pixels.bfloat16()
    exact = copy.deepcopy(conv).double()
    conv = conv.to(memory_format=layout)  # type: ignore[call-overload]
    network = nn.Sequential(conv)
    if protected:
        protect(network)
    pixels = pixels.to(memory_format=layout).requires_grad_()
    truth = pixels.detach().double().requires_grad_()
    ours, right = network(pixels), exact(truth)
    gradient = torch.randn_like(ours)
    ours.backward(gradient)
    right.backward(gradient.double())
    pairs = ((ours, right), (pixels.grad, truth.grad), (conv.weight.grad, exact.weight.grad))
    return [float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max()) for a, b in pairs]


def sweep(todo: list[Case], dtype: str, protected: bool) -> dict[Case, str]:
    """What is wrong with which case. A child process goes through them; where it dies, another goes on after."""
    torch.set_num_threads(1)
    wrong: dict[Case, str] = {}
    done = 0
    while done < len(todo):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            for case in todo[done:]:
                signal.alarm(SECONDS)
                os.write(writing, (json.dumps(errors(case, dtype, protected)) + "\n").encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as results:
            for line in results:
                found = json.loads(line)
                if not all(math.isfinite(value) and value < TOLERANCE[dtype] for value in found):
                    wrong[todo[done]] = "off by " + ", ".join(f"{value:.1e}" for value in found)
                done += 1
        status = os.waitpid(child, 0)[1]
        if done < len(todo):
            wrong[todo[done]] = f"died by signal {os.WTERMSIG(status)}"
            done += 1
    return wrong


def main() -> int:
    """Returns how many are wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="fp32")
    parser.add_argument("--protected", action="store_true")
    parser.add_argument("--narrow", action="store_true")
    options = parser.parse_args()
    todo = list(cases(options.narrow))
    wrong = sweep(todo, options.dtype, options.protected)
    for case, what in wrong.items():
        print(case, what)
    print(f"{len(wrong)} of {len(todo)} convolutions wrong")
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main())

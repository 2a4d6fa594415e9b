"""What the blocks of a trained network do with their input: plain against residual, block by block.

    uv run python benchmarks/what_blocks_learn.py runs/paper_networks --plot docs/residual_networks/blocks.png

Reads the plain20, resnet20, resnet20_zero_init and resnet56_zero_init that benchmarks/paper_networks.py has
trained, and measures on the first `--images` validation images of each class:

change: how far a block's output is from its input, |y - x| / |x|; 0 is the identity, and 1.17 the distance of two
    unrelated outputs of a relu. Blocks that change the shape are not looked at.
branch: for a residual network, the size of what the layers add, |F(x)| / |x|.
removal: the accuracy when this one block is left out, so that its input goes on as it is (Veit et al., 1605.06431).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import rehead
from rehead.backbones.resnet import Block
from rehead.configs.load import load_config
from rehead.data.loader import make_loader
from rehead.data.sampler import Key
from rehead.datasets.open import open_reader
from rehead.files import atomic_path
from rehead.models.model import Model
from rehead.types import ImageBatch

NETWORKS = {
    "plain20": ("plain, 20 layers", "#6b7280"),
    "resnet20": ("residual, 20 layers", "#c2410c"),
    "resnet20_zero_init": ("20 layers, branches from 0", "#d97706"),
    "resnet56_zero_init": ("56 layers, branches from 0", "#2563eb"),
}
UNRELATED = (2 - 2 / math.pi) ** 0.5
"""|y - x| / |x| of two independent Gaussian vectors behind a relu."""
Batch = tuple[ImageBatch, Tensor]


def main() -> None:
    """Measures each network, prints a row each, plots every block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the --out of benchmarks/paper_networks.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=100, help="of each class")
    parser.add_argument("--plot", type=Path, default=Path("runs/blocks.png"))
    arguments = parser.parse_args()
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    print("| network | accuracy | change, median | branch, median | accuracy without a block: worst | median | best |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (label, colour) in NETWORKS.items():
        run = arguments.runs / f"{name}_seed{arguments.seed}"
        model = rehead.load(run / "last.safetensors").eval()
        batches = images(model, run, arguments.images)
        blocks = {key: block for key, block in model.backbone.named_modules() if keeps_shape(block)}
        whole = accuracy(model, batches)
        changes, branches = responses(model, blocks, batches[0])
        without = []
        for block in blocks.values():
            with left_out(block):
                without.append(accuracy(model, batches))
        ordered = sorted(without)
        residual = name.startswith("resnet")
        branch = f"{branches.median():.2f}" if residual else ""
        spread = [f"{ordered[at]:.3f}" for at in (0, len(ordered) // 2, -1)]
        print(f"| {name} | {whole:.3f} | {changes.median():.2f} | {branch} | {' | '.join(spread)} |", flush=True)
        places = torch.linspace(0, 1, len(blocks))
        left.plot(places, changes, "o-", color=colour, label=f"{label}: |y - x| / |x|", markersize=4)
        right.plot(places, without, "o-", color=colour, label=label, markersize=4)
        right.axhline(whole, color=colour, linestyle=":", linewidth=1)
        if residual:
            left.plot(places, branches, ".--", color=colour, label=f"{label}: |F(x)| / |x|", markersize=4)
    left.set(xlabel="place of the block: 0 first, 1 last", ylim=(0, 2.3), title="How much a block changes its input")
    right.set(xlabel="place of the block left out", ylim=(0, 1), title="Accuracy without one block (dotted: with all)")
    left.axhline(UNRELATED, color="black", linewidth=0.8)
    left.text(0, UNRELATED + 0.05, "y unrelated to x", fontsize=8)
    right.axhline(0.1, color="black", linewidth=0.8)
    right.text(0, 0.115, "chance", fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper right", fontsize=9)
    with atomic_path(arguments.plot) as temporary:
        figure.savefig(temporary, dpi=110)


def images(model: Model, run: Path, per_class: int) -> list[Batch]:
    """The first images of every class of the validation split, in batches."""
    reader = open_reader(load_config(run / "config.yaml").data, "val")
    labels = torch.tensor([reader[index].label or 0 for index in range(len(reader))])
    chosen = torch.cat([(labels == label).nonzero()[:per_class, 0] for label in labels.unique()])
    # Shuffled, so that one batch stands for all.
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    keys = [[Key(0, int(index)) for index in part] for part in chosen.split(250)]
    loader = make_loader(reader, resize=model.inputs.resize, augment=None, batches=keys)
    return [(batch, labels[part]) for (batch, _), part in zip(loader, chosen.split(250), strict=True)]


def keeps_shape(module: nn.Module) -> bool:
    """Whether it is a block whose output has the shape of its input."""
    if not isinstance(module, Block):
        return False
    first = module.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    return first.stride == (1, 1) and first.in_channels == first.out_channels


def accuracy(model: Model, batches: list[Batch]) -> float:
    """Top-1."""
    right, count = 0, 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch, labels in batches:
            found = torch.stack([each.probabilities.argmax() for each in model(batch)["main"]])
            right += int((found == labels).sum())
            count += len(labels)
    return right / count


def responses(model: Model, blocks: dict[str, Block], batch: Batch) -> tuple[Tensor, Tensor]:
    """For every block |y - x| / |x| and |F(x)| / |x|, averaged over images."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def measure(key: str, block: Block, x: Tensor, y: Tensor) -> None:
        size = x.flatten(1).norm(dim=1)
        change, branch = (y - x).flatten(1).norm(dim=1), block.branch(x).flatten(1).norm(dim=1)
        found[key] = ((change / size).mean(), (branch / size).mean())

    handles = [
        block.register_forward_hook(lambda block, inputs, y, key=key: measure(key, block, inputs[0].clone(), y))
        for key, block in blocks.items()
    ]
    with torch.inference_mode():
        model(batch[0])
    for handle in handles:
        handle.remove()
    return torch.stack([found[key][0] for key in blocks]), torch.stack([found[key][1] for key in blocks])


@contextmanager
def left_out(block: Block) -> Iterator[None]:
    """The block gives its input on as it is."""
    handle = block.register_forward_hook(lambda _, inputs, __: inputs[0])
    try:
        yield
    finally:
        handle.remove()


if __name__ == "__main__":
    main()

"""How gradients flow at the start of training, layer by layer: plain against residual, 20, 56 and 110 layers.

    uv run python benchmarks/gradient_flow.py IMAGENETTE --plot docs/residual_networks/gradients.png

For every 3x3 convolution of the networks in configs/paper with random weights, two figures, each the mean over
`--seeds` initialisations:

size: the root mean square of the loss's gradient with respect to the layer's output, on 128 training images
    of 32 pixels, batch normalisation in training mode. Of interest is how it changes through the network.
agreement: the cosine between the gradients of the layer's weights on this and a second batch. Near 1 a step
    that helps one batch helps the other; near 0 the gradient says more of the batch than of the task.

The table also says how large the last feature map is (root mean square).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from rehead.backbones.resnet import Block
from rehead.configs.load import load_config
from rehead.data.loader import make_loader
from rehead.data.sampler import BatchSampler
from rehead.datasets.open import open_reader
from rehead.files import atomic_path
from rehead.models.model import Model, from_config
from rehead.types import ImageBatch, Target

DEPTHS = (20, 56, 110)
COLOURS = {20: "#93c5fd", 56: "#3b82f6", 110: "#1e3a8a"}
BATCH = 128


def main() -> None:
    """Measures, prints a table of the first, middle and last layer, and plots every layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imagenette", help="folder with train/, a folder per class in it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=Path("runs/gradients.png"))
    arguments = parser.parse_args()
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    print("| network | gradient: first layer / last | agreement: first layer | middle | last | C4 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for column, kind in enumerate(("plain", "resnet")):
        for depth in DEPTHS:
            sizes, agreements, last_map = measure(f"{kind}{depth}", arguments.imagenette, arguments.seeds)
            at = (agreements[index] for index in (0, len(agreements) // 2, -1))
            cells = [f"{sizes[0] / sizes[-1]:.3g}", *(f"{value:.2f}" for value in at), f"{last_map:.1f}"]
            print(f"| {kind}{depth} | {' | '.join(cells)} |", flush=True)
            place = torch.linspace(0, 1, len(sizes))
            style = {"color": COLOURS[depth], "label": f"{depth} layers"}
            axes[0, column].semilogy(place, sizes / sizes[-1], **style)
            axes[1, column].plot(place, agreements, **style)
        axes[0, column].set_title("plain" if kind == "plain" else "residual (shortcut A)")
        axes[1, column].set_xlabel("place in the network: 0 first layer, 1 last")
        for row in axes:
            row[column].grid(alpha=0.3)
            row[column].legend(frameon=False)
    axes[0, 0].set_ylabel("size of the gradient,\nover that at the last layer")
    axes[1, 0].set_ylabel("cosine of the weights' gradients\non two batches")
    figure.suptitle(f"Gradients before the first step; {arguments.seeds} seeds, 128 images of 32 px per batch")
    with atomic_path(arguments.plot) as temporary:
        figure.savefig(temporary, dpi=110)


def measure(name: str, imagenette: str, seeds: int) -> tuple[Tensor, Tensor, float]:
    """Averages over the seeds: size (geometric) and agreement at every 3x3 convolution, and size of the last map."""
    sizes, agreements, last_maps = [], [], []
    config = load_config(f"paper/{name}", {"data.root": imagenette})
    reader = open_reader(config.data, "train")
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = from_config(config, {"main": reader.classes}).train()
        keys = BatchSampler(len(reader), BATCH, seed, shuffle=True).batches(0)[:2]
        batches = list(make_loader(reader, resize=model.inputs.resize, augment=None, batches=keys))
        (size, first), (_, second) = (gradients(model, *batch) for batch in batches)
        with torch.no_grad():
            features = model.backbone(model.normalise(batches[0][0]))
        last_maps.append(float(features["C4"].square().mean().sqrt()))
        sizes.append(size.log())
        cosines = [torch.cosine_similarity(one, other, 0) for one, other in zip(first, second, strict=True)]
        agreements.append(torch.stack(cosines))
    return torch.stack(sizes).mean(0).exp(), torch.stack(agreements).mean(0), sum(last_maps) / seeds


def gradients(model: Model, batch: ImageBatch, targets: list[Target]) -> tuple[Tensor, list[Tensor]]:
    """The size of the gradient at each convolution's output, and the gradients of the weights."""
    convs = [layer for block in model.modules() if isinstance(block, Block) for layer in (block.conv1, block.conv2)]
    found: dict[nn.Module, Tensor] = {}

    def keep(conv: nn.Module, _: object, output: Tensor) -> None:
        output.register_hook(lambda gradient: found.update({conv: gradient.square().mean().sqrt()}))

    handles = [conv.register_forward_hook(keep) for conv in convs]
    model.zero_grad()
    torch.stack(list(model(batch, targets).values())).sum().backward()
    for handle in handles:
        handle.remove()
    return torch.stack([found[conv] for conv in convs]), [conv.weight.grad.flatten().clone() for conv in convs]


if __name__ == "__main__":
    main()

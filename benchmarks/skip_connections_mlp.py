"""Do skip connections help a fully connected network? The same blocks with and without them, at several depths.

    uv run python benchmarks/skip_connections_mlp.py IMAGENETTE --plot docs/residual_networks/fully_connected.png

Images of 16 pixels, 768 numbers each, go through a linear layer to 128 units, then blocks of two linear layers
with batch normalisation, y = relu(F(x)) or y = relu(F(x) + x), then a linear classifier. SGD with momentum 0.9,
batches of 128, `--epochs` epochs, cosine schedule; for each network the best of three learning rates by its
training loss, averaged over `--seeds` seeds. About ten minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from rehead.configs.load import load_config
from rehead.data.loader import evaluation_loader
from rehead.data.transforms.resize import Resize
from rehead.datasets.open import open_reader
from rehead.files import atomic_path

DEPTHS = (4, 10, 20, 40)
RATES = (0.1, 0.03, 0.01)
SIZE, WIDTH, BATCH = 16, 128, 128
Data = tuple[Tensor, Tensor]


class Block(nn.Module):
    """Two linear layers, their input added back or not."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU()),
            *(nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH)),
        )
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, WIDTH) -> (B, WIDTH)."""
        y = self.layers(x)
        return F.relu(y + x if self.skip else y)


def network(depth: int, skip: bool) -> nn.Sequential:
    """`depth` linear layers in all."""
    stem = [nn.Linear(3 * SIZE**2, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU()]
    return nn.Sequential(*stem, *(Block(skip) for _ in range((depth - 2) // 2)), nn.Linear(WIDTH, 10))


def train(depth: int, skip: bool, rate: float, seed: int, epochs: int, data: Data, test: Data) -> tuple[float, float]:
    """Training loss over the last epoch, and accuracy on the other split."""
    torch.manual_seed(seed)
    model = network(depth, skip)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4, fused=True)
    images, labels = data
    steps = len(images) // BATCH
    losses: list[float] = []
    for step in range(epochs * steps):
        if step % steps == 0:
            order = torch.randperm(len(images))
            losses = []
        optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))
        chosen = order[step % steps * BATCH :][:BATCH]
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    with torch.no_grad():
        accuracy = float((model(test[0]).argmax(1) == test[1]).float().mean())
    return sum(losses) / len(losses), accuracy


def read(root: str, split: str) -> Data:
    """All images of a split as rows of numbers around 0, and their classes."""
    config = load_config("paper/resnet20", {"data.root": root, "data.resize": {"shorter": SIZE, "crop": SIZE}})
    reader = open_reader(config.data, "train" if split == "train" else "val")
    assert config.data.resize is not None
    images, labels = [], []
    for batch, truths in evaluation_loader(reader, resize=Resize(config.data.resize), batch_size=256):
        images.append(batch.pixels.flatten(1).float() / 64 - 2)
        labels += [truth.label or 0 for truth in truths]
    return torch.cat(images), torch.tensor(labels)


def main() -> None:
    """Trains every network at every rate, prints a row per depth, plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imagenette", help="folder with train/ and val/, a folder per class in each")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=Path("runs/fully_connected.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    data, test = read(arguments.imagenette, "train"), read(arguments.imagenette, "val")
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    print("| layers | training loss: plain | with skips | validation accuracy: plain | with skips |")
    print("| --- | --- | --- | --- | --- |")
    best: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for depth in DEPTHS:
        for skip in (False, True):
            tried = []
            for rate in RATES:
                runs = [train(depth, skip, rate, seed, arguments.epochs, data, test) for seed in range(arguments.seeds)]
                loss, accuracy = (sum(values) / len(values) for values in zip(*runs, strict=True))
                tried.append((loss if math.isfinite(loss) else math.inf, accuracy))
            best[skip].append(min(tried))
        (plain_loss, plain), (skip_loss, skipped) = best[False][-1], best[True][-1]
        print(f"| {depth} | {plain_loss:.3f} | {skip_loss:.3f} | {plain:.3f} | {skipped:.3f} |", flush=True)
    for skip, label, colour in ((False, "plain", "#6b7280"), (True, "with skip connections", "#c2410c")):
        left.plot(DEPTHS, [loss for loss, _ in best[skip]], "o-", label=label, color=colour)
        right.plot(DEPTHS, [accuracy for _, accuracy in best[skip]], "o-", label=label, color=colour)
    left.set(title=f"Training loss after {arguments.epochs} epochs")
    right.set(title="Validation accuracy")
    for axes in (left, right):
        axes.set(xlabel="linear layers", xscale="log", xticks=DEPTHS, xticklabels=DEPTHS)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    with atomic_path(arguments.plot) as temporary:
        figure.savefig(temporary, dpi=110)


if __name__ == "__main__":
    main()

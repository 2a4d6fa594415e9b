"""The repeated blocks of a network: what is worth recomputing, or gathering, by itself."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The members of a network's sequences that learn, the outermost ones, sequences of sequences opened up.

    Those are the residual blocks of our ResNets' stages and of most of timm's networks, the layers of a vision
    transformer, and in a sequence of plain layers the layers.
    """
    for child in network.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            for member in child:
                if isinstance(member, nn.Sequential | nn.ModuleList):
                    yield from blocks(nn.ModuleList([member]))
                elif any(parameter.requires_grad for parameter in member.parameters()):
                    yield member
        else:
            yield from blocks(child)

"""Where a backbone's tensors come from: which weights, then which trainings, with a hash after each.

A checkpoint carries its lineage, and whatever starts from the checkpoint goes on with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rehead.backbones.weights import COUNTER
from rehead.configs.schema import Config

Entry = dict[str, Any]
"""`weights`, where it all began, or what changed them since; or `task`, `heads`, `data` and `steps` of a training.

And `hash`, of the backbone's tensors afterwards.
"""

PREFIX = "backbone."


def backbone_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a backbone's names, types, shapes and bytes, in hexadecimal.

    BatchNorm's counters of batches are left out: no output depends on them.

    Args:
        tensors: of a backbone, or of a whole model, whose backbone's are taken.
    """
    own = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)} or tensors
    digest = hashlib.sha256()
    for name in sorted(own):
        if name.endswith(COUNTER):
            continue
        value = own[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # As bytes: numpy knows no bfloat16.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def continued(lineage: Sequence[Entry], found: str, change: str) -> list[Entry]:
    """A lineage that ends with the tensors that are there.

    Args:
        lineage: so far.
        found: the hash of the tensors now.
        change: what is said of them if they are not what the lineage ends with.
    """
    if lineage and lineage[-1]["hash"] == found:
        return list(lineage)
    return [*lineage, {"weights": change, "hash": found}]


def training(config: Config, steps: int, found: str) -> Entry:
    """What a training adds."""
    data = config.data
    roots = [source.root for source in (data, *data.sources.values()) if source.train is not None]
    return {
        "task": config.task,
        "heads": {key: head.name for key, head in config.model.heads.items()},
        "data": ", ".join(dict.fromkeys(roots)),
        "steps": steps,
        "hash": found,
    }

"""What a configuration changes of a model for training alone, and nothing of its tensors."""

from __future__ import annotations

import torch
from torch import nn

from rehead.errors import ConfigError
from rehead.tasks.model import Model
from rehead.training.distributed import world
from rehead.training.memory import checkpoint_activations


def prepare(model: Model, device: torch.device) -> None:
    """Recomputation of activations, and norms over all processes.

    With `norm: sync` the heads' batch norms follow the backbone's. One process needs no synchronised norms, on a
    CPU either: torch's are ordinary ones there.

    Raises:
        ConfigError: for synchronised norms of several processes on CPUs, which torch does not have, and for a
            backbone that has nothing to recompute.
    """
    config = model.config
    if config.model.backbone.norm == "sync":
        if world() > 1 and device.type != "cuda":
            raise ConfigError(
                [
                    f"model.backbone.norm: sync works between GPUs, not between {world()} processes on {device.type}; "
                    "use norm=train, frozen or group"
                ]
            )
        nn.SyncBatchNorm.convert_sync_batchnorm(model.heads)  # type: ignore[no-untyped-call]
    if config.train.activation_checkpointing:
        checkpoint_activations(model.backbone)

"""What a configuration changes of a model for training alone, and nothing of its tensors."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from rehead.errors import ConfigError
from rehead.models.model import Model
from rehead.tasks.images import has_fixed_batches
from rehead.terminal import say
from rehead.training.distributed import world
from rehead.training.engine import compile_for_training
from rehead.training.memory import checkpoint_activations


def prepare(model: Model, device: torch.device) -> None:
    """Recomputation of activations, norms over all processes, and compilation.

    With `norm: sync` the batch norms of a head follow the backbone's where it is the only one. Of several heads each
    sits out where no image of its process is for it, and the other processes would wait for its statistics for ever:
    their norms take those of their own process. The backbone sees every image of every process. One process needs no
    synchronised norms, on a CPU either: torch's are ordinary ones there.

    Raises:
        ConfigError: for synchronised norms of several processes on CPUs, which torch does not have, for a
            backbone that has nothing to recompute, and where nothing can be compiled.
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
        if len(model.heads) == 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(model.heads)  # type: ignore[no-untyped-call]
        elif world() > 1 and any(isinstance(module, AnyBatchNorm) for module in model.heads.modules()):
            say("model.backbone.norm: sync is the backbone's; of several heads each keeps statistics per process")
    if config.train.activation_checkpointing:
        checkpoint_activations(model.backbone)
    if config.train.compile == "backbone":
        if config.model.backbone.norm == "sync" and world() > 1:
            raise ConfigError(
                ["train.compile: a backbone whose norms wait for other processes (norm: sync) is not compiled"]
            )
        compile_for_training(model.backbone, device, fixed_size=has_fixed_batches(model))

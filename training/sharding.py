"""Sharded training (FSDP2): every process holds a part of each parameter, its gradient and its optimizer state.

A unit's parameters are gathered for its forward and backward pass and then freed, so the memory of a large backbone
is shared out among the GPUs. torch's own `fully_shard` is called here, since Accelerate's plugin knows it on
accelerators only, while this runs, and is tested, on gloo too. Checkpoints are gathered whole: files are the same
with and without. https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from rehead.training.blocks import blocks
from rehead.training.distributed import world

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
UNIT = 100_000
"""Parameters from which a module is gathered by itself: less is not worth a message."""


def shard(model: nn.Module, device: torch.device) -> None:
    """Shards a model in place: each block of its backbone that learns by itself, the rest together.

    Args:
        model: on its device, its parameters contiguous: FSDP takes no other.
        device: of the mesh.
    """
    mesh = init_device_mesh(device.type, (world(),))
    for block in blocks(getattr(model, "backbone", model)):
        if sum(parameter.numel() for parameter in block.parameters()) >= UNIT:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on it."""
    return isinstance(model, FSDPModule)


def set_synchronised(model: nn.Module, now: bool) -> None:
    """Whether the next backward passes add up gradients over processes, or keep them for a later one."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(now)


def whole_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's state on the CPU, on rank 0; nothing on the others. All processes come here together."""
    state: dict[str, Any] = get_model_state_dict(model, options=WHOLE)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Each process takes its part of whole tensors, which all of them read."""
    set_model_state_dict(model, dict(tensors), options=StateDictOptions(full_state_dict=True))


def whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by the parameters' names, on rank 0; nothing on the others."""
    return dict(get_optimizer_state_dict(model, optimizer, options=WHOLE))


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Each process takes its part of the whole state."""
    set_optimizer_state_dict(model, optimizer, dict(state), options=StateDictOptions(full_state_dict=True))

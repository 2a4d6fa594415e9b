"""The backbones by name: rehead's own, and those of plugins. Imports no torch.

Any other name is looked up in timm when the backbone is built: its list of models costs seconds to import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from rehead.configs.schema import BackboneOptions
from rehead.registry import Registry

Target = TypeVar("Target", bound=Callable[..., Any])

RESNET_PAPER = "arXiv 1512.03385"

BACKBONES: Registry[BackboneOptions] = Registry("backbone")
for _name, _block, _blocks in (
    ("resnet18", "basic", "2-2-2-2"),
    ("resnet34", "basic", "3-4-6-3"),
    ("resnet50", "bottleneck", "3-4-6-3"),
    ("resnet101", "bottleneck", "3-4-23-3"),
    ("resnet152", "bottleneck", "3-8-36-3"),
    # For images of 32 pixels.
    ("resnet20", "basic", "3-3-3"),
    ("resnet32", "basic", "5-5-5"),
    ("resnet44", "basic", "7-7-7"),
    ("resnet56", "basic", "9-9-9"),
    ("resnet110", "basic", "18-18-18"),
):
    BACKBONES.add(
        _name,
        BackboneOptions,
        "rehead.backbones.resnet:resnet",
        paper=RESNET_PAPER,
        block=_block,
        blocks=_blocks,
        depth=_name.removeprefix("resnet"),
    )


def register_backbone(
    name: str, *, paper: str = "", block: str = "", blocks: str = "", depth: str = ""
) -> Callable[[Target], Target]:
    """Registers a backbone of one's own: a decorator on a class or function.

    It is called with the `BackboneOptions` and returns a `rehead.backbones.Backbone` without weights;
    weights, norm policy and freezing are then applied by `build_backbone`. Its weights come from a file.

    Args:
        name: what a configuration writes under `model.backbone.name`.
        paper: its source, for `rehead backbones`.
        block: kind of block, for `rehead backbones`.
        blocks: blocks per stage, such as `3-4-6-3`, for `rehead backbones`.
        depth: layers with weights, for `rehead backbones`.
    """
    return BACKBONES.register(name, BackboneOptions, paper=paper, block=block, blocks=blocks, depth=depth)

"""Every head on every backbone: through loss, backward and prediction, or refused when it is built.

Each backbone is built once and gets one head after another, as in life.
"""

from __future__ import annotations

import functools

import pytest
import torch
from helpers import (
    ONE_OF_EACH_KIND,
    SMALL_HEADS,
    TINY,
    assert_every_parameter_learns,
    assert_sane,
    batch_of_noise,
    targets_for,
    total,
)

from rehead.backbones import Backbone, build_backbone
from rehead.configs.base import HeadOptions
from rehead.configs.heads import HEADS, task_of
from rehead.configs.schema import BackboneOptions, Config, ModelOptions
from rehead.errors import BuildError
from rehead.heads import build_head
from rehead.models.model import Model
from rehead.types import Classes

NAMES = Classes(("a", "b", "c"))
BACKBONES: dict[str, BackboneOptions] = {
    "resnet18": TINY,
    "resnet50": TINY.model_copy(update={"name": "resnet50"}),
    "dilated to 16": TINY.model_copy(update={"name": "resnet50", "output_stride": 16}),
    "dilated to 8": TINY.model_copy(update={"name": "resnet50", "output_stride": 8}),
    "grey": TINY.model_copy(update={"in_channels": 1, "mean": [0.5], "std": [0.25]}),
    "plain": TINY.model_copy(update={"residual": False}),
    "shortcut A": TINY.model_copy(update={"shortcut": "A"}),
    "shortcut C": TINY.model_copy(update={"name": "resnet50", "shortcut": "C"}),
    "resnet20": BackboneOptions(name="resnet20", weights="none", width=8),
    # The smallest member of each of timm's families.
    **{
        f"timm/{name}": BackboneOptions(name=f"timm/{name}", weights="none")
        for name in (
            *("resnet10t", "resnet18d", "resnext50_32x4d", "wide_resnet50_2", "seresnet18", "resnest14d"),
            *("res2net50_14w_8s", "resnetv2_18", "resnetv2_50x1_bit", "regnetx_002", "regnety_002", "convnext_atto"),
            *("efficientnet_b0", "hrnet_w18_small", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"),
        )
    },
}
# A pyramid of four strides has no place in networks of three, and a ViT has nothing fine enough to go back up to.
MISFITS = {
    "dilated to 8": {"fpn_segmentation"},
    "resnet20": {"fpn_segmentation", "pan", "deeplabv3plus", "upernet", "segformer", "dpt"},
    "timm/vit_tiny_patch16_224": {"unetplusplus", "fpn_segmentation"},
}
ALL = [(backbone, head) for backbone in BACKBONES for head in SMALL_HEADS]
QUICK = [
    (backbone, head)
    for backbone, head in ALL
    if backbone == "dilated to 8" or (head in ONE_OF_EACH_KIND and not backbone.startswith("timm/"))
]
# Every backbone with one head of each kind, every head with two backbones.
SOME = [
    *QUICK,
    *(
        pytest.param(backbone, head, marks=pytest.mark.slow)
        for backbone, head in ALL
        if backbone.startswith("timm/") and (head in ONE_OF_EACH_KIND or backbone == "timm/convnext_atto")
    ),
]


def test_every_shipped_head_is_in_the_matrix() -> None:
    shipped = {entry.name for entry in HEADS if str(entry.target).startswith("rehead.")}
    assert {options.name for options in SMALL_HEADS} == shipped
    assert {task_of(options) for options in ONE_OF_EACH_KIND} == {entry.about["task"] for entry in HEADS}


@functools.cache
def backbone_of(name: str) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BACKBONES[name])


def check(name: str, options: HeadOptions) -> None:
    backbone = backbone_of(name)
    torch.manual_seed(0)
    if options.name in MISFITS.get(name, ()):
        # The head, what the backbone gives, and what would fit.
        fits = "(unet|linknet|dpt|upernet)"
        with pytest.raises(BuildError, match=rf"{options.name} needs .*; the backbone gives .*; .*{fits}.* takes?"):
            build_head(options, NAMES, backbone.feature_specs)
        return
    head = build_head(options, NAMES, backbone.feature_specs)
    config = Config(task="multitask", model=ModelOptions(backbone=backbone.options, heads={"main": options}))
    model = Model(backbone, {"main": head}, config).train()
    model.zero_grad()
    batch = batch_of_noise(channels=backbone.options.in_channels, padding=(16, 10))
    total(model(batch, targets_for(batch, len(NAMES)))).backward()
    assert_every_parameter_learns(model)
    with torch.no_grad():
        predictions = model.eval()(batch)["main"]
    assert_sane(predictions, batch.frames, len(NAMES))
    assert all(len(one.boxes) > 0 for one in predictions if one.boxes is not None)


@pytest.mark.parametrize(("name", "head"), SOME, ids=lambda part: getattr(part, "name", part))
def test_a_head_trains_and_predicts_on_a_backbone(name: str, head: HeadOptions) -> None:
    check(name, head)


@pytest.mark.matrix
@pytest.mark.parametrize("name", BACKBONES)
def test_every_head_on_every_backbone(name: str) -> None:
    for head in SMALL_HEADS:
        check(name, head)

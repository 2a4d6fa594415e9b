"""What data bring: nothing to learn, flat boxes, one class and very many, odd sizes, other channels and number formats.

Whatever it is, every head gives finite losses, a gradient on all that trains, and sane predictions.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import (
    ONE_OF_EACH_KIND,
    SMALL_HEADS,
    TINY,
    assert_equal_losses,
    assert_every_parameter_learns,
    assert_sane,
    batch_of_noise,
    norms_to_eval,
    targets_for,
    total,
)
from torch import nn

from rehead.configs.base import HeadOptions
from rehead.models.model import Model, build_model
from rehead.types import ImageBatch, Target, ignore_of

pytestmark = pytest.mark.numeric

NAMES = ["a", "b", "c"]
DROPOUTS = (nn.Dropout, nn.Dropout2d)
EVERY = pytest.mark.parametrize("head", SMALL_HEADS, ids=lambda head: head.name)


def check(model: Model, batch: ImageBatch, targets: list[Target]) -> None:
    total(model.train()(batch, targets)).backward()
    assert_every_parameter_learns(model)
    with torch.no_grad():
        assert_sane(model.eval()(batch)["main"], batch.frames, len(model.classes["main"]))


def empty(target: Target) -> Target:
    """The same image without anything to learn."""
    assert target.boxes is not None
    assert target.labels is not None
    assert target.masks is not None
    assert target.keypoints is not None
    assert target.semantic is not None
    return Target(
        target.image_id,
        *(value[:0] for value in (target.boxes, target.labels, target.masks, target.keypoints)),
        torch.full_like(target.semantic, ignore_of(target.semantic)),
    )


@EVERY
@pytest.mark.parametrize("images", ["one", "all"])
def test_images_without_anything_to_learn(head: HeadOptions, images: str) -> None:
    torch.manual_seed(0)
    batch = batch_of_noise()
    first, second = targets_for(batch, len(NAMES))
    check(build_model(TINY, head, NAMES), batch, [empty(first) if images == "all" else first, empty(second)])


@EVERY
def test_boxes_without_area(head: HeadOptions) -> None:
    torch.manual_seed(0)
    batch = batch_of_noise()
    flat = [[4, 6, 4, 50], [4, 6, 40, 6], [7, 7, 7, 7]]
    targets = targets_for(batch, len(NAMES))
    targets[0] = replace(targets[0], **objects(targets_for(batch, len(NAMES), boxes=flat[0])[0]))
    targets[1] = replace(targets[1], **objects(targets_for(batch, len(NAMES), boxes=flat[2])[1]))
    check(build_model(TINY, head, NAMES), batch, targets)


def objects(target: Target) -> dict[str, torch.Tensor | None]:
    return {"boxes": target.boxes, "labels": target.labels, "masks": target.masks, "keypoints": target.keypoints}


@EVERY
@pytest.mark.parametrize("classes", [1, pytest.param(1203, marks=pytest.mark.slow)])
def test_one_class_and_as_many_as_lvis_has(head: HeadOptions, classes: int) -> None:
    torch.manual_seed(0)
    batch = batch_of_noise()
    targets = targets_for(batch, classes)
    if classes > 1:
        targets[0] = replace(targets[0], labels=torch.tensor([classes - 1]), label=torch.tensor(classes - 1))
    check(build_model(TINY, head, [str(index) for index in range(classes)]), batch, targets)


@EVERY
@pytest.mark.parametrize("size", [(1, 50), (50, 1), (33, 47)], ids=str)
def test_sizes_that_no_stride_divides(head: HeadOptions, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    batch = batch_of_noise(size)
    box = (0, 0, min(30, size[1]), min(40, size[0]))
    check(build_model(TINY, head, NAMES), batch, targets_for(batch, len(NAMES), boxes=box))


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("head", ONE_OF_EACH_KIND, ids=lambda head: head.name)
def test_images_of_one_to_eight_channels(head: HeadOptions, channels: int) -> None:
    torch.manual_seed(0)
    body = TINY.model_copy(update={"in_channels": channels, "mean": [0.5] * channels, "std": [0.25] * channels})
    batch = batch_of_noise(channels=channels)
    check(build_model(body, head, NAMES), batch, targets_for(batch, len(NAMES)))


def trained(head: HeadOptions) -> tuple[Model, ImageBatch, list[Target]]:
    """A model in training mode whose norms are still and which drops nothing: draws follow the order in memory."""
    torch.manual_seed(0)
    model = build_model(TINY, head, NAMES).train()
    norms_to_eval(model)
    for module in model.modules():
        if isinstance(module, DROPOUTS):
            module.eval()
    batch = batch_of_noise()
    return model, batch, targets_for(batch, len(NAMES))


def losses_of(model: Model, batch: ImageBatch, targets: list[Target]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    with torch.no_grad():
        losses: dict[str, torch.Tensor] = model(batch, targets)
    return losses


@EVERY
def test_channels_last_changes_nothing_but_rounding(head: HeadOptions) -> None:
    model, batch, targets = trained(head)
    model.double()
    expected = losses_of(model, batch, targets)
    model.to(memory_format=torch.channels_last)
    found = losses_of(model, ImageBatch(batch.pixels.to(memory_format=torch.channels_last), batch.frames), targets)
    assert_equal_losses(found, expected)


@EVERY
def test_bfloat16_changes_losses_by_less_than_a_tenth(head: HeadOptions) -> None:
    model, batch, targets = trained(head)
    expected = losses_of(model, batch, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = losses_of(model, batch, targets)
    assert all(loss.dtype == torch.float32 for loss in found.values())
    torch.testing.assert_close(total(found), total(expected), rtol=0.1, atol=1e-3)


@EVERY
def test_a_compiled_backbone_gives_the_same_losses_under_the_same_names(head: HeadOptions) -> None:
    model, batch, targets = trained(head)
    model.double()
    expected, names = losses_of(model, batch, targets), list(model.state_dict())
    # Traced whole, with nothing left to Python; code is generated in the slow test below.
    model.backbone.compile(backend="aot_eager", fullgraph=True)
    found = losses_of(model, batch, targets)
    assert list(model.state_dict()) == names
    assert_equal_losses(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "timm/convnext_atto"])
def test_generated_code_trains_the_same(name: str) -> None:
    head = ONE_OF_EACH_KIND[-1]
    torch.manual_seed(0)
    model = build_model(TINY.model_copy(update={"name": name, "width": None}), head, NAMES).train()
    norms_to_eval(model)
    batch = batch_of_noise()
    targets = targets_for(batch, len(NAMES))
    gradients = []
    for compiled in (False, True):
        if compiled:
            model.backbone.compile()
        model.zero_grad()
        total(model(batch, targets)).backward()
        gradients.append({key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))

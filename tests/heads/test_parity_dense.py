"""RetinaNet and FCOS: same weights, same inputs, same numbers as torchvision's (CPU, float32).

torchvision counts classes for these two as we do: its label 0 is an ordinary class, so K classes are K there,
and labels need no shift. (Its published weights for COCO simply leave their label 0 without examples.)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import AlreadyResized, norms_to_eval, randomised
from torch import nn
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from rehead.configs.base import HeadOptions
from rehead.configs.detection_heads import FCOSOptions, RetinaNetOptions
from rehead.tasks.model import Model, build_model
from rehead.types import Frame, ImageBatch, Target

NAMES = [f"class{index}" for index in range(7)]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

PAIRS = {
    "retinanet": (retinanet_resnet50_fpn, RetinaNetOptions(score_threshold=0)),
    "retinanet_v2": (
        retinanet_resnet50_fpn_v2,
        RetinaNetOptions(score_threshold=0, norm="group", box_loss="giou", p6_input="C5"),
    ),
    "fcos": (fcos_resnet50_fpn, FCOSOptions(score_threshold=0)),
}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Model, nn.Module, ImageBatch]:
    build, options = PAIRS[request.param]
    return both(build, options)


def both(build: Callable[..., nn.Module], options: HeadOptions) -> tuple[Model, nn.Module, ImageBatch]:
    torch.manual_seed(0)
    reference = build(weights=None, weights_backbone=None, num_classes=len(NAMES), score_thresh=0.0)
    state = randomised(reference, seed=1)
    # A random body's maps are large and a new tower's weights small; between the two, scores that differ.
    for name, value in state.items():
        if name.startswith("backbone.fpn.inner_blocks."):
            value /= 80
        elif name.startswith("head.") and value.ndim == 4:
            value *= 3
    reference.load_state_dict(state)
    ours = build_model("resnet50", options, NAMES, weights="none")
    ours.load_state_dict(
        {
            (
                name.replace("backbone.body.", "backbone.").replace("backbone.fpn.", "heads.main.neck.fpn.")
                if name.startswith("backbone.")
                else f"heads.main.{name}"
            ): value
            for name, value in state.items()
        }
    )
    pixels = torch.randint(0, 256, (2, 3, 192, 256), generator=torch.Generator().manual_seed(2)).float()
    frames = [Frame((192, 256), (192, 256)), Frame((160, 200), (160, 200), padding=(32, 56))]
    reference.transform = AlreadyResized([frame.size for frame in frames])
    return ours, reference, ImageBatch(pixels, frames)


def test_predictions(pair: tuple[Model, nn.Module, ImageBatch]) -> None:
    ours, reference, batch = pair
    ours.eval()
    reference.eval()
    with torch.no_grad():
        theirs = reference(ours.normalise(batch))
        found = ours(batch)["main"]
    assert sum(len(one["boxes"]) for one in theirs) >= 50
    assert len({int(label) for one in theirs for label in one["labels"]}) > 1
    for prediction, one in zip(found, theirs, strict=True):
        assert one["scores"].std() > 1e-3
        torch.testing.assert_close(prediction.boxes, one["boxes"], **CLOSE)
        torch.testing.assert_close(prediction.scores, one["scores"], **CLOSE)
        assert torch.equal(prediction.labels, one["labels"])


@pytest.mark.parametrize("empty", [(), (1,), (0, 1)], ids=["objects", "an image without", "none at all"])
def test_losses(pair: tuple[Model, nn.Module, ImageBatch], empty: tuple[int, ...]) -> None:
    ours, reference, batch = pair
    boxes = [
        torch.tensor([[0.0, 0, 128, 128], [30, 40, 90, 120], [100, 20, 160, 60]]),
        torch.tensor([[10.0, 10, 74, 74]]),
    ]
    labels = [torch.tensor([0, 3, 6]), torch.tensor([2])]
    for index in empty:
        boxes[index], labels[index] = boxes[index][:0], labels[index][:0]
    ours.train()
    reference.train()
    norms_to_eval(ours)
    norms_to_eval(reference)
    theirs = reference(ours.normalise(batch), [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)])
    losses = ours(batch, [Target(index, b, k) for index, (b, k) in enumerate(zip(boxes, labels, strict=True))])
    assert set(losses) == {f"loss_{name}" for name in theirs}
    for name, loss in theirs.items():
        assert (float(loss.detach()) > 0) == (name == "classification" or len(empty) < 2)
        torch.testing.assert_close(losses[f"loss_{name}"], loss, **CLOSE)


def test_default_anchors_are_torchvisions(pair: tuple[Model, nn.Module, ImageBatch]) -> None:
    ours, reference, _ = pair
    mine = ours.head("main").rules.anchor_generator
    assert mine.sizes == reference.anchor_generator.sizes
    assert mine.aspect_ratios == reference.anchor_generator.aspect_ratios

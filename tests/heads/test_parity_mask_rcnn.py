"""Mask R-CNN: same weights, same inputs, same numbers as torchvision (CPU, float32)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import TINY, AlreadyResized, batch_of_noise, norms_to_eval, randomised, targets_for
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from rehead.configs.detection_heads import MaskRCNNOptions
from rehead.errors import BuildError
from rehead.tasks.model import Model, build_model
from rehead.types import Frame, ImageBatch, Target

NAMES = [f"class{index}" for index in range(7)]


@pytest.fixture(scope="module")
def pair() -> tuple[Model, nn.Module, ImageBatch]:
    torch.manual_seed(0)
    reference = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=len(NAMES) + 1, box_score_thresh=0.0
    )
    state = randomised(reference, seed=1)
    # Random classifiers hesitate between all classes; larger weights make them decide, and boxes move.
    state["roi_heads.box_predictor.cls_score.weight"] *= 8
    state["roi_heads.box_predictor.bbox_pred.weight"] *= 4
    state["rpn.head.cls_logits.weight"] *= 4
    reference.load_state_dict(state)
    ours = build_model("resnet50", MaskRCNNOptions(score_threshold=0), NAMES, weights="none")
    renamed = {
        name.replace("backbone.body.", "backbone.").replace("backbone.fpn.", "heads.main.neck.fpn."): value
        for name, value in state.items()
        if name.startswith("backbone.")
    }
    renamed |= {f"heads.main.{name}": value for name, value in state.items() if not name.startswith("backbone.")}
    ours.load_state_dict(renamed)
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
    for prediction, one, frame in zip(found, theirs, batch.frames, strict=True):
        torch.testing.assert_close(prediction.boxes, one["boxes"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(prediction.scores, one["scores"], rtol=1e-4, atol=1e-4)
        assert torch.equal(prediction.labels, one["labels"] - 1)
        pasted = paste_masks_in_image(one["masks"], one["boxes"], frame.original)[:, 0]
        assert prediction.masks is not None
        assert prediction.masks.shape == (len(one["boxes"]), *frame.original)
        assert prediction.masks.any()
        # Where rounding could decide, either answer is right.
        decided = (pasted - 0.5).abs() > 1e-4
        assert torch.equal(prediction.masks[decided], (pasted >= 0.5)[decided])


def test_losses_with_the_same_draws(pair: tuple[Model, nn.Module, ImageBatch]) -> None:
    ours, reference, batch = pair
    # The first box is an anchor of P4 (128 px, square), so that positives do not depend on luck.
    boxes = [
        torch.tensor([[0.0, 0, 128, 128], [30, 40, 90, 120], [100, 20, 160, 60]]),
        torch.tensor([[10.0, 10, 74, 74]]),
    ]
    labels = [torch.tensor([0, 3, 6]), torch.tensor([2])]
    generator = torch.Generator().manual_seed(4)
    masks = [torch.rand((len(one), 192, 256), generator=generator) > 0.4 for one in boxes]
    ours.train()
    reference.train()
    norms_to_eval(ours)
    norms_to_eval(reference)
    images = ours.normalise(batch)
    given = list(zip(boxes, labels, masks, strict=True))
    torch.manual_seed(3)
    theirs = reference(images, [{"boxes": b, "labels": k + 1, "masks": m.byte()} for b, k, m in given])
    torch.manual_seed(3)
    losses = ours(batch, [Target(index, b, k, m) for index, (b, k, m) in enumerate(given)])
    assert set(losses) == set(theirs)
    assert "loss_mask" in losses
    for name, loss in losses.items():
        assert float(loss.detach()) > 0
        torch.testing.assert_close(loss, theirs[name], rtol=1e-4, atol=1e-4)


SMALL = MaskRCNNOptions(channels=8, representation=16, mask_convs=1, mask_channels=8, score_threshold=0)


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("names", [["thing"], NAMES])
def test_every_parameter_learns_with_and_without_objects(objects: bool, names: list[str]) -> None:
    model = build_model(TINY, SMALL, names)
    batch = batch_of_noise(padding=(10, 20))
    targets = targets_for(batch, len(names), boxes=(4, 6, 40, 50) if objects else None)
    losses = model.train()(batch, targets)
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None] == []


def test_masks_have_the_original_size() -> None:
    model = build_model(TINY, SMALL, NAMES).eval()
    batch = batch_of_noise(padding=(10, 20))
    batch.frames[0] = Frame(batch.frames[0].size, (33, 50))
    with torch.no_grad():
        first, second = model(batch)["main"]
    assert first.masks.shape == (len(first.boxes), 33, 50)
    assert second.masks.shape == (len(second.boxes), *batch.frames[1].original)


def test_boxes_without_masks_are_an_error() -> None:
    model = build_model(TINY, SMALL, NAMES).train()
    batch = batch_of_noise()
    with pytest.raises(BuildError, match=r"image 0 has boxes but no masks.*faster_rcnn"):
        model(batch, [replace(target, masks=None) for target in targets_for(batch, len(NAMES))])

"""The losses of Faster R-CNN's stages: torchvision's with its beta, and the arithmetic of Detectron2's L1."""

from __future__ import annotations

import pytest
import torch
from helpers import TINY, batch_of_noise, targets_for
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from rehead.backbones import build_backbone
from rehead.configs.detection_heads import TORCHVISION_BETA, FasterRCNNOptions, KeypointRCNNOptions, MaskRCNNOptions
from rehead.configs.load import load_config
from rehead.errors import ConfigError
from rehead.heads import build_head
from rehead.heads.faster_rcnn import FasterRCNN
from rehead.heads.roi_heads import box_losses
from rehead.types import Classes

SMALL = {"channels": 16, "representation": 32, "rpn_post_nms_train": 60, "box_sampled": 32}
KINDS = [
    FasterRCNNOptions(**SMALL),
    MaskRCNNOptions(**SMALL, mask_convs=1, mask_channels=8),
    KeypointRCNNOptions(**SMALL, keypoint_convs=1, keypoint_channels=8, keypoints=5),
]


def sampled() -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Scores and deltas of 9 proposals of two images, some of them objects; differences of all sizes."""
    generator = torch.Generator().manual_seed(0)
    logits, deltas = (torch.randn(9, width, generator=generator, dtype=torch.float64) for width in (4, 16))
    labels = [torch.tensor([0, 2, 1, 0, 3]), torch.tensor([1, 0, 0, 0])]
    wanted = [torch.randn(len(of), 4, generator=generator, dtype=torch.float64) for of in labels]
    wanted[0][1] = deltas[1, 8:12] + 0.05  # less than torchvision's beta
    return logits.requires_grad_(), deltas.requires_grad_(), labels, wanted


def head(options: FasterRCNNOptions) -> FasterRCNN:
    torch.manual_seed(0)
    built = build_head(options, Classes.of(["cat", "dog", "cow"]), build_backbone(TINY).feature_specs)
    assert isinstance(built, FasterRCNN)
    return built.double()


def test_with_torchvisions_beta_they_are_its_losses() -> None:
    results = []
    for losses in (lambda *given: box_losses(*given, TORCHVISION_BETA), fastrcnn_loss):
        logits, deltas, labels, wanted = sampled()
        both = losses(logits, deltas, labels, wanted)
        results.append([*both, *torch.autograd.grad(sum(both), [logits, deltas])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", KINDS, ids=lambda options: options.name)
def test_a_whole_step_of_both_stages_is_torchvisions(options: FasterRCNNOptions, monkeypatch) -> None:
    """The same head with torchvision's own training of both stages in place of ours."""
    batch = batch_of_noise()
    targets = targets_for(batch, 3)
    specs = build_backbone(TINY).feature_specs
    found = []
    for theirs in (False, True):
        built = head(options).float()
        if theirs:
            monkeypatch.setattr(type(built.rpn), "compute_loss", RegionProposalNetwork.compute_loss)
            monkeypatch.setattr(type(built.roi_heads), "forward", RoIHeads.forward)
        generator = torch.Generator().manual_seed(1)
        features = {
            name: torch.randn(2, spec.channels, 64 // spec.stride, 96 // spec.stride, generator=generator)
            for name, spec in specs.items()
        }
        torch.manual_seed(2)  # of the sampling
        losses = built.loss(features, batch.frames, targets)
        torch.stack(list(losses.values())).sum().backward()
        found.append({**losses, **{name: value.grad for name, value in built.named_parameters()}})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-6, atol=1e-8)


def test_l1_per_roi_is_the_sum_of_differences_over_all_sampled_proposals() -> None:
    """Detectron2's `FastRCNNOutputLayers.box_reg_loss` with SMOOTH_L1_BETA 0: objects alone count, all divide."""
    logits, deltas, labels, wanted = sampled()
    _, found = box_losses(logits, deltas, labels, wanted, beta=0.0)
    deltas = deltas.detach()
    total = 0.0
    for row, (label, target) in enumerate(zip(torch.cat(labels).tolist(), torch.cat(wanted), strict=True)):
        if label > 0:
            total += sum(abs(float(deltas[row, 4 * label + side]) - float(target[side])) for side in range(4))
    assert float(found.detach()) == pytest.approx(total / 9, rel=1e-12)


def test_l1_of_proposals_is_the_sum_of_differences_over_256_anchors_an_image() -> None:
    """Detectron2 divides by BATCH_SIZE_PER_IMAGE x images, torchvision by the anchors sampled, which are as many."""
    built = head(FasterRCNNOptions(channels=16, representation=32, box_loss="l1"))
    generator = torch.Generator().manual_seed(0)
    deltas, wanted = (torch.randn(2 * 600, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    objectness = torch.randn(2 * 600, 1, generator=generator, dtype=torch.float64)
    labels = [torch.zeros(600, dtype=torch.float64) for _ in range(2)]
    objects = [3, 77, 78, 600 + 5]
    for index in objects:
        labels[index // 600][index % 600] = 1
    _, found = built.rpn.compute_loss(objectness, deltas, labels, list(wanted.split(600)))
    differences = [abs(float(deltas[row, side]) - float(wanted[row, side])) for row in objects for side in range(4)]
    assert float(found) == pytest.approx(sum(differences) / (256 * 2), rel=1e-12)


@pytest.mark.parametrize(
    ("options", "proposals", "boxes"),
    [
        ({}, 1 / 9, 1 / 9),
        ({"box_loss": "l1"}, 0, 0),
        # As Detectron2's Keypoint R-CNN has it.
        ({"rpn_box_loss": "l1", "box_beta": 0.5}, 0, 0.5),
    ],
)
def test_options_reach_both_stages(options: dict[str, object], proposals: float, boxes: float) -> None:
    built = head(FasterRCNNOptions(channels=16, representation=32, **options))
    assert (built.rpn.beta, built.roi_heads.beta) == (proposals, boxes)


@pytest.mark.parametrize("options", KINDS, ids=lambda options: options.name)
def test_every_branch_is_aligned_where_asked(options: FasterRCNNOptions) -> None:
    built = head(options.model_copy(update={"roi_aligned": True}))
    pools = [built.roi_heads.box_roi_pool, built.roi_heads.mask_roi_pool, built.roi_heads.keypoint_roi_pool]
    assert [pool.aligned for pool in pools if pool is not None] == [True] * (1 if options is KINDS[0] else 2)


def test_a_beta_without_smooth_l1_is_refused() -> None:
    recipe = {"task": "detection", "model": {"head": {"name": "faster_rcnn", "box_loss": "l1", "box_beta": 0.5}}}
    with pytest.raises(ConfigError, match="box_beta belongs to smooth_l1"):
        load_config(recipe)

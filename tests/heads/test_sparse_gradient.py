"""The convolution that skips what has no gradient gives the gradients of an ordinary one."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_equal_numbers
from torch import Tensor, nn

from rehead.configs.detection_heads import FasterRCNNOptions, RetinaNetOptions
from rehead.heads.faster_rcnn import FasterRCNN
from rehead.heads.retinanet import RetinaNet
from rehead.heads.sparse_gradient import FEW, SparseGradientConv2d
from rehead.types import Classes, FeatureSpec, Frame, Target

pytestmark = pytest.mark.numeric

PLACES = {
    "none": [],
    "corners and edges": [(0, 0, 0), (1, 0, 0), (1, 8, 11), (0, 8, 5), (0, 4, 0)],
    "neighbours": [(0, 3, 3), (0, 3, 4), (0, 4, 4), (1, 3, 3)],
    "all": [(image, row, column) for image in range(2) for row in range(9) for column in range(12)],
}


def gradients(conv: nn.Conv2d, x: Tensor, wanted: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    conv.zero_grad()
    (conv(x) * wanted).sum().backward()
    return [gradient for gradient in (x.grad, conv.weight.grad, conv.bias.grad) if gradient is not None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_gradients_are_those_of_an_ordinary_convolution(
    places: list[tuple[int, int, int]], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 6, 3, padding=1, dtype=torch.float64).to(memory_format=layout)
    x = torch.randn(2, 5, 9, 12, dtype=torch.float64).contiguous(memory_format=layout)
    wanted = torch.zeros(2, 6, 9, 12, dtype=torch.float64)
    for image, row, column in places:
        wanted[image, :, row, column] = torch.randn(6, dtype=torch.float64)
    assert len(places) < FEW * 2 * 9 * 12 or len(places) == 2 * 9 * 12  # both ways are tested
    sparse = SparseGradientConv2d.of(conv)
    torch.testing.assert_close(sparse(x), conv(x), rtol=0, atol=0)
    ordinary = [gradient.clone() for gradient in gradients(conv, x, wanted)]
    for found, expected in zip(gradients(sparse, x, wanted), ordinary, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_frozen_parameters_and_inputs_stay_without_gradients() -> None:
    conv = SparseGradientConv2d.of(nn.Conv2d(3, 3, 3, padding=1)).requires_grad_(False)
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    for part in (1, 8):
        conv(x)[..., :part, :part].sum().backward()
        assert conv.weight.grad is None
    conv.requires_grad_(True)
    still = x.detach()
    for part in (1, 8):
        conv(still)[..., :part, :part].sum().backward()
    assert still.grad is None
    assert conv.weight.grad is not None


def test_mixed_precision_computes_in_its_type() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1)
    sparse = SparseGradientConv2d.of(conv)
    x = torch.randn(1, 8, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = torch.zeros(1, 8, 16, 16)
        wanted[..., 5, 6] = 1
        ordinary = [gradient.clone() for gradient in gradients(conv, x, wanted)]
        found = gradients(sparse, x, wanted)
        assert sparse(x).dtype == torch.bfloat16
    for one, expected in zip(found, ordinary, strict=True):
        assert one.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(one, expected, rtol=0.02, atol=0.02)


def test_region_proposals_and_the_boxes_of_retinanet_have_it() -> None:
    specs = {f"C{level}": FeatureSpec(32, 2**level) for level in (2, 3, 4, 5)}
    faster = FasterRCNN(FasterRCNNOptions(channels=32, rpn_convs=2), Classes(("a",)), specs)
    retina = RetinaNet(RetinaNetOptions(channels=32), Classes(("a",)), specs)
    group = RetinaNet(RetinaNetOptions(channels=32, norm="group"), Classes(("a",)), specs)
    assert sparse(faster) == {"rpn.head.conv.0.0", "rpn.head.conv.1.0"}
    names = {name.rpartition("regression_head.")[2] for name in sparse(retina)}
    assert names == {*(f"conv.{number}.0" for number in range(4)), "bbox_reg"}
    assert not sparse(group)


def sparse(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, SparseGradientConv2d)}


def test_what_is_passed_over_has_no_gradient_in_a_whole_detector() -> None:
    """A training step of RetinaNet gives the gradients that it gives with ordinary convolutions."""
    specs = {f"C{level}": FeatureSpec(32, 2**level) for level in (3, 4, 5)}
    torch.manual_seed(0)
    head = RetinaNet(RetinaNetOptions(channels=32), Classes(("a", "b")), specs).double()
    features = {f"C{level}": torch.randn(1, 32, 256 >> level, 256 >> level).double() for level in (3, 4, 5)}
    boxes = torch.tensor([[30.0, 40.0, 90.0, 120.0], [150.0, 20.0, 190.0, 60.0]])
    target = Target("a", boxes=boxes, labels=torch.tensor([0, 1]))
    frames = [Frame((256, 256), (256, 256), image_id="a")]
    found = []
    for few in (FEW, -1.0):
        head.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rehead.heads.sparse_gradient.FEW", few)
            sum(head.loss(features, frames, [target]).values()).backward()
        found.append({name: value.grad.clone() for name, value in head.named_parameters() if value.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any("regression_head" in name and value.abs().sum() > 0 for name, value in found[0].items())
    for name, value in found[0].items():
        assert_equal_numbers(value, found[1][name])

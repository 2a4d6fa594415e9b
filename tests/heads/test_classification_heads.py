"""Classification heads: the losses of torch and timm for every kind of label, and what is pooled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import TINY, batch_of_noise
from timm.layers import NormMlpClassifierHead
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor

import rehead
from rehead.configs.classification_heads import LinearOptions, MLPOptions
from rehead.errors import BuildError
from rehead.heads.classification import MLP, ClassificationHead, Linear
from rehead.types import Classes, FeatureSpec, Frame, Target

pytestmark = pytest.mark.numeric

SPECS = {"C4": FeatureSpec(3, 4), "C5": FeatureSpec(6, 8)}
FRAMES = [Frame((16, 24), (16, 24), image_id=f"image {row}") for row in range(4)]


def head_of(num_classes: int = 5, name: str = "linear", **options: Any) -> ClassificationHead:
    torch.manual_seed(0)
    classes = Classes(tuple(f"class {label}" for label in range(num_classes)))
    if name == "linear":
        return Linear(LinearOptions(**options), classes, SPECS).train()
    return MLP(MLPOptions(**options), classes, SPECS).train()


def maps(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(4, spec.channels, 16 // spec.stride, 24 // spec.stride, generator=generator)
        for name, spec in SPECS.items()
    }


def loss_of(head: ClassificationHead, labels: list[Tensor | None]) -> Tensor:
    targets = [Target(frame.image_id, label=label) for frame, label in zip(FRAMES, labels, strict=True)]
    return head.loss(maps(), FRAMES, targets)["loss_classifier"]


def soft_labels(num_classes: int) -> Tensor:
    return torch.rand(4, num_classes, generator=torch.Generator().manual_seed(2)).softmax(1)


@pytest.mark.parametrize("num_classes", [1, 5, 1203])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_labels_give_torchs_cross_entropy(num_classes: int, smoothing: float) -> None:
    head = head_of(num_classes, label_smoothing=smoothing)
    labels = torch.tensor([0, num_classes - 1, num_classes // 2, 0])
    expected = F.cross_entropy(head.logits(maps(), FRAMES), labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss_of(head, list(labels)), expected)


@pytest.mark.parametrize("num_classes", [1, 5, 1203])
def test_soft_labels_give_torchs_and_timms_cross_entropy(num_classes: int) -> None:
    head, labels = head_of(num_classes), soft_labels(num_classes)
    logits = head.logits(maps(), FRAMES)
    found = loss_of(head, list(labels))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))
    torch.testing.assert_close(found, SoftTargetCrossEntropy()(logits, labels))


@pytest.mark.parametrize("multi_label", [False, True])
def test_hard_and_soft_labels_stand_side_by_side(multi_label: bool) -> None:
    head = head_of(label_smoothing=0.1, multi_label=multi_label)
    one, soft = torch.tensor(3), soft_labels(5)[1]
    mixed = loss_of(head, [one, soft, one, soft])
    spelled_out = F.one_hot(one, 5).float()
    torch.testing.assert_close(mixed, loss_of(head, [spelled_out, soft, spelled_out, soft]))


@pytest.mark.parametrize("num_classes", [1, 5, 1203])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_several_labels_give_torchs_and_timms_binary_cross_entropy(num_classes: int, smoothing: float) -> None:
    head = head_of(num_classes, multi_label=True, label_smoothing=smoothing)
    labels = (soft_labels(num_classes) > 1 / num_classes).float()
    logits = head.logits(maps(), FRAMES)
    found = loss_of(head, list(labels))
    torch.testing.assert_close(found, BinaryCrossEntropy(smoothing, smooth_dense=True)(logits, labels))
    if not smoothing:
        torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, labels))


@pytest.mark.parametrize("multi_label", [False, True])
def test_images_without_a_label_do_not_count(multi_label: bool) -> None:
    head = head_of(multi_label=multi_label)
    half = loss_of(head, [torch.tensor(1), None, torch.tensor(2), None])
    logits = head.logits(maps(), FRAMES)[[0, 2]]
    labels = torch.tensor([1, 2])
    expected = (
        F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 5).float())
        if multi_label
        else F.cross_entropy(logits, labels)
    )
    torch.testing.assert_close(half, expected)
    assert loss_of(head, [None] * 4) == 0


def test_a_soft_label_of_other_classes_is_refused_by_image() -> None:
    with pytest.raises(BuildError, match=r"'image 2': its label has shape \(4,\).*5 classes"):
        loss_of(head_of(), [torch.tensor(1), None, torch.ones(4) / 4, None])


def test_probabilities_add_up_to_one_or_stand_alone() -> None:
    single, several = head_of().eval(), head_of(multi_label=True).eval()
    logits = single.logits(maps(), FRAMES)
    for row, (one, other) in enumerate(
        zip(single.predict(maps(), FRAMES), several.predict(maps(), FRAMES), strict=True)
    ):
        torch.testing.assert_close(one.probabilities, logits[row].softmax(0))
        torch.testing.assert_close(other.probabilities, logits[row].sigmoid())


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("hidden", [None, 10])
def test_mlp_equals_timms(pooling: str, hidden: int | None) -> None:
    head = head_of(name="mlp", pooling=pooling, hidden=hidden).eval()
    timms = NormMlpClassifierHead(6, 5, hidden or 6, pooling, norm_layer="layernorm2d", act_layer="gelu").eval()
    generator = torch.Generator().manual_seed(3)
    state = {name: torch.randn(value.shape, generator=generator) for name, value in timms.state_dict().items()}
    timms.load_state_dict(state)
    head.load_state_dict(state)
    torch.testing.assert_close(head.logits(maps(), FRAMES), timms(maps()["C5"]))


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_padding_is_no_part_of_the_image(name: str, pooling: str) -> None:
    head = head_of(name=name, pooling=pooling).eval()
    whole = maps()
    # 9 rows of pixels reach into the second row of cells, 16 columns into no third column.
    padded = [Frame((9, 16), (9, 16), (7, 8)), *FRAMES[1:]]
    alone = {feature: value[:1, :, :, :2] for feature, value in whole.items()}
    torch.testing.assert_close(
        head.predict(whole, padded)[0].probabilities,
        head.predict(alone, [Frame((9, 16), (9, 16))])[0].probabilities,
    )
    torch.testing.assert_close(
        head.predict(whole, padded)[1].probabilities, head.predict(whole, FRAMES)[1].probabilities
    )


def test_an_image_is_judged_the_same_alone_and_beside_a_larger_one() -> None:
    torch.manual_seed(0)
    model = rehead.build_model(TINY, "linear", ["a", "b"]).eval()
    batch = batch_of_noise((64, 64), padding=(0, 32))
    alone = type(batch)(batch.pixels[1:, :, :, :32], [Frame((64, 32), (64, 32))])
    with torch.no_grad():
        torch.testing.assert_close(
            model(batch)["main"][1].probabilities, model(alone)["main"][0].probabilities, atol=1e-3, rtol=0
        )

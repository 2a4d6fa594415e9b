"""What is particular to segmentation heads: their losses, the features that they can do with, and their limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import SMALL_SEGMENTERS, TINY, assert_equal_numbers, batch_of_noise, targets_for
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from torch import Tensor
from torch.nn.functional import cross_entropy

from rehead.configs.base import HeadOptions
from rehead.configs.load import load_config
from rehead.configs.schema import BackboneOptions
from rehead.configs.segmentation_heads import (
    CrossEntropyOptions,
    DPTOptions,
    FocalOptions,
    LinkNetOptions,
    PANOptions,
    PSPNetOptions,
    SegmentationLossOptions,
    TermOptions,
    TorchvisionDeepLabV3Options,
    TorchvisionFCNOptions,
    UNetOptions,
    UNetPlusPlusOptions,
    UPerNetOptions,
)
from rehead.errors import BuildError, ConfigError
from rehead.heads import build_head
from rehead.heads.segmentation_loss import SegmentationLoss, dice, focal, lovasz, pixel_cross_entropy
from rehead.models.model import build_model
from rehead.types import IGNORE, Classes, FeatureSpec, Frame, ignore_of, map_type

pytestmark = pytest.mark.numeric

NAMES = ["a", "b", "c"]
PYRAMID = {f"C{power}": FeatureSpec(8 * power, 2**power) for power in range(1, 6)}
VIT = {"C4": FeatureSpec(8, 16), "C5": FeatureSpec(8, 16), "C6": FeatureSpec(8, 16)}
EVERYTHING = SegmentationLossOptions(
    cross_entropy=CrossEntropyOptions(class_weights=[1, 2, 0], label_smoothing=0.1),
    dice=TermOptions(weight=0.5),
    focal=FocalOptions(gamma=0.5),
    lovasz=TermOptions(),
)


def random_case(classes: int = 3, ignored_rows: int = 2) -> tuple[Tensor, Tensor]:
    """Scores (2, K, 6, 5), and a class map in which the first rows do not count."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, classes, 6, 5, generator=generator)).requires_grad_()
    semantic = torch.randint(0, classes, (2, 6, 5), generator=generator).to(getattr(torch, map_type(classes)))
    semantic[:, :ignored_rows] = ignore_of(semantic)
    return logits, semantic


class TestLoss:
    @pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.5, 3.0])])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_cross_entropy_is_torchs(self, weights: Tensor | None, smoothing: float) -> None:
        logits, semantic = random_case()
        expected = cross_entropy(logits, semantic.long(), weights, ignore_index=IGNORE, label_smoothing=smoothing)
        torch.testing.assert_close(pixel_cross_entropy(logits, semantic, weights, smoothing), expected)

    def test_weights_smaller_than_one_in_all_divide_too(self) -> None:
        logits, semantic = random_case()
        small = torch.tensor([1e-3, 2e-3, 1e-3])
        torch.testing.assert_close(
            pixel_cross_entropy(logits, semantic, small), pixel_cross_entropy(logits, semantic, 1000 * small)
        )

    def test_focal_is_smps_of_the_softmax(self) -> None:
        logits, semantic = random_case(ignored_rows=0)
        torch.testing.assert_close(
            focal(logits, semantic, 2.0), softmax_focal_loss_with_logits(logits, semantic.long(), gamma=2.0)
        )
        torch.testing.assert_close(focal(logits, semantic, 0.0), pixel_cross_entropy(logits, semantic))

    def test_dice_by_hand(self) -> None:
        """Two classes, probabilities 1/2 everywhere, three pixels of the first and one of the second."""
        semantic = torch.tensor([[[0, 0, 0, 1]]], dtype=torch.uint8)
        expected = 1 - (2 * 1.5 / (2 + 3) + 2 * 0.5 / (2 + 1)) / 2
        torch.testing.assert_close(dice(torch.zeros(1, 2, 1, 4), semantic), torch.tensor(expected))

    def test_lovasz_of_certain_predictions_is_one_minus_iou(self) -> None:
        """Predicted 0 0 1 1, true 0 0 0 1: IoU 2/3 and 1/2."""
        logits = 100 * torch.tensor([[1.0, 1, -1, -1], [-1, -1, 1, 1]]).view(1, 2, 1, 4)
        semantic = torch.tensor([[[0, 0, 0, 1]]], dtype=torch.uint8)
        torch.testing.assert_close(lovasz(logits, semantic), torch.tensor((1 / 3 + 1 / 2) / 2))

    @pytest.mark.parametrize("loss", [pixel_cross_entropy, dice, focal, lovasz])
    def test_pixels_that_do_not_count_change_nothing(self, loss: Any) -> None:
        logits, semantic = random_case()
        torch.testing.assert_close(loss(logits, semantic), loss(logits[:, :, 2:], semantic[:, 2:]))
        (gradient,) = torch.autograd.grad(loss(logits, semantic), logits)
        assert (gradient[:, :, :2] == 0).all()
        assert (gradient[:, :, 2:] != 0).any()

    @pytest.mark.parametrize("loss", [pixel_cross_entropy, dice, focal, lovasz])
    def test_half_precision_scores_give_float32(self, loss: Any) -> None:
        logits, semantic = random_case()
        assert loss(logits.bfloat16(), semantic).dtype == torch.float32

    @pytest.mark.parametrize("classes", [1, 3, 255, 1203])
    @pytest.mark.parametrize("ignored_rows", [0, 6])
    def test_every_term_is_finite_with_finite_gradients(self, classes: int, ignored_rows: int) -> None:
        logits, semantic = random_case(classes, ignored_rows)
        weights = CrossEntropyOptions(class_weights=[1.0] * (classes - 1) + [0.0])
        options = EVERYTHING.model_copy(update={"cross_entropy": weights})
        losses = SegmentationLoss(options, Classes.of([str(index) for index in range(classes)]))(logits, semantic)
        assert set(losses) == {"loss_cross_entropy", "loss_dice", "loss_focal", "loss_lovasz"}
        for loss in losses.values():
            assert loss.shape == ()
            (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
            assert torch.isfinite(gradient).all()
            if ignored_rows == 6:
                assert float(loss.detach()) == 0
                assert (gradient == 0).all()

    def test_certain_and_right_is_no_reason_for_nan(self) -> None:
        logits = torch.tensor([1000.0, -1000.0]).view(1, 2, 1, 1).requires_grad_()
        semantic = torch.zeros(1, 1, 1, dtype=torch.uint8)
        (gradient,) = torch.autograd.grad(focal(logits, semantic, 0.5), logits)
        assert torch.isfinite(gradient).all()

    def test_a_sum_is_weighted_and_class_weights_stay_out_of_checkpoints(self) -> None:
        logits, semantic = random_case()
        criterion = SegmentationLoss(EVERYTHING, Classes.of(NAMES))
        losses = criterion(logits, semantic)
        torch.testing.assert_close(losses["loss_dice"], 0.5 * dice(logits, semantic))
        expected = pixel_cross_entropy(logits, semantic, torch.tensor([1.0, 2.0, 0.0]), 0.1)
        torch.testing.assert_close(losses["loss_cross_entropy"], expected)
        torch.testing.assert_close(losses["loss_focal"], focal(logits, semantic, 0.5))
        torch.testing.assert_close(losses["loss_lovasz"], lovasz(logits, semantic))
        assert criterion.state_dict() == {}

    def test_plain_cross_entropy_unless_given(self) -> None:
        for head in (UNetOptions(), TorchvisionFCNOptions(auxiliary_weight=0)):
            model = build_model(TINY, head, NAMES).train()
            batch = batch_of_noise()
            assert set(model(batch, targets_for(batch, len(NAMES)))) == {"loss_cross_entropy"}

    def test_the_auxiliary_loss_has_the_same_terms(self) -> None:
        model = build_model(TINY, TorchvisionFCNOptions(loss=EVERYTHING, auxiliary_weight=0.3), NAMES).train()
        batch = batch_of_noise()
        targets = targets_for(batch, len(NAMES))
        head: Any = model.head("main")
        torch.manual_seed(0)
        losses = model(batch, targets)
        # The same classifier in both places gives the same terms, once dropout is out of the way.
        head.before, head.aux_classifier = head.last, head.classifier
        for dropout in (part for part in model.modules() if isinstance(part, torch.nn.Dropout)):
            dropout.p = 0
        assert set(losses) == {"loss_cross_entropy", "loss_dice", "loss_focal", "loss_lovasz", "loss_auxiliary"}
        losses = model(batch, targets)
        auxiliary = losses.pop("loss_auxiliary")
        torch.testing.assert_close(auxiliary, 0.3 * torch.stack(list(losses.values())).sum())


def config_with(loss: object) -> Any:
    return load_config({"task": "segmentation", "model": {"head": {"name": "unet", "loss": loss}}}).model.heads["main"]


def test_losses_in_a_configuration() -> None:
    head = config_with({"dice": {}, "cross_entropy": {"weight": 0.5, "class_weights": [1, 2]}})
    assert head.loss.terms() == {
        "cross_entropy": CrossEntropyOptions(weight=0.5, class_weights=[1, 2]),
        "dice": TermOptions(weight=1),
    }
    for loss, said in (
        ({"dicee": {}}, r"loss\.dicee: unknown key; did you mean 'dice'"),
        ({"focal": {"gama": 1}}, r"loss\.focal\.gama: unknown key; did you mean 'gamma'"),
        ({}, "name at least one term.*cross_entropy, dice, focal, lovasz"),
        ({"cross_entropy": {"class_weights": [-1, 1]}}, r"class_weights\.0"),
    ):
        with pytest.raises(ConfigError, match=said):
            config_with(loss)


def test_class_weights_are_one_per_class() -> None:
    loss = SegmentationLossOptions(cross_entropy=CrossEntropyOptions(class_weights=[1, 2]))
    with pytest.raises(BuildError, match=r"class_weights has 2 values for 3 classes \(a, b, c\)"):
        build_head(UNetOptions(loss=loss), Classes.of(NAMES), PYRAMID)


DECODERS: list[HeadOptions] = [UNetOptions(), *SMALL_SEGMENTERS]
FITTING = {
    "from stride 4": ({key: PYRAMID[key] for key in ("C2", "C3", "C4", "C5")}, set()),
    "dilated": (
        {f"C{power}": FeatureSpec(8, min(2**power, 8)) for power in range(1, 6)},
        {"fpn_segmentation"},
    ),
    "all of stride 16": (VIT, {"unetplusplus", "fpn_segmentation"}),
    "of stride 14": (
        {name: FeatureSpec(8, 14) for name in VIT},
        {"unetplusplus", "manet", "linknet", "fpn_segmentation", "dpt"},
    ),
    "one of stride 4": (
        {"C1": FeatureSpec(8, 1), "C3": FeatureSpec(8, 2), "C4": FeatureSpec(8, 4)},
        {"fpn_segmentation", "pan", "deeplabv3plus", "upernet", "segformer", "dpt"},
    ),
}


@pytest.mark.parametrize("kind", FITTING)
@pytest.mark.parametrize("options", DECODERS, ids=lambda options: options.name)
def test_a_decoder_works_or_says_why_not(kind: str, options: HeadOptions) -> None:
    specs, unfit = FITTING[kind]
    if options.name in unfit:
        with pytest.raises(BuildError, match=f"{options.name}.*(need|give)"):
            build_head(options, Classes.of(NAMES), specs)
        return
    head: Any = build_head(options, Classes.of(NAMES), specs).train()
    size = (70, 98)
    features = {name: torch.randn(2, s.channels, -(-70 // s.stride), -(-98 // s.stride)) for name, s in specs.items()}
    frames = [Frame(size, size)] * 2
    logits = head.logits(features, frames)
    assert logits.shape == (2, len(NAMES), *size)
    assert logits.std() > 0
    losses = head.loss(features, frames, targets_for(batch_of_noise(size), len(NAMES)))
    sum(losses.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def test_misfits_name_both_sides() -> None:
    def refused(options: HeadOptions, specs: dict[str, FeatureSpec], said: str) -> None:
        with pytest.raises(BuildError, match=said):
            build_head(options, Classes.of(NAMES), specs)

    refused(UNetPlusPlusOptions(), VIT, "stride 2 or 4; the backbone gives maps of strides 16; unet goes up from any")
    gap = {"C2": FeatureSpec(8, 4), "C4": FeatureSpec(8, 16)}
    refused(
        LinkNetOptions(), gap, "linknet needs strides that double.*the backbone gives maps of strides 4, 16; upernet"
    )
    refused(PSPNetOptions(), {"C5": FeatureSpec(30, 32)}, "the last feature map has 30")
    refused(PANOptions(), {f"C{i}": FeatureSpec(8, 16) for i in range(5)}, "at most four.*gives 5")
    refused(DPTOptions(intermediate_channels=[8, 8]), VIT, "has 2 values but the backbone gives 3")
    refused(TorchvisionFCNOptions(), {"C5": FeatureSpec(8, 32)}, r"C5 \(stride 32.*auxiliary_weight=0")
    refused(UNetOptions(attention="scse", decoder_channels=[8] * 5), PYRAMID, "by 16.*decoder_channels")
    with pytest.raises(BuildError, match="32768 classes; a semantic map has room for 32767"):
        build_head(UNetOptions(), Classes.of([str(index) for index in range(32768)]), PYRAMID)


@pytest.mark.parametrize("options", DECODERS, ids=lambda options: options.name)
def test_one_class_is_everywhere(options: HeadOptions) -> None:
    model = build_model(TINY, options, ["only"])
    batch = batch_of_noise()
    losses = model.train()(batch, targets_for(batch, 1))
    # The softmax of one class is 1 everywhere: right, whatever the scores are.
    assert sum(float(loss.detach()) for loss in losses.values()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        assert (model.eval()(batch)["main"][0].semantic == 0).all()


@pytest.mark.parametrize(("classes", "dtype"), [(255, torch.uint8), (256, torch.int16), (1203, torch.int16)])
def test_a_map_is_as_wide_as_its_classes_need(classes: int, dtype: torch.dtype) -> None:
    head: Any = build_head(LinkNetOptions(), Classes.of([str(index) for index in range(classes)]), PYRAMID).eval()
    scores = torch.eye(classes)[[classes - 1]].view(1, classes, 1, 1).expand(1, classes, 8, 8)
    head.logits = lambda *_: scores
    semantic = head.predict({}, [Frame((8, 8), (8, 8))])[0].semantic
    assert semantic.dtype == dtype
    assert (semantic == classes - 1).all()


@pytest.mark.parametrize("options", [UPerNetOptions(channels=8), TorchvisionDeepLabV3Options()])
def test_one_image_where_a_norm_needs_two_says_so(options: HeadOptions) -> None:
    model = build_model(TINY, options, NAMES).train()
    batch = batch_of_noise(images=1)
    with pytest.raises(BuildError, match=rf"{options.name}: a norm.*1 image of 64x96.*batch_size=2"):
        model(batch, targets_for(batch, len(NAMES)))


def test_on_a_vision_transformer() -> None:
    model = build_model(
        BackboneOptions(name="test_vit", weights="none"),
        DPTOptions(intermediate_channels=[8, 8, 16, 16], fusion_channels=16),
        NAMES,
    )
    batch = batch_of_noise()
    losses = model.train()(batch, targets_for(batch, len(NAMES)))
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        assert model.eval()(batch)["main"][0].semantic.shape == (64, 96)


AS_IT_IS = {"unet", "pspnet", "deeplabv3", "torchvision_fcn", "torchvision_deeplabv3"}


@pytest.mark.parametrize(
    "options", [each for each in DECODERS if each.name not in AS_IT_IS], ids=lambda options: options.name
)
def test_a_size_that_does_not_fit_is_filled_up_and_cut(options: HeadOptions) -> None:
    """Maps as a batch of 96 x 64 gives them, cut at 65 x 50, score like the uncut ones with zeros in the rest."""
    torch.manual_seed(0)
    head: Any = build_head(options, Classes.of(NAMES), PYRAMID).eval().double()
    whole = {name: torch.randn(1, s.channels, 96 // s.stride, 64 // s.stride).double() for name, s in PYRAMID.items()}
    cut = {name: whole[name][:, :, : -(-65 // s.stride), : -(-50 // s.stride)] for name, s in PYRAMID.items()}
    for name, spec in PYRAMID.items():
        whole[name][:, :, -(-65 // spec.stride) :] = 0
        whole[name][:, :, :, -(-50 // spec.stride) :] = 0
    with torch.no_grad():
        expected = head.logits(whole, [Frame((96, 64), (96, 64))])[:, :, :65, :50]
        assert_equal_numbers(head.logits(cut, [Frame((65, 50), (65, 50))]), expected)

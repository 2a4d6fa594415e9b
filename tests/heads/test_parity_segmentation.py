"""Same weights, same inputs, same scores as segmentation-models-pytorch and torchvision (CPU, float32)."""

from __future__ import annotations

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers import batch_of_noise, randomised
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

from rehead.configs.base import HeadOptions
from rehead.configs.schema import BackboneOptions
from rehead.configs.segmentation_heads import (
    DeepLabV3Options,
    DeepLabV3PlusOptions,
    DPTOptions,
    FPNSegmentationOptions,
    LinkNetOptions,
    MAnetOptions,
    PANOptions,
    PSPNetOptions,
    SegFormerOptions,
    TorchvisionDeepLabV3Options,
    TorchvisionFCNOptions,
    UNetOptions,
    UNetPlusPlusOptions,
    UPerNetOptions,
)
from rehead.heads import build_head
from rehead.tasks.model import Model, build_model
from rehead.types import Classes, FeatureSpec, Frame, ImageBatch, Target

NAMES = [f"class{index}" for index in range(7)]


def ours_like(reference: nn.Module, backbone: BackboneOptions, head: HeadOptions, body: str) -> Model:
    """Our model with the reference's tensors; `body` is what the reference calls its backbone."""
    ours = build_model(backbone, head, NAMES).eval()
    ours.load_state_dict(
        {
            f"backbone.{name.removeprefix(body)}" if name.startswith(body) else f"heads.main.{name}": value
            for name, value in reference.state_dict().items()
        }
    )
    return ours


def assert_same_scores(ours: Model, reference: Any, size: tuple[int, int]) -> Tensor:
    """The scores, which are also what `predict` chooses from."""
    batch = batch_of_noise(size)
    with torch.no_grad():
        images = ours.normalise(batch)
        theirs: Tensor = reference(images)
        features = ours.backbone(images)
        logits = ours.head("main").logits(features, batch.frames)
        predictions = ours(batch)["main"]
    assert logits.shape == (2, len(NAMES), *size)
    assert theirs.std() > 1e-3
    torch.testing.assert_close(logits / theirs.std(), theirs / theirs.std(), rtol=1e-5, atol=1e-5)
    for prediction, one in zip(predictions, theirs, strict=True):
        assert (prediction.semantic == one.argmax(0)).float().mean() > 0.999
    return theirs


SMP: list[tuple[HeadOptions, str, dict[str, Any], tuple[int, int]]] = [
    (UNetOptions(), "unet", {}, (64, 96)),
    (UNetOptions(attention="scse", decoder_channels=[64, 48, 32, 24, 16]), "unet", {}, (64, 96)),
    (UNetPlusPlusOptions(), "unetplusplus", {}, (64, 96)),
    (MAnetOptions(), "manet", {}, (64, 96)),
    (LinkNetOptions(), "linknet", {}, (64, 96)),
    (FPNSegmentationOptions(), "fpn", {}, (64, 96)),
    (FPNSegmentationOptions(merge="cat", segmentation_channels=64), "fpn", {}, (64, 96)),
    # SMP leaves the last two stages out unless told; ours reads the last map, whatever its stride.
    (PSPNetOptions(), "pspnet", {"encoder_depth": 5, "upsampling": 32}, (64, 96)),
    (PANOptions(), "pan", {"encoder_output_stride": 32}, (256, 256)),
    (UPerNetOptions(), "upernet", {}, (64, 96)),
    (SegFormerOptions(), "segformer", {}, (64, 96)),
]
SMP_OPTIONS = {
    "attention": "decoder_attention_type",
    "decoder_channels": "decoder_channels",
    "merge": "decoder_merge_policy",
    "segmentation_channels": "decoder_segmentation_channels",
}


@pytest.mark.parametrize(
    ("backbone", "head", "arch", "arguments", "size"),
    [("resnet18", *case) for case in SMP] + [("resnet50", *SMP[index]) for index in (0, 5, 9)],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", ""),
)
def test_equals_smp(
    backbone: str, head: HeadOptions, arch: str, arguments: dict[str, Any], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    given = {SMP_OPTIONS[name]: getattr(head, name) for name in head.model_fields_set if name in SMP_OPTIONS}
    reference = smp.create_model(arch, backbone, encoder_weights=None, classes=len(NAMES), **given, **arguments)
    reference.load_state_dict(randomised(reference.eval(), seed=1))
    ours = ours_like(reference, BackboneOptions(name=backbone, weights="none"), head, "encoder.")
    assert_same_scores(ours, reference, size)


DILATED: list[tuple[HeadOptions, str, int, tuple[int, int]]] = [
    (DeepLabV3Options(), "deeplabv3", 8, (64, 96)),
    (DeepLabV3Options(atrous_rates=(2, 4, 6), separable=True), "deeplabv3", 16, (64, 96)),
    (DeepLabV3PlusOptions(), "deeplabv3plus", 16, (64, 96)),
    (DeepLabV3PlusOptions(separable=False), "deeplabv3plus", 8, (64, 96)),
    (PANOptions(), "pan", 16, (128, 160)),
]


@pytest.mark.parametrize(("head", "arch", "stride", "size"), DILATED, ids=lambda value: getattr(value, "name", ""))
def test_dilated_decoders_equal_smp(head: HeadOptions, arch: str, stride: int, size: tuple[int, int]) -> None:
    """SMP dilates every convolution of a stage and we, as torchvision, all but the first: the decoders are compared."""
    torch.manual_seed(0)
    given = {
        f"decoder_{prefix}{name}": getattr(head, name)
        for prefix, name in (("", "atrous_rates"), ("aspp_", "separable"))
        if name in head.model_fields_set
    }
    reference: Any = smp.create_model(
        arch, "resnet18", encoder_weights=None, classes=len(NAMES), encoder_output_stride=stride, **given
    )
    channels = reference.encoder.out_channels[1:]
    strides = [min(2**power, stride) for power in range(1, 6)]
    assert_same_decoder(reference, head, dict(zip(strides_named(strides), channels, strict=True)), size)


def strides_named(strides: list[int]) -> list[tuple[str, int]]:
    return [(f"C{index}", stride) for index, stride in enumerate(strides, 1)]


def assert_same_decoder(
    reference: Any, head: HeadOptions, maps: dict[tuple[str, int], int], size: tuple[int, int], prefixes: bool = False
) -> None:
    reference.load_state_dict(randomised(reference.eval(), seed=1))
    ours = build_head(head, Classes.of(NAMES), {name: FeatureSpec(c, s) for (name, s), c in maps.items()}).eval()
    state = reference.state_dict()
    ours.load_state_dict({name: value for name, value in state.items() if not name.startswith("encoder.")})
    features = {name: torch.randn(2, c, size[0] // s, size[1] // s) for (name, s), c in maps.items()}
    inputs = list(features.values()) if prefixes else [torch.zeros(2, 3, *size), *features.values()]
    with torch.no_grad():
        decoded = reference.decoder(inputs, [None] * len(inputs)) if prefixes else reference.decoder(inputs)
        theirs = reference.segmentation_head(decoded)
        logits: Any = ours.logits(features, [Frame(size, size)] * 2)
    assert theirs.std() > 1e-3
    torch.testing.assert_close(logits / theirs.std(), theirs / theirs.std(), rtol=1e-5, atol=1e-5)


def test_dpt_equals_smp_without_class_tokens() -> None:
    torch.manual_seed(0)
    reference = smp.create_model(
        "dpt",
        "tu-test_vit",
        encoder_weights=None,
        classes=len(NAMES),
        decoder_readout="ignore",
        decoder_fusion_channels=64,
        decoder_intermediate_channels=(32, 48, 64, 64),
    )
    maps = dict.fromkeys(strides_named([16] * 4), reference.encoder.out_channels[0])
    head = DPTOptions(fusion_channels=64, intermediate_channels=[32, 48, 64, 64])
    assert_same_decoder(reference, head, maps, (64, 96), prefixes=True)


@pytest.mark.parametrize(
    ("build", "head"),
    [(fcn_resnet50, TorchvisionFCNOptions()), (deeplabv3_resnet50, TorchvisionDeepLabV3Options())],
    ids=["fcn", "deeplabv3"],
)
def test_equals_torchvision(build: Any, head: HeadOptions) -> None:
    """Also where 8 does not divide the size; and the losses of both, as torchvision's training script adds them."""
    torch.manual_seed(0)
    reference = build(weights=None, weights_backbone=None, num_classes=len(NAMES), aux_loss=True)
    reference.load_state_dict(randomised(reference.eval(), seed=1))
    body = BackboneOptions(name="resnet50", weights="none", output_stride=8)
    ours = ours_like(reference, body, head, "backbone.")
    assert_same_scores(ours, lambda images: reference(images)["out"], (65, 90))

    pixels = torch.randint(0, 256, (2, 3, 65, 90), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    batch = ImageBatch(pixels, [Frame((65, 90), (65, 90))] * 2)
    semantic = torch.randint(0, len(NAMES), (2, 65, 90), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    semantic[:, 20:30] = 255
    targets = [Target(index, semantic=one) for index, one in enumerate(semantic)]
    with torch.no_grad():
        theirs = {
            name: nn.functional.cross_entropy(scores, semantic.long(), ignore_index=255)
            for name, scores in reference(ours.normalise(batch)).items()
        }
        losses = ours.head("main").loss(ours.backbone(ours.normalise(batch)), batch.frames, targets)
    assert set(losses) == {"loss_cross_entropy", "loss_auxiliary"}
    torch.testing.assert_close(losses["loss_cross_entropy"], theirs["out"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["loss_auxiliary"], 0.5 * theirs["aux"], rtol=1e-5, atol=1e-5)

"""Segmenters and classifiers through `rehead import`: same weights, same numbers (CPU, float64), and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers import assert_equal_but_rounding, assert_equal_numbers, batch_of_noise, randomised, undrawn
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.segmentation import deeplabv3_resnet50, fcn_resnet50

import rehead
from rehead.interop.exchange import LIBRARIES, export_weights
from rehead.models.model import Model
from rehead.training.checkpoints import read_metadata
from rehead.types import Frame, ImageBatch, Target

pytestmark = [pytest.mark.numeric, pytest.mark.slow]

K = 7
ARCHS = [
    *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan", "deeplabv3", "deeplabv3plus"),
    *("upernet", "segformer"),
]
# The smallest that PAN's three poolings leave something of.
SIZES = {"pan": (128, 160)}
SCSE = ["model.head.attention=scse", "model.head.decoder_channels=[64,48,32,24,16]"]


def there_and_here(
    library: str, name: str, reference: nn.Module, folder: Path, overrides: Sequence[str] = (), names: str | None = None
) -> Model:
    """Our model from the file of the reference's, whose weights are drawn."""
    from rehead.cli.import_ import import_

    reference.load_state_dict(randomised(reference.eval(), seed=1))
    torch.save(reference.state_dict(), folder / "theirs.pth")
    with undrawn():
        import_(library, folder / "theirs.pth", name, folder / "ours.safetensors", list(overrides), names)
        return rehead.load(folder / "ours.safetensors")


def scores(ours: Model, reference: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]:
    """Ours and theirs."""
    head: Any = ours.head("main")
    with torch.no_grad():
        images = ours.normalise(batch)
        theirs = reference(images)
        return head.logits(ours.backbone(images), batch.frames), theirs["out"] if isinstance(theirs, dict) else theirs


def assert_same_maps(ours: Model, reference: nn.Module, size: tuple[int, int]) -> None:
    """The scores, and the class maps that are chosen from them; both models are float64 from here on."""
    batch = batch_of_noise(size)
    logits, theirs = scores(ours.double(), reference.double(), batch)
    assert logits.shape == (2, K, *size)
    assert theirs.std() > 1e-3
    assert_equal_numbers(logits, theirs)
    with torch.no_grad():
        predictions = ours(batch)["main"]
    for prediction, one in zip(predictions, theirs, strict=True):
        assert torch.equal(prediction.semantic.long(), one.argmax(0))


def assert_nothing_is_lost(ours: Model, reference: nn.Module, library: str) -> None:
    """What is written back is what was read, and the reference takes it."""
    written, exported = export_weights(ours)
    assert written == library
    before = reference.state_dict()
    assert exported.keys() == before.keys()
    assert all(torch.equal(value, exported[name]) for name, value in before.items())
    reference.load_state_dict(exported, strict=True)


@pytest.mark.parametrize(
    ("arch", "encoder"),
    [(arch, "resnet18") for arch in ARCHS]
    + [(arch, "resnet50") for arch in ("unet", "fpn", "upernet", "deeplabv3plus")],
)
def test_smp_as_it_comes(arch: str, encoder: str, tmp_path: Path) -> None:
    """With SMP's own defaults: its dilations, and the PSPNet that reads the map of stride 8."""
    torch.manual_seed(0)
    reference = smp.create_model(arch, encoder, encoder_weights=None, classes=K)
    ours = there_and_here("smp", f"{arch}_{encoder}", reference, tmp_path)
    assert_nothing_is_lost(ours, reference, "smp")
    assert_same_maps(ours, reference, SIZES.get(arch, (64, 96)))


def test_a_checkpoint_tells_the_file_by_its_name_and_content(tmp_path: Path) -> None:
    there_and_here("torchvision", "resnet18", resnet.resnet18(num_classes=K), tmp_path)
    metadata = read_metadata(tmp_path / "ours.safetensors")
    digest = hashlib.sha256((tmp_path / "theirs.pth").read_bytes()).hexdigest()
    assert metadata["lineage"][0]["weights"] == f"torchvision's resnet18, theirs.pth (SHA-256 {digest})"
    assert metadata["config"]["model"]["backbone"]["weights"] == "theirs.pth"
    assert str(tmp_path) not in json.dumps(metadata)


@pytest.mark.parametrize(
    ("arch", "theirs", "overrides"),
    [
        ("unet", {"decoder_attention_type": "scse", "decoder_channels": (64, 48, 32, 24, 16)}, SCSE),
        (
            "fpn",
            {"decoder_merge_policy": "cat", "decoder_segmentation_channels": 64},
            ["model.head.merge=cat", "model.head.segmentation_channels=64"],
        ),
        # All five stages, of which SMP leaves two out unless told.
        ("pspnet", {"encoder_depth": 5, "upsampling": 32}, ["model.head.stride=null"]),
        (
            "deeplabv3",
            {"encoder_output_stride": 16, "decoder_atrous_rates": (2, 4, 6), "decoder_aspp_separable": True},
            ["model.backbone.output_stride=16", "model.head.atrous_rates=[2,4,6]", "model.head.separable=true"],
        ),
        (
            "deeplabv3plus",
            {"encoder_output_stride": 8, "decoder_aspp_separable": False},
            ["model.backbone.output_stride=8", "model.head.separable=false"],
        ),
        ("pan", {"encoder_output_stride": 32}, ["model.backbone.output_stride=32"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_smp_built_with_other_options(arch: str, theirs: dict[str, Any], overrides: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = smp.create_model(arch, "resnet18", encoder_weights=None, classes=K, **theirs)
    ours = there_and_here("smp", f"{arch}_resnet18", reference, tmp_path, overrides)
    assert_nothing_is_lost(ours, reference, "smp")
    assert_same_maps(ours, reference, (256, 256) if arch == "pan" else (64, 96))


def test_every_architecture_that_is_known_is_compared_here() -> None:
    assert {name.rpartition("_")[0] for name in LIBRARIES["smp"]} == set(ARCHS)


@pytest.mark.parametrize("auxiliary", [True, False], ids=["auxiliary", "alone"])
@pytest.mark.parametrize("build", [fcn_resnet50, deeplabv3_resnet50])
def test_torchvision_segmenters(build: Any, auxiliary: bool, tmp_path: Path) -> None:
    """Also where 8 does not divide the size; and the losses, as torchvision's training script adds them."""
    torch.manual_seed(0)
    size = (41, 58)
    reference = build(weights=None, weights_backbone=None, num_classes=K, aux_loss=auxiliary)
    ours = there_and_here("torchvision", build.__name__, reference, tmp_path)
    assert_nothing_is_lost(ours, reference, "torchvision")
    assert_same_maps(ours, reference, size)

    batch = ImageBatch(batch_of_noise(size).pixels, [Frame(size, size)] * 2)
    semantic = torch.randint(0, K, (2, *size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    semantic[:, 20:30] = 255
    targets = [Target(index, semantic=one) for index, one in enumerate(semantic)]
    with torch.no_grad():
        theirs = {
            name: nn.functional.cross_entropy(scores, semantic.long(), ignore_index=255)
            for name, scores in reference(ours.normalise(batch)).items()
        }
        losses = ours.head("main").loss(ours.backbone(ours.normalise(batch)), batch.frames, targets)
    assert set(losses) == ({"loss_cross_entropy", "loss_auxiliary"} if auxiliary else {"loss_cross_entropy"})
    assert_equal_numbers(losses["loss_cross_entropy"], theirs["out"])
    if auxiliary:
        assert_equal_numbers(losses["loss_auxiliary"], 0.5 * theirs["aux"])


@pytest.mark.parametrize(
    ("library", "name", "build"),
    [
        ("smp", "unet_resnet18", lambda: smp.create_model("unet", "resnet18", encoder_weights=None, classes=K)),
        ("torchvision", "fcn_resnet50", lambda: fcn_resnet50(weights=None, weights_backbone=None, num_classes=K)),
        ("torchvision", "resnet18", lambda: resnet.resnet18(num_classes=K)),
    ],
)
def test_in_float32_too(library: str, name: str, build: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = build()
    ours = there_and_here(library, name, reference, tmp_path)
    batch = batch_of_noise()
    found, theirs = scores(ours, reference, batch)
    _, exact = scores(ours.double(), reference.double(), batch)
    assert_equal_but_rounding(found, theirs, exact)


def test_torchvision_classifier_with_the_thousand_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = resnet.resnet18(weights=None)
    ours = there_and_here("torchvision", "resnet18", reference, tmp_path)
    names = ours.classes["main"].names
    assert len(set(names)) == 1000
    assert list(names) == resnet.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]

    assert_nothing_is_lost(ours, reference, "torchvision")
    batch = batch_of_noise((64, 96))
    logits, theirs = scores(ours.double(), reference.double(), batch)
    assert theirs.std() > 1e-3
    assert_equal_numbers(logits, theirs)
    with torch.no_grad():
        predictions = ours(batch)["main"]
    for prediction, one in zip(predictions, theirs.softmax(1), strict=True):
        assert_equal_numbers(prediction.probabilities, one)

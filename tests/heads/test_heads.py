"""Every head on every kind of backbone: finite losses, gradients, predictions in original pixels."""

from __future__ import annotations

import pytest
import torch
from helpers import ONE_OF_EACH_KIND, SMALL_HEADS, TINY, batch_of_noise, targets_for

from rehead.configs.base import HeadOptions
from rehead.configs.detection_heads import FasterRCNNOptions
from rehead.configs.heads import HEADS
from rehead.configs.segmentation_heads import UNetOptions
from rehead.errors import BuildError
from rehead.heads import build_head
from rehead.heads.base import one_per_stride
from rehead.heads.necks import FPN
from rehead.heads.segmentation_loss import pixel_cross_entropy
from rehead.models.model import build_model
from rehead.types import IGNORE, Classes, FeatureSpec, Frame, ImageBatch

pytestmark = pytest.mark.numeric

NAMES = ["a", "b", "c"]
LINEAR, FASTER_RCNN, MASK_RCNN, KEYPOINT_RCNN, UNET = ONE_OF_EACH_KIND
DETECTORS = [options for options in SMALL_HEADS if "detection" in HEADS.get(options.name).about["task"]]


def test_boxes_and_maps_come_back_in_original_pixels() -> None:
    """The same pixels declared as a resized image give the same boxes, scaled, and a map of the original size."""
    torch.manual_seed(0)
    batch = batch_of_noise(images=1)
    twice = ImageBatch(batch.pixels, [Frame((64, 96), (128, 192))])
    with torch.no_grad():
        detector = build_model(TINY, FASTER_RCNN, NAMES).eval()
        small, large = detector(batch)["main"][0], detector(twice)["main"][0]
        torch.testing.assert_close(small.boxes * 2, large.boxes)
        segmenter = build_model(TINY, UNET, NAMES).eval()
        assert segmenter(twice)["main"][0].semantic.shape == (128, 192)


@pytest.mark.parametrize("head", DETECTORS, ids=lambda head: head.name)
def test_boxes_are_exact_in_mixed_precision(head: HeadOptions) -> None:
    """bfloat16 knows only every fourth pixel beyond 512: convolutions may use it, coordinates may not."""
    torch.manual_seed(0)
    model = build_model(TINY, head, NAMES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bbox" in name and name.endswith("bias"):
                # A new head's offsets are next to 0, and FCOS's points lie on whole strides.
                parameter += 0.37
    batch = batch_of_noise((64, 1280), images=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        boxes = model.eval()(batch)["main"][0].boxes
        losses = model.train()(batch, targets_for(batch, len(NAMES), boxes=(1001, 3, 1051, 60)))
    far = boxes[:, [0, 2]][boxes[:, [0, 2]] > 512]
    assert len(far) > 10
    assert (far % 4 == 0).float().mean() < 0.2
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("head", SMALL_HEADS, ids=lambda head: head.name)
def test_float64_stays_float64(head: HeadOptions) -> None:
    """float32 is the least that losses and coordinates have, not the most: parity is proved in float64."""
    torch.manual_seed(0)
    model = build_model(TINY, head, NAMES).double()
    batch = batch_of_noise()
    with torch.no_grad():
        losses = model.train()(batch, targets_for(batch, len(NAMES)))
        prediction = model.eval()(batch)["main"][0]
    # torchvision holds the RPN's labels in float32, and the loss takes their type.
    assert {loss.dtype for name, loss in losses.items() if name != "loss_objectness"} == {torch.float64}
    found = [value for value in (prediction.boxes, prediction.scores, prediction.probabilities) if value is not None]
    assert {value.dtype for value in found} <= {torch.float64}


def test_the_deepest_feature_of_each_stride_is_used() -> None:
    specs = {
        "C1": FeatureSpec(8, 2),
        "C2": FeatureSpec(16, 4),
        "C3": FeatureSpec(32, 8),
        "C4": FeatureSpec(64, 8),
        "C5": FeatureSpec(128, 8),
    }
    assert list(one_per_stride(specs)) == ["C1", "C2", "C5"]
    pyramid = FPN(specs, 4)
    assert {name: spec.stride for name, spec in pyramid.feature_specs.items()} == {"P2": 4, "P3": 8, "P4": 16}
    features = {
        name: torch.zeros(1, spec.channels, 64 // spec.stride, 64 // spec.stride) for name, spec in specs.items()
    }
    assert {name: tuple(value.shape[1:]) for name, value in pyramid(features).items()} == {
        "P2": (4, 16, 16),
        "P3": (4, 8, 8),
        "P4": (4, 4, 4),
    }


def test_what_cannot_be_combined_names_both_sides() -> None:
    gap = {"C2": FeatureSpec(16, 4), "C4": FeatureSpec(32, 16)}
    with pytest.raises(BuildError, match=r"double.*C2 \(stride 4, 16 channels\), C4 \(stride 16"):
        build_head(FasterRCNNOptions(), Classes(("a",)), gap)
    with pytest.raises(BuildError, match="decoder_channels has 2 values but this backbone needs 5"):
        build_model(TINY, UNetOptions(decoder_channels=[8, 8]), NAMES)
    with pytest.raises(BuildError, match="anchor_sizes has 1 lists but the pyramid has 5 levels: P2, P3, P4, P5, P6"):
        build_model(TINY, FasterRCNNOptions(anchor_sizes=[[32]]), NAMES)


def test_data_of_another_task_is_refused_by_image() -> None:
    batch = batch_of_noise()
    targets = targets_for(batch, len(NAMES))
    targets[1].boxes = targets[1].semantic = None
    for head, said in ((FASTER_RCNN, "image 1 has no boxes"), (UNET, "image 1 has no class map")):
        with pytest.raises(BuildError, match=said):
            build_model(TINY, head, NAMES).train()(batch, targets)


def test_pixels_that_do_not_count_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, generator=generator)
    semantic = torch.randint(0, 3, (1, 4, 4), generator=generator, dtype=torch.uint8)
    expected = torch.nn.functional.cross_entropy(logits[:, :, :2], semantic[:, :2].long())
    semantic[:, 2:] = IGNORE
    torch.testing.assert_close(pixel_cross_entropy(logits, semantic), expected)

"""Every head on every kind of backbone: finite losses, gradients, predictions in original pixels."""

from __future__ import annotations

import pytest
import torch
from helpers import SMALL_SEGMENTERS, TINY, batch_of_noise, targets_for

from rehead.configs.base import HeadOptions
from rehead.configs.classification_heads import LinearOptions, MLPOptions
from rehead.configs.detection_heads import FasterRCNNOptions, FCOSOptions, MaskRCNNOptions, RetinaNetOptions
from rehead.configs.heads import HEADS
from rehead.configs.schema import BackboneOptions
from rehead.configs.segmentation_heads import UNetOptions
from rehead.errors import BuildError
from rehead.heads import build_head
from rehead.heads.base import one_per_stride
from rehead.heads.necks import FPN
from rehead.heads.segmentation_loss import pixel_cross_entropy
from rehead.tasks.model import build_model
from rehead.types import IGNORE, Classes, FeatureSpec, Frame, ImageBatch

NAMES = ["a", "b", "c"]
BACKBONES = [
    TINY,
    TINY.model_copy(update={"name": "resnet50"}),
    TINY.model_copy(update={"name": "resnet50", "output_stride": 8}),
    TINY.model_copy(update={"in_channels": 1, "mean": [0.5], "std": [0.25]}),
    TINY.model_copy(update={"residual": False}),
    TINY.model_copy(update={"shortcut": "A"}),
    TINY.model_copy(update={"name": "resnet50", "shortcut": "C"}),
    BackboneOptions(name="resnet20", weights="none", width=8),
    BackboneOptions(name="resnet10t", weights="none"),
    BackboneOptions(name="convnext_atto", weights="none"),
]
HEAD_OPTIONS: list[HeadOptions] = [
    LinearOptions(dropout=0.1),
    FasterRCNNOptions(channels=16, representation=32, score_threshold=0.0),
    UNetOptions(decoder_channels=[32, 16, 16, 8, 8]),
    RetinaNetOptions(channels=16, score_threshold=0.0),
    FCOSOptions(channels=32, convs=1, score_threshold=0.0),
    MaskRCNNOptions(channels=16, representation=32, mask_convs=1, mask_channels=8, score_threshold=0.0),
    MLPOptions(hidden=8, label_smoothing=0.1),
]
# These share one wrapper each with the U-Net or with one another: three kinds of strides are enough.
FEW_BACKBONES = [BACKBONES[0], BACKBONES[2], BACKBONES[-1]]
CASES = [(backbone, head) for backbone in BACKBONES for head in HEAD_OPTIONS]
CASES += [
    (backbone, head)
    for backbone in FEW_BACKBONES
    for head in SMALL_SEGMENTERS
    # A feature pyramid of four strides has no place in a network of three.
    if not (head.name == "fpn_segmentation" and backbone.output_stride == 8)
]
HEAD_OPTIONS += SMALL_SEGMENTERS
DETECTORS = [options for options in HEAD_OPTIONS if HEADS.get(options.name).about["task"] == "detection"]


def identity(options: BackboneOptions) -> tuple[object, ...]:
    return options.name, options.output_stride, options.in_channels, options.residual, options.shortcut


def test_every_shipped_head_is_covered_here() -> None:
    shipped = {entry.name for entry in HEADS if str(entry.target).startswith("rehead.")}
    assert {options.name for options in HEAD_OPTIONS} == shipped


@pytest.mark.parametrize(
    ("backbone", "head"),
    CASES,
    ids=lambda part: "-".join(map(str, identity(part))) if isinstance(part, BackboneOptions) else part.name,
)
def test_a_head_trains_and_predicts_on_a_backbone(backbone: BackboneOptions, head: FasterRCNNOptions) -> None:
    torch.manual_seed(0)
    model = build_model(backbone, head, NAMES)
    batch = batch_of_noise(channels=backbone.in_channels, padding=(16, 10))
    model.train()
    losses = model(batch, targets_for(batch, len(NAMES)))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    # A pyramid from stride 4 up leaves nothing of the stem's output unused; U-Net and pooling neither.
    assert without == []

    model.eval()
    with torch.no_grad():
        predictions = model(batch)["main"]
    assert len(predictions) == len(batch)
    for prediction, frame in zip(predictions, batch.frames, strict=True):
        height, width = frame.original
        if prediction.boxes is not None:
            assert len(prediction.boxes) > 0
            assert prediction.boxes.min() >= 0
            assert prediction.boxes[:, [0, 2]].max() <= width
            assert prediction.boxes[:, [1, 3]].max() <= height
            assert set(prediction.labels.tolist()) <= set(range(len(NAMES)))
            assert torch.equal(prediction.scores, prediction.scores.sort(descending=True).values)
        if prediction.semantic is not None:
            assert prediction.semantic.shape == frame.original
            assert prediction.semantic.dtype == torch.uint8
            assert int(prediction.semantic.max()) < len(NAMES)
        if prediction.probabilities is not None:
            torch.testing.assert_close(prediction.probabilities.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("head", HEAD_OPTIONS, ids=lambda head: head.name)
def test_images_without_anything_to_learn_give_finite_losses_and_gradients(head: FasterRCNNOptions) -> None:
    torch.manual_seed(0)
    model = build_model(TINY, head, NAMES)
    batch = batch_of_noise()
    targets = targets_for(batch, len(NAMES), boxes=None)
    for target in targets:
        target.label = None
        target.semantic = torch.full((64, 96), IGNORE, dtype=torch.uint8)
    loss = sum(model.train()(batch, targets).values())
    assert torch.isfinite(loss)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("size", [(1, 50), (33, 47), (64, 64)])
@pytest.mark.parametrize("head", HEAD_OPTIONS, ids=lambda head: head.name)
def test_odd_sizes_are_fine(head: FasterRCNNOptions, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build_model(TINY, head, NAMES)
    batch = batch_of_noise(size)
    losses = model.train()(batch, targets_for(batch, len(NAMES), boxes=(3, 0, 30, size[0])))
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        model.eval()(batch)


def test_boxes_and_maps_come_back_in_original_pixels() -> None:
    """The same pixels declared as a resized image give the same boxes, scaled, and a map of the original size."""
    torch.manual_seed(0)
    batch = batch_of_noise(images=1)
    twice = ImageBatch(batch.pixels, [Frame((64, 96), (128, 192))])
    with torch.no_grad():
        detector = build_model(TINY, HEAD_OPTIONS[1], NAMES).eval()
        small, large = detector(batch)["main"][0], detector(twice)["main"][0]
        torch.testing.assert_close(small.boxes * 2, large.boxes)
        segmenter = build_model(TINY, HEAD_OPTIONS[2], NAMES).eval()
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
    assert len(far) > 20
    assert (far % 4 == 0).float().mean() < 0.2
    assert all(torch.isfinite(loss) for loss in losses.values())


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
    for head, said in ((HEAD_OPTIONS[1], "image 1 has no boxes"), (HEAD_OPTIONS[2], "image 1 has no class map")):
        with pytest.raises(BuildError, match=said):
            build_model(TINY, head, NAMES).train()(batch, targets)


def test_pixels_that_do_not_count_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, generator=generator)
    semantic = torch.randint(0, 3, (1, 4, 4), generator=generator, dtype=torch.uint8)
    expected = torch.nn.functional.cross_entropy(logits[:, :, :2], semantic[:, :2].long())
    semantic[:, 2:] = IGNORE
    torch.testing.assert_close(pixel_cross_entropy(logits, semantic), expected)

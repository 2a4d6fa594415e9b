"""torchvision's detectors through `rehead import`: same weights, same inputs, same numbers (CPU, float64), and back."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    AlreadyResized,
    assert_equal_but_rounding,
    assert_equal_losses,
    assert_equal_numbers,
    norms_to_eval,
    randomised,
    undrawn,
)
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.resnet import resnet50
from torchvision.ops.misc import FrozenBatchNorm2d

import rehead
from rehead.interop.exchange import LIBRARIES, export_weights
from rehead.models.model import Model
from rehead.types import Frame, ImageBatch, Target

pytestmark = [pytest.mark.numeric, pytest.mark.slow]

K = 7
SIZE = (96, 128)
TWO_STAGES = [
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
]
# Those whose layers take long for every box.
DEAR = [name for name in TWO_STAGES if name.startswith(("mask", "keypoint"))]
ONE_STAGE = ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"]


# With few proposals and boxes the same is proved in a tenth of the time: torchvision's argument, our option, its value.
def few(name: str) -> list[tuple[str, str, float]]:
    if name in ONE_STAGE:
        return [("score_thresh", "score_threshold", 0.0), ("detections_per_img", "detections", 60)]
    dear = name in DEAR
    return [
        ("box_score_thresh", "score_threshold", 0.0),
        ("box_detections_per_img", "detections", {"maskrcnn": 10, "keypointrcnn": 6}.get(name.partition("_")[0], 26)),
        ("box_batch_size_per_image", "box_sampled", 8 if dear else 16),
        ("rpn_post_nms_top_n_train", "rpn_post_nms_train", 30),
        ("rpn_post_nms_top_n_test", "rpn_post_nms_test", 30),
    ]


@dataclass
class Pair:
    """A model of torchvision's, ours from its file, and images for both; float32, as the file is."""

    name: str
    ours: Model
    reference: nn.Module
    batch: ImageBatch
    file: Path

    @property
    def first_label(self) -> int:
        """What torchvision calls our label 0: with proposals, its 0 is the background."""
        return 1 if self.name in TWO_STAGES else 0


def build(name: str) -> nn.Module:
    """torchvision's model with weights whose predictions differ: scores, classes and boxes."""
    torch.manual_seed(0)
    two = name in TWO_STAGES
    make: Callable[..., nn.Module] = getattr(detection, name)
    reference = make(
        weights=None, weights_backbone=None, num_classes=K + two, **{theirs: value for theirs, _, value in few(name)}
    )
    state = randomised(reference, seed=1)
    v2 = two and name.endswith("_v2")
    for key, value in state.items():
        # A random body's maps are large; scaled, they leave scores that differ. Norms in the pyramid do it too.
        if key.startswith("backbone.fpn.inner_blocks.") and not v2:
            value /= 40 if two else 80
        # Random classifiers hesitate between all classes; larger weights make them decide, and boxes move.
        elif "rpn.head.cls_logits.weight" in key:
            value *= 40 if v2 else 4
        elif "box_predictor.cls_score.weight" in key:
            value *= 0.5 if v2 else 8
        elif "box_predictor.bbox_pred.weight" in key and not v2:
            value *= 4
        elif key.startswith("head.") and value.ndim == 4:
            value *= 3
    reference.load_state_dict(state)
    return reference


@pytest.fixture(scope="module", params=TWO_STAGES + ONE_STAGE)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    reference = build(name)
    torch.save(reference.state_dict(), folder / "theirs.pth")
    ours = imported(name, folder)
    pixels = torch.randint(0, 256, (2, 3, *SIZE), generator=torch.Generator().manual_seed(2)).float()
    frames = [Frame(SIZE, SIZE), Frame((76, 100), (76, 100), padding=(20, 28))]
    reference.transform = AlreadyResized([frame.size for frame in frames])
    return Pair(name, ours, reference, ImageBatch(pixels, frames), folder / "theirs.pth")


@pytest.fixture(scope="module")
def exact(pair: Pair) -> Pair:
    """The same in float64."""
    return replace(pair, ours=deepcopy(pair.ours).double(), reference=deepcopy(pair.reference).double())


def imported(name: str, folder: Path) -> Model:
    from rehead.cli.import_ import import_

    given = [f"model.head.{ours}={value}" for _, ours, value in few(name)]
    with undrawn():
        import_("torchvision", folder / "theirs.pth", name, folder / "ours.safetensors", given, ",".join("abcdefg"))
        return rehead.load(folder / "ours.safetensors")


def test_predictions(exact: Pair) -> None:
    exact.ours.eval()
    exact.reference.eval()
    with torch.no_grad():
        theirs = exact.reference(exact.ours.normalise(exact.batch))
        found = exact.ours(exact.batch)["main"]
    assert sum(len(one["boxes"]) for one in theirs) >= (10 if exact.name in DEAR else 50)
    assert len({int(label) for one in theirs for label in one["labels"]}) > 1
    for prediction, one, frame in zip(found, theirs, exact.batch.frames, strict=True):
        assert one["scores"].std() > 1e-3
        assert_equal_numbers(prediction.boxes, one["boxes"])
        assert_equal_numbers(prediction.scores, one["scores"])
        assert torch.equal(prediction.labels, one["labels"] - exact.first_label)
        if "masks" in one:
            pasted = paste_masks_in_image(one["masks"], one["boxes"], frame.original)[:, 0]
            assert prediction.masks.shape == (len(one["boxes"]), *frame.original)
            assert prediction.masks.any()
            # Where rounding could decide, either answer is right.
            decided = (pasted - 0.5).abs() > 1e-9
            assert torch.equal(prediction.masks[decided], (pasted >= 0.5)[decided])
        if "keypoints" in one:
            # torchvision writes them into tensors of float32.
            torch.testing.assert_close(prediction.keypoints[..., :2], one["keypoints"][..., :2])
            torch.testing.assert_close(prediction.keypoints[..., 2], one["keypoints_scores"])


@pytest.mark.parametrize("pair", ["maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn"], indirect=True)
def test_in_float32_too(pair: Pair, exact: Pair) -> None:
    """What the layers say, before thresholds and overlaps choose: a choice makes much of little."""
    ours, reference, doubled = pair.ours.eval(), pair.reference.eval(), exact.reference.eval()
    head: Any = ours.head("main")
    with torch.no_grad():
        images = ours.normalise(pair.batch)
        found = answers(head, head.neck(ours.backbone(images)))
        theirs = answers(reference, reference.backbone(images))
        wanted = answers(doubled, doubled.backbone(images.double()))
    for one, other, third in zip(found, theirs, wanted, strict=True):
        assert_equal_but_rounding(one, other, third)


def answers(detector: Any, pyramid: dict[str, Tensor]) -> list[Tensor]:
    """Of every layer of a detector, with a few proposals where it wants some."""
    levels = list(pyramid.values())
    if not hasattr(detector, "rpn"):
        return [*levels, *detector.head(levels).values()]
    objectness, deltas = detector.rpn.head(levels)
    proposals = [torch.tensor([[0, 0, 64, 64], [30, 40, 90, 90.0], [5, 5, 21, 30]]).to(levels[0])] * 2
    regions = detector.roi_heads
    boxes = regions.box_predictor(regions.box_head(regions.box_roi_pool(pyramid, proposals, [SIZE] * 2)))
    masks = regions.mask_predictor(regions.mask_head(regions.mask_roi_pool(pyramid, proposals, [SIZE] * 2)))
    return [*levels, *objectness, *deltas, *boxes, masks]


@pytest.mark.parametrize("empty", [(), (1,), (0, 1)], ids=["objects", "an image without", "none at all"])
def test_losses_with_the_same_draws(exact: Pair, empty: tuple[int, ...]) -> None:
    # The first box is an anchor (64 px, square), so that positives do not depend on luck.
    boxes = [
        torch.tensor([[0, 0, 64, 64], [30, 40, 90, 90], [80, 20, 126, 60]]).double(),
        torch.tensor([[10, 10, 74, 74]]).double(),
    ]
    labels = [torch.tensor([0, 3, 6]), torch.tensor([2])]
    for index in empty:
        boxes[index], labels[index] = boxes[index][:0], labels[index][:0]
    generator = torch.Generator().manual_seed(4)
    masks = [torch.rand((len(one), *SIZE), generator=generator) > 0.4 for one in boxes]
    points = [points_in(one, generator) for one in boxes]
    ours, reference = exact.ours.train(), exact.reference.train()
    norms_to_eval(ours)
    norms_to_eval(reference)
    share_samplers(ours, reference)
    given = [
        {"boxes": b, "labels": k + exact.first_label, "masks": m.byte(), "keypoints": p}
        for b, k, m, p in zip(boxes, labels, masks, points, strict=True)
    ]
    torch.manual_seed(3)
    with torch.no_grad():
        theirs = reference(ours.normalise(exact.batch), given)
    torch.manual_seed(3)
    targets = [Target(i, *each) for i, each in enumerate(zip(boxes, labels, masks, points, strict=True))]
    with torch.no_grad():
        losses = ours(exact.batch, targets)
    theirs = {name if name.startswith("loss_") else f"loss_{name}": loss for name, loss in theirs.items()}
    assert_equal_losses(losses, theirs)
    for name, loss in losses.items():
        # Without objects, only what tells objects from background has anything to learn.
        found = len(empty) < 2 or name in ("loss_objectness", "loss_classifier", "loss_classification")
        assert (float(loss) > 0) == found


def share_samplers(ours: Model, reference: Any) -> None:
    """Ours draws lots in another way, with the same chances (tests/heads/test_matching.py)."""
    head: Any = ours.head("main")
    for part in ("rpn", "roi_heads"):
        if hasattr(reference, part):
            getattr(reference, part).fg_bg_sampler = getattr(head, part).fg_bg_sampler


def points_in(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 17, 3) keypoints inside their boxes, two thirds of them visible; torchvision takes float32 alone."""
    places = torch.rand((len(boxes), 17, 2), generator=generator) * (boxes[:, None, 2:] - boxes[:, None, :2])
    seen = (torch.rand((len(boxes), 17, 1), generator=generator) < 0.67).float()
    return torch.cat([places + boxes[:, None, :2], seen], dim=-1).float()


def test_back_to_torchvision_nothing_is_lost(pair: Pair) -> None:
    library, exported = export_weights(pair.ours)
    assert library == "torchvision"
    before = torch.load(pair.file, weights_only=True)
    assert exported.keys() == before.keys()
    assert all(torch.equal(value, exported[name]) for name, value in before.items())
    pair.reference.load_state_dict(exported, strict=True)


def test_default_anchors_are_torchvisions(pair: Pair) -> None:
    one_stage = pair.name in ONE_STAGE
    mine: Any = (pair.ours.head("main").torchvision_model if one_stage else pair.ours.head("main").rpn).anchor_generator
    theirs: Any = (pair.reference if one_stage else pair.reference.rpn).anchor_generator
    assert mine.sizes == theirs.sizes
    assert mine.aspect_ratios == theirs.aspect_ratios


def published(name: str) -> nn.Module:
    """The form that published weights of version 1 have: 91 columns, frozen norms, eps 0."""
    torch.manual_seed(0)
    body = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3)
    reference: nn.Module = detection.FasterRCNN(body, num_classes=91, box_score_thresh=0.0, rpn_post_nms_top_n_test=100)
    state = randomised(reference, seed=1)
    for key in state:
        # Small enough for eps to show.
        if key.endswith("running_var"):
            state[key] /= 1e4
        if key.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")):
            state[key] /= 1e2
        # A random body's maps are large; smaller ones leave scores that differ.
        if key.startswith("backbone.fpn.inner_blocks."):
            state[key] /= 40
    state["roi_heads.box_predictor.cls_score.weight"] *= 8
    reference.load_state_dict(state)
    overwrite_eps(reference, 0.0)
    return reference.eval()


def test_published_weights_have_frozen_norms_with_eps_0_and_91_columns(tmp_path: Path, rehead_command: Any) -> None:
    reference = published("fasterrcnn_resnet50_fpn")
    torch.save(reference.state_dict(), tmp_path / "published.pth")
    outcome = rehead_command(
        *("import", "torchvision", tmp_path / "published.pth", "--as", "fasterrcnn_resnet50_fpn"),
        *("--out", tmp_path / "ours.safetensors", "model.head.score_threshold=0", "model.head.rpn_post_nms_test=100"),
    )
    assert outcome.code == 0, outcome.err
    assert "90 classes (person, bicycle, car, motorcycle, airplane, " in outcome.err
    assert "80 more), norms frozen, their eps 0" in outcome.err
    ours = rehead.load(tmp_path / "ours.safetensors").double()
    classes = ours.classes["main"]
    assert classes.ids == tuple(range(1, 91))
    assert (classes.names[0], classes.names[11], classes.names[89]) == ("person", "N/A 12", "toothbrush")
    assert sum(name.startswith("N/A") for name in classes.names) == 10

    batch = ImageBatch(
        torch.randint(0, 256, (1, 3, 96, 128), generator=torch.Generator().manual_seed(2)).float(),
        [Frame((96, 128), (96, 128))],
    )
    reference.double().transform = AlreadyResized([(96, 128)])
    with torch.no_grad():
        theirs = reference(ours.normalise(batch))[0]
        found = ours(batch)["main"][0]
        other = rehead.load(tmp_path / "ours.safetensors").double()
        other.backbone.set_norm_eps(1e-5)
        without = other(batch)["main"][0]
    assert len(theirs["boxes"]) >= 50
    assert_equal_numbers(found.boxes, theirs["boxes"])
    assert_equal_numbers(found.scores, theirs["scores"])
    assert not torch.allclose(without.scores[:50], theirs["scores"][:50], rtol=1e-2, atol=1e-3)

    outcome = rehead_command("export-weights", tmp_path / "ours.safetensors", "--out", tmp_path / "back.pth")
    assert outcome.code == 0, outcome.err
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("published.pth", "back.pth"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    reference.load_state_dict(after, strict=True)


def test_every_detector_that_is_known_is_compared_here() -> None:
    known = {
        name for name, one in LIBRARIES["torchvision"].items() if "detection" in one.task or "instance" in one.task
    }
    assert known == {*TWO_STAGES, *ONE_STAGE}


def test_boxes_without_area_change_nothing(pair: Pair) -> None:
    box, flat = torch.tensor([[0.0, 0, 64, 64]]), torch.tensor([[50.0, 50, 50, 90]])
    generator = torch.Generator().manual_seed(4)
    masks = torch.rand((2, *SIZE), generator=generator) > 0.4
    points = points_in(torch.cat([box, flat]), generator)
    both = Target(0, torch.cat([box, flat]), torch.tensor([0, 1]), masks, points)
    one = replace(both, boxes=box, labels=both.labels[:1], masks=masks[:1], keypoints=points[:1])
    ours = pair.ours.train()
    norms_to_eval(ours)
    batch = ImageBatch(pair.batch.pixels[:1], pair.batch.frames[:1])
    losses = []
    for target in (both, one):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(ours(batch, [target]))
    assert losses[0] == losses[1]

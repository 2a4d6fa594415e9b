"""torchvision's detectors through `rehead import`: same weights, same inputs, same numbers (CPU, float32), and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import AlreadyResized, norms_to_eval, randomised
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.resnet import resnet50
from torchvision.ops.misc import FrozenBatchNorm2d

import rehead
from rehead.tasks.exchange import LIBRARIES, export_weights
from rehead.tasks.model import Model
from rehead.types import Frame, ImageBatch, Target

K = 7
SIZE = (192, 256)
TWO_STAGES = [
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
]
ONE_STAGE = ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"]

# With few proposals and boxes the same is proved in a tenth of the time: torchvision's argument, our option, its value.
FEW: dict[bool, list[tuple[str, str, float]]] = {
    True: [
        ("box_score_thresh", "score_threshold", 0.0),
        ("box_detections_per_img", "detections", 30),
        ("box_batch_size_per_image", "box_sampled", 32),
        ("rpn_post_nms_top_n_train", "rpn_post_nms_train", 60),
        ("rpn_post_nms_top_n_test", "rpn_post_nms_test", 60),
    ],
    False: [("score_thresh", "score_threshold", 0.0), ("detections_per_img", "detections", 60)],
}


@dataclass
class Pair:
    """A model of torchvision's, ours from its file, and images for both."""

    name: str
    ours: Model
    reference: nn.Module
    batch: ImageBatch
    file: Path

    @property
    def first_label(self) -> int:
        """What torchvision calls our label 0: with proposals, its 0 is the background."""
        return 1 if self.name in TWO_STAGES else 0

    @property
    def close(self) -> dict[str, float]:
        """With proposals, whose order and pooling add their own rounding, a tenth of the digits less."""
        return {"rtol": 1e-4, "atol": 1e-4} if self.name in TWO_STAGES else {"rtol": 1e-5, "atol": 1e-5}


def build(name: str) -> nn.Module:
    """torchvision's model with weights whose predictions differ: scores, classes and boxes."""
    torch.manual_seed(0)
    two = name in TWO_STAGES
    make: Callable[..., nn.Module] = getattr(detection, name)
    reference = make(
        weights=None, weights_backbone=None, num_classes=K + two, **{theirs: value for theirs, _, value in FEW[two]}
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
    frames = [Frame(SIZE, SIZE), Frame((160, 200), (160, 200), padding=(32, 56))]
    reference.transform = AlreadyResized([frame.size for frame in frames])
    return Pair(name, ours, reference, ImageBatch(pixels, frames), folder / "theirs.pth")


def imported(name: str, folder: Path) -> Model:
    from rehead.cli.import_ import import_

    given = [f"model.head.{ours}={value}" for _, ours, value in FEW[name in TWO_STAGES]]
    import_("torchvision", folder / "theirs.pth", name, folder / "ours.safetensors", given, ",".join("abcdefg"))
    return rehead.load(folder / "ours.safetensors")


def test_predictions(pair: Pair) -> None:
    pair.ours.eval()
    pair.reference.eval()
    with torch.no_grad():
        theirs = pair.reference(pair.ours.normalise(pair.batch))
        found = pair.ours(pair.batch)["main"]
    assert sum(len(one["boxes"]) for one in theirs) >= 50
    assert len({int(label) for one in theirs for label in one["labels"]}) > 1
    for prediction, one, frame in zip(found, theirs, pair.batch.frames, strict=True):
        assert one["scores"].std() > 1e-3
        torch.testing.assert_close(prediction.boxes, one["boxes"], **pair.close)
        torch.testing.assert_close(prediction.scores, one["scores"], **pair.close)
        assert torch.equal(prediction.labels, one["labels"] - pair.first_label)
        if "masks" in one:
            pasted = paste_masks_in_image(one["masks"], one["boxes"], frame.original)[:, 0]
            assert prediction.masks.shape == (len(one["boxes"]), *frame.original)
            assert prediction.masks.any()
            # Where rounding could decide, either answer is right.
            decided = (pasted - 0.5).abs() > 1e-4
            assert torch.equal(prediction.masks[decided], (pasted >= 0.5)[decided])
        if "keypoints" in one:
            assert_same_points(prediction.keypoints, one["keypoints"], one["keypoints_scores"])


def assert_same_points(ours: Tensor, places: Tensor, scores: Tensor) -> None:
    """The scores of the best places; and the places, but where rounding chose between two as good."""
    torch.testing.assert_close(ours[..., 2], scores, rtol=1e-4, atol=1e-3)
    apart = (ours[..., :2] - places[..., :2]).abs().amax(dim=-1)
    assert (apart < 1e-2).float().mean() > 0.999


@pytest.mark.parametrize("empty", [(), (1,), (0, 1)], ids=["objects", "an image without", "none at all"])
def test_losses_with_the_same_draws(pair: Pair, empty: tuple[int, ...]) -> None:
    # The first box is an anchor of P4 (128 px, square), so that positives do not depend on luck.
    boxes = [
        torch.tensor([[0.0, 0, 128, 128], [30, 40, 90, 120], [100, 20, 160, 60]]),
        torch.tensor([[10.0, 10, 74, 74]]),
    ]
    labels = [torch.tensor([0, 3, 6]), torch.tensor([2])]
    for index in empty:
        boxes[index], labels[index] = boxes[index][:0], labels[index][:0]
    generator = torch.Generator().manual_seed(4)
    masks = [torch.rand((len(one), *SIZE), generator=generator) > 0.4 for one in boxes]
    points = [points_in(one, generator) for one in boxes]
    ours, reference = pair.ours.train(), pair.reference.train()
    norms_to_eval(ours)
    norms_to_eval(reference)
    share_samplers(ours, reference)
    given = [
        {"boxes": b, "labels": k + pair.first_label, "masks": m.byte(), "keypoints": p}
        for b, k, m, p in zip(boxes, labels, masks, points, strict=True)
    ]
    torch.manual_seed(3)
    with torch.no_grad():
        theirs = reference(ours.normalise(pair.batch), given)
    torch.manual_seed(3)
    targets = [Target(i, *each) for i, each in enumerate(zip(boxes, labels, masks, points, strict=True))]
    with torch.no_grad():
        losses = ours(pair.batch, targets)
    theirs = {name if name.startswith("loss_") else f"loss_{name}": loss for name, loss in theirs.items()}
    assert set(losses) == set(theirs)
    for name, loss in losses.items():
        # Without objects, only what tells objects from background has anything to learn.
        found = len(empty) < 2 or name in ("loss_objectness", "loss_classifier", "loss_classification")
        assert (float(loss) > 0) == found
        torch.testing.assert_close(loss, theirs[name], **pair.close)


def share_samplers(ours: Model, reference: Any) -> None:
    """Ours draws lots in another way, with the same chances (tests/heads/test_matching.py)."""
    head: Any = ours.head("main")
    for part in ("rpn", "roi_heads"):
        if hasattr(reference, part):
            getattr(reference, part).fg_bg_sampler = getattr(head, part).fg_bg_sampler


def points_in(boxes: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 17, 3) keypoints inside their boxes, two thirds of them visible."""
    places = torch.rand((len(boxes), 17, 2), generator=generator) * (boxes[:, None, 2:] - boxes[:, None, :2])
    seen = (torch.rand((len(boxes), 17, 1), generator=generator) < 0.67).float()
    return torch.cat([places + boxes[:, None, :2], seen], dim=-1)


def test_back_to_torchvision_nothing_is_lost(pair: Pair) -> None:
    library, exported = export_weights(pair.ours)
    assert library == "torchvision"
    before = torch.load(pair.file, weights_only=True)
    assert exported.keys() == before.keys()
    assert all(torch.equal(value, exported[name]) for name, value in before.items())
    pair.reference.load_state_dict(exported, strict=True)


def test_default_anchors_are_torchvisions(pair: Pair) -> None:
    one_stage = pair.name in ONE_STAGE
    mine: Any = (pair.ours.head("main").rules if one_stage else pair.ours.head("main").rpn).anchor_generator
    theirs: Any = (pair.reference if one_stage else pair.reference.rpn).anchor_generator
    assert mine.sizes == theirs.sizes
    assert mine.aspect_ratios == theirs.aspect_ratios


def published(name: str) -> nn.Module:
    """The form that published weights of version 1 have: 91 columns, frozen norms, eps 0."""
    torch.manual_seed(0)
    body = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3)
    reference: nn.Module = detection.FasterRCNN(body, num_classes=91, box_score_thresh=0.0)
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
        *("--out", tmp_path / "ours.safetensors", "model.head.score_threshold=0"),
    )
    assert outcome.code == 0, outcome.err
    assert "90 classes (person, bicycle, car, motorcycle, airplane, ...), norms frozen, their eps 0" in outcome.err
    ours = rehead.load(tmp_path / "ours.safetensors")
    classes = ours.classes["main"]
    assert classes.ids == tuple(range(1, 91))
    assert (classes.names[0], classes.names[11], classes.names[89]) == ("person", "N/A 12", "toothbrush")
    assert sum(name.startswith("N/A") for name in classes.names) == 10

    batch = ImageBatch(
        torch.randint(0, 256, (1, 3, 96, 128), generator=torch.Generator().manual_seed(2)).float(),
        [Frame((96, 128), (96, 128))],
    )
    reference.transform = AlreadyResized([(96, 128)])
    with torch.no_grad():
        theirs = reference(ours.normalise(batch))[0]
        found = ours(batch)["main"][0]
        other = rehead.load(tmp_path / "ours.safetensors")
        other.backbone.set_norm_eps(1e-5)
        without = other(batch)["main"][0]
    assert len(theirs["boxes"]) >= 50
    torch.testing.assert_close(found.boxes, theirs["boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.scores, theirs["scores"], rtol=1e-4, atol=1e-4)
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
    box, flat = torch.tensor([[0.0, 0, 128, 128]]), torch.tensor([[50.0, 50, 50, 90]])
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

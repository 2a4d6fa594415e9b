"""Same weights, same inputs, same numbers as the reference libraries (CPU, float32)."""

from __future__ import annotations

import pytest
import torch
from helpers import AlreadyResized, norms_to_eval, randomised
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from rehead.configs.detection_heads import FasterRCNNOptions
from rehead.tasks.model import Model, build_model
from rehead.types import Frame, ImageBatch, Target

NAMES = [f"class{index}" for index in range(7)]


class TestFasterRCNN:
    """Against `torchvision.models.detection.fasterrcnn_resnet50_fpn`."""

    @pytest.fixture(scope="class")
    @classmethod
    def pair(cls) -> tuple[Model, nn.Module, ImageBatch]:
        torch.manual_seed(0)
        reference = fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=len(NAMES) + 1, box_score_thresh=0.0
        )
        state = randomised(reference, seed=1)
        # Random classifiers hesitate between all classes; larger weights make them decide, and boxes move.
        state["roi_heads.box_predictor.cls_score.weight"] *= 8
        state["roi_heads.box_predictor.bbox_pred.weight"] *= 4
        state["rpn.head.cls_logits.weight"] *= 4
        reference.load_state_dict(state)
        ours = build_model("resnet50", FasterRCNNOptions(score_threshold=0), NAMES, weights="none")
        renamed = {
            name.replace("backbone.body.", "backbone.").replace("backbone.fpn.", "heads.main.neck.fpn."): value
            for name, value in state.items()
            if name.startswith("backbone.")
        }
        renamed |= {f"heads.main.{name}": value for name, value in state.items() if not name.startswith("backbone.")}
        ours.load_state_dict(renamed)
        pixels = torch.randint(0, 256, (2, 3, 192, 256), generator=torch.Generator().manual_seed(2)).float()
        frames = [Frame((192, 256), (192, 256)), Frame((160, 200), (160, 200), padding=(32, 56))]
        reference.transform = AlreadyResized([frame.size for frame in frames])
        return ours, reference, ImageBatch(pixels, frames)

    def test_predictions(self, pair: tuple[Model, nn.Module, ImageBatch]) -> None:
        ours, reference, batch = pair
        ours.eval()
        reference.eval()
        with torch.no_grad():
            theirs = reference(ours.normalise(batch))
            found = ours(batch)["main"]
        assert sum(len(one["boxes"]) for one in theirs) >= 50
        assert len({int(label) for one in theirs for label in one["labels"]}) > 1
        for prediction, one in zip(found, theirs, strict=True):
            torch.testing.assert_close(prediction.boxes, one["boxes"], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(prediction.scores, one["scores"], rtol=1e-4, atol=1e-4)
            assert torch.equal(prediction.labels, one["labels"] - 1)

    def test_losses_with_the_same_draws(self, pair: tuple[Model, nn.Module, ImageBatch]) -> None:
        ours, reference, batch = pair
        # The first box is an anchor of P4 (128 px, square), so that positives do not depend on luck.
        boxes = [
            torch.tensor([[0.0, 0, 128, 128], [30, 40, 90, 120], [100, 20, 160, 60]]),
            torch.tensor([[10.0, 10, 74, 74]]),
        ]
        labels = [torch.tensor([0, 3, 6]), torch.tensor([2])]
        ours.train()
        reference.train()
        norms_to_eval(ours)
        norms_to_eval(reference)
        images = ours.normalise(batch)
        torch.manual_seed(3)
        theirs = reference(images, [{"boxes": b, "labels": k + 1} for b, k in zip(boxes, labels, strict=True)])
        torch.manual_seed(3)
        losses = ours(batch, [Target(index, b, k) for index, (b, k) in enumerate(zip(boxes, labels, strict=True))])
        assert set(losses) == set(theirs)
        for name, loss in losses.items():
            assert float(loss.detach()) > 0
            torch.testing.assert_close(loss, theirs[name], rtol=1e-4, atol=1e-4)

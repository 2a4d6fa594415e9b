"""Small things that several test files build."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from rehead.configs.base import HeadOptions
from rehead.configs.classification_heads import LinearOptions, MLPOptions
from rehead.configs.detection_heads import (
    FasterRCNNOptions,
    FCOSOptions,
    KeypointRCNNOptions,
    MaskRCNNOptions,
    RetinaNetOptions,
)
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
from rehead.types import Frame, ImageBatch, Prediction, Target, map_type

TINY = BackboneOptions(name="resnet18", weights="none", width=8)
"""A backbone that runs in milliseconds."""

SMALL_SEGMENTERS: list[HeadOptions] = [
    UNetPlusPlusOptions(decoder_channels=[16, 16, 8, 8, 8]),
    MAnetOptions(decoder_channels=[16, 16, 8, 8, 8], attention_channels=8),
    LinkNetOptions(),
    FPNSegmentationOptions(pyramid_channels=16, segmentation_channels=32),
    PSPNetOptions(channels=16),
    PANOptions(channels=8),
    DeepLabV3Options(channels=16),
    DeepLabV3PlusOptions(channels=16),
    UPerNetOptions(channels=16),
    SegFormerOptions(channels=16),
    DPTOptions(intermediate_channels=[8, 8, 16, 16], fusion_channels=16),
    TorchvisionFCNOptions(),
    TorchvisionDeepLabV3Options(),
]
"""Every segmentation head but the U-Net, with few channels."""

FEW_REGIONS: dict[str, Any] = {"rpn_post_nms_train": 100, "rpn_post_nms_test": 100, "box_sampled": 64}

ONE_OF_EACH_KIND: list[HeadOptions] = [
    LinearOptions(dropout=0.1),
    FasterRCNNOptions(channels=16, representation=32, score_threshold=0.0, **FEW_REGIONS),
    MaskRCNNOptions(
        **{"channels": 16, "representation": 32, "mask_convs": 1, "mask_channels": 8},
        **{"score_threshold": 0.0, "detections": 20, **FEW_REGIONS},
    ),
    KeypointRCNNOptions(
        **{"channels": 16, "representation": 32, "keypoint_convs": 1, "keypoint_channels": 8, "keypoints": 5},
        **{"score_threshold": 0.0, "detections": 10, **FEW_REGIONS},
    ),
    UNetOptions(decoder_channels=[32, 16, 16, 8, 8]),
]
"""A head for every task, with few channels."""

SMALL_HEADS: list[HeadOptions] = [
    *ONE_OF_EACH_KIND,
    RetinaNetOptions(channels=16, score_threshold=0.0),
    FCOSOptions(channels=32, convs=1, score_threshold=0.0),
    MLPOptions(hidden=8, label_smoothing=0.1),
    *SMALL_SEGMENTERS,
]
"""Every shipped head, with few channels."""


def batch_of_noise(
    size: tuple[int, int] = (64, 96), images: int = 2, channels: int = 3, padding: tuple[int, int] = (0, 0)
) -> ImageBatch:
    """uint8 noise; `padding` is that of the last image."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, channels, *size), generator=generator, dtype=torch.uint8)
    frames = [Frame(size, size, image_id=index) for index in range(images)]
    inner = (size[0] - padding[0], size[1] - padding[1])
    frames[-1] = Frame(inner, inner, padding, images - 1)
    return ImageBatch(pixels, frames)


def targets_for(batch: ImageBatch, num_classes: int, boxes: Sequence[float] | None = (4, 6, 40, 50)) -> list[Target]:
    """One box with its mask and five keypoints, a class map and a label for every image.

    `boxes=None` is for images without objects.
    """
    height, width = batch.frames[0].padded
    semantic = (torch.arange(width) * num_classes // width).to(getattr(torch, map_type(num_classes))).repeat(height, 1)
    found = torch.zeros(0, 4) if boxes is None else torch.tensor([boxes], dtype=torch.float32)
    return [
        Target(
            frame.image_id,
            boxes=found,
            labels=torch.zeros(len(found), dtype=torch.int64) + index % num_classes,
            masks=torch.ones((len(found), height, width), dtype=torch.bool),
            keypoints=keypoints_in(found, 5),
            semantic=semantic,
            label=torch.tensor(index % num_classes),
        )
        for index, frame in enumerate(batch.frames)
    ]


def keypoints_in(boxes: Tensor, count: int) -> Tensor:
    """(N, count, 3) visible keypoints on the diagonals of (N, 4) boxes."""
    along = (torch.arange(count) + 0.5).view(1, count, 1) / count
    places = boxes[:, None, :2] + along * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.cat([places, torch.ones_like(places[..., :1])], dim=-1)


def randomise_norms(module: nn.Module) -> None:
    """Statistics as if the norms had seen data."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.2)


def randomised(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """A state dict whose norms have seen data, so that a swapped or forgotten tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    for name, value in state.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.8, 1.2, generator=generator)
        elif value.dtype.is_floating_point and value.ndim == 1:
            value.add_(torch.empty_like(value).uniform_(-0.05, 0.05, generator=generator))
    return state


@contextmanager
def undrawn() -> Iterator[None]:
    """Layers are made without drawing the weights that a file replaces at once: in large networks, half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_uniform_"):
            patch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor.detach().fill_(torch.nan))
        yield


def norms_to_eval(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


class AlreadyResized(nn.Module):
    """Stands for torchvision's transform where the images are resized, normalised and batched already."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, images: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        return ImageList(images, self.sizes), targets

    def postprocess(self, result: Any, sizes: Any, original: Any) -> Any:
        return result


def assert_sane(predictions: Sequence[Prediction], frames: Sequence[Frame], classes: int) -> None:
    """Finite, of the original size, inside the image, and of classes that there are."""
    assert len(predictions) == len(frames)
    for prediction, frame in zip(predictions, frames, strict=True):
        height, width = frame.original
        if prediction.boxes is not None:
            assert torch.isfinite(prediction.boxes).all()
            assert (prediction.boxes >= 0).all()
            assert (prediction.boxes[:, [0, 2]] <= width).all()
            assert (prediction.boxes[:, [1, 3]] <= height).all()
            assert ((prediction.labels >= 0) & (prediction.labels < classes)).all()
            assert ((prediction.scores >= 0) & (prediction.scores <= 1)).all()
            assert torch.equal(prediction.scores, prediction.scores.sort(descending=True).values)
        if prediction.masks is not None:
            assert prediction.masks.shape == (len(prediction.boxes), *frame.original)
        if prediction.keypoints is not None:
            assert prediction.keypoints.shape == (len(prediction.boxes), 5, 3)
            assert torch.isfinite(prediction.keypoints).all()
        if prediction.semantic is not None:
            assert prediction.semantic.shape == frame.original
            assert ((prediction.semantic >= 0) & (prediction.semantic < classes)).all()
        if prediction.probabilities is not None:
            assert prediction.probabilities.shape == (classes,)
            torch.testing.assert_close(prediction.probabilities.sum(), torch.tensor(1.0))


def assert_equal_numbers(found: Tensor, expected: Tensor) -> None:
    """The same arithmetic: in float64, where 1e-9 of the largest value is far above rounding on any processor."""
    assert found.dtype == expected.dtype == torch.float64
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * largest)


def assert_equal_losses(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same losses, in float64."""
    assert set(found) == set(expected)
    for name, loss in expected.items():
        if name == "loss_objectness":
            # torchvision holds the labels of an RPN in float32, and the loss takes their type.
            torch.testing.assert_close(found[name], loss)
        else:
            assert_equal_numbers(found[name], loss)


def assert_equal_but_rounding(found: Tensor, reference: Tensor, exact: Tensor) -> None:
    """float32 numbers as near to the reference's as those are to its own in float64, times ten.

    How much rounding grows in a network depends on its weights, and how much there is on the processor; the
    reference's own distance measures both. Another order of adding up may round several times as much.
    """
    assert found.dtype == reference.dtype == torch.float32
    assert exact.dtype == torch.float64
    rounding = float((reference - exact).detach().abs().max())
    assert 0 < rounding < 1e-3 * float(exact.detach().abs().max())
    torch.testing.assert_close(found, reference, rtol=0, atol=10 * rounding)


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of losses, each of them checked to be finite."""
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    return torch.stack(list(losses.values())).sum()


def assert_every_parameter_learns(module: nn.Module) -> None:
    """A finite gradient, maybe zero, on everything that trains."""
    learning = {name: one.grad for name, one in module.named_parameters() if one.requires_grad}
    assert [name for name, grad in learning.items() if grad is None] == []
    assert [name for name, grad in learning.items() if grad is not None and not torch.isfinite(grad).all()] == []


__all__ = [
    "ONE_OF_EACH_KIND",
    "SMALL_HEADS",
    "SMALL_SEGMENTERS",
    "TINY",
    "AlreadyResized",
    "assert_equal_but_rounding",
    "assert_equal_losses",
    "assert_equal_numbers",
    "assert_every_parameter_learns",
    "assert_sane",
    "batch_of_noise",
    "norms_to_eval",
    "randomise_norms",
    "randomised",
    "targets_for",
    "total",
    "undrawn",
]

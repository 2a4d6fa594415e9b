"""Training on a GPU: nothing on the wrong device, few waits, and steps that the loss scaler skips do no harm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ONE_OF_EACH_KIND, SMALL_HEADS, SMALL_SEGMENTERS, TINY, AlreadyResized
from pretend_gpu.pretend_device import CUDA, Device, OnGPU, pretend_gpu
from pretend_gpu.runs import CLASSES, Steps, small_batch, small_model, train
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator

from rehead.backbones import build_backbone
from rehead.configs.base import HeadOptions
from rehead.training.checkpoints import read_tensors
from rehead.training.resume import read_resume

IMAGES = 4

MOST_WAITS = {"faster_rcnn": 18 + IMAGES, "mask_rcnn": 27 + IMAGES, "keypoint_rcnn": 28 + IMAGES, "fcos": 23}
MOST_WAITS |= {"retinanet": 4, "lovasz": 1 + 2 * IMAGES}
"""Waits for the device in one training step. NMS waits once per image; every other number is the same for any batch.
Heads that are not here have one: whether the loss is finite."""


LONGEST = ("mask_rcnn", "keypoint_rcnn")


def named(options: list[HeadOptions]) -> Any:
    return pytest.mark.parametrize("head", options, ids=lambda one: one.name)


def waits_of_a_step(head: HeadOptions, folder: Path, images: int, **options: Any) -> Counter[str]:
    """By place, those of one step more: of two steps less those of one."""
    counted = []
    for steps in (1, 2):
        job = Steps(small_model(head), small_batch(images), steps_per_epoch=steps)
        with pretend_gpu() as gpu:
            train(job, folder / str(steps), **options)
        counted.append(gpu.waits)
    return counted[1] - counted[0]


@pytest.mark.parametrize(
    "head",
    [
        # One decoder of segmentation-models-pytorch is like another on the way to the device.
        pytest.param(head, id=head.name, marks=[pytest.mark.slow] if head in SMALL_SEGMENTERS[1:-2] else [])
        for head in SMALL_HEADS
    ],
)
def test_every_head_trains_and_waits_seldom(head: HeadOptions, tmp_path: Path) -> None:
    waits = waits_of_a_step(head, tmp_path, IMAGES, ema={}, clip_norm=1.0)
    assert waits.total() <= MOST_WAITS.get(head.name, 1), waits
    # Of our own: whether there are boxes without an area, and whether the loss is finite. What stands for waits of
    # torchvision's is in the other files of detection.
    own = [count for place, count in waits.items() if place.startswith(("training/", "tasks/", "heads/detection.py"))]
    assert sum(own) <= 2, waits


@pytest.mark.slow
@named([head for head in ONE_OF_EACH_KIND if head.name in ("faster_rcnn", "mask_rcnn", "keypoint_rcnn")])
def test_more_images_are_no_more_waits_but_for_nms(head: HeadOptions, tmp_path: Path) -> None:
    few, many = (waits_of_a_step(head, tmp_path / str(images), images).total() for images in (2, 5))
    assert many - few == 3


class Body(nn.Module):
    """A pyramid of one level for torchvision's detector."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=8, padding=1)

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.conv(pixels)
        return {str(level): nn.functional.max_pool2d(maps, 2**level) for level in range(4)}


def test_a_quarter_of_torchvisions_waits(tmp_path: Path) -> None:
    images = 16
    batch, targets = small_batch(images)
    reference: Any = detection.FasterRCNN(
        Body(), num_classes=4, rpn_anchor_generator=AnchorGenerator(((32,),) * 4, ((1.0,),) * 4)
    )
    reference.transform = AlreadyResized([frame.size for frame in batch.frames])
    with pretend_gpu() as gpu:
        reference.to(CUDA)
        given = [{"boxes": one.boxes.to(CUDA), "labels": one.labels.to(CUDA) + 1} for one in targets]
        pixels = batch.pixels.to(CUDA).float() / 255
        gpu.waits.clear()
        torch.autograd.backward(sum(reference(pixels, given).values()))
    theirs = gpu.waits.total()
    faster_rcnn = next(head for head in SMALL_HEADS if head.name == "faster_rcnn")
    assert waits_of_a_step(faster_rcnn, tmp_path, images).total() <= theirs / 4


@named(ONE_OF_EACH_KIND)
def test_the_weights_are_those_of_a_cpu(head: HeadOptions, tmp_path: Path) -> None:
    """The draws too: the pretend device has the CPU's generator. But for RoIAlign, which has a kernel for each."""
    job = Steps(small_model(head), small_batch())
    with pretend_gpu():
        train(job, tmp_path / "gpu")
    read = read_tensors(tmp_path / "gpu" / "last.safetensors")
    assert all(isinstance(one, OnGPU) for one in job.model.parameters())
    on_cpu = Steps(small_model(head), small_batch())
    train_on_cpu(on_cpu, tmp_path / "cpu")
    for name, tensor in on_cpu.model.state_dict().items():
        torch.testing.assert_close(read[name], tensor, rtol=1e-3, atol=1e-5)


def train_on_cpu(job: Steps, folder: Path) -> None:
    from rehead.configs.schema import TrainOptions
    from rehead.training.engine import build_accelerator
    from rehead.training.run import fit

    folder.mkdir()
    options = {"epochs": 1, "log_every": 100, "optimizer": {"lr": 0.001}, "schedule": {"name": "constant"}}
    fit(job, TrainOptions.model_validate(options), folder, build_accelerator(torch.device("cpu"), "fp32"))


@named(ONE_OF_EACH_KIND)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_first_step_that_the_loss_scaler_skips_does_no_harm(
    head: HeadOptions, optimizer: str, tmp_path: Path
) -> None:
    job = Steps(small_model(head), small_batch(2), steps_per_epoch=3, poison=0)
    before = {name: value.detach().clone() for name, value in job.model.named_parameters()}
    with pretend_gpu():
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        train(job, tmp_path, scaler=scaler, optimizer={"name": optimizer, "lr": 1e-4})
    assert scaler.state_dict()["scale"] == 32.0
    after = read_tensors(tmp_path / "last.safetensors")
    moved = max(float((after[name] - value).abs().max()) for name, value in before.items())
    assert 0 < moved < 0.1


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(
            head, id=head.name, marks=[pytest.mark.slow] if head.name in ("mask_rcnn", "keypoint_rcnn") else []
        )
        for head in ONE_OF_EACH_KIND
    ],
)
def test_a_resumed_run_ends_with_the_same_tensors(head: HeadOptions, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options: dict[str, Any] = {"ema": {}, "clip_norm": 1.0}
    with pretend_gpu():
        train(Steps(small_model(head), small_batch(2)), whole, epochs=2, **options)
        train(Steps(small_model(head), small_batch(2)), parts, epochs=1, **options)
        resumed = read_resume(parts / "resume.pt")
        train(Steps(small_model(head), small_batch(2)), parts, resumed=resumed, epochs=2, **options)
    for file in ("last.safetensors", "best.safetensors"):
        expected = read_tensors(whole / file)
        assert all(torch.equal(value, expected[name]) for name, value in read_tensors(parts / file).items())


def test_a_backbone_alone_moves_whole() -> None:
    with pretend_gpu():
        backbone = build_backbone(TINY).to(CUDA)
        assert all(one.device == CUDA for one in [*backbone.parameters(), *backbone.buffers()])


@named(ONE_OF_EACH_KIND)
def test_a_swapped_head_is_where_the_backbone_is(head: HeadOptions) -> None:
    with pretend_gpu():
        model = small_model(head).to(CUDA)
        swapped = model.swap_head("faster_rcnn", CLASSES)
        assert {one.device for one in swapped.parameters()} == {CUDA}
        assert {one.device for one in swapped.buffers()} == {CUDA}


def test_the_pretence_itself() -> None:
    """Mixed devices raise, numbers that are asked for are waits, and async copies to the CPU arrive late."""
    gpu: Device
    with pretend_gpu() as gpu:
        on_gpu = torch.arange(4.0, device=CUDA)
        with pytest.raises(RuntimeError, match="same device"):
            on_gpu + torch.ones(4)
        assert not gpu.waits
        late = on_gpu.to("cpu", non_blocking=True)
        assert late.tolist() == [113.0] * 4
        assert float(on_gpu.sum()) == 6.0
        assert late.tolist() == [0.0, 1.0, 2.0, 3.0]
        assert gpu.waits.total() == 1
        on_gpu[on_gpu > 1]
        assert gpu.waits.total() == 2
        on_gpu[on_gpu > 1] = 0.0
        assert gpu.waits.total() == 2

"""A training step of Faster R-CNN on ResNet-50: rehead's loop beside torchvision's model in its reference loop.

    uv run python benchmarks/train_step.py

The same weights (ours are imported from theirs), images, boxes and random numbers; frozen norms, three stages that
learn, SGD with momentum. torchvision as its detection references use it (references/detection/engine.py): images as
float tensors, resized and normalised by the model, `torch.optim.SGD` as it comes. rehead as `rehead train` runs it:
bytes, channels last, folded frozen norms, a fused optimizer. The images have the size of the batch, so that neither
resizes. The losses of the first step must agree; then both sides in turn, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from loop_overhead import Fixed
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.resnet import resnet50
from torchvision.ops.misc import FrozenBatchNorm2d

from rehead.configs.schema import OptimizerOptions, ScheduleOptions, TrainOptions
from rehead.interop.exchange import import_model
from rehead.models.model import Model
from rehead.training.engine import build_accelerator, choose_device, repeatable, seed_step
from rehead.training.loop import Batch
from rehead.training.run import fit
from rehead.types import Frame, ImageBatch, Target

# So small a rate leaves the weights as they are: both sides go on computing the same.
RATE = 1e-12
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def reference(height: int, width: int) -> nn.Module:
    """torchvision's `fasterrcnn_resnet50_fpn` with frozen norms and random weights."""
    torch.manual_seed(0)
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    for name, buffer in body.named_buffers():
        # As if trained: a random body without normalisation overflows.
        if name.endswith(("bn3.weight", "downsample.1.weight")):
            buffer.fill_(0.3)
    sizes = {"min_size": min(height, width), "max_size": max(height, width)}
    return FasterRCNN(_resnet_fpn_extractor(body, 3), num_classes=91, **sizes)


def ours_of(model: nn.Module) -> Model:
    """The same model in rehead, by way of `rehead import`'s function."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.pth"
        torch.save(model.state_dict(), path)
        overrides = {"model.backbone.norm_eps": 1e-5, "model.backbone.freeze": 2}
        return import_model("torchvision", path, "fasterrcnn_resnet50_fpn", overrides=overrides)


def batch_of(images: int, height: int, width: int, boxes: int) -> Batch:
    """Noise, and boxes of all sizes."""
    generator = torch.Generator().manual_seed(1)
    size = (height, width)
    pixels = torch.randint(0, 256, (images, 3, *size), dtype=torch.uint8, generator=generator)
    targets = []
    for index in range(images):
        corner = torch.rand(boxes, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        extent = (0.05 + 0.3 * torch.rand(boxes, 2, generator=generator)) * torch.tensor([width, height])
        labels = torch.randint(0, 90, (boxes,), generator=generator)
        targets.append(Target(index, boxes=torch.cat([corner, corner + extent], 1), labels=labels))
    return ImageBatch(pixels, [Frame(size, size, image_id=index) for index in range(images)]), targets


def theirs(model: nn.Module, batch: Batch, steps: int, device: torch.device) -> tuple[float, dict[str, Tensor]]:
    """Seconds per step of the reference loop, and the losses of its first."""
    images = [image.to(device).float() / 255 for image in batch[0].pixels]
    assert all(target.boxes is not None and target.labels is not None for target in batch[1])
    truths = [{"boxes": one.boxes.to(device), "labels": one.labels.to(device) + 1} for one in batch[1]]  # type: ignore[union-attr]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=RATE, momentum=0.9, weight_decay=1e-4)
    model.train()
    first: dict[str, Tensor] = {}
    for step in range(steps + 1):
        if step == 1:
            began = time.perf_counter()
        seed_step(0, step, 0)
        losses = model(list(images), [dict(truth) for truth in truths])
        loss = sum(losses.values())
        first = first or {name: value.detach() for name, value in losses.items()}
        # The reference looks at the value of every step's loss.
        loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - began) / steps, first


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640], help="height and width")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--boxes", type=int, default=7, help="per image")
    parser.add_argument("--steps", type=int, default=2, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "bf16"], help="of rehead; torchvision's is fp32"
    )
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = choose_device(given.device)
    other = reference(*given.size).to(device)
    model = ours_of(other).to(device)
    batch = batch_of(given.batch, *given.size, given.boxes)
    options = TrainOptions(
        max_steps=given.steps + 1,
        epochs=1000,
        log_every=1000,
        precision=given.precision,
        optimizer=OptimizerOptions(lr=RATE),
        schedule=ScheduleOptions(name="constant"),
    )

    seed_step(0, 0, 0)
    with repeatable(options, device):
        found = model.train()(batch[0].to(device), [target.to(device) for target in batch[1]])
    # Ours draws lots in another way, with the same chances: for this comparison both take ours.
    drawing = {}
    for part in ("rpn", "roi_heads"):
        own = getattr(other, part)
        drawing[part], own.fg_bg_sampler = own.fg_bg_sampler, getattr(model.head("main"), part).fg_bg_sampler
    _, expected = theirs(other, batch, 1, device)
    for part, sampler in drawing.items():
        getattr(other, part).fg_bg_sampler = sampler
    for name, value in expected.items():
        print(f"{name}: torchvision {float(value):.6f}, rehead {float(found[name]):.6f}")
        torch.testing.assert_close(found[name].detach(), value, rtol=1e-3, atol=1e-4)

    seconds: dict[str, list[float]] = {"rehead": [], "torchvision": []}
    for _ in range(given.rounds):
        job = Fixed(model, batch, given.steps + 2)
        with tempfile.TemporaryDirectory() as folder:
            fit(job, options, Path(folder), build_accelerator(device, options.precision))
        seconds["rehead"].append(job.seconds / given.steps)
        seconds["torchvision"].append(theirs(other, batch, given.steps, device)[0])
    rehead, torchvision = (statistics.median(times) for times in seconds.values())
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {given.batch} images of {given.size}"
    )
    print("| torchvision, s per step | rehead, s per step | ratio |")
    print("| --- | --- | --- |")
    print(f"| {torchvision:.3f} | {rehead:.3f} | {torchvision / rehead:.2f} |")


if __name__ == "__main__":
    main()

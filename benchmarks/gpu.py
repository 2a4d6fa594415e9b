"""A GPU in under eight minutes: is it right, how fast, how much memory, and how long does it wait?

    uv run python benchmarks/gpu.py                      # writes gpu-results.md, ready for benchmarks/RESULTS.md
    uv run python benchmarks/gpu.py --device cpu --tiny  # the same on tiny networks: whether the script works

First the losses and gradients of a step on the device against the same step on the CPU. Then training steps of Faster
R-CNN, Mask R-CNN and U-Net on ResNet-50: rehead's loop (eager and with `train.compile=backbone`, fp32 and bf16) beside
torchvision's and segmentation-models-pytorch's models in the plain loop of torchvision's references (float images, SGD
as it comes, the loss read at every step). Both have the same random weights, images and boxes; frozen norms and three
stages that learn in the detectors. Idle is the share of a step in which no kernel runs on the GPU, waits how often and
for which share of a step the host waits for it (torch.profiler, on steps of their own). Neither data sets nor weights
are read, and neither pycocotools nor albumentations imported. What no longer fits into the time is left out, and said.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from rehead.configs.schema import BackboneOptions, OptimizerOptions, ScheduleOptions, TrainOptions
from rehead.interop.exchange import FORMS
from rehead.models.model import Model, build_model
from rehead.training import engine
from rehead.training.engine import (
    autocast,
    build_accelerator,
    choose_device,
    compile_for_training,
    repeatable,
    seed_step,
    tuned_convolutions,
)
from rehead.training.loop import Batch
from rehead.training.run import fit
from rehead.types import Frame, ImageBatch, Target

# So small a rate leaves the weights as they are: all sides go on computing the same.
RATE = 1e-12
CLASSES = 20
TOLERANCE = 0.02
"""Relative, of losses and of gradients' norms, between the device and the CPU in fp32."""


@dataclass(frozen=True)
class Scale:
    """How large everything is, and how many steps of each kind."""

    network: str
    size: tuple[int, int]
    checked: tuple[int, int]
    batch: int
    warm: int
    timed: int
    profiled: int
    objects: int = 7
    small: bool = False


FULL = Scale("resnet50", (800, 1088), (320, 416), 8, warm=4, timed=16, profiled=4)
TINY = Scale("resnet18", (64, 64), (64, 64), 1, warm=1, timed=1, profiled=0, objects=2, small=True)


@dataclass(frozen=True)
class Case:
    """A network of another library, ours of the same weights, and whether every convolution sees one size."""

    title: str
    library: str
    theirs: nn.Module
    ours: Model
    fixed: bool


@dataclass
class Row:
    """What was measured of one side."""

    case: str
    side: str
    precision: str
    compiled: bool
    images_per_second: float
    memory: int | None = None
    idle: float | None = None
    waits: tuple[float, float] | None = None


@dataclass
class Meter:
    """Told before every step, it takes the time of some and the profile of others.

    Attributes:
        seconds: of a timed step.
        memory: bytes at most in use in them.
        idle: the share of the profiled steps in which the GPU does nothing.
        waits: of the host in a profiled step: how many, and their share of it.
    """

    device: torch.device
    scale: Scale
    seconds: float = 0.0
    memory: int | None = None
    idle: float | None = None
    waits: tuple[float, float] | None = None
    _step: int = 0
    _began: float = 0.0
    _profile: Any = field(default=None, repr=False)

    @property
    def steps(self) -> int:
        """One more than are measured: its beginning is the end of the last of them."""
        return self.scale.warm + self.scale.timed + self.scale.profiled + 1

    def tick(self) -> None:
        """A step begins."""
        on_gpu, scale = self.device.type == "cuda", self.scale
        if self._step == scale.warm:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            self._began = self._now()
        if self._step == scale.warm + scale.timed:
            self.seconds = (self._now() - self._began) / scale.timed
            if on_gpu:
                self.memory = torch.cuda.max_memory_allocated()
                self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
                self._profile.start()
                self._began = self._now()
        if self._step == self.steps - 1 and self._profile is not None:
            seconds = self._now() - self._began
            self._profile.stop()
            self.idle, self.waits = shares(self._profile.events(), seconds, scale.profiled)
        self._step += 1

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def shares(events: Iterable[Any], seconds: float, steps: int) -> tuple[float, tuple[float, float]]:
    """The idle share of a GPU, and the waits of the host in a step: how many, and their share.

    Args:
        events: of torch.profiler, times in microseconds.
        seconds: that they are from.
        steps: that they are of.
    """
    busy, end = 0.0, 0.0
    waits = []
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.device_type == torch.autograd.DeviceType.CUDA:
            busy += max(0.0, event.time_range.end - max(end, event.time_range.start))
            end = max(end, event.time_range.end)
        elif event.name in ("cudaStreamSynchronize", "cudaEventSynchronize"):
            waits.append(event.time_range.end - event.time_range.start)
    return max(0.0, 1 - busy / 1e6 / seconds), (len(waits) / steps, sum(waits) / 1e6 / seconds)


class Measured:
    """What rehead's loop trains: the same batch at every step."""

    conditions: Mapping[str, int] = {}

    def __init__(self, model: Model, batch: Batch, meter: Meter) -> None:
        self.model, self.batch, self.meter, self.steps_per_epoch = model, batch, meter, meter.steps

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batch, as often as the meter wants it."""
        for _ in range(self.steps_per_epoch):
            self.meter.tick()
            yield self.batch

    def evaluate(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        """Nothing to evaluate."""
        return {"score": 0.0}, {}

    def metadata(self, steps: int, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Nothing to say."""
        return {"config": {}}


def cases(scale: Scale) -> Iterator[Case]:
    """The three networks, with random weights."""
    smaller: dict[str, Any] = {"min_size": min(scale.size), "max_size": max(scale.size)}
    backbone = BackboneOptions(name=scale.network, weights="none", norm_eps=1e-5)
    names = [f"class {number}" for number in range(CLASSES)]
    for title, network, head in (
        ("Faster R-CNN", FasterRCNN, {"name": "faster_rcnn"}),
        ("Mask R-CNN", MaskRCNN, {"name": "mask_rcnn"}),
    ):
        torch.manual_seed(0)
        body = getattr(resnet, scale.network)(weights=None, norm_layer=FrozenBatchNorm2d)
        for name, buffer in body.named_buffers():
            # As if trained: a random body without normalisation overflows.
            if name.endswith(("bn2.weight" if scale.network == "resnet18" else "bn3.weight", "downsample.1.weight")):
                buffer.fill_(0.3)
        extracted = _resnet_fpn_extractor(body, 3)
        if scale.small:
            extracted.fpn = FeaturePyramidNetwork([64, 128, 256, 512], 16, LastLevelMaxPool())
            extracted.out_channels = 16
            parts = {"box_head": TwoMLPHead(16 * 7 * 7, 32), "box_predictor": FastRCNNPredictor(32, CLASSES + 1)}
            head |= {"channels": 16, "representation": 32}
            if network is MaskRCNN:
                parts |= {"mask_head": MaskRCNNHeads(16, (8,), 1)}
                parts |= {"mask_predictor": MaskRCNNPredictor(8, 8, CLASSES + 1)}
                head |= {"mask_convs": 1, "mask_channels": 8}
            theirs = network(extracted, **parts, **smaller)
        else:
            theirs = network(extracted, num_classes=CLASSES + 1, **smaller)
        ours = build_model(backbone, head, names)
        ours.backbone.freeze(2)
        ours.backbone.freeze_norms()
        take_weights(ours, theirs, head["name"])
        yield Case(f"{title} {scale.network} FPN", "torchvision", theirs, ours, fixed=network is FasterRCNN)
    torch.manual_seed(0)
    channels = [32, 16, 16, 8, 8] if scale.small else [256, 128, 64, 32, 16]
    unet = smp.Unet(scale.network, encoder_weights=None, classes=CLASSES, decoder_channels=channels)
    ours = build_model(backbone, {"name": "unet", "decoder_channels": channels}, names)
    take_weights(ours, unet, "unet")
    yield Case(f"U-Net {scale.network}", "smp", unet, ours, fixed=True)


def take_weights(ours: Model, theirs: nn.Module, head: str) -> None:
    """Gives our model the tensors of theirs."""
    renamed = {}
    for name, tensor in theirs.state_dict().items():
        mine, its = next((mine, its) for mine, its in FORMS[head].pairs if name.startswith(its))
        renamed[mine + name.removeprefix(its)] = tensor
    found = ours.load_state_dict(renamed, strict=False)
    lacking = [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
    if lacking or found.unexpected_keys:
        raise SystemExit(f"{head}: {lacking} of ours have no counterpart, nor {found.unexpected_keys} of theirs")


def batch_of(scale: Scale, size: tuple[int, int]) -> Batch:
    """Noise; boxes of all sizes with their masks; a class map."""
    generator = torch.Generator().manual_seed(1)
    height, width = size
    pixels = torch.randint(0, 256, (scale.batch, 3, height, width), dtype=torch.uint8, generator=generator)
    targets = []
    for index in range(scale.batch):
        corner = torch.rand(scale.objects, 2, generator=generator) * torch.tensor([width, height]) * 0.6
        extent = (0.1 + 0.3 * torch.rand(scale.objects, 2, generator=generator)) * torch.tensor([width, height])
        boxes = torch.cat([corner, corner + extent], 1)
        masks = torch.zeros((scale.objects, height, width), dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top : bottom + 1, left : right + 1] = True
        labels = torch.randint(0, CLASSES, (scale.objects,), generator=generator)
        semantic = torch.randint(0, CLASSES, (height, width), dtype=torch.uint8, generator=generator)
        targets.append(Target(index, boxes=boxes, labels=labels, masks=masks, semantic=semantic))
    return ImageBatch(pixels, [Frame(size, size, image_id=index) for index in range(scale.batch)]), targets


def pinned(batch: Batch, device: torch.device) -> Batch:
    """As the loader hands it over: in memory that a GPU copies from without waiting."""
    if device.type != "cuda":
        return batch
    images, targets = batch
    held = [
        replace(one, **{name: value.pin_memory() for name, value in vars(one).items() if isinstance(value, Tensor)})
        for one in targets
    ]
    return replace(images, pixels=images.pixels.pin_memory()), held


def options_for(precision: str, meter: Meter) -> TrainOptions:
    """SGD with momentum that leaves the weights alone."""
    return TrainOptions(
        **{"epochs": 1, "max_steps": meter.steps, "log_every": 10_000, "precision": precision, "pictures": 0},
        optimizer=OptimizerOptions(lr=RATE),
        schedule=ScheduleOptions(name="constant"),
    )


def measure_ours(case: Case, batch: Batch, precision: str, compiled: bool, meter: Meter) -> None:
    """rehead's loop, as `rehead train` runs it."""
    model, device = copy.deepcopy(case.ours), meter.device
    options = options_for(precision, meter)
    if compiled:
        torch.compiler.reset()
        compile_for_training(model.backbone, device, fixed_size=True)
    with tempfile.TemporaryDirectory() as folder, tuned_convolutions(case.fixed, options, device):
        job = Measured(model, pinned(batch, device), meter)
        fit(job, options, Path(folder), build_accelerator(device, precision))


def measure_theirs(case: Case, batch: Batch, precision: str, compiled: bool, meter: Meter) -> None:
    """The plain loop of torchvision's references."""
    device = meter.device
    model = copy.deepcopy(case.theirs).to(device).train()
    images = [image.float() / 255 for image in batch[0].pixels]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=RATE, momentum=0.9, weight_decay=1e-4)
    for step in range(meter.steps):
        meter.tick()
        seed_step(0, step, 0)
        with autocast(device, precision):
            loss = loss_of(case, model, [image.to(device) for image in images], batch[1], device)
        # The references look at the value of every step's loss.
        loss.item()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def loss_of(
    case: Case, model: nn.Module, images: list[Tensor], targets: Sequence[Target], device: torch.device
) -> Tensor:
    """Of a model of torchvision or segmentation-models-pytorch."""
    if case.library == "smp":
        mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1)
        wanted = torch.stack([one.semantic.to(device).long() for one in targets if one.semantic is not None])
        return nn.functional.cross_entropy(model((torch.stack(images) - mean) / std), wanted)
    truths = [
        {"boxes": one.boxes.to(device), "labels": one.labels.to(device) + 1, "masks": one.masks.to(device).byte()}
        for one in targets
        if one.boxes is not None and one.labels is not None and one.masks is not None
    ]
    return torch.stack(list(model(images, truths).values())).sum()


@contextmanager
def same_draws() -> Iterator[None]:
    """Inside, samples are drawn on the CPU whatever the device: each has a generator with other numbers."""
    drawn = torch.randperm

    def randperm(count: int, *, device: Any = None, **options: Any) -> Tensor:
        return drawn(count, **options).to(device or "cpu")

    torch.randperm = randperm  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randperm = drawn


def check(case: Case, scale: Scale, device: torch.device) -> tuple[str, bool]:
    """A step on the device against the same on the CPU, in fp32: a row of the table, and whether it fits."""
    images, targets = batch_of(replace(scale, batch=1), scale.checked)
    found = []
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        for place in (torch.device("cpu"), device):
            model = copy.deepcopy(case.ours).to(place, memory_format=torch.channels_last).train()
            seed_step(0, 0, 0)
            with same_draws(), repeatable(TrainOptions(), place):
                losses = model(images.to(place, torch.channels_last), [target.to(place) for target in targets])
                torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            gradients = torch.stack(
                [one.grad.double().norm() for one in model.parameters() if one.grad is not None]
            ).norm()
            found.append(({name: float(loss.detach()) for name, loss in losses.items()}, float(gradients)))
    finally:
        torch.backends.cudnn.allow_tf32 = before
    (wanted, norm), (losses, own) = found
    apart = max(abs(losses[name] - value) / max(abs(value), 1e-3) for name, value in wanted.items())
    apart_too = abs(own - norm) / norm
    good = apart < TOLERANCE and apart_too < TOLERANCE
    return f"| {case.title} | {apart:.1e} | {apart_too:.1e} | {'yes' if good else 'NO'} |", good


def report(checks: Sequence[str], rows: Sequence[Row], left_out: Sequence[str], scale: Scale, title: str) -> str:
    """Both tables."""
    plain = {(row.case, row.precision): row.images_per_second for row in rows if row.side != "rehead"}
    size, checked = ("x".join(map(str, each)) for each in (scale.size, scale.checked))
    lines = [
        f"### {title}",
        "",
        f"Against the CPU (fp32 without TF32, one image of {checked}, within {TOLERANCE:.0%}):",
        "",
        "| network | losses, relative difference | norm of the gradients | fits |",
        "| --- | --- | --- | --- |",
        *checks,
        "",
        f"Training steps of {scale.batch} images of {size}, random weights (`benchmarks/gpu.py`):",
        "",
        "| network | side | precision | compiled | images/s | ratio | memory, GiB | GPU idle | host waits |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reference = plain.get((row.case, row.precision))
        ratio = "" if reference is None or row.side != "rehead" else f"{row.images_per_second / reference:.2f}"
        memory = "" if row.memory is None else f"{row.memory / 1024**3:.1f}"
        idle = "" if row.idle is None else f"{row.idle:.0%}"
        waits = "" if row.waits is None else f"{row.waits[0]:.0f} a step, {row.waits[1]:.0%}"
        compiled = "backbone" if row.compiled else "no"
        speed = f"{row.images_per_second:.1f}"
        lines.append(
            "| " + " | ".join([row.case, row.side, row.precision, compiled, speed, ratio, memory, idle, waits]) + " |"
        )
    if left_out:
        lines += ["", f"Left out for want of time: {', '.join(left_out)}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Checks, measures, writes the tables; 1 if the device does not compute what the CPU does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and images: tries the script out")
    parser.add_argument("--batch", type=int, help="images in a step")
    parser.add_argument("--minutes", type=float, default=7.5, help="after which no further side is measured")
    parser.add_argument("--out", type=Path, default=Path("gpu-results.md"))
    given = parser.parse_args()
    began = time.monotonic()
    device = choose_device(given.device)
    scale = TINY if given.tiny else FULL
    if given.batch:
        scale = replace(scale, batch=given.batch)
    if given.tiny:
        engine.COMPILER = "aot_eager"  # all of compilation but the generated code, which takes minutes on a CPU
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = f"{name}, torch {torch.__version__}"

    networks = list(cases(scale))
    checks, good = [], True
    for case in networks:
        line, fits = check(case, scale, device)
        checks.append(line)
        good &= fits
        print(line, file=sys.stderr)
    # What is compiled comes last: it takes longest to begin with.
    measures: list[tuple[Callable[..., None], str, str, bool]] = [
        (measure_theirs, "", "fp32", False),
        (measure_ours, "rehead", "fp32", False),
        (measure_theirs, "", "bf16", False),
        (measure_ours, "rehead", "bf16", False),
        (measure_ours, "rehead", "bf16", True),
        (measure_ours, "rehead", "fp32", True),
    ]
    plan = [(case, *one) for case in networks for one in measures if not one[3]]
    # One is enough to try the script out: tracing takes longer than the steps.
    plan += [(case, *one) for case in networks for one in measures if one[3]][-1 if given.tiny else 0 :]
    rows: list[Row] = []
    left_out = []
    batch = batch_of(scale, scale.size)
    for case, measure, side, precision, compiled in plan:
        side = side or case.library
        if time.monotonic() - began > given.minutes * 60:
            left_out.append(f"{case.title} {side} {precision}{' compiled' if compiled else ''}")
            continue
        meter = Meter(device, scale)
        measure(case, batch, precision, compiled, meter)
        speed = scale.batch / meter.seconds
        rows.append(Row(case.title, side, precision, compiled, speed, meter.memory, meter.idle, meter.waits))
        print(rows[-1], file=sys.stderr)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    rows.sort(key=lambda row: [case.title for case in networks].index(row.case))
    text = report(checks, rows, left_out, scale, title)
    given.out.write_text(text)
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""What `test_distributed.py` lets two processes do in one launch, since each import of torch takes seconds.

Each rank writes what it found to `ROOT/found-RANK.json`; what trained is in `ROOT/<name>`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rehead.cli import main
from rehead.heads import build_head
from rehead.models.model import Model, build_model, head_options
from rehead.tasks.train import train
from rehead.terminal import console
from rehead.training import sharding
from rehead.training.loop import Loop
from rehead.training.resume import read_resume
from rehead.types import Classes, Frame, ImageBatch, Target


def command(*arguments: str) -> tuple[int, str]:
    """Exit code of `rehead ...` on this rank, and what it said."""
    sys.argv = ["rehead", *arguments]
    with io.StringIO() as said, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        console.rich.file = said
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            console.rich.file = sys.__stderr__
        return code, said.getvalue()


class Ended(BaseException):
    """A kill that leaves the process alive."""


@contextlib.contextmanager
def at_pass(number: int, what: Tensor | Ended | None) -> Iterator[None]:
    """Inside, the pass of this number raises, or has a loss multiplied by this number."""
    before, passed = Loop._losses, itertools.count(1)

    def losses(self: Loop, *arguments: Any) -> dict[str, Tensor]:
        own = before(self, *arguments)
        if what is None or next(passed) != number:
            return own
        if isinstance(what, Ended):
            raise what
        return {"loss": what * torch.stack(list(own.values())).sum()}

    Loop._losses = losses
    try:
        yield
    finally:
        Loop._losses = before


def heads_that_miss_their_targets() -> dict[str, list[float]]:
    """Three heads, of which each rank has targets for only some: nobody waits, and all have the same gradients."""
    torch.manual_seed(0)
    classes = Classes.of(["cat", "dog"])
    model = build_model("resnet18", "linear", classes, weights="none")
    specs = model.backbone.feature_specs
    heads = {
        "label": {"name": "linear"},
        "boxes": {"name": "fcos", "channels": 32, "convs": 1},
        "pixels": {"name": "torchvision_fcn", "loss": {"cross_entropy": {}, "focal": {}}},
    }
    model = Model(
        model.backbone, {key: build_head(head_options(one), classes, specs) for key, one in heads.items()}, model.config
    )
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    pixels = torch.zeros((2, 3, 64, 64), dtype=torch.uint8)
    batch = ImageBatch(pixels, [Frame((64, 64), (64, 64), image_id=number) for number in range(2)])
    semantic = torch.zeros((64, 64), dtype=torch.uint8)
    boxes = {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])}
    if dist.get_rank() == 0:
        targets = [Target(0, label=torch.tensor(0), **boxes), Target(1, label=torch.tensor(1), **boxes)]
    else:
        targets = [Target(0, semantic=semantic), Target(1, semantic=semantic)]
    found: dict[str, list[float]] = {}
    for _ in range(2):  # DDP would notice in the second step what the first left out
        wrapped.zero_grad()
        losses = wrapped(batch, targets)
        torch.stack(list(losses.values())).sum().backward()
    for key in heads:
        found[key] = [float(one.grad.double().sum()) for one in model.heads[key].parameters() if one.grad is not None]
    return found


def run(root: Path) -> dict[str, Any]:
    """Everything, in an order that both ranks keep."""
    found: dict[str, Any] = {"missing": heads_that_miss_their_targets()}
    for name in ("segmentation", "fcos", "accumulated"):
        train(root / f"{name}.yaml")
    for head in ("faster_rcnn", "mask_rcnn", "retinanet", "fcos"):
        out = str(root / f"empty-{head}")
        task = "instance_segmentation" if head == "mask_rcnn" else "detection"
        train(root / "empty.yaml", {"task": task, "model.head": {"name": head, "channels": 64}, "out": out})
    stated = {"train.global_batch_size": 4, "train.accumulate": 1, "out": str(root / "stated")}
    found["stated"] = command(
        "train", str(root / "accumulated.yaml"), *(f"{key}={value}" for key, value in stated.items())
    )
    uneven = f"out={root / 'uneven'}"
    found["uneven"] = command("train", str(root / "segmentation.yaml"), "train.global_batch_size=5", uneven)
    unread = {"model.head": {"name": "pspnet", "stride": 8, "channels": 8}, "out": str(root / "unread")}
    train(root / "segmentation.yaml", unread)
    for name in ("accumulated", "sharded"):
        sharding.UNIT = 0  # a tiny network has no block that is worth it
        if name == "sharded":
            train(root / "sharded.yaml")
        # Ended in the second of the two passes of step 3, between two rows of the metric files.
        with contextlib.suppress(Ended), at_pass(6, Ended()):
            train(root / f"{name}.yaml", {"out": str(root / f"{name}-ended")})
        found[f"{name} committed"] = read_resume(root / f"{name}-ended/resume.pt")["state"]["step"]
        train(root / f"{name}-ended/config.yaml", resume=True)

    metrics = str(root / f"metrics-{dist.get_rank()}.json")
    found["evaluated"] = command("evaluate", str(root / "segmentation/best.safetensors"), "--json", metrics)
    found["again"] = command("train", str(root / "segmentation.yaml"))
    found["sync"] = command(
        "train", str(root / "segmentation.yaml"), "model.backbone.norm=sync", f"out={root / 'sync'}"
    )
    found["auto"] = command("train", str(root / "segmentation.yaml"), "train.batch_size=auto", f"out={root / 'auto'}")
    with at_pass(2, torch.tensor(float("nan")) if dist.get_rank() == 1 else None):
        found["poison"] = command("train", str(root / "segmentation.yaml"), f"out={root / 'poison'}")
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    results = run(folder)
    (folder / f"found-{os.environ['RANK']}.json").write_text(json.dumps(results))
    dist.destroy_process_group()

"""`train.batch_size: auto`: how many images of this data fit into a GPU with this model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from accelerate.accelerator import Accelerator

from rehead.configs.schema import Config
from rehead.data.collate import collate
from rehead.data.reader import Reader
from rehead.data.sampler import Key
from rehead.data.transforms.augment import Augment
from rehead.errors import ConfigError
from rehead.models.model import Model
from rehead.tasks.images import augment_for
from rehead.terminal import say
from rehead.training.checkpoints import tensors_of
from rehead.training.distributed import started
from rehead.training.engine import autocast, seed_step, uncompiled
from rehead.training.memory import largest_batch
from rehead.training.schedule import build_optimizer
from rehead.types import ImageBatch, Target

LOOKED_AT = 32
"""Images that are drawn to find the largest."""


def batch_that_fits(model: Model, reader: Reader, accelerator: Accelerator) -> int:
    """The number of images with which training steps of a model fit into the memory of its GPU.

    Steps are real ones: forward, backward and update, of images as large as the largest that training draws, each
    with as many objects as the fullest. The model is as before afterwards.

    Raises:
        ConfigError: on a CPU, which has no memory of its own to fill, and with several processes, whose steps wait
            for one another.
    """
    if accelerator.device.type != "cuda":
        raise ConfigError(
            ["train.batch_size: auto measures the memory of a GPU, and there is none here; give a number, such as 8"]
        )
    if started() > 1:
        raise ConfigError(
            [
                "train.batch_size: auto measures with one process; run it once alone with train.max_steps=1, and give "
                "the number that it wrote to config.yaml"
            ]
        )
    model.to(accelerator.device)
    config = model.config
    inputs = model.inputs
    augment = augment_for(config, inputs.resize, reader)
    largest = worst_case(reader, augment, inputs.channels, inputs.divisor)
    before = tensors_of(model)
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    model.to(memory_format=memory_format).train()

    def attempt(size: int) -> None:
        images, targets = repeated(*largest, size)
        batch = images.to(accelerator.device, memory_format)
        own = [target.to(accelerator.device) for target in targets]
        optimizer = build_optimizer(model, config.train.optimizer)
        # The optimizer's own memory is there from the second step on.
        for step in range(2):
            seed_step(config.train.seed, step, 0)
            optimizer.zero_grad(set_to_none=True)
            with autocast(accelerator.device, config.train.precision):
                losses = model(batch, own)
            torch.stack([loss.float() for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        torch.cuda.synchronize()

    try:
        # Compiled it takes no more, and each size would be compiled anew.
        with uncompiled() if config.train.compile != "none" else nullcontext():
            found = largest_batch(attempt)
    finally:
        model.zero_grad(set_to_none=True)
        model.load_state_dict(before)
    say(f"train.batch_size: auto is {found}")
    return found


def with_batch_size(config: Config, size: int) -> Config:
    """The configuration with a number in place of `auto`."""
    return config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})


def worst_case(reader: Reader, augment: Augment, channels: int, divisor: int) -> tuple[ImageBatch, Target]:
    """A batch of one image, the fullest of some that training would draw, padded to the largest height and width."""
    looked_at = range(min(LOOKED_AT, len(reader)))
    items = [augment(reader.read(index, channels), *Key(0, index), reader) for index in looked_at]
    fullest = max(items, key=lambda item: 0 if item[0].boxes is None else len(item[0].boxes))
    images, targets = collate([fullest, *items], divisor, augment.canvas)
    return ImageBatch(images.pixels[:1], images.frames[:1]), targets[0]


def repeated(images: ImageBatch, target: Target, size: int) -> tuple[ImageBatch, Sequence[Target]]:
    """The same image so many times."""
    return ImageBatch(images.pixels.repeat(size, 1, 1, 1), images.frames * size), [target] * size

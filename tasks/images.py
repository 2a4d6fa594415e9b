"""Which images training sees, in which order, and how they are augmented."""

from __future__ import annotations

from rehead.configs.heads import image_task, task_of
from rehead.configs.schema import Config
from rehead.configs.tasks import TASKS
from rehead.data.reader import Reader
from rehead.data.sampler import BatchSampler, orientations, repeats
from rehead.data.transforms.augment import Augment
from rehead.data.transforms.resize import Resize
from rehead.data.transforms.steps import AugmentContext
from rehead.models.model import Model
from rehead.training.distributed import rank, world


def augment_for(config: Config, resize: Resize, reader: Reader) -> Augment:
    """The augmentation of a training, tried on its first image.

    Raises:
        ConfigError: with all that is wrong with the steps.
    """
    data, channels = config.data, config.model.backbone.in_channels
    known = [reader.of(key).classes for key in config.model.heads]
    labels = [key for key, head in config.model.heads.items() if TASKS[task_of(head)].annotation in ("label", "labels")]
    context = AugmentContext(
        image_task(config),
        resize,
        min_visible=data.min_visible,
        flip_pairs=tuple(data.flip_pairs) or next((own.flip_pairs for own in known if own.flip_pairs), ()),
        classes=len(reader.of(labels[0]).classes) if labels else None,
        allow_albumentationsx=data.allow_albumentationsx,
    )
    reduced = data.reduced_decoding != "never"
    augment = Augment(data.augment, context, config.train.seed, channels, reduced)
    augment.check(reader, channels)
    return augment


def sampler_for(config: Config, reader: Reader) -> BatchSampler:
    """The order of this process's images: its batch is a whole step, however many passes that takes.

    So the images of a step depend only on how many there are over all processes and passes.
    """
    options = config.train.divided(world())
    return BatchSampler(
        len(reader),
        options.images_per_pass * options.accumulate,
        options.seed,
        shuffle=True,
        rank=rank(),
        world=world(),
        repeats=repeats(
            config.data.sampling,
            reader,
            keypoints=any(TASKS[task_of(head)].annotation == "keypoints" for head in config.model.heads.values()),
        ),
        groups=orientations(reader) if config.data.group_by_aspect else None,
    )


CHANGES_SIZE = ("Crop", "Resize", "Scale", "Pad", "Size", "large_scale_jitter", "multi_scale")
"""What the names of steps hold that may give images of several sizes."""


def has_fixed_batches(model: Model) -> bool:
    """Whether every convolution of a training sees batches of one size.

    So it is where all images are brought to one size and the one head works on whole maps: the masks and keypoints of
    objects are as many as there are objects, and of several heads each takes the images that it learns from.
    """
    if model.inputs.resize.fixed is None or len(model.heads) > 1:
        return False
    if any(TASKS[model.head(key).task].annotation in ("masks", "keypoints") for key in model.heads):
        return False
    steps = model.config.data.augment
    names = [] if isinstance(steps, str) else [step.name for step in steps]
    return not any(word in name for name in names for word in CHANGES_SIZE)

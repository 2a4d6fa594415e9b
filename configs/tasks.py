"""The tasks by name: a row each. What a task does with predictions is one file in `tasks/`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rehead.configs.augment import BLUR, COLOUR, ERASE, FLIP, LIGHT, TURN, ZOOM, StepOptions, Steps, step_options
from rehead.configs.resize import ResizeOptions
from rehead.errors import ConfigError, did_you_mean

Annotation = Literal["label", "labels", "boxes", "masks", "keypoints", "map"]

PRESETS = ("none", "light", "strong")
"""The names of augmentations that every task has."""


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task without torch.

    Attributes:
        name: as heads and `task:` have it.
        annotation: what its heads learn from: the image's own `label`, all the `labels` of an image, `boxes`, boxes
            with `masks` or `keypoints`, or a class `map`.
        target: `"module:Class"` of the `Task`.
        score: the dotted name of the metric that decides which checkpoint is the best.
        resize: what `data.resize` means when it is not given.
        presets: by name, the steps of `data.augment`, as a configuration would list them.
        written: whether a configuration says it under `task:`; multi-label classification is an option of heads.
    """

    name: str
    annotation: Annotation
    target: str
    score: str
    resize: ResizeOptions
    presets: Mapping[str, Steps] = field(default_factory=lambda: {name: [] for name in PRESETS})
    written: bool = True

    @property
    def objects(self) -> bool:
        """Whether its heads learn from objects with boxes."""
        return self.annotation in ("boxes", "masks", "keypoints")


TASKS: dict[str, TaskSpec] = {}
"""By name, in the order of the documentation."""


def register_task(spec: TaskSpec) -> None:
    """Adds a task of one's own.

    Args:
        spec: its row; `target` names a subclass of `rehead.Task`.

    Raises:
        ConfigError: for a name that is there, and a preset that every task has and this one has not.
    """
    if spec.name in TASKS:
        raise ConfigError([f"task '{spec.name}' is registered twice"], "registry")
    if missing := [name for name in PRESETS if name not in spec.presets]:
        raise ConfigError([f"task '{spec.name}' has no augmentation preset {', '.join(missing)}"], "registry")
    TASKS[spec.name] = spec


CLASSIFICATION = TaskSpec(
    "classification",
    "label",
    "rehead.tasks.classification:Classification",
    score="top1",
    resize=ResizeOptions(shorter=256, crop=224),
    presets={
        "none": [],
        "light": [{"name": "resized_crop", "scale": [0.25, 1.0]}, FLIP, LIGHT],
        "strong": [{"name": "resized_crop", "scale": [0.1, 1.0]}, FLIP, COLOUR, BLUR, ERASE],
    },
)
MULTI_LABEL = TaskSpec(
    "multi_label_classification",
    "labels",
    "rehead.tasks.multi_label:MultiLabelClassification",
    score="mAP",
    # The whole image, at the size of the multi-label papers (1904.03582, 2009.14119).
    resize=ResizeOptions(height=448, width=448),
    # Nothing is cut, since some of the classes could be cut off.
    presets={"none": [], "light": [FLIP, LIGHT], "strong": [{"name": "multi_scale"}, FLIP, COLOUR, BLUR]},
    written=False,
)
DETECTION = TaskSpec(
    "detection",
    "boxes",
    "rehead.tasks.detection:Detection",
    score="bbox.AP",
    resize=ResizeOptions(shorter=800, longer=1333),
    presets={
        "none": [],
        "light": [FLIP, LIGHT],
        "strong": [
            {"name": "mosaic", "p": 0.3},
            {"name": "large_scale_jitter", "scale": [0.5, 1.75]},
            FLIP,
            COLOUR,
            BLUR,
        ],
    },
)
INSTANCE_SEGMENTATION = TaskSpec(
    "instance_segmentation",
    "masks",
    "rehead.tasks.instance_segmentation:InstanceSegmentation",
    score="segm.AP",
    resize=ResizeOptions(shorter=800, longer=1333),
    presets={
        "none": [],
        "light": [FLIP, LIGHT],
        "strong": [
            {"name": "large_scale_jitter", "scale": [0.5, 1.75]},
            {"name": "copy_paste", "p": 0.5},
            FLIP,
            COLOUR,
            BLUR,
        ],
    },
)
KEYPOINT_DETECTION = TaskSpec(
    "keypoint_detection",
    "keypoints",
    "rehead.tasks.keypoint_detection:KeypointDetection",
    score="keypoints.AP",
    resize=ResizeOptions(shorter=800, longer=1333),
    presets={
        "none": [],
        "light": [FLIP, LIGHT],
        "strong": [{"name": "large_scale_jitter", "scale": [0.6, 1.5]}, FLIP, COLOUR, BLUR],
    },
)
SEGMENTATION = TaskSpec(
    "segmentation",
    "map",
    "rehead.tasks.segmentation:Segmentation",
    score="mIoU",
    resize=ResizeOptions(shorter=512, longer=1024),
    presets={
        "none": [],
        "light": [ZOOM, FLIP, LIGHT],
        "strong": [{"name": "large_scale_jitter", "scale": [0.5, 2.0]}, TURN, FLIP, COLOUR, BLUR],
    },
)
for _spec in (CLASSIFICATION, MULTI_LABEL, DETECTION, INSTANCE_SEGMENTATION, KEYPOINT_DETECTION, SEGMENTATION):
    register_task(_spec)


@dataclass(frozen=True)
class Several:
    """What holds for images that heads of several tasks learn from."""

    name: str = "multitask"
    resize: ResizeOptions = DETECTION.resize
    presets: Mapping[str, Steps] = field(
        default_factory=lambda: {
            "none": [],
            "light": [FLIP, LIGHT],
            "strong": [{"name": "large_scale_jitter", "scale": [0.6, 1.5]}, FLIP, COLOUR, BLUR],
        }
    )


MULTITASK = Several()
"""`task: multitask`: heads of several tasks."""


def treatment_of(task: str) -> TaskSpec | Several:
    """How the images of a task are resized and augmented.

    Args:
        task: a name of `TASKS`, or `multitask`.
    """
    return MULTITASK if task == MULTITASK.name else TASKS[task]


def standard_task(task: str) -> str:
    """The task of rehead's own that learns from the same annotation: what serves that one serves this one too."""
    if task not in TASKS:
        return task
    return next(name for name, spec in TASKS.items() if spec.annotation == TASKS[task].annotation)


def unknown_task(task: str) -> str:
    """The sentence that says a task is not known."""
    known = [name for name, spec in TASKS.items() if spec.written] + [MULTITASK.name]
    return f"unknown task '{task}'{did_you_mean(task, known) or f'; known: {chr(44).join(known)}'}"


def preset(name: str, task: str, channels: int = 3) -> list[StepOptions]:
    """The steps of a preset; where images are not RGB, their colours change as in `light`.

    Raises:
        ConfigError: for a preset that is not known.
    """
    if name not in PRESETS:
        raise ConfigError([f"data.augment: {unknown_preset(name)}"])
    steps = treatment_of(task).presets[name]
    return [step_options(LIGHT if step is COLOUR and channels != 3 else step) for step in steps]


def unknown_preset(name: str) -> str:
    """The sentence that says a preset is not known."""
    hint = did_you_mean(name, PRESETS) or f"; known: {', '.join(PRESETS)}, or a list of steps"
    return f"unknown preset '{name}'{hint}"

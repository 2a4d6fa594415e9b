"""Augmentation: the options of the steps, and the steps that presets are made of. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from rehead.configs.base import Options
from rehead.configs.transforms import COMPOSITIONS, REFUSED, transforms, wrong_arguments
from rehead.errors import did_you_mean
from rehead.registry import Registry

Target = TypeVar("Target", bound=Callable[..., Any])


def _rises(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1]:
        raise ValueError(f"should be two numbers above 0, the smaller first, such as [0.5, 2], not {list(values)}")
    return values


Range = Annotated[tuple[float, float], AfterValidator(_rises)]
"""From where to where a number is drawn, all alike."""
Pixels = Annotated[int, Field(ge=1)]


class StepOptions(Options):
    """A step: its name in the table below, or that of an albumentations transform."""

    name: str


class TransformOptions(StepOptions):
    """An albumentations transform with its arguments, which it checks itself when the training is set up."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is built with."""
        return dict(self.model_extra or {})


class OwnOptions(StepOptions):
    """What every step of rehead's own has."""

    p: float = Field(1.0, ge=0, le=1, description="how often")


class ResizedCropOptions(OwnOptions):
    """A random part of the original image, in place of the resize (Szegedy et al., 1409.4842)."""

    name: str = "resized_crop"
    scale: Range = Field((0.08, 1.0), description="of the original's area")
    ratio: Range = Field((3 / 4, 4 / 3), description="width over height of the part; drawn on a logarithmic scale")


class LargeScaleJitterOptions(OwnOptions):
    """Much larger or smaller, in place of the resize; what is too large is cut (Ghiasi et al., 2012.07177)."""

    name: str = "large_scale_jitter"
    scale: Range = Field((0.1, 2.0), description="times the size that data.resize gives")
    canvas: tuple[Pixels, Pixels] | None = Field(
        None,
        description="height and width that every batch has: what is larger is cut to it, what is smaller padded; "
        "unless given, images are cut to the size that data.resize gives and padded to the largest in their batch",
    )


class MultiScaleOptions(OwnOptions):
    """Somewhat larger or smaller, in place of the resize; nothing is cut."""

    name: str = "multi_scale"
    scale: Range | None = Field(None, description="times the size that data.resize gives; [0.75, 1.25] unless given")
    shorter: list[Pixels] | None = Field(
        None, min_length=1, description="in place of scale: lengths of the shorter side, of which one is drawn"
    )

    @model_validator(mode="after")
    def _one_way(self) -> MultiScaleOptions:
        if self.scale is not None and self.shorter is not None:
            raise ValueError("give either scale or shorter")
        return self


class MosaicOptions(OwnOptions):
    """Parts of four images in one, which meet in a random point (Bochkovskiy et al., 2004.10934)."""

    name: str = "mosaic"
    scale: Range = Field((1.0, 1.5), description="of each image, times what would just fill its part")
    centre: Range = Field((0.3, 0.7), description="where the four meet, as a share of height and of width")


class MixupOptions(OwnOptions):
    """Two images laid over one another (Zhang et al., 1710.09412; for boxes 1902.04103)."""

    name: str = "mixup"
    alpha: float | None = Field(
        None,
        gt=0,
        description="weights are sampled from Beta(alpha, alpha); 0.2 for classification, else 1.5, unless given",
    )


class CopyPasteOptions(OwnOptions):
    """Objects of another image pasted onto this one by their masks (Ghiasi et al., 2012.07177)."""

    name: str = "copy_paste"
    p: float = Field(0.5, ge=0, le=1, description="how often")
    share: float = Field(0.5, gt=0, le=1, description="how probable it is for each object to be pasted")


_WITH_BOXES = "detection, instance_segmentation, keypoint_detection"
STEPS: Registry[StepOptions] = Registry("augmentation step")


def register_step(name: str, options: type[OwnOptions], *, task: str) -> Callable[[Target], Target]:
    """Registers a step of the augmentation of one's own: a decorator on a subclass of `rehead.Step`.

    It is built as `Mine(options, context)`, draws from the generator that it is given and from nothing else, and leaves
    the given samples as they are.

    Args:
        name: what a configuration writes under `name` in `data.augment`.
        options: its pydantic options; `name` must allow this name.
        task: the tasks that it is for, with commas between.
    """
    return STEPS.register(name, options, task=task)


STEPS.add(
    "resized_crop",
    ResizedCropOptions,
    "rehead.data.transforms.scale:ResizedCrop",
    task=f"classification, segmentation, {_WITH_BOXES}",
)
STEPS.add(
    "large_scale_jitter",
    LargeScaleJitterOptions,
    "rehead.data.transforms.scale:LargeScaleJitter",
    task=f"segmentation, {_WITH_BOXES}",
)
STEPS.add(
    "multi_scale",
    MultiScaleOptions,
    "rehead.data.transforms.scale:MultiScale",
    task=f"segmentation, multi_label_classification, {_WITH_BOXES}",
)
STEPS.add("mosaic", MosaicOptions, "rehead.data.transforms.mix:Mosaic", task=f"segmentation, {_WITH_BOXES}")
STEPS.add(
    "mixup",
    MixupOptions,
    "rehead.data.transforms.mix:Mixup",
    task=f"classification, multi_label_classification, {_WITH_BOXES}",
)
STEPS.add("copy_paste", CopyPasteOptions, "rehead.data.transforms.mix:CopyPaste", task="instance_segmentation")

_OTHERS = f"; rehead's own are {', '.join(entry.name for entry in STEPS)}, all others albumentations' transforms"

SIZING = ("resized_crop", "large_scale_jitter", "multi_scale")
"""The steps that stand in place of the resize."""

Steps = list[dict[str, Any]]

FLIP = {"name": "HorizontalFlip", "p": 0.5}
# On any number of channels and one look-up table: 0.4 ms for an image of 800x1066, where jitter with saturation and
# hue takes 8.
LIGHT = {"name": "RandomBrightnessContrast", "brightness_limit": 0.2, "contrast_limit": 0.2, "p": 0.5}
COLOUR = {
    "name": "ColorJitter",
    "brightness": [0.75, 1.3],
    "contrast": [0.75, 1.3],
    "saturation": [0.6, 1.4],
    "hue": [-0.03, 0.03],
    "p": 0.8,
}
BLUR = {
    "name": "OneOf",
    "transforms": [
        {"name": "GaussianBlur", "blur_limit": 0, "sigma_limit": [0.5, 1.5]},
        {"name": "GaussNoise", "std_range": [0.01, 0.05]},
    ],
    "p": 0.2,
}
ERASE = {
    "name": "CoarseDropout",
    "num_holes_range": [1, 1],
    "hole_height_range": [0.15, 0.35],
    "hole_width_range": [0.15, 0.35],
    "p": 0.25,
}
ZOOM = {
    "name": "Affine",
    "scale": [0.75, 1.5],
    "translate_percent": {"x": [-0.1, 0.1], "y": [-0.1, 0.1]},
    "keep_ratio": True,
    "p": 1,
}
TURN = {"name": "Affine", "rotate": [-10, 10], "p": 0.5}


def step_options(raw: dict[str, Any]) -> StepOptions:
    """The options of a step, rehead's own or albumentations'."""
    return (STEPS.get(raw["name"]).options if raw["name"] in STEPS else TransformOptions).model_validate(raw)


def spelled_out(step: Any) -> Any:
    """A step whose name stands alone as a mapping, and those inside of it."""
    if isinstance(step, str):
        return {"name": step}
    if isinstance(step, dict) and isinstance(step.get("transforms"), list):
        return {**step, "transforms": [spelled_out(held) for held in step["transforms"]]}
    return step


def wrong_transform(raw: dict[str, Any], where: str, *, inside: bool = False) -> list[str]:
    """What is wrong with the names in an albumentations transform, and in those that it holds.

    Args:
        raw: as the configuration has it; its name is none of `STEPS`, unless `inside`.
        where: its key.
        inside: whether another transform holds it.
    """
    name = raw["name"]
    if inside and name in STEPS:
        return [f"{where}.name: {name} is rehead's own and cannot stand inside an albumentations transform"]
    if name not in transforms():
        hint = did_you_mean(
            str(name), [*(entry.name for entry in STEPS), *(known for known in transforms() if known not in REFUSED)]
        )
        return [f"{where}.name: unknown augmentation step '{name}'{hint or _OTHERS}"]
    given = {key: value for key, value in raw.items() if key != "name"}
    problems = wrong_arguments(name, given, where)
    if name not in COMPOSITIONS or name in REFUSED:
        return problems
    held = given.get("transforms")
    if not isinstance(held, list) or not held:
        return [*problems, f"{where}.transforms: {name} needs a list of transforms to choose from"]
    for place, step in enumerate(held):
        key = f"{where}.transforms.{place}"
        if isinstance(step, dict) and "name" in step:
            problems += wrong_transform(step, key, inside=True)
        else:
            problems.append(f"{key}: should name a transform, such as {{name: HorizontalFlip, p: 0.5}}")
    return problems


def misplaced(augment: str | Sequence[StepOptions], tasks: Sequence[str]) -> list[str]:
    """What is wrong with steps that are right in themselves.

    Args:
        augment: a preset, in which all is well, or a list.
        tasks: of all heads.
    """
    if isinstance(augment, str):
        return []
    problems = []
    sizing = [step.name for step in augment if step.name in SIZING]
    if len(sizing) > 1:
        problems.append(f"data.augment: {' and '.join(sizing)} would each decide about the size; keep one")
    for place, step in enumerate(augment):
        allowed = STEPS.get(step.name).about["task"].split(", ") if step.name in STEPS else tasks
        problems += [
            f"data.augment.{place}.name: {step.name} does not know what {task} learns from; "
            f"it is for {', '.join(allowed)}"
            for task in dict.fromkeys(tasks)
            if task not in allowed
        ]
    return problems

"""The typed configuration of a run. Imports no torch.

Relative paths start from the current directory; those inside a split start from `data.root`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rehead.configs.augment import StepOptions
from rehead.configs.base import HeadOptions, Options
from rehead.configs.readers import FromTrainSplit, SplitOptions
from rehead.configs.resize import ResizeOptions
from rehead.configs.tasks import MULTITASK, PRESETS, TASKS, unknown_preset, unknown_task
from rehead.errors import ConfigError, listed

Split = Literal["train", "val", "test"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class SourceOptions(Options):
    """Where images and their annotations are."""

    format: str | None = Field(None, description="such as coco or masks (docs/data.md); auto looks at the files")
    root: str = "."
    train: SerializeAsAny[SplitOptions] | None = None
    val: SerializeAsAny[SplitOptions] | None = None
    test: SerializeAsAny[SplitOptions] | None = None
    classes: list[str] | None = Field(None, description="names in order; required for masks, else those of the data")
    images_match: Literal["exact", "stem", "loose"] = Field(
        "exact",
        description="how images whose file is not there are found: stem, the same name with another suffix; loose, "
        "also up to .rf.<hash>, _png.jpg, case, zero padding and URL encoding",
    )
    ignore_index: list[int] = Field([], description="mask values that do not count, such as void")
    values: dict[str, int | tuple[int, int, int]] | None = Field(
        None, description="by class: the value of its pixels in masks, or their [red, green, blue]"
    )

    def paths(self) -> list[Path]:
        """The files and folders that its splits name, those that are there."""
        root = Path(self.root).expanduser()
        splits = [split.model_dump() for split in (self.train, self.val, self.test) if split is not None]
        named = {value: None for split in splits for value in split.values() if isinstance(value, str)}
        return [root / value for value in named if os.path.exists(root / value)]

    @model_validator(mode="before")
    @classmethod
    def _one_value_is_a_list(cls, data: object) -> object:
        if isinstance(data, dict) and isinstance(data.get("ignore_index"), int):
            return {**data, "ignore_index": [data["ignore_index"]]}
        return data

    @model_validator(mode="after")
    def _one_meaning_per_value(self) -> SourceOptions:
        values = list((self.values or {}).values())
        if len({type(value) for value in values}) > 1:
            raise ValueError("values are all numbers or all [red, green, blue]")
        counts = Counter(values)
        twice = [name for name, value in (self.values or {}).items() if counts[value] > 1]
        if twice:
            raise ValueError(f"values: {listed(twice, ' and ')} have the same value; a pixel is of one class")
        return self

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> SourceOptions:
        drawn = [split.from_train for split in (self.val, self.test) if isinstance(split, FromTrainSplit)]
        shares = [share for share in drawn if not isinstance(share, str)]
        if shares and len(shares) < len(drawn):
            raise ValueError("from_train: val and test are both shares, or both text files of names")
        if sum(shares) >= 1:
            raise ValueError(f"from_train of val and test take {sum(shares):g} of the training images; leave some")
        if drawn and self.train is None:
            raise ValueError("train: missing, which val or test is to be taken from (from_train)")
        return self


class SamplingOptions(Options):
    """Which images an epoch holds. An epoch of `class_balanced` is as long as one of `shuffled`.

    `repeat_factor` shows images of classes that few images have more often (Gupta et al., 1908.03195),
    `class_balanced` shows every class equally often, as far as images with several classes allow.
    """

    name: Literal["shuffled", "repeat_factor", "class_balanced"] = "shuffled"
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="repeat_factor: classes in a smaller share of the images are repeated; 0.001 unless given",
    )
    skip_empty: bool = Field(False, description="train without the images that have no object to learn from")
    min_keypoints: int = Field(
        1,
        ge=1,
        description="skip_empty: where objects have keypoints, an image with fewer labelled ones is skipped too",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_enough(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _fits(self) -> SamplingOptions:
        if self.threshold is not None and self.name != "repeat_factor":
            raise ValueError(f"threshold belongs to repeat_factor, not to {self.name}")
        if self.min_keypoints > 1 and not self.skip_empty:
            raise ValueError("min_keypoints belongs to skip_empty: true")
        return self


class DataOptions(SourceOptions):
    """The data of a run, and how they become batches."""

    sources: dict[str, SourceOptions] = Field(
        {}, description="by head: where its annotations are, if not with the others"
    )
    split: Split = Field("val", description="the split that `rehead evaluate` reads")
    resize: ResizeOptions | None = Field(None, description="the task's usual size unless given")
    augment: str | list[SerializeAsAny[StepOptions]] = Field(
        "light", description="none, light, strong, or a list of steps"
    )
    max_objects: int = Field(
        1_000,
        ge=1,
        description="objects of one image that are trained on: a step needs memory for each; of an image with more, "
        "so many are taken evenly from its list, and a warning names it. Evaluation takes all",
    )
    min_visible: float = Field(
        0.1, ge=0, le=1, description="an object of whose box a step of augment leaves less than this share is dropped"
    )
    flip_pairs: list[tuple[int, int]] = Field(
        [],
        description="keypoints, counted from 0, that change places in a mirror image, such as left and right eye; "
        "those of the data unless given",
    )
    allow_albumentationsx: bool = Field(
        False, description="work with albumentations' AGPL successor where it is installed in its place"
    )
    reduced_decoding: Literal["never", "training", "always"] = Field(
        "training",
        description="where a JPEG that is shrunk to half or less is decoded at 1/2, 1/4 or 1/8 of its size, which is "
        "faster; always: in evaluation too",
    )
    scale: float | None = Field(
        None,
        gt=0,
        description="the number in image files that becomes 255, full brightness; unless given, 255 of 8 bits, 65535 "
        "of 16 bits, and floating point is left as it is",
    )
    sampling: SamplingOptions = SamplingOptions()
    group_by_aspect: bool = Field(False, description="landscape and portrait images in batches of their own")
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="processes that read images; auto: 2 for a CPU, the cores less one for a GPU, 16 at most",
    )

    def paths(self) -> list[Path]:
        """The files and folders that the splits of all sources name, those that are there."""
        return [*super().paths(), *(path for source in self.sources.values() for path in source.paths())]

    @field_validator("augment")
    @classmethod
    def _known(cls, augment: str | list[StepOptions]) -> str | list[StepOptions]:
        if isinstance(augment, str) and augment not in PRESETS:
            raise ValueError(unknown_preset(augment))
        return augment


class BackboneOptions(Options):
    """The residual body: which one, which weights, and what of it learns."""

    name: str = "resnet50"
    weights: str = Field("imagenet", description="imagenet, a timm tag such as a1_in1k, a file, or none")
    freeze: int | Literal["all"] = Field(0, description="entries of feature_specs that do not learn")
    norm: Literal["train", "frozen", "sync", "group"] = "train"
    norm_eps: float | None = Field(None, ge=0, description="of every batch norm; the network's own unless given")
    in_channels: int = Field(3, ge=1)
    mean: list[float] | None = Field(None, description="per channel, for pixels in 0..1; the weights' own unless given")
    std: list[float] | None = None
    output_stride: Literal[8, 16, 32] = Field(32, description="below 32, the last stages dilate")
    # The rest is for rehead's own ResNets.
    dilate_first: bool = Field(
        False, description="where a stage dilates, its first 3x3 convolution too, as in segmentation-models-pytorch"
    )
    width: int | None = Field(None, ge=1, description="channels of the stem; 64, or 16 for images of 32 pixels")
    residual: bool = Field(True, description="false: the plain network, whose blocks do not add their input back")
    shortcut: Literal["A", "B", "C"] = Field(
        "B", description="where the shape changes A pads with zeros and B projects; C projects everywhere"
    )
    zero_init_residual: bool = Field(True, description="last norm of every residual branch starts at 0")

    @model_validator(mode="after")
    def _fits(self) -> BackboneOptions:
        if isinstance(self.freeze, int) and self.freeze < 0:
            raise ValueError(f"freeze counts entries from the stem: 0, 1, ... or all, not {self.freeze}")
        if self.in_channels != 3 and (self.mean is None or self.std is None):
            raise ValueError(
                f"mean and std must be given for {self.in_channels} channels; `rehead data stats` measures them"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.in_channels:
                raise ValueError(f"{name} has {len(values)} values for {self.in_channels} channels")
        if not self.residual and self.shortcut != "B":
            raise ValueError(f"shortcut: {self.shortcut} has no meaning with residual: false, which has no shortcuts")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std must be greater than 0, found {self.std}")
        return self


class ModelOptions(Options):
    """A backbone and its heads by key. `head: {...}` is short for `heads: {main: {...}}`."""

    backbone: BackboneOptions = BackboneOptions()
    heads: dict[str, SerializeAsAny[HeadOptions]] = Field(min_length=1)
    init: str | None = Field(None, description="a rehead checkpoint to start from: backbone, and heads that fit")


class OptimizerOptions(Options):
    """SGD (with momentum) or AdamW (where `momentum` has no meaning)."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)


class ScheduleOptions(Options):
    """How the learning rate moves: a warm-up, then cosine to 0, a polynomial, steps, or constant."""

    name: Literal["cosine", "poly", "multistep", "constant"] = "cosine"
    milestones: list[int] = Field([], description="epochs at which multistep multiplies by gamma")
    milestones_in: Literal["epochs", "steps"] = Field("epochs", description="what milestones count")
    gamma: float = Field(0.1, gt=0)
    power: float = Field(0.9, gt=0, description="of poly; 1 is a straight line")
    end_factor: float = Field(0.0, ge=0, lt=1, description="of the learning rate at the end of poly")
    warmup_steps: int = Field(0, ge=0)
    warmup_factor: float = Field(0.001, ge=0, le=1, description="of the learning rate at step 0")
    warmup: Literal["linear", "constant"] = Field("linear", description="rising, or at warmup_factor to its end")

    @model_validator(mode="after")
    def _fits(self) -> ScheduleOptions:
        if self.name == "multistep" and not self.milestones:
            raise ValueError("multistep needs milestones, the epochs at which the rate drops")
        for keys, name in ((("milestones", "milestones_in"), "multistep"), (("power", "end_factor"), "poly")):
            changed = [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]
            if self.name != name and changed:
                raise ValueError(f"{changed[0]} belongs to {name}, not to {self.name}")
        if self.milestones != sorted(self.milestones):
            raise ValueError(f"milestones must rise: {self.milestones}")
        return self


class AverageOptions(Options):
    """An exponential moving average of the weights; it is evaluated and saved in place of the last weights."""

    decay: float = Field(0.9998, gt=0, lt=1, description="share that a step keeps; less in the first steps")


class TrainOptions(Options):
    """The training loop. It ends after `epochs` or `max_steps`, whichever comes first."""

    epochs: int = Field(12, ge=1)
    max_steps: int | None = Field(None, ge=1)
    global_batch_size: int | None = Field(
        None,
        ge=1,
        description="images of one step over all processes, however many there are; each takes its share, in passes of "
        "at most batch_size",
    )
    batch_size: int | Literal["auto"] = Field(
        16, description="images in a pass of the network, per process; auto finds what fits on a GPU"
    )
    accumulate: int = Field(
        1, ge=1, description="passes whose gradients make one step; follows from global_batch_size where that is given"
    )
    seed: int = Field(0, ge=0)
    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    clip_norm: float | None = Field(None, gt=0, description="limit of the gradients' total norm")
    ema: AverageOptions | None = Field(None, description="evaluate and save an average of the weights, {} for one")
    early_stopping: int | None = Field(
        None, ge=1, description="evaluations without a better score after which training ends"
    )
    precision: Precision = Field(
        "auto", description="of training; auto: bf16 on a GPU that has it, fp16 on an older one, fp32 on CPU"
    )
    evaluate_precision: Precision = Field("fp32", description="of evaluation; bf16 moves boxes by half a per cent")
    activation_checkpointing: bool = Field(
        False, description="recompute inside the backbone's blocks: less memory, more time"
    )
    compile: Literal["none", "backbone"] = Field(
        "none", description="backbone: torch.compile for its training steps; seconds to minutes at the start"
    )
    sharding: Literal["none", "fsdp2"] = Field(
        "none", description="fsdp2: each process holds a part of the parameters, for large backbones"
    )
    channels_last: bool = True
    deterministic: bool | None = Field(
        None, description="deterministic algorithms; on for CPU unless given; on a GPU as far as torch has them"
    )
    evaluate_every: int = Field(1, ge=1, description="epochs; the end is always evaluated")
    checkpoint_every: int | None = Field(None, ge=1, description="steps; besides after evaluations and epochs")
    log_every: int = Field(20, ge=1, description="steps between rows in the metrics files")
    pictures: int = Field(8, ge=0, description="validation images drawn with predictions at the end")

    @field_validator("batch_size")
    @classmethod
    def _at_least_one(cls, size: int | str) -> int | str:
        if isinstance(size, int) and size < 1:
            raise ValueError(f"1 or more images, or auto; found {size}")
        return size

    @model_validator(mode="after")
    def _fits(self) -> TrainOptions:
        if self.global_batch_size is not None and self.accumulate > 1:
            raise ValueError(
                f"accumulate={self.accumulate}: how many passes make a step follows from global_batch_size and "
                "batch_size; leave it out"
            )
        if self.sharding == "fsdp2" and self.ema is not None:
            raise ValueError("sharding: fsdp2 keeps no whole weights to average; leave out ema, or use sharding: none")
        if self.sharding == "fsdp2" and self.precision == "fp16":
            raise ValueError("sharding: fsdp2 goes with precision: bf16 or fp32, not with fp16, which scales the loss")
        if self.compile == "backbone" and (self.sharding == "fsdp2" or self.activation_checkpointing):
            raise ValueError("compile: backbone goes neither with sharding: fsdp2 nor with activation_checkpointing")
        return self

    @property
    def images_per_pass(self) -> int:
        """`batch_size` as a number.

        Raises:
            ConfigError: where it is still `auto`, which only a training resolves.
        """
        if self.batch_size == "auto":
            raise ConfigError(["train.batch_size: auto is for training on a GPU; give a number"])
        return self.batch_size

    def divided(self, processes: int) -> TrainOptions:
        """These options with the passes by which so many processes come to `global_batch_size`, where it is given.

        Each process takes an equal share, in as few equal passes of at most `batch_size` images as there can be.

        Raises:
            ConfigError: where the processes cannot share it equally.
        """
        images = self.global_batch_size
        if images is None:
            return self
        if images % processes:
            fitting = [number for number in range(1, images + 1) if images % number == 0]
            raise ConfigError(
                [
                    f"train.global_batch_size: {images} images cannot be shared equally by {processes} processes; "
                    f"start {', '.join(map(str, fitting))} processes, or give another number, such as "
                    f"train.global_batch_size={max(1, round(images / processes)) * processes}, with the learning "
                    "rate in proportion"
                ]
            )
        share = images // processes
        most = min(self.images_per_pass, share)
        size = next(number for number in range(most, 0, -1) if share % number == 0)
        return self.model_copy(update={"batch_size": size, "accumulate": share // size})


class Config(Options):
    """Everything one run needs."""

    task: str
    plugins: list[str] = Field([], description="modules imported first: heads and readers of one's own")
    data: DataOptions = DataOptions()
    model: ModelOptions
    train: TrainOptions = TrainOptions()
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    out: str = "runs/run"

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task != MULTITASK.name and not (task in TASKS and TASKS[task].written):
            raise ValueError(unknown_task(task))
        return task

"""A configuration for a folder of images: every choice follows from what the check has measured, and says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rehead.configs.load import load_config
from rehead.configs.readers import FoldersSplit
from rehead.configs.resize import ResizeOptions
from rehead.data.instance_masks import outline_of
from rehead.datasets.audit.numbers import channel_statistics
from rehead.datasets.audit.run import Checked
from rehead.datasets.audit.sources import Source
from rehead.datasets.audit.statistics import box_statistics
from rehead.datasets.formats.yolo import polygon_area
from rehead.errors import DataError, listed
from rehead.plain_yaml import YamlError, load_yaml
from rehead.reading import folders_in
from rehead.terminal import visible
from rehead.types import UNUSED
from rehead.yaml_text import yaml_text

DECODED = 1000
"""Images at most that are decoded for a proposal: medians and kinds of a thousand are those of all."""

VAL_SHARE = 0.2

STEP = 32
"""Pixels that sides are a multiple of: the stride of a ResNet's last map."""

MOST_COLOURS = 64
"""Colours of class maps beyond which they are hardly classes, but smoothed edges."""


@dataclass(frozen=True)
class Machine:
    """What a training would run on.

    Attributes:
        cores: of the processor.
        gpu_gib: memory of its GPU; None where there is none.
    """

    cores: int
    gpu_gib: float | None = None

    @property
    def words(self) -> str:
        """For comments."""
        return f"{self.cores} cores and no GPU" if self.gpu_gib is None else f"a GPU with {self.gpu_gib:.0f} GiB"


@dataclass(frozen=True)
class Budget:
    """What a task can be given. For a processor they are those of the recipes that are small enough for one.

    Attributes:
        side: the longest that the shorter side becomes, on a processor and on a GPU, in pixels.
        pixels: of a batch: on a processor, and for each GiB of a GPU.
        most: images of a batch.
        seen: images of all epochs: for each core, and on a GPU.
    """

    side: tuple[int, int]
    pixels: tuple[float, float]
    most: int
    seen: tuple[int, int]


BOXES = Budget((256, 800), (0.5e6, 0.3e6), 16, (800, 60_000))
BUDGETS = {
    "classification": Budget((128, 224), (1.1e6, 1.0e6), 128, (25_000, 1_000_000)),
    "segmentation": Budget((384, 512), (1.5e6, 0.3e6), 16, (10_000, 60_000)),
    "detection": BOXES,
    "instance_segmentation": BOXES,
    "keypoint_detection": BOXES,
}
EPOCHS = (2, 60)
"""The least, since one epoch is half a warm-up, and the most, after which a small set is known by heart."""


@dataclass
class Lines:
    """YAML line by line, with a comment before a line where there is something to say."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str, *why: str) -> None:
        """Adds a line, behind its comments."""
        indent = " " * (len(line) - len(line.lstrip()))
        self.lines += [f"{indent}# {visible(text)}" for text in why if text]
        self.lines.append(line)


def flow(value: Any) -> str:
    """A value on one line of YAML."""
    return yaml_text(value, default_flow_style=True, width=float("inf")).removesuffix("\n")


def propose(checked: Checked, root: Path, machine: Machine) -> str:
    """A configuration for a folder that was checked, as YAML with comments.

    Args:
        checked: the folder.
        root: the folder, as its user has written it.
        machine: that is to train.

    Raises:
        DataError: where there is nothing to train on.
    """
    options = checked.data.options
    train = next((one for one in checked.data.sources if one.split == "train"), None)
    if options is None or train is None:
        found = f"; {checked.findings[0].file}: {checked.findings[0].message}" if checked.findings else ""
        raise DataError(f"{root}: no training images that can be read{found}")
    facts = checked.facts[checked.data.sources.index(train)]
    sizes = np.array([one.size for one in facts if one.size is not None]).reshape(-1, 2)
    if not len(sizes):
        raise DataError(f"{root}: none of the {len(facts)} training images can be read; `rehead data check` says why")
    task, why_task = _task(train, checked)
    drawn = options.val is None
    readable = sum(not one.problem for one in facts)
    images = max(1, round(readable * (1 - VAL_SHARE)) if drawn else readable)
    budget, on_gpu = BUDGETS[task], machine.gpu_gib is not None
    resize, why_resize = _resize(task, sizes, budget.side[on_gpu])
    head, why_head = _head(task, checked, resize)
    batch, why_batch = _batch(budget, resize, sizes, images, machine)
    seen = budget.seen[1] if on_gpu else budget.seen[0] * machine.cores
    epochs = int(np.clip(round(seen / images), *EPOCHS))
    steps = max(1, epochs * max(1, images // batch))

    out = Lines()
    some = f"{checked.decoded:,} of {checked.images:,} images"
    looked = f"All annotations were read, and {some}, evenly." if checked.decoded < checked.images else ""
    out(f"task: {task}", f"Written by `rehead init`, which found {checked.data.saw}.", looked, *why_task)
    out("data:")
    out(f"  format: {options.format}")
    out(f"  root: {flow(str(root))}")
    for split in ("train", "val", "test"):
        own = getattr(options, split)
        if own is not None:
            out(f"  {split}: {flow(own.model_dump(exclude_unset=True))}", _counted(checked, split))
        elif split == "val":
            said = f"no validation images were found: {VAL_SHARE:.0%} of the training images, near-duplicates together"
            out(f"  val: {flow({'from_train': VAL_SHARE})}", said)
    _classes(out, checked, train)
    channels = _channels(out, checked, train)
    out(f"  resize: {flow(resize.model_dump(exclude_none=True))}", why_resize)
    out("  augment: light", "none, light, strong, or steps of your own (docs/augmentation.md)")
    out("model:")
    body: dict[str, Any] = {"name": "resnet50" if on_gpu else "resnet18", "weights": "imagenet"}
    few = task not in ("classification", "segmentation")
    if few:
        body |= {"freeze": 1, "norm": "frozen"}
    out(
        f"  backbone: {flow(body | channels)}",
        f"for {machine.words}; without network: model.backbone.weights=FILE or none",
        "frozen norms, since a few images say little about statistics" if few else "",
    )
    out(f"  head: {flow({'name': head})}", *why_head)
    out("train:")
    out(f"  epochs: {epochs}", f"{images} training images: {epochs * images:,} images in {steps:,} steps")
    out(f"  batch_size: {batch}", why_batch)
    optimizer: dict[str, Any] = {"name": "sgd", "lr": 0.02 * batch / 64, "momentum": 0.9, "weight_decay": 1e-4}
    if task == "segmentation":
        optimizer = {"name": "adamw", "lr": 1e-3 * min(1.0, batch / 8), "weight_decay": 0.01}
    elif few:
        optimizer["lr"] = 0.02 * batch / 16
    optimizer["lr"] = float(f"{optimizer['lr']:.2g}")
    out(f"  optimizer: {flow(optimizer)}", "the learning rate goes with batch_size")
    warmup = min(100 if not few else 500, steps // 10)
    out(f"  schedule: {flow({'name': 'cosine', 'warmup_steps': warmup})}")
    if few:
        out("  clip_norm: 10.0")
    every = max(1, epochs // 5)
    out(f"  evaluate_every: {every}", f"epochs; {epochs // every} evaluations in all")
    out(f"out: {flow('runs/' + name_of(root))}")
    text = "\n".join(out.lines) + "\n"
    try:
        load_config(load_yaml(text))
    except YamlError as error:
        raise DataError(f"{root}: no configuration can be written of it: {error}") from error
    return text


def name_of(root: Path) -> str:
    """What a folder's configuration and runs are called."""
    name = root.expanduser().absolute().resolve().name
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".") or "data"


def _task(train: Source, checked: Checked) -> tuple[str, list[str]]:
    """What the annotations are for, and why."""
    reader = train.reader
    columns = reader.columns
    if reader.values is not None:
        return "segmentation", ["Every pixel has a class."]
    if columns.boxes is None:
        return "classification", ["Every image has one class."]
    number = checked.data.sources.index(train)
    useful = reader.asked() & (checked.useless[number] == "")
    if columns.crowds is not None:
        useful &= ~columns.crowds
    rows = np.flatnonzero(useful)
    if not len(rows):
        raise DataError(f"{reader.annotations}: none of its {len(columns.boxes)} objects can be learned from")
    if columns.keypoints is not None and (labelled := (columns.keypoints[rows, :, 2] > 0).any(axis=1)).any():
        return "keypoint_detection", [f"{labelled.sum()} of {len(rows)} objects have keypoints."]
    texts, shapeless = columns.segmentations, checked.shapeless[number]
    outlined = 0 if texts is None else sum(bool(texts.raw(row)) and not shapeless[row] for row in rows.tolist())
    if texts is not None and outlined == len(rows):
        if all(_is_box(texts.raw(row), columns.boxes[row]) for row in rows.tolist()):
            return "detection", [f"The outlines of all {len(rows)} objects are their boxes."]
        return "instance_segmentation", [f"All {len(rows)} objects have an outline."]
    return "detection", [
        f"{outlined or 'None'} of {len(rows)} objects {'has' if outlined == 1 else 'have'} an outline."
    ]


def _is_box(outline: bytes, box: np.ndarray[Any, Any]) -> bool:
    """Whether an outline says no more than its box, as those of tools that write one for every rectangle."""
    polygons = outline_of(outline)
    if not isinstance(polygons, list) or len(polygons) != 1:
        return False
    points = np.array(polygons[0], np.float64).reshape(-1, 2)
    x1, y1, x2, y2 = box.tolist()
    return len(points) <= 5 and abs(polygon_area(points) - (x2 - x1) * (y2 - y1)) <= 0.01 * (x2 - x1) * (y2 - y1)


def _head(task: str, checked: Checked, resize: ResizeOptions) -> tuple[str, list[str]]:
    heads = {
        "classification": "linear",
        "segmentation": "unet",
        "instance_segmentation": "mask_rcnn",
        "keypoint_detection": "keypoint_rcnn",
    }
    if task in heads:
        return heads[task], ["`rehead heads` lists the others"]
    boxes = box_statistics(checked, resize)
    assert boxes is not None  # or there would be another task
    missed = {name: float((best < 0.5).mean()) for name, (_, best) in boxes.anchors.items()}
    # One stage is the simpler; two stages begin at half its stride, with smaller anchors.
    head = "faster_rcnn" if missed["faster_rcnn"] < missed["retinanet"] - 0.05 else "retinanet"
    said = ", ".join(f"{share:.0%} of {name}'s" for name, share in missed.items())
    return head, [
        f"of {len(boxes.roots)} boxes, half are under {np.median(boxes.roots):.0f} pixels (square root of the area), "
        "resized;",
        f"boxes that no anchor fits (IoU under 0.5): {said}",
    ]


def _resize(task: str, sizes: np.ndarray[Any, Any], limit: int) -> tuple[ResizeOptions, str]:
    shorter, longer = np.median(sizes.min(axis=1)), np.median(sizes.max(axis=1))
    side = max(STEP, min(limit, int(shorter) // STEP * STEP))
    why = f"the median of {len(sizes)} images is {longer:.0f}x{shorter:.0f} pixels"
    why += f"; a shorter side of more than {limit} would take long here" if shorter > limit else ""
    if task == "classification":
        # As networks on ImageNet are judged: 224 out of 256.
        return ResizeOptions(shorter=side * 8 // 7 if shorter >= side * 8 / 7 else side, crop=side), why
    ratio = max(5 / 3, float(np.quantile(sizes.max(axis=1) / sizes.min(axis=1), 0.9)))
    return ResizeOptions(shorter=side, longer=int(np.ceil(side * min(ratio, 4) / STEP)) * STEP), why


def _batch(
    budget: Budget, resize: ResizeOptions, sizes: np.ndarray[Any, Any], images: int, machine: Machine
) -> tuple[int, str]:
    """Images of a batch: a power of 2 that fits, but ten steps in an epoch, and two images for a batch's statistics."""
    assert resize.shorter is not None
    ratio = float(np.median(sizes.max(axis=1) / sizes.min(axis=1)))
    area = resize.crop**2 if resize.crop else resize.shorter**2 * min(ratio, (resize.longer or 0) / resize.shorter)
    room = budget.pixels[0] if machine.gpu_gib is None else budget.pixels[1] * machine.gpu_gib
    fitting = max(1.0, min(room / area, budget.most))
    wanted = max(2.0, min(fitting, images / 10))
    why = f"{area / 1e6:.2g} million pixels an image, resized, on {machine.words}"
    why += f"; not {2 ** int(np.log2(fitting))}, so that {images} images are ten steps" if wanted < fitting / 2 else ""
    return 2 ** int(np.log2(wanted)), why


def _counted(checked: Checked, split: str) -> str:
    counts = [len(one.reader) for one in checked.data.sources if one.split == split]
    return f"{sum(counts)} images"


def _classes(out: Lines, checked: Checked, train: Source) -> None:
    options, reader = checked.data.options, train.reader
    assert options is not None
    if options.values and train.named:
        out(f"  values: {flow(options.values)}", "the value in the masks of each class; rename them as you like")
    elif reader.values is not None and not train.named:
        _values(out, checked)
    else:
        names = [name for name in reader.classes.names if not name.startswith(UNUSED)]
        rare = sorted(names, key=lambda name: checked.counts.get(name, {}).get("train", 0))[:3]
        counts = {name: checked.counts.get(name, {}).get("train", 0) for name in rare}
        what = "pixels" if reader.values is not None else "objects" if reader.columns.boxes is not None else "images"
        word = "class" if len(names) == 1 else "classes"
        said = f"{len(names)} {word}; the rarest in train: " + ", ".join(
            f"{n} ({c:,} {what})" for n, c in counts.items()
        )
        alone = "numbered masks do not name what they number; rename it" if options.format == "instance_masks" else ""
        out(f"  classes: {flow(names)}", said, alone)
    if options.ignore_index:
        out(f"  ignore_index: {flow(options.ignore_index)}")


def _values(out: Lines, checked: Checked) -> None:
    """Names for values of class maps that nobody has named."""
    pixels: dict[int, int] = {}
    colours = False
    for source, facts in zip(checked.data.sources, checked.facts, strict=True):
        colours = colours or (source.reader.values is not None and source.reader.values.colours)
        for one in facts:
            for value, count in one.values.items():
                pixels[value] = pixels.get(value, 0) + count
    if not pixels:
        raise DataError(f"none of the masks can be read; `rehead data check` says why ({checked.data.saw})")
    numbers = sorted(pixels)
    total = sum(pixels.values())
    shares = ", ".join(f"{_value(value, colours)}: {pixels[value] / total:.1%}" for value in numbers[:16])
    said = f"values of the masks and their share of the pixels: {shares}" + (" ..." if len(numbers) > 16 else "")
    if checked.decoded < checked.images:
        said += f" (of {checked.decoded:,} masks: training stops at a value that only others have, and names it)"
    if colours:
        if len(numbers) > MOST_COLOURS:
            raise DataError(
                f"the masks hold {len(numbers)} colours, such as {listed([_value(v, True) for v in numbers])}, which "
                "can hardly be classes; say which are: 'data.values={sky: [0, 0, 128], road: [128, 64, 128]}'"
            )
        named = {"colour_" + "_".join(map(str, _value(value, True))): _value(value, True) for value in numbers}
        out(f"  values: {flow(named)}", said, "nothing in the masks says what they are called; rename them")
        return
    # 255 beyond the others is what does not count: Pascal VOC, Cityscapes, and most that follow them.
    void = [255] if len(numbers) > 2 and numbers[-1] == 255 and numbers[-2] < 254 else []
    classes = {f"class_{value}": value for value in numbers if value not in void}
    out(f"  values: {flow(classes)}", said, "nothing in the masks says what they are called; rename them")
    if void:
        out(f"  ignore_index: {flow(void)}", "taken as void, which counts nowhere; if it is a class, name it in values")


def _value(value: int, colours: bool) -> Any:
    return [value >> 16, value >> 8 & 255, value & 255] if colours else value


def _channels(out: Lines, checked: Checked, train: Source) -> dict[str, Any]:
    """Keys of the backbone for images that are not of three channels; and data.scale, where one is needed."""
    channels = checked.data.channels if checked.data.channels != 1 else 3
    misfit = [found for _, found in checked.numbers if not found.fits]
    scale = checked.data.scale
    more: dict[str, Any] = {}
    if channels != 3:
        measured = channel_statistics(train.reader, channels, scale, 200)
        scale = measured.scale
        mean, std = ([float(f"{value:.4g}") for value in own] for own in (measured.mean, measured.std))
        more = {"in_channels": channels, "mean": mean, "std": std}
    elif scale is None and misfit:
        scale = misfit[0].proposal
    if scale is not None:
        said = str(checked.numbers[0][1]) if checked.numbers else ""
        out(
            f"  scale: {flow(scale)}", f"the number that becomes full brightness; the files hold {said}" if said else ""
        )
    return more


def next_commands(file: Path, root: Path, checked: Checked, out: str) -> Sequence[Sequence[str]]:
    """Three commands: train, evaluate, predict."""
    options = checked.data.options
    assert options is not None
    best = f"{out}/best.safetensors"
    images = checked.data.sources[0].reader.folder
    if options.format == "huggingface":
        images = Path("photos")  # its own are inside its tables
    # Of folders per class, only images and folders of images are predicted.
    if isinstance(options.train, FoldersSplit):
        images = next((images / name for name in folders_in(images)), images)
    return (
        ("rehead", "train", str(file)),
        ("rehead", "evaluate", best),
        ("rehead", "predict", best, str(images), "--out", f"{out}/predicted"),
    )

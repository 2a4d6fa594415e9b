"""Runs a model over a split: metrics by head key, and a few pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rehead.backbones.tensor_files import without_numbers
from rehead.configs.schema import Config
from rehead.data.image_io import read_image
from rehead.data.loader import Loader, evaluation_loader, says_why_workers_end, workers_for
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.datasets.audit.before_training import say_if_repaired, say_other_classes
from rehead.datasets.open import open_data
from rehead.datasets.parsing import ClassesDifferError
from rehead.errors import ConfigError, DataError, did_you_mean, listed
from rehead.files import check_output, measured, not_finite
from rehead.models.checkpoints import describe
from rehead.models.model import Model, opened
from rehead.progress import Progress
from rehead.tasks import task_named
from rehead.tasks.base import Evaluator, Metrics, Picture
from rehead.tasks.metrics import with_metrics
from rehead.training.copying import copied_ahead
from rehead.training.distributed import (
    broadcast,
    broadcast_buffers,
    fail_together,
    gather_to_main,
    main_process_first,
    process_group,
    rank,
    world,
)
from rehead.training.engine import choose_device, evaluating_in
from rehead.training.memory import explain_oom_in_evaluation
from rehead.training.sharding import is_sharded
from rehead.types import ImageBatch, Prediction
from rehead.visualize.draw import save, sheet

logger = logging.getLogger("rehead")


def evaluate(
    checkpoint: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    output: Path | None = None,
) -> dict[str, Metrics]:
    """Metrics of a checkpoint on a split of its data, or of other data of the same classes.

    Several processes of a launcher share the images.

    Args:
        checkpoint: a `.safetensors` file of rehead.
        overrides: of the checkpoint's own config, by dotted key, such as `{"data.split": "test"}`.
        plugins: modules that the checkpoint may have imported; see `rehead.load`.
        output: where the metrics will be written: refused before the work if it is read, or in a folder that is.

    Returns:
        By head key, such as `{"main": {"bbox": {"AP": ...}}}`; the same on every process.
    """
    path = Path(checkpoint)
    with process_group():
        model, reader = main_process_first(partial(_open, path, overrides or {}, plugins, output))
        with says_why_workers_end():
            return run_evaluation(model, reader, batch_size=model.config.train.images_per_pass)


def _open(
    path: Path, overrides: Mapping[str, Any], plugins: Sequence[str], output: Path | None
) -> tuple[Model, Reader]:
    """A checkpoint's model on its device, and the split that it is judged by."""
    described = describe(path)
    # The checkpoint's class names, in its order, are the only ones that its labels can mean.
    names = {key: list(own.names) for key, own in described.classes.items()}
    for key, head in described.heads.items():
        head["classes"] = names.get(key)
    config = described.config(overrides, plugins)
    _refuse_other_classes(config, overrides, names, path)
    if output is not None:
        check_output(output, "--json", inputs=config.data.paths(), overwrite=True)
    device = choose_device(config.device)
    where = f"data.{config.data.split}"
    try:
        reader = open_data(config, config.data.split, names, dict.fromkeys(names))
    except ClassesDifferError as error:
        raise _other_classes(error, where, path) from error
    say_if_repaired(reader, where)
    say_other_classes(reader, where, str(path))
    return opened(described, config).to(device), reader


def _other_classes(error: ClassesDifferError, where: str, path: Path) -> DataError:
    """The classes of a checkpoint beside those of data that cannot judge it."""
    known, wanted = error.known, error.wanted
    lacking = [f"'{name}'" for name in wanted if name not in known]
    others = [f"'{name}'{did_you_mean(name, wanted)}" for name in known if name not in wanted]
    return DataError(
        f"{where}: these data cannot judge {path}: their classes are not its own",
        f"  the checkpoint's {_counted(wanted)}",
        f"  {error.source} has {_counted(known)}",
        f"  not in the data: {listed(lacking)}",
        f"  not known to the checkpoint: {listed(others)}",
        f"  what to do: name data of its classes (data.root=..., {where}=...); call classes in the data as the "
        f"checkpoint does; or train a head for these: rehead train CONFIG model.init={path}",
    )


def loader_for(model: Model, reader: Reader, batch_size: int) -> Loader[Sample]:
    """What an evaluation reads: this process's share of the images of a split."""
    config, inputs, device = model.config, model.inputs, next(model.parameters()).device
    return evaluation_loader(
        reader,
        resize=inputs.resize,
        batch_size=batch_size,
        channels=inputs.channels,
        divisor=inputs.divisor,
        workers=workers_for(config.data.workers, device),
        pin_memory=device.type == "cuda",
        rank=rank(),
        world=world(),
        reduced=config.data.reduced_decoding == "always",
    )


def run_evaluation(
    model: Model,
    reader: Reader,
    *,
    batch_size: int,
    pictures: int = 0,
    folder: Path | None = None,
    loader: Loader[Sample] | None = None,
) -> dict[str, Metrics]:
    """Predicts every image once, in eval mode, and judges.

    Several processes share the images; rank 0 judges what all of them collected, and tells the others. The
    pictures are of its own share.

    Args:
        model: on its device.
        reader: the split.
        batch_size: images at a time.
        pictures: how many of the first images are drawn.
        folder: where the pictures go.
        loader: of `loader_for` with the same arguments, whose workers are there already.

    Returns:
        Metrics by head key, the same on every process.
    """
    config = model.config
    broadcast_buffers(model)
    if rank() != 0:
        pictures = 0
    device = next(model.parameters()).device
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    tasks = {key: task_named(model.head(key).task) for key in model.heads}
    evaluators = {
        key: with_metrics(
            model.head(key).task,
            task.evaluator(reader.of(key), model.head(key).classes),
            reader.of(key),
            model.head(key).classes,
        )
        for key, task in tasks.items()
    }
    reading = loader_for(model, reader, batch_size) if loader is None else loader

    def on_device(read: tuple[ImageBatch, list[Sample]]) -> tuple[ImageBatch, list[Sample]]:
        return read[0].to(device, memory_format), read[1]

    was_training = model.training
    model.eval()
    if not is_sharded(model):
        model.to(memory_format=memory_format)
    detections = [f"model.heads.{key}.detections" for key in tasks if hasattr(model.head(key).options, "detections")]
    kept = (
        f"What was trained is saved: rehead evaluate {folder.parent}/last.safetensors takes these keys, and so does a "
        f"new run with model.init={folder.parent}/last.safetensors."
        if folder is not None
        else ""
    )
    drawn = overflown = 0
    try:
        with (
            torch.inference_mode(),
            evaluating_in(config.train.evaluate_precision, model, device),
            Progress("evaluating", len(reader), quiet=rank() != 0) as bar,
        ):
            for batch, truths in copied_ahead(reading, on_device, device):
                with explain_oom_in_evaluation(len(truths), detections, kept):
                    found: dict[str, list[Prediction]] = model(batch)
                    on_cpu = {key: [one.to(torch.device("cpu")) for one in own] for key, own in found.items()}
                of_images = zip(*on_cpu.values(), strict=True)
                overflown += sum(any(without_numbers(one.numbers()) for one in own) for own in of_images)
                for row, truth in enumerate(truths):
                    local = {key: own[row] for key, own in on_cpu.items()}
                    judged = [key for key in tasks if tasks[key].has_ground_truth(truth)]
                    for key in judged:
                        evaluators[key].update(truth, local[key])
                    if folder is not None and drawn < pictures and judged:
                        drawn += 1
                        picture = _picture(model, truth, {key: local[key] for key in judged})
                        save(folder / f"{drawn:03d}_{truth.path.stem}.png", picture)
                # The others are about as far.
                bar.advance(steps=len(truths) * world())
            # Where parameters are sharded, every pass needs all processes.
            for _ in range(passes(len(reader), batch_size) - len(reading) if is_sharded(model) else 0):
                model(model.inputs.batch(reader[0].path).to(device, memory_format))
        if overflown:
            logger.warning(
                "what is predicted is not finite for %d of the images: numbers grow too large inside this model, so "
                "the metrics mean little",
                overflown,
            )
        return broadcast(_judged(evaluators))
    finally:
        model.train(was_training)
        if loader is None:
            reading.close()


def passes(images: int, batch_size: int) -> int:
    """Batches of the process that has most of them."""
    share = math.ceil(images / world())
    return math.ceil(share / batch_size)


def _judged(evaluators: Mapping[str, Evaluator]) -> dict[str, Metrics]:
    """The metrics of what all processes collected, on rank 0; nothing on the others."""
    metrics: dict[str, Metrics] = {}
    with fail_together():
        mine = {key: evaluator.collected() for key, evaluator in evaluators.items()}
        for collected in gather_to_main(mine)[1:]:
            for key, evaluator in evaluators.items():
                evaluator.merge(collected[key])
        if rank() == 0:
            metrics = {key: evaluator.metrics() for key, evaluator in evaluators.items()}
        if lost := list(not_finite(metrics)):
            logger.warning("metrics that are no numbers count as not measured (null): %s", listed(lost))
            metrics = measured(metrics)
    return metrics


def _picture(model: Model, truth: Sample, found: Mapping[str, Prediction]) -> Picture:
    """What was predicted beside what is true: a row for every head."""
    image = read_image(truth.path, model.inputs.channels, truth.size, model.inputs.scale)
    tiles, captions = [], []
    for key, prediction in found.items():
        head = model.head(key)
        task = task_named(head.task)
        tiles += [task.draw(image, prediction, head.classes), task.draw_truth(image, truth, head.classes)]
        named = f"{key}: " if len(model.heads) > 1 else ""
        captions += [f"{named}predicted", f"{named}annotated"]
    return sheet(tiles, columns=2, captions=captions)


def _refuse_other_classes(
    config: Config, overrides: Mapping[str, Any], names: Mapping[str, list[str]], path: Path
) -> None:
    """A command line that asks for other classes than the checkpoint has gets no answer to another question."""
    asked = {
        "data.classes": (config.data.classes, next(iter(names.values()))),
        **{f"data.sources.{key}.classes": (source.classes, names[key]) for key, source in config.data.sources.items()},
        **{f"model.heads.{key}.classes": (head.classes, names[key]) for key, head in config.model.heads.items()},
    }
    problems = [
        f"{key}: {_counted(wanted or [])}, but this checkpoint tells apart {_counted(own)}"
        for key, (wanted, own) in asked.items()
        if key in overrides and wanted != own
    ]
    if problems:
        raise ConfigError(problems, str(path))


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} class{'es' * (len(names) != 1)} ({listed(names)})"

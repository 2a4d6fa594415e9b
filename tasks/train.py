"""Trains what a configuration describes, into a run folder."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rehead.configs.heads import task_of
from rehead.configs.load import dump, load_config, read_yaml, to_yaml
from rehead.configs.schema import Config, TrainOptions
from rehead.configs.tasks import TASKS
from rehead.data.loader import Loader, make_loader, says_why_workers_end, workers_for
from rehead.data.reader import Reader
from rehead.data.sample import Sample
from rehead.data.sampler import BatchSampler
from rehead.datasets.audit.before_training import limit_objects, refuse_broken, say_if_repaired, say_other_classes
from rehead.datasets.open import open_data
from rehead.datasets.pairs import Pairs, PairsReader
from rehead.datasets.subset import unused_classes
from rehead.errors import BuildError, ConfigError, TrainingError
from rehead.files import check_output, remove_partial, write_text, writing
from rehead.locks import locked
from rehead.models.checkpoints import lineage_in
from rehead.models.lineage import backbone_hash, training
from rehead.models.model import Model, from_config, with_classes
from rehead.tasks.base import flat
from rehead.tasks.batch_size import batch_that_fits, with_batch_size
from rehead.tasks.evaluate import loader_for, run_evaluation
from rehead.tasks.images import augment_for, has_fixed_batches, sampler_for
from rehead.tasks.prepare import prepare
from rehead.terminal import say
from rehead.training.distributed import fail_together, main_process_first, process_group, rank, started, world
from rehead.training.engine import (
    EVALUATE_PRECISION,
    build_accelerator,
    choose_device,
    resolve_precision,
    seed_step,
    tuned_convolutions,
    uncompiled,
)
from rehead.training.loggers import Callback
from rehead.training.loop import Batch
from rehead.training.resume import read_resume
from rehead.training.run import fit, refuse_other_conditions
from rehead.types import Classes, Target


def train(
    source: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    plugins: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Fine-tunes a model.

    Args:
        source: a YAML file, the name of a shipped recipe, or a mapping.
        overrides: values by dotted key, such as `{"train.epochs": 1}`.
        resume: go on with the run in the config's `out` folder; one that was stopped before its first checkpoint
            starts again.
        overwrite: start anew even where the folder holds a run.
        plugins: None for a configuration of your own, which may have any module imported. For one that came with
            somebody else's run folder, the only ones that may be.
        callbacks: each is called with every row of `metrics.jsonl`, a dict with `step` and `epoch`, on the first
            process; rows of training have `lr` and losses, those of an evaluation its metrics.

    Returns:
        The run folder, with `config.yaml`, `metrics.csv`, `metrics.jsonl`, `best.safetensors`,
        `last.safetensors`, `resume.pt` and `pictures/`.

    Raises:
        ConfigError: for a wrong configuration, all problems at once.
        DataError: for data that cannot be used.
        OutputError: for a folder that another process trains in, or that cannot be written.
        RunStoppedError: after SIGTERM or Ctrl-C, when the step is saved.
        TrainingError: for a run that had to stop.
    """
    with ExitStack() as held, process_group():
        with fail_together():
            config = load_config(source, overrides, plugins=plugins)
            if config.train.batch_size != "auto":
                config.train.divided(started())  # before anything is read
            folder = Path(config.out)
            device = choose_device(config.device)
            resumed = _taken(held, config, folder, device, resume=resume, overwrite=overwrite)
        model, readers = main_process_first(partial(_open, config, resumed))
        _run(model, readers, folder, device, resumed, callbacks)
    return folder


def fine_tune(
    model: Model,
    train: Pairs,
    val: Pairs,
    *,
    out: str | Path,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Fine-tunes a model of one head on a `Dataset` of one's own: the same loop, without a configuration of data.

    Args:
        model: such as `rehead.build_model` gives; it is trained in place.
        train: pairs of image and target; see `rehead.PairsReader`. A pair may depend on nothing but its index, or a
            resumed run is not the same.
        val: the same, to be judged by.
        out: the run folder.
        overrides: of the model's configuration by dotted key, such as `{"train.epochs": 3, "data.augment": "light"}`.
        resume: as in `train`.
        overwrite: as in `train`.
        callbacks: as in `train`.

    Returns:
        The run folder, as `train` leaves it, without pictures.

    Raises:
        BuildError: for a model of several heads.
        ReheadError: as `train`.
    """
    if len(model.heads) > 1:
        raise BuildError("a dataset of pairs has targets for one head; for several use rehead.train and data.sources")
    (classes,) = model.classes.values()
    with ExitStack() as held, process_group():
        with fail_together():
            changes = {**(overrides or {}), "out": str(out), "train.pictures": 0}
            model.config = load_config(dump(with_classes(model.config, model.classes)), changes)
            folder, device = Path(out), choose_device(model.config.device)
            resumed = _taken(held, model.config, folder, device, resume=resume, overwrite=overwrite)
        readers: dict[str, Reader] = {
            name: PairsReader(pairs, classes, name) for name, pairs in (("train", train), ("val", val))
        }
        _run(model, readers, folder, device, resumed, callbacks)
    return folder


def _taken(
    held: ExitStack, config: Config, folder: Path, device: torch.device, *, resume: bool, overwrite: bool
) -> Mapping[str, Any] | None:
    """Takes the run folder for this run, and gives what it goes on from."""
    resolve_precision(config.train.evaluate_precision, device, EVALUATE_PRECISION)
    if rank() == 0:
        if not resume:
            check_output(folder, "out", folder=True, inputs=_read(config), overwrite=True)
        held.enter_context(locked(folder))
    resumed = _resumed(folder) if resume else None
    if not resume and not overwrite:
        _refuse_another_run(folder)
    return resumed


def _run(
    model: Model,
    readers: Mapping[str, Reader],
    folder: Path,
    device: torch.device,
    resumed: Mapping[str, Any] | None,
    callbacks: Sequence[Callback],
) -> None:
    """Trains a model on readers, as its configuration says."""
    options = model.config.train
    accelerator = build_accelerator(
        device,
        options.precision,
        sharded=options.sharding == "fsdp2",
        deterministic=options.deterministic is True,
    )
    with fail_together():
        prepare(model, accelerator.device)
        if options.batch_size == "auto":
            model.config = with_batch_size(model.config, batch_that_fits(model, readers["train"], accelerator))
        job = TrainingJob(model, readers, folder, accelerator.device)
    with fail_together():
        if accelerator.is_main_process:
            _begin(job, resumed, accelerator.device)
    go_on = f" The training goes on from its last checkpoint with: rehead train --resume {folder} data.workers=0"
    tuned = tuned_convolutions(has_fixed_batches(model), options, accelerator.device)
    with says_why_workers_end(go_on), closing(job), tuned:
        fit(job, job.options, folder, accelerator, resumed, callbacks)
    pictures = ", pictures/" if options.pictures else ""
    say(f"done: {folder}/best.safetensors, last.safetensors, metrics.csv{pictures}")


def _read(config: Config) -> list[Path]:
    """The files and folders that a training reads."""
    weights = [Path(one).expanduser() for one in (config.model.init, config.model.backbone.weights) if one is not None]
    return [*config.data.paths(), *(path for path in weights if path.is_file())]


def _open(config: Config, resumed: Mapping[str, Any] | None) -> tuple[Model, dict[str, Reader]]:
    """The model, and the data that it learns from and is judged by."""
    readers = {"train": open_data(config, "train")}
    classes = {key: readers["train"].of(key).classes for key in config.model.heads}
    lists = [own.classes for own in (config.data, *config.data.sources.values())]
    chosen = any([*lists, *(head.classes for head in config.model.heads.values())])
    # Validation uses the training classes in the training order, whatever order its own files have.
    config = with_classes(config, classes)
    # A class that nothing in training is an example of need not be listed by validation.
    unused = {key: unused_classes(readers["train"].of(key)) for key in config.model.heads}
    limit_objects(readers["train"], "data.train", config.data.max_objects)
    readers["val"] = open_data(config, "val", optional=unused)
    for split, reader in readers.items():
        tasks = {task_of(head) for head in config.model.heads.values()}
        channels = config.model.backbone.in_channels
        refuse_broken(reader, f"data.{split}", tasks, learn=split == "train", channels=channels)
        say_if_repaired(reader, f"data.{split}")
    if not chosen:
        say_other_classes(readers["val"], "data.val", "training")
    seed_step(config.train.seed, 0, 0)  # the heads' random weights
    model = from_config(config, classes, load_weights=resumed is None)
    if resumed is not None:
        # Without its last entry, which is this training's own.
        model.lineage = lineage_in(resumed["metadata"], Path(config.out) / "resume.pt")[:-1]
    return model, readers


def _begin(job: TrainingJob, resumed: Mapping[str, Any] | None, device: torch.device) -> None:
    """Makes the run folder ready, and says what is going to happen."""
    model, folder, config = job.model, job.folder, job.config
    remove_partial(folder)
    if resumed is not None:
        # By the names of keys, where keys are the reason: another batch size also makes other steps.
        _check_changes(folder, config)
        refuse_other_conditions(job, folder, resumed)
    else:
        _clear(folder)
    write_text(folder / "config.yaml", to_yaml(config))
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parameters = f"{learning / 1e6:.1f} M" if learning >= 100_000 else f"{learning:,}"
    say(
        f"{config.task}: {len(job.readers['train'])} training images{_skipped(job.sampler)} and "
        f"{len(job.readers['val'])} validation images, "
        f"{config.model.backbone.name} with {_listed_heads(config, model.classes)}, {parameters} parameters "
        f"learn on {device}; {_described_step(job.options)}; run folder {folder}"
    )


def _described_step(options: TrainOptions) -> str:
    """How many images a step has, and how it comes to that many."""
    parts = [f"{options.images_per_pass} to a pass"]
    parts += [f"{options.accumulate} passes"] if options.accumulate > 1 else []
    parts += [f"{world()} processes"] if world() > 1 else []
    images = options.images_per_pass * options.accumulate * world()
    asked = ", as train.global_batch_size says" if options.global_batch_size is not None else ""
    return f"{images} images to a step{asked}" + (f" ({', '.join(parts)})" if len(parts) > 1 else "")


def _skipped(sampler: BatchSampler) -> str:
    """How many images training goes without."""
    number = 0 if sampler.repeats is None else int((sampler.repeats == 0).sum())
    return f" ({number} of them skipped: no object to learn from)" if number else ""


def _listed_heads(config: Config, classes: Mapping[str, Classes]) -> str:
    return " and ".join(
        f"{head.name} ({len(classes[key])} class{'es' if len(classes[key]) > 1 else ''})"
        for key, head in config.model.heads.items()
    )


def _resumed(folder: Path) -> dict[str, Any] | None:
    """What a run goes on from; None where it was stopped before its first checkpoint."""
    if (folder / "resume.pt").exists() or not (folder / "config.yaml").is_file():
        return read_resume(folder / "resume.pt")
    say(f"{folder}: stopped before its first checkpoint, so it starts again at step 0")
    return None


def _refuse_another_run(folder: Path) -> None:
    """Refuses to mix two runs, before anything is read or written."""
    if any((folder / name).exists() for name in ("resume.pt", "last.safetensors")):
        raise TrainingError(
            f"{folder} already holds a run. Go on with it by --resume {folder}, choose another folder by out=..., "
            "or start anew by --overwrite"
        )
    found = [name for name in FILES if (folder / name).exists()]
    found += ["pictures/*.png"] if any((folder / "pictures").glob("*.png")) else []
    if found and not _begun_in(folder):
        raise TrainingError(
            f"{folder} holds {', '.join(found)}, which no run there has left and this one would replace. Choose "
            "another folder by out=..., or replace them by --overwrite"
        )


def _begun_in(folder: Path) -> bool:
    """Whether a run that was stopped before its first checkpoint left its configuration, which says so."""
    try:
        out = read_yaml(folder / "config.yaml").get("out")
    except (ConfigError, OSError):
        return False
    return isinstance(out, str) and Path(out).resolve() == folder.resolve()


FILES = ("resume.pt", "config.yaml", "last.safetensors", "best.safetensors", "metrics.csv", "metrics.jsonl")
"""What a run writes into its folder, the commit first; and `pictures/`."""

MAY_CHANGE = (
    "data.root",
    "data.val",
    "data.test",
    "data.split",
    "data.workers",
    "device",
    "out",
    "train.epochs",
    "train.max_steps",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.log_every",
    "train.pictures",
    "train.clip_norm",
    "train.activation_checkpointing",
    "train.compile",
    "train.early_stopping",
    "train.optimizer.lr",
)
"""What a resumed run may do differently: where things are, how long it takes, and the size of its steps."""


def _check_changes(folder: Path, config: Config) -> None:
    """Refuses changes that would make another run of a resumed one; says which there are.

    Raises:
        ConfigError: naming every key that may not change.
    """
    before, now = flat(dump(load_config(folder / "config.yaml", plugins=config.plugins))), flat(dump(config))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    refused = [
        key
        for key in changed
        if not any(f"{key}.".startswith(f"{allowed}.") for allowed in MAY_CHANGE)
        # Another share of the training images for validation is another training set.
        or key.rpartition(".")[2] == "from_train"
        or key in ("data.val.seed", "data.test.seed")
    ]
    if refused:
        raise ConfigError(
            [f"{key}: {before.get(key)!r} in this run, now {now.get(key)!r}; start a new run" for key in refused],
            f"--resume {folder}",
        )
    for key in changed:
        say(f"changed on resuming: {key} was {before.get(key)!r}, is {now.get(key)!r}")


def _clear(folder: Path) -> None:
    """Removes an earlier run's files, the commit first: what is left is never taken for a whole run."""
    with writing(folder):
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        for picture in (folder / "pictures").glob("*.png"):
            picture.unlink()


def _sum_of_ids(reader: Reader) -> int:
    return zlib.crc32(
        "\n".join(str(reader.image_id(index)) for index in range(len(reader))).encode(errors="surrogateescape")
    )


class TrainingJob:
    """What the loop asks: batches of an epoch, an evaluation, and what checkpoints say."""

    def __init__(self, model: Model, readers: Mapping[str, Reader], folder: Path, device: torch.device) -> None:
        self.model: Model = model
        self.readers = readers
        self.folder = folder
        config = model.config
        self.config: Config = config
        self.options = config.train.divided(world())
        # Where the batches go: the model is there already, or comes with the loop.
        self.device = device
        self.augment = augment_for(config, model.inputs.resize, readers["train"])
        self.sampler = sampler_for(config, readers["train"])
        self.steps_per_epoch = len(self.sampler.batches(0))
        self.conditions: Mapping[str, int] = {
            "training images": len(readers["train"]),
            # As many others are not the same: a list that `from_train` names has changed, or a folder.
            "as checksum of the training images' ids": _sum_of_ids(readers["train"]),
            "steps in an epoch": self.steps_per_epoch,
        }

    @cached_property
    def loader(self) -> Loader[Target]:
        """Its workers stay from one epoch to the next."""
        inputs = self.model.inputs
        return make_loader(
            self.readers["train"],
            resize=inputs.resize,
            augment=self.augment,
            batches=[],
            channels=inputs.channels,
            divisor=inputs.divisor,
            workers=workers_for(self.config.data.workers, self.device),
            pin_memory=self.device.type == "cuda",
        )

    @cached_property
    def evaluation_loader(self) -> Loader[Sample]:
        """Its workers stay from one evaluation to the next."""
        return loader_for(self.model, self.readers["val"], self.options.images_per_pass)

    def close(self) -> None:
        """Ends the workers, whoever keeps this job: an error's traceback may do so to the end of the process."""
        self.loader.close()
        self.evaluation_loader.close()

    def batches(self, epoch: int, start: int) -> Iterable[Batch]:
        """The batches of an epoch from step `start` on: each step's images, a pass at a time."""
        size = self.options.images_per_pass
        self.loader.batches = [
            step[first : first + size]
            for step in self.sampler.batches(epoch)[start:]
            for first in range(0, len(step), size)
        ]
        return self.loader

    def evaluate(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        """Each head's score, and every figure, as `key.figure`."""
        # As `rehead evaluate` does it: the same metrics.
        with uncompiled() if self.config.train.compile != "none" else nullcontext():
            metrics = run_evaluation(
                self.model,
                self.readers["val"],
                batch_size=self.options.images_per_pass,
                pictures=self.config.train.pictures,
                folder=self.folder / "pictures",
                loader=self.evaluation_loader,
            )
        named = flat(metrics)
        scores = [f"{key}.{TASKS[self.model.head(key).task].score}" for key in metrics]
        return {name: named[name] for name in scores}, named

    def metadata(self, steps: int, tensors: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """What a checkpoint says of itself: this training is the last of its backbone's lineage."""
        return self.model.metadata([*self.model.lineage, training(self.config, steps, backbone_hash(tensors))])

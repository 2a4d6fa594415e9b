"""`Model`: a backbone with its heads, how it is built, saved, loaded, and given another head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rehead
from rehead.backbones import Backbone, build_backbone
from rehead.backbones.onednn import protect
from rehead.backbones.pretraining import is_file
from rehead.backbones.tensor_files import differing, refuse_unfit
from rehead.configs.base import HeadOptions
from rehead.configs.heads import HEADS, image_task
from rehead.configs.load import dump, load_config
from rehead.configs.schema import BackboneOptions, Config, DataOptions, ModelOptions
from rehead.configs.tasks import treatment_of
from rehead.data.transforms.resize import Resize
from rehead.errors import BuildError, WeightsError, listed
from rehead.heads import Head, build_head
from rehead.heads.base import Features
from rehead.models.checkpoints import Described, built_for, describe, find_description
from rehead.models.inputs import InputSpec
from rehead.models.lineage import Entry, backbone_hash, continued
from rehead.models.warm_start import start_from
from rehead.training.checkpoints import read_tensors, save_model, tensors_of
from rehead.types import Classes, Frame, ImageBatch, Prediction, Target

CHANGED = "changed by hand"
"""What a lineage says of tensors that no training of rehead made."""

Targets = Sequence[Target] | Mapping[str, Sequence[Target]]


class Model(nn.Module):
    """One backbone pass feeds every head; tensors are named `backbone.*` and `heads.<key>.*`.

    Args:
        backbone: gives features.
        heads: by key; each was built from this backbone's specs.
        config: what it was built from; saved in every checkpoint.
        lineage: where the backbone's tensors come from; see `rehead.models.lineage`.
    """

    def __init__(
        self, backbone: Backbone, heads: Mapping[str, Head], config: Config, lineage: Sequence[Entry] = ()
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads))
        self.config = config
        self.lineage = list(lineage)
        names = list(backbone.feature_specs)
        read = {name for key in self.heads for name in self.head(key).reads}
        backbone.freeze_unused(max(names.index(name) for name in read) + 1)
        protect(self)

    def head(self, key: str) -> Head:
        """The head of a key."""
        head = self.heads[key]
        assert isinstance(head, Head)
        return head

    @property
    def classes(self) -> dict[str, Classes]:
        """What each head tells apart."""
        return {key: self.head(key).classes for key in self.heads}

    @property
    def inputs(self) -> InputSpec:
        """What the model wants to see, the same in training, evaluation and prediction."""
        data = self.config.data
        return InputSpec(
            self.backbone.options.in_channels,
            Resize(data.resize or treatment_of(image_task(self.config)).resize, self.backbone.interpolation),
            max(self.head(key).divisor for key in self.heads),
            data.scale,
        )

    def normalise(self, batch: ImageBatch) -> Tensor:
        """Pixels 0..255 -> (B, C, H, W) float32 with the weights' mean and std, zero outside each frame.

        Zero after normalising is what torchvision pads with; a zero byte would become -mean/std.
        """
        scale = 1 / (255 * self.backbone.std)
        shift = -self.backbone.mean / self.backbone.std
        pixels = batch.pixels.float().mul(scale.view(-1, 1, 1)).add_(shift.view(-1, 1, 1))
        for image, frame in zip(pixels, batch.frames, strict=True):
            height, width = frame.size
            image[:, height:] = 0
            image[:, :, width:] = 0
        return pixels

    def forward(self, batch: ImageBatch, targets: Targets | None = None) -> Any:
        """Losses by name in training mode; predictions by head key in eval mode.

        Args:
            batch: the images.
            targets: one per image, or by head key; needed in training mode.

        Returns:
            `dict[str, Tensor]` or `dict[str, list[Prediction]]`. Where there are several heads, the losses'
            names start with the head's key, each is multiplied by its head's `weight`, and a head skips the
            images that lack what it learns from: without any in the batch it gives no loss.
        """
        features = self.backbone(self.normalise(batch))
        if not self.training:
            return {key: self.head(key).predict(features, batch.frames) for key in self.heads}
        if targets is None:
            raise BuildError("a model in training mode needs targets; call .eval() for predictions")
        if len(self.heads) == 1:
            key = next(iter(self.heads))
            own = targets[key] if isinstance(targets, Mapping) else targets
            losses = self.head(key).loss(features, batch.frames, own)
        else:
            losses = {}
            for key in self.heads:
                own = targets[key] if isinstance(targets, Mapping) else targets
                weighted = self._loss_of(key, features, batch.frames, own)
                losses |= {f"{key}.{name}": loss for name, loss in weighted.items()}
        if not losses:
            images = listed(repr(frame.image_id) for frame in batch.frames)
            raise BuildError(f"no head has anything to learn from in this batch (images {images})")
        unused = self._unused(features, losses)
        if unused:
            # A gradient of zero, not none at all: fused SGD fails where some parameters have no momentum yet
            # (it asks whether all lack it), and processes that train together must agree on what has a gradient.
            name = next(iter(losses))
            losses[name] = losses[name] + 0 * torch.stack([one.sum() for one in unused]).sum()
        return losses

    def _unused(self, features: Features, losses: Mapping[str, Tensor]) -> list[Tensor]:
        """What a batch's losses may not depend on: heads that skip it, and maps that no head may look at."""
        skipped = (
            [key for key in self.heads if not any(name.startswith(f"{key}.") for name in losses)]
            if len(self.heads) > 1
            else []
        )
        unused: list[Tensor] = [one for key in skipped for one in self.head(key).parameters() if one.requires_grad]
        if self.backbone.parallel:
            unused += [value for value in features.values() if value.requires_grad]
        return unused

    def _loss_of(
        self, key: str, features: Features, frames: Sequence[Frame], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The weighted losses of one of several heads, over the images that it learns from."""
        head = self.head(key)
        rows = [row for row, target in enumerate(targets) if head.has_targets(target)]
        if not rows:
            head.skip_batch(next(iter(features.values())).device)
            return {}
        if len(rows) < len(targets):
            features = {name: value[rows] for name, value in features.items()}
            frames, targets = [frames[row] for row in rows], [targets[row] for row in rows]
        losses = head.loss(features, frames, targets)
        return {name: head.options.weight * loss for name, loss in losses.items()}

    def predict(self, image: str | Path | np.ndarray[Any, Any], head: str | None = None) -> Prediction:
        """What a head says of one image.

        Args:
            image: a file, or (H, W, C) uint8 RGB.
            head: its key; may be left out where there is one head.

        Returns:
            A prediction in the image's own pixels, on the CPU.
        """
        return self.predict_all(image)[self._key(head)]

    def predict_all(self, image: str | Path | np.ndarray[Any, Any]) -> dict[str, Prediction]:
        """What every head says of one image, in one pass of the backbone; see `predict`."""
        was_training = self.training
        self.eval()
        try:
            device = next(self.parameters()).device
            with torch.inference_mode():
                predictions: dict[str, list[Prediction]] = self(self.inputs.batch(image).to(device))
        finally:
            self.train(was_training)
        return {key: found[0].to(torch.device("cpu")) for key, found in predictions.items()}

    def swap_head(
        self, head: str | HeadOptions | Mapping[str, Any], classes: Classes | Sequence[str], key: str = "main"
    ) -> Model:
        """A new model with the same backbone, bit for bit, and a new head with random weights, on its device.

        Args:
            head: a name, a mapping with `name` and options, or checked options.
            classes: what the new head tells apart.
            key: the new head's key; every other head goes.
        """
        names = Classes.of(classes)
        options = head_options(head).model_copy(update={"classes": None, "weight": 1.0})
        config = self.config.model_copy(
            update={
                "task": HEADS.get(options.name).about["task"],
                # Where the data was, and how it was resized, belongs to the old task.
                "data": DataOptions(),
                "model": self.config.model.model_copy(update={"heads": {key: options}, "init": None}),
            }
        )
        backbone = deepcopy(self.backbone)
        swapped = Model(backbone, {key: build_head(options, names, backbone.feature_specs)}, config, self.lineage)
        return swapped.to(next(backbone.parameters()).device)

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint that `rehead.load` rebuilds the model from."""
        save_model(Path(path), tensors_of(self), self.metadata())

    def metadata(self, lineage: Sequence[Entry] | None = None) -> dict[str, Any]:
        """What a checkpoint says of itself: enough to rebuild the model without network.

        Args:
            lineage: where the backbone's tensors come from; found out unless given.
        """
        if lineage is None:
            lineage = continued(self.lineage, backbone_hash(self.backbone.state_dict()), CHANGED)
        return {
            "config": dump(self.config),
            "classes": {key: classes.to_json() for key, classes in self.classes.items()},
            "lineage": list(lineage),
            "versions": {"rehead": rehead.__version__, "torch": torch.__version__},
        }

    def _key(self, head: str | None) -> str:
        if head is None and len(self.heads) == 1:
            return next(iter(self.heads))
        if head is None or head not in self.heads:
            raise BuildError(f"no head '{head}'; this model has {listed(self.heads)}")
        return head


def head_options(head: str | HeadOptions | Mapping[str, Any]) -> HeadOptions:
    """Checked options of a head given by name, mapping or options.

    Raises:
        ConfigError: for an unknown head or option.
    """
    if isinstance(head, HeadOptions):
        return head
    raw = {"name": head} if isinstance(head, str) else dict(head)
    task = HEADS.get(str(raw.get("name"))).about["task"]
    return load_config({"task": task, "model": {"head": raw}}).model.heads["main"]


def build_model(
    backbone: str | BackboneOptions,
    head: str | HeadOptions | Mapping[str, Any],
    classes: Classes | Sequence[str],
    weights: str | None = None,
) -> Model:
    """A model from names.

    Args:
        backbone: `resnet18`..`resnet152`, any timm model, or options.
        head: a name, a mapping with `name` and options, or checked options.
        classes: what the head tells apart.
        weights: of the backbone: `imagenet`, a timm tag, a file, or `none`; the options' own unless given.
    """
    body = BackboneOptions(name=backbone) if isinstance(backbone, str) else backbone
    if weights is not None:
        body = body.model_copy(update={"weights": weights})
    options = head_options(head)
    config = Config(
        task=HEADS.get(options.name).about["task"],
        model=ModelOptions(backbone=body, heads={"main": options}),
    )
    return from_config(config, {"main": Classes.of(classes)})


def from_config(config: Config, classes: Mapping[str, Classes], *, load_weights: bool = True) -> Model:
    """A model from a configuration.

    Args:
        config: its model part says which backbone and heads.
        classes: of each head, by key.
        load_weights: load the backbone's pre-trained weights; not needed where a checkpoint follows.
    """
    options = config.model
    # What is frozen depends on whether the weights have learned something, wherever they come from.
    trained = options.backbone.weights != "none" or options.init is not None
    load_backbone = load_weights and options.init is None
    body = _inherited(options) if load_weights else options.backbone
    backbone = build_backbone(body, load_weights=load_backbone, trained=trained)
    heads = {key: build_head(head, classes[key], backbone.feature_specs) for key, head in options.heads.items()}
    lineage = _began(backbone, options.backbone.weights) if load_backbone else []
    # With mean and std filled in, a checkpoint says all about itself.
    resolved = config.model_copy(update={"model": options.model_copy(update={"backbone": backbone.options})})
    model = Model(backbone, heads, resolved, lineage)
    if load_weights and options.init is not None:
        model.lineage = start_from(Path(options.init), backbone, {key: model.head(key) for key in heads})
    return model


def _inherited(options: ModelOptions) -> BackboneOptions:
    """The backbone's options, with what a checkpoint of rehead says its weights were trained with."""
    body = options.backbone
    if options.init is not None:
        theirs = describe(Path(options.init)).backbone()
    elif is_file(body.weights) and (found := find_description(Path(body.weights))) is not None:
        theirs = found.backbone()
    else:
        return body
    return body.model_copy(
        update={name: getattr(theirs, name) for name in ("mean", "std", "norm_eps") if getattr(body, name) is None}
    )


def _began(backbone: Backbone, weights: str) -> list[Entry]:
    """The lineage of a backbone whose weights were loaded; a checkpoint's goes on."""
    found = find_description(Path(weights)) if is_file(weights) else None
    lineage = found.lineage if found is not None else []
    if lineage:
        said = f"{weights}, adapted"
    elif backbone.report is None:
        said = "random"
    else:
        said = weights if is_file(weights) else backbone.report.source
    return continued(lineage, backbone_hash(backbone.state_dict()), said)


def with_classes(config: Config, classes: Mapping[str, Classes]) -> Config:
    """The configuration with the names of every head's classes written out."""
    heads = {
        key: head.model_copy(update={"classes": list(classes[key].names)}) for key, head in config.model.heads.items()
    }
    return config.model_copy(update={"model": config.model.model_copy(update={"heads": heads})})


def load(path: str | Path, device: str | torch.device = "cpu", *, plugins: Sequence[str] = ()) -> Model:
    """The model of a checkpoint, in eval mode. Whoever wrote it, none of his code runs.

    Args:
        path: a `.safetensors` file of rehead.
        device: where the model goes.
        plugins: modules that the checkpoint may have imported, for heads and backbones that are not rehead's own.

    Raises:
        ConfigError: if the checkpoint names other plugins than these.
        WeightsError: if the file is no checkpoint of rehead, its tensors do not fit its config, or are not finite.
    """
    described = describe(Path(path))
    return opened(described, described.config({}, plugins)).to(device)


def opened(described: Described, config: Config) -> Model:
    """The model that a checkpoint describes, with its tensors, in eval mode.

    Args:
        described: by `describe`.
        config: its own, or one with changes that leave the model as it is.

    Raises:
        WeightsError: if names or shapes differ, or the tensors are no weights.
    """
    path = described.path
    tensors = read_tensors(path)
    with built_for(tensors, path):
        model = from_config(config, described.classes, load_weights=False)
    places = model.state_dict()
    if different := differing(places, tensors):
        raise WeightsError(
            f"{path}: {len(different)} of its tensors do not fit the config in name or shape ({listed(different)}); "
            "was model.backbone or model.head changed?"
        )
    refuse_unfit(tensors, places, str(path))
    model.load_state_dict(tensors)
    model.lineage = list(described.lineage)
    return model.eval()

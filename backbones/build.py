"""From options to a backbone: structure, norms, weights, freezing, in that order."""

from __future__ import annotations

import logging

from rehead.backbones.base import Backbone
from rehead.backbones.hub import fetch
from rehead.backbones.onednn import protect
from rehead.backbones.pretraining import is_file, resolve
from rehead.backbones.weights import load, read
from rehead.configs.backbones import BACKBONES
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError, WeightsError

logger = logging.getLogger("rehead")


def construct(options: BackboneOptions) -> Backbone:
    """The network with random weights, nothing frozen; its norms follow the options."""
    choice = resolve(options)
    if choice.native:
        name = options.name if options.name in BACKBONES else choice.architecture
        backbone: Backbone = BACKBONES.get(name).load()(options)
        if not isinstance(backbone, Backbone):
            raise BuildError(f"backbone '{name}' built a {type(backbone).__name__}, not a rehead.backbones.Backbone")
    else:
        from rehead.backbones.timm_adapter import timm_backbone

        backbone = timm_backbone(options)
    backbone.options = options.model_copy(update=backbone.normalisation)
    backbone.set_norm(options.norm)
    if options.norm_eps is not None:
        backbone.set_norm_eps(options.norm_eps)
    backbone.check_freeze(options.freeze)
    protect(backbone)
    return backbone


def build_backbone(
    options: BackboneOptions | str, *, load_weights: bool = True, trained: bool | None = None
) -> Backbone:
    """Builds a backbone, loads its weights and freezes what is to be frozen.

    Args:
        options: a `BackboneOptions`, or a name with everything else at its default.
        load_weights: False builds the structure only, for a checkpoint that is loaded afterwards.
        trained: whether the weights will be trained ones. Random weights are never frozen: they would
            stay random (pytorch/vision#5443). `options.weights != "none"` unless given.

    Returns:
        The backbone, in training mode, with `options` and `report` filled in.

    Raises:
        BuildError: for an unknown name or something that the network cannot do.
        WeightsError: when weights cannot be found, read or fitted.
    """
    if isinstance(options, str):
        options = BackboneOptions(name=options)
    backbone = construct(options)
    if load_weights and options.weights != "none":
        if is_file(options.weights):
            tensors, source = read(options.weights), options.weights
        elif backbone.pretraining is None:
            raise WeightsError(
                f"nothing is published for {backbone.title()}: "
                "give model.backbone.weights=FILE, or model.backbone.weights=none"
            )
        else:
            tensors, source = fetch(backbone.pretraining)
        backbone.report = load(backbone, tensors, source)
    if trained if trained is not None else options.weights != "none":
        backbone.freeze(options.freeze)
        if options.norm == "frozen":
            backbone.freeze_norms()
        _check_nothing_random_is_frozen(backbone)
    elif options.freeze != 0 or options.norm == "frozen":
        logger.warning(
            "%s has random weights, so nothing of it is frozen (freeze: %s, norm: %s)",
            backbone.title(),
            options.freeze,
            options.norm,
        )
    return backbone


def _check_nothing_random_is_frozen(backbone: Backbone) -> None:
    """A file that fills a part of the network must fill at least what is frozen."""
    if backbone.report is None or backbone.report.complete:
        return
    unfilled = {*backbone.report.missing, *backbone.report.mismatched}
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    if random := [name for name in frozen if name in unfilled]:
        raise WeightsError(
            f"{backbone.report.source} does not fill what {backbone.title()} would freeze: {random[0]} "
            f"and {len(random) - 1} more would stay random; set freeze=0 and norm=train, or give weights that fit"
        )

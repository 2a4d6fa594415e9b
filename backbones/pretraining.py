"""Which network a name means, and what is published for it: where the weights are and what they expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rehead.configs.backbones import BACKBONES
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError, WeightsError, did_you_mean

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True)
class Choice:
    """A name taken apart: `timm/resnet50d.ra2_in1k` is architecture `resnet50d` with tag `ra2_in1k`.

    Attributes:
        architecture: the name without `timm/` and tag.
        tag: of the published weights, None for the usual ones.
        native: in the table of rehead and its plugins; everything else is timm's.
    """

    architecture: str
    tag: str | None
    native: bool


@dataclass(frozen=True)
class Pretraining:
    """Published weights, and how the images were prepared that they were trained on.

    Attributes:
        label: for messages, such as `resnet50.tv_in1k`.
        hub: repository on the Hugging Face hub, None if the weights are not there.
        url: the file, for weights that are not on the hub.
        mean: (C,) for pixels in 0..1.
        std: (C,).
        interpolation: `bilinear` or `bicubic`.
    """

    label: str
    hub: str | None
    url: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def is_file(weights: str) -> bool:
    """Whether a value of `weights` is a file's name rather than a tag."""
    return weights.endswith(FILE_ENDINGS) or "/" in weights or "\\" in weights


def resolve(options: BackboneOptions) -> Choice:
    """Whose network a name means, and which tag its weights have.

    Raises:
        WeightsError: when the name ends in one tag and `weights` is another.
    """
    if options.name in BACKBONES:
        architecture, tag, native = options.name, "", True
    else:
        architecture, _, tag = options.name.removeprefix("timm/").partition(".")
        native = architecture in BACKBONES and not options.name.startswith("timm/")
    if options.weights not in ("imagenet", "none") and not is_file(options.weights):
        if tag and tag != options.weights:
            raise WeightsError(
                f"model.backbone.name '{options.name}' asks for the weights {tag}, "
                f"but model.backbone.weights for {options.weights}; give one of them"
            )
        tag = options.weights
    return Choice(architecture, tag or None, native)


def published_resnet(architecture: str, tag: str | None) -> Pretraining:
    """What is published for a ResNet of rehead: torchvision's first weights unless a tag of timm's is given."""
    if tag in (None, "tv_in1k"):
        # Known by heart: timm takes seconds to import, and these are what most people use.
        label = f"{architecture}.tv_in1k"
        return Pretraining(label, f"timm/{label}", None, IMAGENET_MEAN, IMAGENET_STD, "bilinear")
    from timm.models import get_pretrained_cfg

    check_tag(architecture, tag)
    cfg = get_pretrained_cfg(f"{architecture}.{tag}")
    assert cfg is not None  # check_tag has seen it
    return from_timm(cfg.to_dict(), architecture)


def from_timm(cfg: Mapping[str, Any], architecture: str) -> Pretraining:
    """The same from timm's pretrained configuration."""
    tag = cfg.get("tag")
    return Pretraining(
        label=f"{architecture}.{tag}" if tag else architecture,
        hub=cfg.get("hf_hub_id"),
        url=cfg.get("url") or None,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        interpolation=cfg["interpolation"],
    )


def check_architecture(name: str, architecture: str) -> None:
    """Checks that timm has an architecture.

    Raises:
        BuildError: naming the near matches.
    """
    import timm

    if not timm.is_model(architecture):
        known = dict.fromkeys([entry.name for entry in BACKBONES] + timm.list_models())
        hint = did_you_mean(architecture, known) or "; `rehead backbones '*NAME*'` lists what there is"
        raise BuildError(f"unknown backbone '{name}'{hint}")


def check_tag(architecture: str, tag: str | None) -> None:
    """Checks that timm knows a tag of an architecture's weights.

    Raises:
        WeightsError: naming the tags that there are.
    """
    import timm

    prefix = f"{architecture}."
    tags = [name.removeprefix(prefix) for name in timm.list_models(f"{prefix}*", include_tags=True)]
    if tag is not None and tag not in tags:
        hint = did_you_mean(tag, tags)
        known = f"its tags: {', '.join(tags)}" if tags else "timm has no tags for it"
        raise WeightsError(
            f"model.backbone.weights: {architecture} has no weights '{tag}'{hint} ({known}; "
            "a file needs an ending such as .safetensors or .pth)"
        )

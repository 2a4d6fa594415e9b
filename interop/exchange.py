"""Whole models of other libraries: their weights in, and back out, nothing lost.

A model there and ours with the same tensors give the same numbers (tests/interop).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rehead.backbones.resnet import ResNet
from rehead.backbones.tensor_files import check_file, refuse_unfit
from rehead.backbones.weights import COUNTER, read
from rehead.configs.detection_heads import RCNNOptions
from rehead.configs.load import load_config
from rehead.errors import BuildError, ConfigError, WeightsError, did_you_mean, listed, shortened
from rehead.files import atomic_path
from rehead.interop.library import NETWORKS, Known
from rehead.interop.smp import SMP, smp_models
from rehead.interop.torchvision import DETECTOR, ONE_STAGE, RCNN, TORCHVISION, torchvision_models
from rehead.models.checkpoints import built_for
from rehead.models.lineage import backbone_hash, continued
from rehead.models.model import Model, from_config
from rehead.training.checkpoints import write_pickled
from rehead.types import UNUSED, Classes

FORMS = {**TORCHVISION, **SMP}
"""By the name of our head."""


LIBRARIES: dict[str, dict[str, Known]] = {"torchvision": dict(torchvision_models()), "smp": dict(smp_models())}
"""By library, then by the model's name: `fasterrcnn_resnet50_fpn`, or `unet_resnet18` (architecture and encoder)."""


def import_model(
    library: str,
    file: str | Path,
    name: str,
    classes: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Model:
    """Our model with the tensors of a whole model of another library.

    Every column of its classifier is kept. Published detectors have 91, some of which no class of COCO has:
    those are named `N/A` and their number.

    Args:
        library: `torchvision` or `smp`.
        file: its state dict: `.pth`, `.safetensors`, ...
        name: of the model there; see `LIBRARIES`.
        classes: names, one per class; those of the published weights if their number fits, else `class 0`, ...
        overrides: of the resulting configuration, such as `{"model.head.decoder_channels": [128, 64, 32, 16, 8]}`
            where the model there was built with other options than its defaults.

    Returns:
        The model in eval mode. Where a detector's file holds norms in torchvision's frozen form, ours are frozen
        too, with the eps that torchvision gives the published weights of that name: 0 for version 1.

    Raises:
        ConfigError: for an unknown library, name or option.
        WeightsError: for a file that cannot be read or does not fit, or a wrong number of classes.
    """
    known = find(library, name)
    check_file(Path(file), "file to import")
    tensors = read(file)
    count = _count(known, tensors, file, name)
    names = _classes(known, count, classes, file)
    config = load_config(_raw(known, tensors, Path(file).name), overrides)
    with built_for(tensors, Path(file)):
        model = from_config(config, {"main": names}, load_weights=False)
    ours = _renamed(tensors, [(theirs, ours) for ours, theirs in known.form.pairs])
    places = model.state_dict()
    fitting = {key: value for key, value in ours.items() if key in places and not key.endswith(COUNTER)}
    refuse_unfit(fitting, places, str(file))
    try:
        model.load_state_dict(ours)
    except RuntimeError as error:
        # torch lists every name and shape, by our names, below a line of its own.
        said = shortened(" ".join(line.strip() for line in str(error).splitlines()[1:]), 600)
        raise WeightsError(
            f"{file}: does not fit {library}'s {name} with {count} classes: {said}; if it was built "
            "with other options, give them as model.head.KEY=VALUE or model.backbone.KEY=VALUE"
        ) from error
    # The file by its name and content: where it lay means nothing to whoever gets the checkpoint.
    with Path(file).open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    origin = f"{library}'s {name}, {Path(file).name} (SHA-256 {digest})"
    model.lineage = continued([], backbone_hash(model.backbone.state_dict()), origin)
    return model.eval()


def find(library: str, name: str) -> Known:
    """What is known of a model by its library and name.

    Raises:
        ConfigError: with near matches.
    """
    if library not in LIBRARIES:
        hint = did_you_mean(library, LIBRARIES) or f"; known: {', '.join(LIBRARIES)}"
        raise ConfigError([f"unknown library '{library}'{hint}"], "import")
    models = LIBRARIES[library]
    if name not in models:
        hint = did_you_mean(name, models) or f"; known: {', '.join(models)}"
        raise ConfigError([f"--as: {library} has no '{name}' that rehead knows{hint}"], "import")
    return models[name]


def export_weights(model: Model) -> tuple[str, dict[str, Tensor]]:
    """The tensors of a model under another library's names, so that its own model loads them strictly.

    Returns:
        The library, `torchvision` or `smp`, and the state dict, on the CPU. Norms that are frozen are written in
        torchvision's frozen form, without counters.

    Raises:
        BuildError: for a model that no library has, saying why.
    """
    reasons = list(_not_theirs(model))
    if reasons:
        raise BuildError(f"no other library has this model: {'; '.join(reasons)}")
    form = FORMS[model.head("main").options.name]
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if model.backbone.options.norm == "frozen":
        state = {
            name: value
            for name, value in state.items()
            if not (name.startswith("backbone.") and name.endswith(COUNTER))
        }
    return form.library, _renamed(state, form.pairs)


def _not_theirs(model: Model) -> Iterator[str]:
    body = model.backbone
    if not isinstance(body, ResNet) or body.options.name not in NETWORKS:
        yield f"their backbones are {', '.join(NETWORKS)}, this one is {body.title()}"
    elif not body.options.residual or body.options.shortcut != "B" or body.options.norm == "group":
        yield f"{body.title()} with norm: {body.options.norm} is rehead's own"
    if list(model.heads) != ["main"]:
        yield f"they have one head, this model has {listed(model.heads)} (keep one with: rehead swap)"
        return
    head = model.head("main").options
    if head.name not in FORMS:
        yield f"head '{head.name}' is rehead's own"
    elif any(name.startswith("neck.") and not name.startswith("neck.fpn.") for name in model.head("main").state_dict()):
        yield f"their {head.name} has a plain feature pyramid, this one another neck"
    elif isinstance(head, RCNNOptions) and head.roi_aligned:
        yield f"their {head.name} knows no aligned RoIAlign, with which this one was trained (roi_aligned: true)"


def _renamed(tensors: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Every tensor with the first prefix that fits exchanged."""
    renamed = {}
    for name, value in tensors.items():
        before, after = next(((a, b) for a, b in pairs if name.startswith(a)), ("", ""))
        renamed[after + name.removeprefix(before)] = value
    return renamed


def _count(known: Known, tensors: Mapping[str, Tensor], file: str | Path, name: str) -> int:
    """How many classes the file's classifier tells apart."""
    form = known.form
    count = _length(tensors, form.counted, file, name)
    if form is ONE_STAGE:
        # Per anchor and class; a box has four numbers per anchor.
        count //= max(_length(tensors, "head.regression_head.bbox_reg.bias", file, name) // 4, 1)
    if count <= form.background:
        raise WeightsError(f"{file}: {form.counted} has {count} values, which tells no classes apart")
    return count - form.background


def _length(tensors: Mapping[str, Tensor], key: str, file: str | Path, name: str) -> int:
    """How many values a bias has."""
    if key not in tensors:
        raise WeightsError(f"{file}: no {key} in it, as {name} has; it holds {listed(tensors)}")
    if tensors[key].ndim != 1:
        raise WeightsError(f"{file}: {key} should be a list of numbers, its shape is {tuple(tensors[key].shape)}")
    return len(tensors[key])


def _classes(known: Known, count: int, given: Sequence[str] | None, file: str | Path) -> Classes:
    if given is not None:
        if len(given) != count:
            raise WeightsError(f"{file}: tells {count} classes apart, but --classes has {len(given)} names")
        return Classes(tuple(given))
    published = list(known.categories()) if known.categories is not None else []
    first = known.form.background
    if len(published) - first != count:
        return Classes(tuple(f"class {label}" for label in range(count)))
    detector = known.form in (RCNN, ONE_STAGE)
    names: list[str] = []
    for number, name in enumerate(published[first:], start=first):
        unused = name == "N/A" or (detector and name == "__background__")
        names.append(f"{UNUSED}{number}" if unused else name)
    return Classes(tuple(names), tuple(range(first, first + count)))


def _raw(known: Known, tensors: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """The configuration, with what only the file of this name can say."""
    head, body = dict(known.head), {**known.backbone, "weights": file}
    if head["name"] in ("torchvision_fcn", "torchvision_deeplabv3") and "aux_classifier.4.bias" not in tensors:
        head["auxiliary_weight"] = 0
    points = tensors.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
    if points is not None and points.ndim == 1:
        head["keypoints"] = len(points)
    theirs = tuple(after for ours, after in known.form.pairs if ours == "backbone.")
    if known.form.pairs is DETECTOR and not any(name.startswith(theirs) and name.endswith(COUNTER) for name in tensors):
        # torchvision's FrozenBatchNorm2d counts no batches.
        body |= {"norm": "frozen", "norm_eps": known.frozen_eps}
    raw: dict[str, Any] = {"task": known.task, "model": {"backbone": body, "head": head}}
    if known.resize is not None:
        raw["data"] = {"resize": dict(known.resize)}
    return raw


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a state dict: `.safetensors` by its suffix, else as torch does.

    Raises:
        OutputError: if it cannot be written.
    """
    if path.suffix != ".safetensors":
        write_pickled(path, tensors)
        return
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary)
        except SafetensorError as error:  # its own kind of I/O error
            raise OSError(str(error)) from error

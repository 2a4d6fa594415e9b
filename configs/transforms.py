"""What albumentations' transforms are called and take, read from its source: importing it takes seconds, and torch."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rehead.errors import did_you_mean

COMPOSITIONS = ("OneOf", "OneOrOther", "RandomOrder", "SelectiveChannelTransform", "Sequential", "SomeOf")
"""Transforms that hold a list of others under `transforms`."""

_NORMALISES = "images stay in 8 bits until they are on the device, where the model normalises"
_NEEDS_IMAGES = "it needs other images, which albumentations cannot read here; mosaic, mixup and copy_paste can"
REFUSED = {
    "Normalize": _NORMALISES,
    "ToFloat": _NORMALISES,
    "FromFloat": _NORMALISES,
    "ToTensorV2": _NORMALISES,
    "ToTensor3D": _NORMALISES,
    "FDA": _NEEDS_IMAGES,
    "HistogramMatching": _NEEDS_IMAGES,
    "Mosaic": _NEEDS_IMAGES,
    "OverlayElements": _NEEDS_IMAGES,
    "PixelDistributionAdaptation": _NEEDS_IMAGES,
    "TextImage": "it needs texts for every image",
    "RandomCropNearBBox": "it needs a box beside those of the image; use BBoxSafeRandomCrop",
    "Lambda": "it takes functions, which a configuration cannot hold",
}
"""Transforms that exist but cannot work here, and why."""

_ABSTRACT = {"BasicTransform", "DualTransform", "ImageOnlyTransform", "Compose", "ReplayCompose", "MaxSizeTransform"}
_CLASS = re.compile(r"^class (\w+)\((\w+)", re.MULTILINE)


@cache
def transforms() -> tuple[str, ...]:
    """The names of all transforms of images, those of `REFUSED` among them, in order."""
    roots = {"DualTransform", "ImageOnlyTransform", "BasicTransform"}
    found = [name for name in _sources() if roots & set(_ancestors(name)) and "Transform3D" not in _ancestors(name)]
    return tuple(sorted({*found, *COMPOSITIONS, *REFUSED} - _ABSTRACT - {name for name in found if "Base" in name}))


@cache
def arguments(name: str) -> tuple[str, ...]:
    """What a transform takes, `p` among it, in order."""
    for ancestor in _ancestors(name):
        (defined,) = (
            node
            for node in ast.parse(_sources()[ancestor][0].read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef) and node.name == ancestor
        )
        for node in defined.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return tuple(argument.arg for argument in [*node.args.args, *node.args.kwonlyargs][1:])
    return ("p",)


def wrong_arguments(name: str, given: dict[str, object], where: str) -> list[str]:
    """What is wrong with the names of a transform's arguments, with near matches; their values are not looked at.

    Args:
        name: one of `transforms()`.
        given: the arguments.
        where: the transform's key in the configuration.
    """
    if name in REFUSED:
        return [f"{where}.name: {name} has no place here: {REFUSED[name]}"]
    known = [argument for argument in arguments(name) if argument not in ("strict", "first", "second")]
    listed = f"; it has {', '.join(known)}"
    return [
        f"{where}.{key}: {name} has no such argument{did_you_mean(key, known) or listed}"
        for key in given
        if key not in known
    ]


@cache
def _sources() -> dict[str, tuple[Path, str]]:
    """The file and the first base of every class in albumentations."""
    spec = find_spec("albumentations")
    assert spec is not None
    assert spec.origin is not None
    found = {}
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        for name, base in _CLASS.findall(path.read_text(encoding="utf-8")):
            found[name] = (path, base)
    return found


def _ancestors(name: str) -> list[str]:
    """A class and its first bases, as far as they are albumentations' own."""
    line = []
    while name in _sources():
        line.append(name)
        name = _sources()[name][1]
    return line

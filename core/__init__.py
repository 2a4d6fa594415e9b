"""rehead: keep the pre-trained residual backbone, change the head.

The public names are imported when they are first used, so `import rehead` itself imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rehead.backbones import Backbone, build_backbone
    from rehead.configs.base import HeadOptions
    from rehead.configs.heads import register_head
    from rehead.configs.load import load_config
    from rehead.errors import ReheadError
    from rehead.heads.base import Head
    from rehead.models.model import Model, build_model, load
    from rehead.tasks.evaluate import evaluate
    from rehead.tasks.predict import predict
    from rehead.tasks.train import train
    from rehead.types import Classes, FeatureSpec, Frame, ImageBatch, Prediction, Target

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "rehead.backbones",
    "Classes": "rehead.types",
    "FeatureSpec": "rehead.types",
    "Frame": "rehead.types",
    "Head": "rehead.heads.base",
    "HeadOptions": "rehead.configs.base",
    "ImageBatch": "rehead.types",
    "Model": "rehead.models.model",
    "Prediction": "rehead.types",
    "ReheadError": "rehead.errors",
    "Target": "rehead.types",
    "build_backbone": "rehead.backbones",
    "build_model": "rehead.models.model",
    "evaluate": "rehead.tasks.evaluate",
    "load": "rehead.models.model",
    "load_config": "rehead.configs.load",
    "predict": "rehead.tasks.predict",
    "register_head": "rehead.configs.heads",
    "train": "rehead.tasks.train",
}

__all__ = [
    "Backbone",
    "Classes",
    "FeatureSpec",
    "Frame",
    "Head",
    "HeadOptions",
    "ImageBatch",
    "Model",
    "Prediction",
    "ReheadError",
    "Target",
    "build_backbone",
    "build_model",
    "evaluate",
    "load",
    "load_config",
    "predict",
    "register_head",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rehead' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

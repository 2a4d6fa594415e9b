"""rehead: keep the pre-trained residual backbone, change the head.

The public names are imported when they are first used, so `import rehead` itself imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rehead.backbones import Backbone, build_backbone
    from rehead.configs.augment import OwnOptions, register_step
    from rehead.configs.backbones import register_backbone
    from rehead.configs.base import HeadOptions
    from rehead.configs.heads import register_head
    from rehead.configs.load import load_config
    from rehead.configs.readers import SplitOptions, register_reader
    from rehead.configs.resize import ResizeOptions
    from rehead.configs.schema import BackboneOptions, Config
    from rehead.configs.tasks import TaskSpec, register_task
    from rehead.data.reader import Reader
    from rehead.data.sample import Sample
    from rehead.data.transforms.steps import AugmentContext, Step
    from rehead.datasets.annotation_reader import AnnotationReader
    from rehead.datasets.audit.run import check_data
    from rehead.datasets.open import open_data
    from rehead.datasets.pairs import PairsReader
    from rehead.datasets.write import register_writer
    from rehead.errors import (
        BuildError,
        ConfigError,
        DataError,
        OtherProcessError,
        OutputError,
        ReheadError,
        RunStoppedError,
        TrainingError,
        WeightsError,
    )
    from rehead.heads.base import Features, Head, one_per_stride
    from rehead.heads.necks import build_neck
    from rehead.models.inputs import InputSpec
    from rehead.models.model import Model, build_model, load
    from rehead.tasks.base import Evaluator, Task
    from rehead.tasks.evaluate import evaluate
    from rehead.tasks.metrics import register_metric
    from rehead.tasks.predict import predict
    from rehead.tasks.train import fine_tune, train
    from rehead.types import Classes, FeatureSpec, Frame, ImageBatch, Prediction, Target

__version__ = "0.1.0"

_HOMES = {
    "AnnotationReader": "rehead.datasets.annotation_reader",
    "AugmentContext": "rehead.data.transforms.steps",
    "Backbone": "rehead.backbones",
    "BackboneOptions": "rehead.configs.schema",
    "BuildError": "rehead.errors",
    "Classes": "rehead.types",
    "Config": "rehead.configs.schema",
    "ConfigError": "rehead.errors",
    "DataError": "rehead.errors",
    "Evaluator": "rehead.tasks.base",
    "FeatureSpec": "rehead.types",
    "Features": "rehead.heads.base",
    "Frame": "rehead.types",
    "Head": "rehead.heads.base",
    "HeadOptions": "rehead.configs.base",
    "ImageBatch": "rehead.types",
    "InputSpec": "rehead.models.inputs",
    "Model": "rehead.models.model",
    "OtherProcessError": "rehead.errors",
    "OutputError": "rehead.errors",
    "OwnOptions": "rehead.configs.augment",
    "PairsReader": "rehead.datasets.pairs",
    "Prediction": "rehead.types",
    "Reader": "rehead.data.reader",
    "ReheadError": "rehead.errors",
    "ResizeOptions": "rehead.configs.resize",
    "RunStoppedError": "rehead.errors",
    "Sample": "rehead.data.sample",
    "SplitOptions": "rehead.configs.readers",
    "Step": "rehead.data.transforms.steps",
    "Target": "rehead.types",
    "Task": "rehead.tasks.base",
    "TaskSpec": "rehead.configs.tasks",
    "TrainingError": "rehead.errors",
    "WeightsError": "rehead.errors",
    "build_backbone": "rehead.backbones",
    "build_model": "rehead.models.model",
    "build_neck": "rehead.heads.necks",
    "check_data": "rehead.datasets.audit.run",
    "evaluate": "rehead.tasks.evaluate",
    "fine_tune": "rehead.tasks.train",
    "load": "rehead.models.model",
    "load_config": "rehead.configs.load",
    "one_per_stride": "rehead.heads.base",
    "open_data": "rehead.datasets.open",
    "predict": "rehead.tasks.predict",
    "register_backbone": "rehead.configs.backbones",
    "register_head": "rehead.configs.heads",
    "register_metric": "rehead.tasks.metrics",
    "register_reader": "rehead.configs.readers",
    "register_step": "rehead.configs.augment",
    "register_task": "rehead.configs.tasks",
    "register_writer": "rehead.datasets.write",
    "train": "rehead.tasks.train",
}

__all__ = [
    "AnnotationReader",
    "AugmentContext",
    "Backbone",
    "BackboneOptions",
    "BuildError",
    "Classes",
    "Config",
    "ConfigError",
    "DataError",
    "Evaluator",
    "FeatureSpec",
    "Features",
    "Frame",
    "Head",
    "HeadOptions",
    "ImageBatch",
    "InputSpec",
    "Model",
    "OtherProcessError",
    "OutputError",
    "OwnOptions",
    "PairsReader",
    "Prediction",
    "Reader",
    "ReheadError",
    "ResizeOptions",
    "RunStoppedError",
    "Sample",
    "SplitOptions",
    "Step",
    "Target",
    "Task",
    "TaskSpec",
    "TrainingError",
    "WeightsError",
    "build_backbone",
    "build_model",
    "build_neck",
    "check_data",
    "evaluate",
    "fine_tune",
    "load",
    "load_config",
    "one_per_stride",
    "open_data",
    "predict",
    "register_backbone",
    "register_head",
    "register_metric",
    "register_reader",
    "register_step",
    "register_task",
    "register_writer",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rehead' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

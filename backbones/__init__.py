"""Images to features: the residual networks of rehead, any timm model, weights and freezing."""

from rehead.backbones.base import Backbone
from rehead.backbones.build import build_backbone
from rehead.backbones.load_report import LoadReport

__all__ = ["Backbone", "LoadReport", "build_backbone"]

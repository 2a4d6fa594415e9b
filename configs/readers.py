"""The data formats by name: what a split needs, and where the reader is. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from rehead.configs.base import Options
from rehead.registry import Registry


class SplitOptions(Options):
    """What every split has. Paths are relative to `data.root`."""

    images: str = Field(description="folder of the images")


class FoldersSplit(SplitOptions):
    """One folder per class inside `images`."""


class CocoSplit(SplitOptions):
    """COCO JSON; `images` is the folder that its file names start from."""

    annotations: str = Field(description="the JSON file")


class MasksSplit(SplitOptions):
    """A mask with the same stem for every image; its pixel values are class ids."""

    masks: str = Field(description="folder of the masks")
    partial: bool = Field(False, description="leave out images without a mask, instead of refusing them")


class InstanceMasksSplit(SplitOptions):
    """A mask with the same stem for every image; its pixel values number the objects, 0 is background."""

    masks: str = Field(description="folder of the masks")
    part: tuple[float, float] = Field(
        (0.0, 1.0), description="from where to where of the images, in order of their names, such as [0, 0.8]"
    )


READERS: Registry[SplitOptions] = Registry("data format")
READERS.add(
    "folders",
    FoldersSplit,
    "rehead.data.readers.folders:FoldersReader",
    task="classification, multi_label_classification",
)
READERS.add(
    "coco",
    CocoSplit,
    "rehead.data.readers.coco:CocoReader",
    task="detection, instance_segmentation, multi_label_classification",
)
READERS.add("masks", MasksSplit, "rehead.data.readers.masks:MasksReader", task="segmentation")
READERS.add(
    "instance_masks",
    InstanceMasksSplit,
    "rehead.data.readers.instance_masks:InstanceMasksReader",
    task="detection, instance_segmentation",
)

"""The data formats by name: what a split needs, and where the reader is. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from rehead.configs.base import Options
from rehead.registry import Registry


class SplitOptions(Options):
    """What the options of a split derive from. Paths are relative to `data.root`."""


class FromTrainSplit(SplitOptions):
    """A part of the training images, in any format; training goes without them."""

    from_train: float = Field(gt=0, lt=1, description="which share of the training images")
    seed: int = Field(0, ge=0, description="of the draw; another one gives another part")


class FoldersSplit(SplitOptions):
    """One folder per class inside `images`."""

    images: str = Field(description="folder of the class folders")


class CocoSplit(SplitOptions):
    """COCO JSON; `images` is the folder that its file names start from."""

    images: str = Field(description="folder of the images")
    annotations: str = Field(description="the JSON file")


class MasksSplit(SplitOptions):
    """A mask with the same stem for every image; its pixel values are class ids."""

    images: str = Field(description="folder of the images")
    masks: str = Field(description="folder of the masks")
    partial: bool = Field(False, description="leave out images without a mask, instead of refusing them")


class InstanceMasksSplit(SplitOptions):
    """A mask with the same stem for every image; its pixel values number the objects, 0 is background."""

    images: str = Field(description="folder of the images")
    masks: str = Field(description="folder of the masks")
    part: tuple[float, float] = Field(
        (0.0, 1.0), description="from where to where of the images, in order of their names, such as [0, 0.8]"
    )


READERS: Registry[SplitOptions] = Registry("data format")
READERS.add("folders", FoldersSplit, "rehead.data.readers.folders:FoldersReader", task="classification")
READERS.add("coco", CocoSplit, "rehead.data.readers.coco:CocoReader", task="detection, instance_segmentation")
READERS.add("masks", MasksSplit, "rehead.data.readers.masks:MasksReader", task="segmentation")
READERS.add(
    "instance_masks",
    InstanceMasksSplit,
    "rehead.data.readers.instance_masks:InstanceMasksReader",
    task="detection, instance_segmentation",
)

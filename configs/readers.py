"""The data formats by name: what a split needs, and where the reader is. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from rehead.configs.base import Options
from rehead.registry import Registry

Target = TypeVar("Target", bound=Callable[..., Any])

SPLITS = ("train", "val", "test")
"""The names of splits."""


class SplitOptions(Options):
    """What the options of a split derive from. Paths are relative to `data.root`."""


class FromTrainSplit(SplitOptions):
    """A part of the training images, in any format; training goes without them."""

    from_train: float | str = Field(
        description="which share of the training images, or a text file of their names (as rehead data split writes)"
    )
    seed: int = Field(0, ge=0, description="of the draw; another one gives another part")

    @field_validator("from_train")
    @classmethod
    def _a_share(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not 0 < value < 1:
            raise ValueError("a share is more than 0 and less than 1; or give a text file of images' names")
        return value


class FoldersSplit(SplitOptions):
    """One folder per class inside `images`."""

    images: str = Field(description="folder of the class folders")


class CocoSplit(SplitOptions):
    """COCO JSON; `images` is the folder that its file names start from."""

    images: str = Field(description="folder of the images")
    annotations: str = Field(description="the JSON file")


class VocSplit(SplitOptions):
    """Pascal VOC: an XML file per image; a class map per image for a segmentation head."""

    images: str = Field("JPEGImages", description="folder of the images")
    annotations: str = Field("Annotations", description="folder of the XML files")
    masks: str = Field("SegmentationClass", description="folder of the class maps")
    image_set: str | None = Field(
        None, description="text file of image names, such as ImageSets/Main/train.txt; all images unless given"
    )


class YoloSplit(SplitOptions):
    """YOLO: a text file of boxes or polygons per image."""

    images: str = Field(description="folder of the images, or a text file of their paths")
    labels: str | None = Field(
        None, description="folder of the label files; `images` in the path becomes `labels` unless given"
    )
    names: str = Field("data.yaml", description="YAML file with the classes' names; data.classes come first")
    missing_labels: Literal["background", "skip", "error"] = Field(
        "background",
        description="images without a label file (an empty one says that there is no object): images without objects, "
        "left out, or refused",
    )


class CsvSplit(SplitOptions):
    """A table with a line per box."""

    images: str = Field(".", description="folder that the names in the table start from")
    annotations: str = Field(description="the CSV file")


class ViaSplit(SplitOptions):
    """A JSON export or project of the VGG Image Annotator; `images` is the folder that its file names start from."""

    images: str = Field(description="folder of the images")
    annotations: str = Field(description="the JSON file")
    attribute: str | None = Field(
        None, description="region attribute that holds the class; needed where regions have several"
    )


class MasksSplit(SplitOptions):
    """A mask with the same stem for every image; its pixel values are class ids."""

    images: str = Field(description="folder of the images")
    masks: str = Field(description="folder of the masks")
    partial: bool = Field(False, description="leave out images without a mask, instead of refusing them")
    image_ending: str = Field("", description="of images' names, in place of which masks have theirs: _leftImg8bit")
    mask_ending: str = Field(
        "", description="of masks' names before the suffix; files without it are no masks: _gtFine_labelIds"
    )


class InstanceMasksSplit(SplitOptions):
    """A mask with the same stem for every image; its pixel values number the objects, 0 is background."""

    images: str = Field(description="folder of the images")
    masks: str = Field(description="folder of the masks")
    part: tuple[float, float] = Field(
        (0.0, 1.0), description="from where to where of the images, in order of their names, such as [0, 0.8]"
    )


class HuggingFaceSplit(SplitOptions):
    """A split of a data set of Hugging Face's `datasets`."""

    dataset: str = Field(description="folder that save_to_disk or load_dataset knows, or the name on the hub")
    split: str = Field(description="what the data set calls it, such as train or validation")
    image: str | None = Field(None, description="column of the images; the first that holds some unless given")
    annotation: str | None = Field(None, description="column of the annotations, where several could be")
    boxes: Literal["xywh", "xyxy"] = Field("xywh", description="what a bbox is: a corner and sides, or two corners")


READERS: Registry[SplitOptions] = Registry("data format")


def register_reader(name: str, options: type[SplitOptions], *, task: str) -> Callable[[Target], Target]:
    """Registers a data format of one's own: a decorator on its reader's class.

    It is called as `reader(split, root, classes, **others)`: the checked options, the data's root folder, and the names
    that were asked for (or None); `others` are what the data's options and the training say, such as `task`,
    `ignore_index` and `report`. See `rehead.Reader`, and `rehead.datasets.annotation_reader.AnnotationReader` for
    formats that are parsed once.

    Args:
        name: what a configuration writes under `data.format`.
        options: of a split, its paths.
        task: the tasks that the format serves, with commas between.
    """
    return READERS.register(name, options, task=task)


READERS.add(
    "folders",
    FoldersSplit,
    "rehead.datasets.formats.folders:FoldersReader",
    task="classification, multi_label_classification",
)
READERS.add(
    "coco",
    CocoSplit,
    "rehead.datasets.formats.coco:CocoReader",
    task="detection, instance_segmentation, keypoint_detection, multi_label_classification",
)
READERS.add("masks", MasksSplit, "rehead.datasets.formats.masks:MasksReader", task="segmentation")
READERS.add(
    "instance_masks",
    InstanceMasksSplit,
    "rehead.datasets.formats.instance_masks:InstanceMasksReader",
    task="detection, instance_segmentation",
)
READERS.add(
    "voc", VocSplit, "rehead.datasets.formats.voc:VocReader", task="detection, segmentation, multi_label_classification"
)
READERS.add(
    "yolo",
    YoloSplit,
    "rehead.datasets.formats.yolo:YoloReader",
    task="detection, instance_segmentation, keypoint_detection, multi_label_classification",
)
READERS.add(
    "csv", CsvSplit, "rehead.datasets.formats.csv_boxes:CsvReader", task="detection, multi_label_classification"
)
READERS.add(
    "via",
    ViaSplit,
    "rehead.datasets.formats.via:ViaReader",
    task="detection, instance_segmentation, multi_label_classification",
)
READERS.add(
    "huggingface",
    HuggingFaceSplit,
    "rehead.datasets.formats.huggingface:HuggingFaceReader",
    task="classification, detection, segmentation, multi_label_classification",
)
# Not a format: looks at the files and says which one they are in. Configurations that were checked have its answer.
READERS.add("auto", SplitOptions, "rehead.datasets.detect_format:detect_format", task="")

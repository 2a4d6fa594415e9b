"""The types every room speaks. torch is imported for type checkers only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from rehead.errors import ConfigError, listed

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

IGNORE = 255
"""The value of a pixel that counts neither in a semantic loss nor in IoU (Cityscapes' convention), in 8 bits."""

IGNORE_16 = 32767
"""The same in a map of 16 bits, which is what more than 255 classes need."""

UNUSED = "N/A "
"""What the names of classes without any example start with: columns of a classifier that came with its weights."""

Moved = TypeVar("Moved", "Target", "Prediction")


def map_type(num_classes: int) -> Literal["uint8", "int16"]:
    """The type of a semantic map that tells so many classes apart."""
    return "uint8" if num_classes <= IGNORE else "int16"


def ignore_of(semantic: Tensor | NDArray[Any]) -> int:
    """What does not count in a semantic map of this type."""
    return IGNORE if semantic.dtype.itemsize == 1 else IGNORE_16


@dataclass(frozen=True)
class FeatureSpec:
    """What is known of a feature map before an image is seen: `channels`, and `stride` in input pixels."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Frame:
    """Where an image lies inside its batch, and how to get back to the original.

    The image is at the top left; padding is at the right and the bottom. Sizes are (height, width).

    Attributes:
        size: of the image after resizing, before padding, in pixels.
        original: of the image as stored, in pixels.
        padding: rows and columns added to reach the batch's size.
        image_id: the image's id in the user's files, for messages and results.
    """

    size: tuple[int, int]
    original: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    image_id: int | str = ""

    @property
    def scale(self) -> tuple[float, float]:
        """Resized over original, (vertical, horizontal): the two differ by the rounding to whole pixels."""
        return self.size[0] / self.original[0], self.size[1] / self.original[1]

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the batch."""
        return self.size[0] + self.padding[0], self.size[1] + self.padding[1]

    def boxes_to_original(self, boxes: Tensor) -> Tensor:
        """Maps (N, 4) xyxy boxes from batch pixels to original pixels, clipped to the image."""
        y, x = self.scale
        height, width = self.original
        # By plain numbers: a tensor of them would be a copy to the device, which waits for it.
        boxes = boxes.clone()
        boxes[:, 0::2] = (boxes[:, 0::2] / x).clamp(0, width)
        boxes[:, 1::2] = (boxes[:, 1::2] / y).clamp(0, height)
        return boxes

    def points_to_original(self, points: Tensor) -> Tensor:
        """Maps (..., 2) x, y from batch pixels to original pixels."""
        y, x = self.scale
        points = points.clone()
        points[..., 0] /= x
        points[..., 1] /= y
        return points


@dataclass
class ImageBatch:
    """Images of one step.

    Attributes:
        pixels: (B, C, H, W), uint8 in 0..255, or float32 on the scale that the backbone's mean and std
            have times 255 (16-bit and multispectral data, parity tests). Not normalised: the model does it.
        frames: one per image.
    """

    pixels: Tensor
    frames: list[Frame]

    def __len__(self) -> int:
        return len(self.frames)

    def to(self, device: torch.device, memory_format: torch.memory_format | None = None) -> ImageBatch:
        """Moves the pixels; see `moved`."""
        pixels = moved(self.pixels, device)
        if memory_format is not None:
            pixels = pixels.to(memory_format=memory_format)
        return ImageBatch(pixels, self.frames)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; towards a GPU without waiting where the memory is pinned, towards the CPU always waiting.

    A copy to the CPU that does not wait returns memory whose numbers arrive some time later.
    """
    return tensor.to(device, non_blocking=device.type != "cpu")


def _all_moved(item: Moved, device: torch.device) -> Moved:
    result = copy(item)
    for name, value in vars(item).items():
        if hasattr(value, "to"):
            setattr(result, name, moved(value, device))
    return result


class CompactMasks(ABC):
    """Instance masks of one image in fewer bytes than one for every pixel."""

    @abstractmethod
    def to(self, device: torch.device, non_blocking: bool = False) -> CompactMasks:
        """The same on a device."""

    @abstractmethod
    def pixels(self) -> Tensor:
        """(N, H, W) bool, on the same device."""


class Masks:
    """The field `masks`: it may be given compact masks, which become pixels when it is read for the first time.

    A hundred masks of a photograph of 12 megapixels are more than a gigabyte. They should not move, nor be there for
    several images at a time.
    """

    @overload
    def __get__(self, item: None, owner: type) -> None: ...
    @overload
    def __get__(self, item: object, owner: type) -> Tensor | None: ...
    def __get__(self, item: object | None, owner: type) -> Tensor | None:
        """(N, H, W) bool; read from the class, the field's default."""
        held = None if item is None else vars(item)["masks"]
        if isinstance(held, CompactMasks):
            held = vars(item)["masks"] = held.pixels()
        return held

    def __set__(self, item: object, masks: Tensor | CompactMasks | None) -> None:
        vars(item)["masks"] = masks


@dataclass
class Target:
    """What is true of one image, in batch pixels. What a task lacks is None.

    Attributes:
        image_id: the image's id in the user's files.
        boxes: (N, 4) float32 xyxy; crowds are left out.
        labels: (N,) int64 in 0..K-1.
        masks: (N, H, W) bool, of the padded batch size; from `collate` they come compact.
        keypoints: (N, P, 3) float32: x, y, and 1 where the point is labelled, seen or hidden, else 0.
        semantic: (H, W) class map of the padded batch size, of `map_type`; `ignore_of` where nothing counts.
        label: of the whole image: () int64, its class; or (K,) float32, soft: the classes' probabilities (of mixup
            or distillation) or, for a head with `multi_label`, a value in 0..1 per class, 1 where it is present.
    """

    image_id: int | str
    boxes: Tensor | None = None
    labels: Tensor | None = None
    masks: Masks = Masks()
    keypoints: Tensor | None = None
    semantic: Tensor | None = None
    label: Tensor | None = None

    def to(self, device: torch.device) -> Target:
        """Moves every tensor."""
        return _all_moved(self, device)


@dataclass
class Prediction:
    """What a head says of one image, in ORIGINAL image pixels. What a head does not predict is None.

    Attributes:
        boxes: (N, 4) float32 xyxy, best first.
        scores: (N,) float32 in 0..1.
        labels: (N,) int64 in 0..K-1.
        masks: (N, H, W) bool; from a head they come compact, and are pasted when they are read.
        keypoints: (N, P, 3) float32: x, y, and the point's own score, a logit.
        semantic: (H, W) class map, of `map_type`.
        probabilities: (K,) float32, of the whole image; they add up to 1 unless the head has `multi_label`.
    """

    boxes: Tensor | None = None
    scores: Tensor | None = None
    labels: Tensor | None = None
    masks: Masks = Masks()
    keypoints: Tensor | None = None
    semantic: Tensor | None = None
    probabilities: Tensor | None = None

    def numbers(self) -> dict[str, Tensor]:
        """By name, what there is of it in floating point numbers."""
        named = {"boxes": self.boxes, "scores": self.scores, "keypoints": self.keypoints}
        named["probabilities"] = self.probabilities
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, device: torch.device) -> Prediction:
        """Moves every tensor."""
        return _all_moved(self, device)


@dataclass(frozen=True)
class Classes:
    """The classes of a head, and the ids that they have in the user's files.

    Inside, labels are 0..K-1 in the order of `names`; background is nobody's label and never counted.

    Attributes:
        names: unique, K of them.
        ids: unique; the class's id (or pixel value) in the user's files. 0..K-1 unless given.
        keypoints: names of the P points that every object has, for keypoint detection.
        flip_pairs: which of them change places in a mirror, such as the left and the right eye.
        colours: by class its (red, green, blue) in the user's masks, where those are in colour.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...] = field(default=())
    keypoints: tuple[str, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "ids", tuple(int(i) for i in self.ids) or tuple(range(len(self.names))))
        object.__setattr__(self, "keypoints", tuple(self.keypoints))
        object.__setattr__(self, "flip_pairs", tuple((int(a), int(b)) for a, b in self.flip_pairs))
        object.__setattr__(self, "colours", tuple((int(r), int(g), int(b)) for r, g, b in self.colours))
        problems = []
        if not self.names:
            problems.append("there must be at least one class")
        if len(self.ids) != len(self.names):
            problems.append(f"{len(self.names)} names but {len(self.ids)} ids")
        if self.colours and len(self.colours) != len(self.names):
            problems.append(f"{len(self.names)} names but {len(self.colours)} colours")
        for what, values in (("name", self.names), ("id", self.ids)):
            twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
            if twice:
                problems.append(f"class {what} given twice: {listed(twice)}")
        paired = [point for pair in self.flip_pairs for point in pair]
        if len(set(paired)) < len(paired) or not set(paired) <= set(range(len(self.keypoints))):
            problems.append(f"flip pairs {self.flip_pairs} of {len(self.keypoints)} keypoints, each in one at most")
        if problems:
            raise ConfigError(problems, "classes")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def label_of(self) -> dict[int, int]:
        """From the user's id to the label 0..K-1."""
        return {user_id: label for label, user_id in enumerate(self.ids)}

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint's metadata."""
        points = {"keypoints": list(self.keypoints), "flip_pairs": [list(pair) for pair in self.flip_pairs]}
        colours = {"colours": [list(colour) for colour in self.colours]} if self.colours else {}
        return {"names": list(self.names), "ids": list(self.ids), **(points if self.keypoints else {}), **colours}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Classes:
        """The inverse of `to_json`."""
        return cls(
            tuple(data["names"]),
            tuple(data["ids"]),
            tuple(data.get("keypoints", ())),
            tuple((a, b) for a, b in data.get("flip_pairs", ())),
            tuple((r, g, b) for r, g, b in data.get("colours", ())),
        )

    @classmethod
    def of(cls, classes: Classes | Sequence[str]) -> Classes:
        """Takes names where someone has no ids to give."""
        return classes if isinstance(classes, Classes) else cls(tuple(classes))

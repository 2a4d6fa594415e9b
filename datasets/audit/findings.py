"""What the check finds: every code, how bad it is, and what a repair does about it."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rehead.errors import shortened

Severity = Literal["error", "warning", "advice"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "advice")
"""From training that stops, or learns wrong things without a word, to what is good to know."""


class Kind(NamedTuple):
    """A kind of finding: how bad it is, what it means, and what `--fix` does about it (empty: nothing)."""

    severity: Severity
    meaning: str
    repair: str = ""


CODES: dict[str, Kind] = {
    # Annotations that readers refuse.
    "broken_annotation": Kind("error", "an annotation that cannot be read", "left out"),
    "missing_annotation": Kind("error", "an image set names what has no annotation", "left out"),
    "unknown_image": Kind("error", "an annotation of an image that is not listed", "left out"),
    "unknown_category": Kind("error", "an annotation of a class that is not listed", "its class is called by its id"),
    "duplicate_image": Kind("error", "two images of one name or id", "left out but for one"),
    "contested_file": Kind("error", "several images or annotations that fit one and the same file", "left out"),
    "negative_box": Kind("error", "a box with a negative or infinite side", "left out"),
    "broken_keypoints": Kind("error", "another number of keypoints than the class has", "left out"),
    "broken_polygon": Kind("error", "an outline that gives no mask", "left out, with its box where masks are learned"),
    "empty_folder": Kind("error", "a class's folder without images", "left out"),
    "classes_differ": Kind("error", "a split does not list the training split's classes"),
    "missing_split": Kind("error", "a file says that a split is where it is not"),
    # Files.
    "missing_image": Kind("error", "an image that is not there", "left out"),
    "unreadable_image": Kind("error", "an image that is damaged, cut short or of another kind", "left out"),
    "missing_mask": Kind("error", "an image without a mask", "left out"),
    "unreadable_mask": Kind("error", "a mask that cannot be read", "left out"),
    "size_mismatch": Kind(
        "error",
        "the annotation says another size than the image has",
        "boxes and masks scaled if the shape is the same, else the image is left out",
    ),
    "mask_size": Kind(
        "error", "a mask of another size than its image", "scaled if the shape is the same, else the image is left out"
    ),
    "mask_values": Kind("error", "values of a mask that are no class"),
    "lossy_mask": Kind("error", "a mask whose values a lossy format has changed"),
    "no_segmentation": Kind("error", "an object without an outline, which a mask is to be learned from", "left out"),
    "box_outside": Kind("error", "nothing of a box is inside its image", "left out"),
    # What is suspicious.
    "leak": Kind("warning", "nearly the same image in two splits: metrics come out too good"),
    "exif_ambiguous": Kind(
        "warning", "EXIF turns the image, and its size cannot tell whether before or after it was annotated", "upright"
    ),
    "box_over_edge": Kind("warning", "a box reaches over the image's edge", "cut to the image"),
    "empty_box": Kind("warning", "a box without area: not trained on", "left out"),
    "tiny_box": Kind("warning", "a box one pixel wide or high"),
    "empty_outline": Kind("warning", "an outline without area", "left out, with its box where masks are learned"),
    "duplicate_annotation": Kind("warning", "the same box of the same class twice", "one stays"),
    "duplicate_id": Kind("warning", "two annotations of one id: other programs take them for one"),
    "keypoint_outside": Kind("warning", "labelled keypoints outside their image: not trained on", "not labelled"),
    "missing_label_file": Kind(
        "warning", "an image without a label file, which is not an empty one", "stays an image without objects"
    ),
    "passed_over": Kind("warning", "a file among the images or masks that is not read", "left out"),
    "many_objects": Kind("warning", "an image with more objects than are trained on"),
    "unreadable_folder": Kind("error", "a folder that cannot be looked into: nothing in it counts", "left out"),
    "label_without_image": Kind("warning", "a label or mask whose image is not there", "left out"),
    "class_without_examples": Kind("warning", "a class without an example in any split"),
    "class_not_in_train": Kind("warning", "a class with examples, but none to train on"),
    "cmyk": Kind("warning", "inks instead of colours, which programs turn into RGB in different ways", "8-bit RGB"),
    "16_bit": Kind("warning", "16 bits per channel: read as floating point", "8-bit RGB"),
    "number_range": Kind("warning", "numbers that are far from those that become 0 to 255"),
    "animated": Kind("warning", "a film, of which the first frame is used"),
    # Good to know.
    "class_not_in_val": Kind("advice", "a class that is trained, but not judged"),
    "near_duplicate": Kind("advice", "nearly the same image twice in a split"),
    "exif_rotation": Kind("advice", "turned as EXIF says, which some programs do not do", "upright"),
    "grey": Kind("advice", "grey, used as three equal channels", "8-bit RGB"),
    "alpha": Kind("advice", "with transparency, which is dropped: what lies beneath shows", "8-bit RGB"),
    "palette": Kind("advice", "a palette of colours", "8-bit RGB"),
    "no_objects": Kind("advice", "an image without objects"),
    "unlisted_image": Kind("advice", "an image in the folder that the annotations do not name", "left out"),
    "self_crossing": Kind("advice", "an outline that crosses itself: programs fill it in different ways"),
    "missing_outline": Kind("advice", "an object without an outline, while others have one"),
}


LONGEST = 2000
"""Characters of a message: names in somebody's files may have any number."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or good to know.

    Attributes:
        code: a key of `CODES`.
        severity: how bad it is.
        file: the image, or the file of the annotation.
        message: what was found in it.
        badness: how bad it is among those of its code; what is shown first.
        box: xyxy in pixels of the image, where it is about one.
    """

    code: str
    severity: Severity
    file: str
    message: str
    badness: float = 0.0
    box: tuple[float, float, float, float] | None = None

    def record(self) -> dict[str, str]:
        """What is written of it."""
        return {"code": self.code, "severity": self.severity, "file": self.file, "message": self.message}


class Findings(list[Finding]):
    """Everything that was found; called by readers, it takes a note and lets them go on."""

    def __call__(
        self,
        code: str,
        file: Path | str,
        message: str,
        badness: float = 0.0,
        box: tuple[float, float, float, float] | None = None,
    ) -> None:
        """Takes a note."""
        self.append(Finding(code, CODES[code].severity, str(file), shortened(message, LONGEST), badness, box))

    @property
    def errors(self) -> int:
        """How many are errors."""
        return sum(one.severity == "error" for one in self)

    def grouped(self) -> dict[str, list[Finding]]:
        """By code: errors first, and the most frequent first among those of one severity."""
        groups: dict[str, list[Finding]] = defaultdict(list)
        for one in self:
            groups[one.code].append(one)
        return dict(sorted(groups.items(), key=lambda item: (SEVERITIES.index(CODES[item[0]].severity), -len(item[1]))))


def inside(root: str, text: str) -> str:
    """A text without the folder that its paths begin with, however that is written."""
    for folder in {str(Path(root).expanduser().absolute()), str(Path(root).expanduser()), str(Path(root))}:
        text = re.sub(rf"(?<![\w./-]){re.escape(folder)}/", "", text)
    return text


def plural(count: int, severity: str) -> str:
    """`2 errors`."""
    return f"{count:,} {severity}" if severity == "advice" or count == 1 else f"{count:,} {severity}s"

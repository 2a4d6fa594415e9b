"""What a repair has changed: said in lines, and written down whole beside the copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rehead.datasets.audit.findings import CODES, Finding
from rehead.files import json_text

FILE = "repair.json"
"""Where it is written down, in the folder of the copy."""

TOTALS = {
    "images": "images left out",
    "objects": "objects left out",
    "outlines": "outlines left out, the boxes stay",
    "files": "files left out",
    "written": "images written anew, upright and in 8 bits",
    "cut": "boxes cut to their image",
    "unlabelled": "keypoints outside their image, now not labelled",
    "scaled": "annotations scaled to their image",
    "masks": "masks scaled to their image",
    "background": "images without a label file, which stay images without objects",
    "named": "objects of classes without a name, kept under their number",
}
"""What is done, in the order in which it is said."""

AS_READ: dict[str, str] = {
    **dict.fromkeys(("unknown_image", "negative_box", "broken_keypoints"), "objects"),
    **dict.fromkeys(("missing_image", "unreadable_image", "missing_mask", "unreadable_mask"), "images"),
    **dict.fromkeys(("missing_annotation", "contested_file"), "images"),
    **dict.fromkeys(("empty_folder", "unlisted_image", "label_without_image", "passed_over"), "files"),
}
"""What readers leave out when they go on, by code."""


class Change(NamedTuple):
    """One thing that a repair did.

    Attributes:
        done: a key of `TOTALS`.
        kind: the code of the finding that is the reason, or another word for it.
        split: where it is known.
        file: the image, or the file of the annotation.
        what: the object, and what was wrong with it or done to it.
        times: how many things, where one line stands for several.
    """

    done: str
    kind: str
    split: str
    file: str
    what: str
    times: int = 1


class Changes(list[Change]):
    """All that was done."""

    def __call__(self, done: str, kind: str, split: str, file: Path | str, what: str, times: int = 1) -> None:
        """Takes a note."""
        self.append(Change(done, kind, split, str(file), what, times))

    def add(self, findings: Iterable[Finding], split: str) -> None:
        """Adds what was left out when the annotations were read, or because nothing belongs to it.

        Args:
            findings: of readers, and of files.
            split: that they are of, where it is known.
        """
        for one in findings:
            if done := left_out_as(one):
                self(done, one.code, split, one.file, one.message)

    def total(self, done: str) -> int:
        """How often something was done."""
        return sum(one.times for one in self if one.done == done)

    def by_kind(self) -> dict[tuple[str, str], list[Change]]:
        """In the order of `TOTALS`, then the most frequent first."""
        groups: dict[tuple[str, str], list[Change]] = defaultdict(list)
        for one in self:
            groups[one.done, one.kind].append(one)
        places = list(TOTALS)
        return dict(sorted(groups.items(), key=lambda item: (places.index(item[0][0]), -len(item[1]))))

    def lines(self) -> list[str]:
        """A line for everything that was done, and below it one for every reason, with an example."""
        said = []
        for (done, kind), group in self.by_kind().items():
            total = f"{TOTALS[done]}: {self.total(done)}"
            if total not in said:
                said.append(total)
            meaning = f" ({CODES[kind].meaning})" if kind in CODES else ""
            count = sum(one.times for one in group)
            example = f"{group[0].file}: {group[0].what}"
            said.append(f"  {kind}: {count}{meaning}, {'' if len(group) == 1 else 'first '}{example}")
        return said

    def to_json(self, before: Any, after: Any) -> str:
        """The content of `FILE`.

        Args:
            before: the counts of the original, by split.
            after: those of the copy.
        """
        changes = [
            {
                "done": TOTALS[done],
                "kind": kind,
                "count": sum(one.times for one in group),
                "items": [{"split": one.split, "file": one.file, "what": one.what} for one in group],
            }
            for (done, kind), group in self.by_kind().items()
        ]
        left = {done: self.total(done) for done in ("images", "objects")}
        content = {"repaired_by": "rehead", "left_out": left, "before": before, "after": after, "changes": changes}
        return json_text(content, indent=1, ensure_ascii=False) + "\n"


def left_out_as(one: Finding) -> str:
    """What a reader left out for a finding: a key of `TOTALS`; empty where nothing was."""
    if one.code in ("broken_annotation", "broken_polygon"):
        # Readers begin with the object's name: `annotation 3: ...`, `a.jpg: region 2: ...`.
        words = [part.split(" ")[0] for part in one.message.split(": ")[:2]]
        return "objects" if {"annotation", "object", "line", "region"} & set(words) else "files"
    return AS_READ.get(one.code, "")

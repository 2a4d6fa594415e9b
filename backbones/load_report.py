"""What became of every tensor when weights were loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from rehead.errors import listed


@dataclass
class LoadReport:
    """What became of every tensor when weights were loaded, BatchNorm's counters of batches aside.

    Attributes:
        matched: the backbone's tensors that now hold the file's values.
        missing: the backbone's tensors that the file lacks; they stay random.
        unexpected: the file's tensors that the backbone has no place for, such as a classifier.
        mismatched: the backbone's tensors that have another shape in the file; they stay random.
        source: the file, or the repository on the hub.
        shapes: for each mismatched tensor, both shapes.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    source: str
    shapes: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the backbone was filled."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        """Counts first, then the names of whatever did not match."""
        parts = [f"{self.source}: {len(self.matched)} of {self._wanted()} backbone tensors loaded"]
        if self.missing:
            parts.append(f"missing in the file, left random ({len(self.missing)}): {listed(self.missing)}")
        if self.mismatched:
            described = [f"{name} {self.shapes.get(name, '')}".rstrip() for name in self.mismatched]
            parts.append(f"of another shape, left random ({len(self.mismatched)}): {listed(described)}")
        if self.unexpected:
            parts.append(f"not part of the backbone ({len(self.unexpected)}): {listed(self.unexpected)}")
        return "; ".join(parts)

    def _wanted(self) -> int:
        return len(self.matched) + len(self.missing) + len(self.mismatched)

"""The whole check, one step after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rehead.configs.schema import DataOptions
from rehead.data.image_io import image_size
from rehead.datasets.audit.boxes import Reasons, report_boxes, report_keypoints, report_outlines
from rehead.datasets.audit.classes import Counts, counts_of, report_classes
from rehead.datasets.audit.files import report_files
from rehead.datasets.audit.findings import Findings
from rehead.datasets.audit.images import Facts, Job, examine_all, report_images, report_masks
from rehead.datasets.audit.numbers import Numbers, numbers_of
from rehead.datasets.audit.sources import DataSet, Source, open_all
from rehead.datasets.near_duplicates import near_duplicates
from rehead.datasets.parsing import reason
from rehead.datasets.whereabouts import whereabouts
from rehead.errors import DataError
from rehead.progress import Progress
from rehead.reading import is_there

MOST_OBJECTS: int = DataOptions.model_fields["max_objects"].default
"""Of an image, unless a configuration says otherwise."""


@dataclass
class Checked:
    """What a check has seen: what is wrong, and what repair and statistics need.

    Attributes:
        data: the splits.
        findings: everything that was found.
        facts: of every image, by source, in the order of its reader.
        useless: (N,) by source, why a repair leaves objects out: the code of a finding; empty for those that stay.
            Absent for sources without boxes.
        shapeless: the same of their outlines, where the boxes stay.
        read: how many of the findings are from reading the annotations: the first ones.
        counts: of examples, by class and split.
        numbers: how many images beyond 8 bits, and what is in them, by the number that becomes 255.
        images: how many files of images there are.
        decoded: how many of them were decoded.
    """

    data: DataSet
    findings: Findings
    facts: list[list[Facts]] = field(default_factory=list)
    useless: dict[int, Reasons] = field(default_factory=dict)
    shapeless: dict[int, Reasons] = field(default_factory=dict)
    read: int = 0
    counts: Counts = field(default_factory=dict)
    numbers: list[tuple[int, Numbers]] = field(default_factory=list)
    images: int = 0
    decoded: int = 0


def check_data(
    source: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    workers: int | None = None,
    to_repair: bool = False,
    most: int | None = None,
) -> Checked:
    """Reads everything and notes what is wrong with it.

    Args:
        source: a folder whose format is detected, a YAML file, or the name of a recipe.
        overrides: by dotted key; of a folder, those of `data`.
        workers: processes; one per core unless given.
        to_repair: refuse what cannot be repaired as a whole before anything is read.
        most: images to decode, with their masks, evenly over the splits; all of them unless given. Of the others the
            annotations count, and their size.

    Raises:
        ConfigError: for a wrong configuration.
        DataError: for a folder in no known format, and paths that are not there.
    """
    findings = Findings()
    data = open_all(source, overrides or {}, findings)
    if to_repair:
        data.refuse_several()
    checked = Checked(data, findings, read=len(findings))
    if not data.sources:
        return checked
    report_files(data, findings)
    _look_at_images(checked, workers, most)
    for number, (one, facts) in enumerate(zip(data.sources, checked.facts, strict=True)):
        columns = one.reader.columns
        if one.reader.values is not None:
            jobs = _jobs(one, data)
            report_masks(jobs, facts, one.reader.values.labels if one.named else None, findings)
        elif columns.boxes is not None:
            sizes = _annotated_sizes(one, facts)
            useless = report_boxes(one.reader, sizes, findings)
            report_keypoints(one.reader, sizes, findings)
            checked.useless[number] = useless
            checked.shapeless[number] = report_outlines(one.reader, sizes, one.tasks, useless, findings)
            _report_bare(one, findings)
    _count_classes(checked)
    return checked


def _jobs(source: Source, data: DataSet) -> list[Job]:
    reader = source.reader
    colours = reader.values is not None and reader.values.colours
    white = 1 if reader.values is None else reader.values.white
    jobs = []
    for row in range(len(reader)):
        sample = reader[row]
        jobs.append(Job(sample.path, sample.size, data.channels, sample.mask_path, colours, data.scale, white))
    return jobs


def _look_at_images(checked: Checked, workers: int | None, most: int | None) -> None:
    """Every file once, whichever splits and heads use it, or some of them."""
    jobs: dict[Job, None] = {}
    by_source = []
    findings = checked.findings
    for source in checked.data.sources:
        own = _jobs(source, checked.data)
        by_source.append(own)
        jobs.update(dict.fromkeys(job for job in own if is_there(job.path)))
    there = list(jobs)
    some = there
    if most is not None and len(there) > most:
        some = [there[place] for place in np.linspace(0, len(there) - 1, most).round().astype(int).tolist()]
    facts = dict(zip(some, examine_all(some, workers), strict=True))
    checked.images, checked.decoded = len(there), len(some)
    boxed = {job for one, own in zip(checked.data.sources, by_source, strict=True) if _has_boxes(one) for job in own}
    known = {**facts, **_measured([job for job in there if job not in facts], boxed)}
    users: dict[Path, set[str]] = defaultdict(set)
    # Two splits may say two sizes of one image.
    split_of: dict[Job, set[str]] = defaultdict(set)
    for source, own in zip(checked.data.sources, by_source, strict=True):
        # Said once: it is true of all of them.
        places = f"; {whereabouts(source.reader)}" if any(job not in jobs for job in own) else ""
        for job in own:
            if job in jobs:
                users[job.path].add(source.split)
                split_of[job].add(source.split)
            else:
                findings("missing_image", job.path, f"not there, but {source.reader.annotations} names it{places}")
                places = ""
        checked.facts.append([known.get(job, Facts(problem="not there")) for job in own])
    seen = list(facts)
    report_images(seen, [facts[job] for job in seen], [_splits(split_of[job]) for job in seen], findings)
    _report_numbers(checked, facts)
    readable = [job for job in seen if facts[job].size]
    report_duplicates([job.path for job in readable], [facts[job].fingerprint for job in readable], users, findings)


def _has_boxes(source: Source) -> bool:
    return source.reader.columns.boxes is not None


def _measured(jobs: Sequence[Job], boxed: Collection[Job]) -> dict[Job, Facts]:
    """What is known of images that are not decoded: their size, where boxes ask for it."""
    lacking = sum(job in boxed and job.size is None for job in jobs)
    found = {}
    with Progress("reading sizes", lacking, quiet=not lacking) as bar:
        for job in jobs:
            facts = found[job] = Facts(size=job.size)
            if job in boxed and job.size is None:
                try:
                    facts.size = image_size(job.path)
                except DataError as error:
                    facts.problem = reason(error, job.path)
                bar.advance()
    return found


def _report_numbers(checked: Checked, facts: Mapping[Job, Facts]) -> None:
    """Whether numbers beyond 8 bits are in the range that a model is given."""
    by_white: dict[float, list[Job]] = defaultdict(list)
    for job, one in facts.items():
        if one.numbers:
            by_white[one.white].append(job)
    for white, jobs in by_white.items():
        found = numbers_of([facts[job].numbers for job in jobs], white)
        assert found is not None
        checked.numbers.append((len(jobs), found))
        if not found.fits:
            message = f"and {len(jobs) - 1} others: {found}; data.scale: {found.proposal:g} would fit"
            checked.findings("number_range", jobs[0].path, message)


def _splits(users: set[str]) -> str:
    return " and ".join(sorted(users))


def report_duplicates(
    paths: Sequence[Path], prints: Sequence[int], users: Mapping[Path, set[str]], findings: Findings
) -> None:
    """Notes nearly the same image twice, and images that two splits name.

    Args:
        paths: of the images; one that is looked at in two ways occurs twice.
        prints: their fingerprints.
        users: the splits of every image.
        findings: take the notes.
    """
    unique = dict(zip(paths, prints, strict=True))
    paths = list(unique)
    for path in paths:
        if len(users[path]) > 1:
            findings("leak", path, f"is in {_splits(users[path])}")
    for group in near_duplicates(list(unique.values())):
        own = [paths[row] for row in group]
        # Of every combination of splits the first image: thousands may be alike.
        first: dict[str, Path] = {}
        for path in own:
            first.setdefault(_splits(users[path]), path)
        for path in own[1:]:
            splits = _splits(users[path])
            elsewhere = next((other for other in first if other != splits), None)
            if elsewhere is not None:
                findings("leak", path, f"({splits}) is nearly {first[elsewhere]} ({elsewhere})")
            else:
                findings("near_duplicate", path, f"is nearly {own[0]}")


def _annotated_sizes(source: Source, facts: Sequence[Facts]) -> list[tuple[int, int] | None]:
    """What boxes and outlines must fit: the annotation's size, which is a finding of its own if the image's is not."""
    return [source.reader[row].size or fact.size for row, fact in enumerate(facts)]


def _report_bare(source: Source, findings: Findings) -> None:
    columns = source.reader.columns
    counts = source.reader.counts()
    bare = np.flatnonzero(counts == 0)
    for row in np.flatnonzero(counts > MOST_OBJECTS).tolist():
        said = f"{counts[row]} objects ({source.split}); of more than data.max_objects not all are trained on"
        findings("many_objects", source.reader.folder / columns.names[row], said)
    unlabelled = source.reader.unlabelled
    for row in bare.tolist():
        if unlabelled is not None and unlabelled[row]:
            continue  # which is a finding of its own
        findings("no_objects", source.reader.folder / columns.names[row], f"no object ({source.split})")


def _count_classes(checked: Checked) -> None:
    by_split: dict[str, dict[str, int]] = {}
    places: dict[str, str] = {}
    for source, facts in zip(checked.data.sources, checked.facts, strict=True):
        own = by_split.setdefault(source.split, {})
        for name, count in counts_of(source, facts).items():
            own[name] = own.get(name, 0) + count
        places[source.split] = str(source.reader.annotations)
    names = dict.fromkeys(name for own in by_split.values() for name in own)
    checked.counts = {name: {split: own.get(name, 0) for split, own in by_split.items()} for name in names}
    report_classes(checked.counts, places, checked.findings)

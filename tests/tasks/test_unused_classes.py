"""Columns of a classifier that no category of the data has: evaluation neither loses nor shifts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import detection

from rehead.configs.load import load_config
from rehead.datasets.open import open_data
from rehead.interop.exchange import import_model
from rehead.tasks import task_named
from rehead.types import Prediction


def test_unused_classes_between_the_others_change_no_figure(synthetic: Path) -> None:
    annotations = {split: f"annotations/{split}.json" for split in ("train", "val")}
    data = {
        "format": "coco",
        "root": str(synthetic / "scenes"),
        **{split: {"images": split, "annotations": path} for split, path in annotations.items()},
    }
    config = {"task": "detection", "data": data, "model": {"backbone": {"name": "resnet18"}, "head": {"name": "fcos"}}}
    plain = open_data(load_config(config), "val")
    known = list(plain.classes.names)
    names = ["N/A 1", known[0], "N/A 3", *known[1:], *(f"N/A {number}" for number in range(len(known) + 3, 91))]
    wide = open_data(load_config(config, {"data.classes": names}), "val")
    assert list(wide.classes.names) == names
    assert len(names) == 90

    place = torch.tensor([names.index(name) for name in known])
    metrics = []
    for reader in (plain, wide):
        evaluator = task_named("detection").evaluator(reader, reader.classes)
        generator = torch.Generator().manual_seed(0)
        for index in range(len(reader)):
            truth, reference = reader[index], plain[index]
            labels = torch.from_numpy(reference.labels)
            assert [reader.classes.names[one] for one in truth.labels] == [known[one] for one in labels]
            # Every third class is wrong, and boxes are a little off.
            guessed = torch.where(torch.arange(len(labels)) % 3 == 2, (labels + 1) % len(known), labels)
            boxes = torch.from_numpy(reference.boxes) + torch.randn(4, generator=generator)
            scores = torch.rand(len(labels), generator=generator)
            guessed = guessed if reader is plain else place[guessed]
            evaluator.update(truth, Prediction(boxes, scores, guessed))
        metrics.append(evaluator.metrics()["bbox"])
    assert 0 < metrics[0]["AP"] < 1
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_detectors_without_a_background_have_a_first_column_that_nothing_is_an_example_of(
    name: str, tmp_path: Path
) -> None:
    reference = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=91)
    torch.save(reference.state_dict(), tmp_path / "published.pth")
    classes = import_model("torchvision", tmp_path / "published.pth", name).classes["main"]
    assert classes.ids == tuple(range(91))
    assert (classes.names[0], classes.names[1], classes.names[12], classes.names[90]) == (
        *("N/A 0", "person"),
        *("N/A 12", "toothbrush"),
    )
    assert sum(each.startswith("N/A") for each in classes.names) == 11

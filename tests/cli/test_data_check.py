"""`rehead data check` in one process, as a newcomer would use it, right and wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checked_data import annotation, content, noise, save, write_coco, write_masks
from PIL import Image

from rehead.datasets.audit.findings import inside
from rehead.datasets.audit.repair import repair
from rehead.datasets.audit.run import check_data


def broken(root: Path) -> Path:
    write_coco(root)
    whole = content("train")
    whole["annotations"] += [{**annotation(90 + n, 1, 7 + n), "category_id": 77} for n in range(4)]
    whole["annotations"] += [annotation(99, 1, 30)]
    save(root, "train", whole)
    Image.fromarray(noise(7)).convert("L").save(root / "val" / "d.png")
    return root


def test_findings_are_counted_by_kind_and_errors_are_exit_code_1(rehead_command, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    picture = tmp_path / "boxes.png"
    outcome = rehead_command("data", "check", broken(tmp_path / "d"), "--json", out, "--picture", picture)
    assert outcome.code == 1, outcome.err
    assert "4 errors, 1 warning, 1 advice" in outcome.out
    assert "train.json: annotation 91: category_id 77, which categories does not list" in outcome.out
    assert "annotation 92" not in outcome.out
    assert "and 2 more" in outcome.out
    assert "retinanet: " in outcome.out
    found = json.loads(out.read_text())
    assert len(found) == 6
    assert all(row.keys() == {"code", "severity", "file", "message"} for row in found)
    assert found[0]["severity"] == "error"
    assert {row["code"] for row in found} == {"unknown_category", "box_over_edge", "grey"}
    with Image.open(picture) as drawn:
        assert drawn.width > drawn.height


def test_whole_data_are_exit_code_0_whatever_is_advised(rehead_command, tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    assert rehead_command("data", "check", root).code == 0
    Image.fromarray(noise(7)).convert("L").save(root / "val" / "d.png")
    outcome = rehead_command("data", "check", root, "--examples", 0)
    assert (outcome.code, "0 errors, 0 warnings, 1 advice" in outcome.out) == (0, True)
    assert "one channel" not in outcome.out


def test_a_configuration_is_checked_with_its_own_classes_sizes_and_heads(rehead_command, tmp_path: Path) -> None:
    root = broken(tmp_path / "data")
    splits = {split: {"images": split, "annotations": f"{split}.json"} for split in ("train", "val")}
    data = {"format": "coco", "root": str(root), **splits, "resize": {"height": 60, "width": 80}}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"task": "detection", "data": data, "model": {"head": "fcos"}}))
    outcome = rehead_command("data", "check", config, "data.classes=[dog]")
    assert outcome.code == 1
    assert "height 60, width 80" in outcome.out
    assert "retinanet" not in outcome.out
    assert "cat " not in outcome.out.split("objects")[1]


def test_a_repaired_copy(rehead_command, tmp_path: Path) -> None:
    outcome = rehead_command("data", "check", broken(tmp_path / "d"), "--fix", tmp_path / "new")
    assert outcome.code == 1
    assert f"repaired copy: {tmp_path / 'new'}" in outcome.out
    assert "boxes cut to their image: 1" in outcome.out
    outcome = rehead_command("data", "check", tmp_path / "new")
    assert (outcome.code, "0 errors, 0 warnings, 0 advice" in outcome.out) == (0, True)


def test_class_maps_are_named_by_an_override(rehead_command, tmp_path: Path) -> None:
    root = write_masks(tmp_path)
    outcome = rehead_command("data", "check", root, "data.format=masks", "data.classes=[sky,road]")
    assert outcome.code == 1
    assert "2: no class" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/../no_such_folder"], "no such file or recipe"),
        (["{root}/empty"], "no format is detected in 0 files"),
        (["{root}", "train.epochs=1"], "train.epochs: "),
        (["{root}", "--json", "{root}"], "which is read"),
        (["{root}", "--picture", "boxes.doc"], "should end in .png"),
        (["{root}", "--fix", "{root}"], "which is read"),
        (["{root}", "data.format=masks"], "nothing for segmentation, but there is COCO JSON"),
        (["coco_faster_rcnn_r50_fpn", "data.root={root}/nowhere"], "no folder"),
        (["coco_faster_rcn_r50_fpn"], "did you mean 'coco_faster_rcnn_r50_fpn'"),
    ],
)
def test_misuse_is_one_message_and_exit_code_2(
    arguments: list[str], message: str, rehead_command, tmp_path: Path
) -> None:
    root = write_coco(tmp_path / "data")
    (root / "empty").mkdir()
    outcome = rehead_command("data", "check", *(word.format(root=root) for word in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("birds/a.jpg: is nearly birds/b.jpg", "a.jpg: is nearly b.jpg"),
        ("{here}/birds/a.jpg (train)", "a.jpg (train)"),
        ("/other/birds/a.jpg: not there", "/other/birds/a.jpg: not there"),
        ("{here}/birds2/a.jpg", "{here}/birds2/a.jpg"),
    ],
)
def test_paths_are_shown_from_the_folder_on(text: str, shown: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inside("birds", text.format(here=tmp_path)) == shown.format(here=tmp_path)


def test_piped_output_is_wrapped_nowhere(rehead_command, tmp_path: Path) -> None:
    root = tmp_path / ("a folder with a long name " * 8).strip() / "d"
    root.mkdir(parents=True)
    outcome = rehead_command("data", "check", broken(root))
    lines = outcome.out.splitlines()
    # Relative to the folder; the whole path stands in what is not inside it.
    assert any("train.json: annotation 90: category_id 77, which categories does not list" in line for line in lines)
    assert not any(line.endswith(" ") for line in lines)
    write_masks(tmp_path / "masks")
    long = tmp_path / "masks" / "train" / f"{'long' * 40}.jp2"
    long.write_bytes(b"\0\0\0\x0cjP  ")
    outcome = rehead_command("data", "check", tmp_path / "masks", "data.format=masks")
    assert any(
        f"train/{long.name}: .jp2 is not read; convert it to PNG or JPEG" in line for line in outcome.out.splitlines()
    )


def test_boxes_are_said_as_the_file_counts_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "xml").mkdir()
    Image.fromarray(noise(1)).save(tmp_path / "images/a.png")
    box = "<xmin>7</xmin><ymin>3</ymin><xmax>77</xmax><ymax>12</ymax>"
    thing = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
    (tmp_path / "xml/a.xml").write_text(f"<annotation>{thing}</annotation>")
    checked = check_data(tmp_path)
    (found,) = (one for one in checked.findings if one.code == "box_over_edge")
    assert found.message == "a.xml object 1: box 7 3 77 12 reaches 37.0 pixels over 40x30"
    assert any("box 7 3 77 12 to 7 3 40 12" in line for line in repair(checked, tmp_path / "out"))

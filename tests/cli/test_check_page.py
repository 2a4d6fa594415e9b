"""`rehead data check --html`: one page that stands alone, on which names are text."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from checked_data import annotation, content, noise, save, write_coco, write_masks
from PIL import Image

from rehead.datasets.audit import page as page_module
from rehead.datasets.audit.findings import Finding
from rehead.terminal import visible

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "a\nb",
    "\u202egpj.exe",
    "{{ 7 * 7 }} & <b>",
]


class Read(HTMLParser):
    """The tags of a page and their attributes, its text, and whether every tag is closed."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def pictures(self) -> list[Image.Image]:
        found = []
        for tag, attributes in self.tags:
            if tag == "img":
                kind, _, encoded = (attributes["src"] or "").partition(",")
                assert kind == "data:image/jpeg;base64"
                found.append(Image.open(io.BytesIO(base64.b64decode(encoded))))
        return found


def spoiled(root: Path, names: list[str] | None = None) -> Path:
    write_coco(root)
    whole = content("train")
    for number, name in enumerate(names or []):
        whole["categories"].append({"id": 10 + number, "name": name})
    whole["annotations"] += [annotation(60 + 2 * n, 1, 31 + n) for n in range(9)]
    save(root, "train", whole)
    return root


def checked(rehead_command, root: Path, *overrides: str) -> Read:
    out = root.parent / "report.html"
    outcome = rehead_command("data", "check", root, *overrides, "--html", out)
    assert outcome.code in (0, 1), outcome.err
    return Read(out.read_text(encoding="utf-8"))


def test_findings_are_shown_with_the_worst_first_and_their_box_marked(rehead_command, tmp_path: Path) -> None:
    root = spoiled(tmp_path / "data")
    Image.new("RGB", (40, 30)).save(root / "train" / "a.png")
    page = checked(rehead_command, root)
    assert not page.open
    text = " ".join(" ".join(page.text).split())
    assert "a box reaches over the image's edge" in text
    assert "of which 6 are shown" in text
    captions = re.findall(r"train/a\.png: annotation (\d+): box [\d. ]+ reaches", text)
    assert captions == ["76", "74", "72", "70", "68", "66"]
    assert str(tmp_path) not in text.partition("Warnings")[2]
    first = np.asarray(page.pictures()[0].convert("RGB")).astype(int)
    assert first.shape == (30, 40, 3)
    # The left edge of the box of annotation 76 is red, and not a column beside it.
    red = first[..., 0] - first[..., 1:].max(axis=2)
    assert red[5:12, 39].min() > red[5:12, :36].max() + 50


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(rehead_command, tmp_path: Path) -> None:
    page = checked(rehead_command, spoiled(tmp_path / "data"))
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key in ("href", "srcset", "xlink:href")]
        assert (attributes.get("src") or "data:").startswith("data:")
    assert "url(" not in " ".join(page.text)


def test_names_of_classes_files_and_folders_stay_text(rehead_command, tmp_path: Path) -> None:
    root = spoiled(tmp_path / "<script>alert(3)<", HOSTILE)
    for name in ("<img src=x>.png", "\u202etxt.png", "line\nbreak.png"):
        Image.fromarray(noise(9)).convert("L").save(root / "train" / name)
    page = checked(rehead_command, root)
    assert not page.open
    text = "".join(page.text)
    # What would leave no mark, or turn what follows round, is shown as Python writes it.
    shown = [name.replace("\n", r"\n").replace("\u202e", r"\u202e") for name in [*HOSTILE, "\u202etxt.png"]]
    assert all(name in text for name in [*shown, "<img src=x>.png", "<script>alert(3)<"])
    assert visible(text, keep="\n") == text
    assert "script" not in {tag for tag, _ in page.tags}
    assert all("onerror" not in attributes for _, attributes in page.tags)


def test_names_that_are_no_text_are_written_all_the_same(rehead_command, tmp_path: Path) -> None:
    root = spoiled(tmp_path / "data")
    stray = root / "train" / b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    try:
        Image.fromarray(noise(9)).save(stray)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes names of UTF-8 alone")
    assert "unlisted_image" in "".join(checked(rehead_command, root).text)
    found = tmp_path / "found.json"
    assert rehead_command("data", "check", root, "--json", found).code == 0
    assert str(stray) in {row["file"] for row in json.loads(found.read_bytes())}


def test_class_maps_are_stretched_so_that_they_can_be_seen(rehead_command, tmp_path: Path) -> None:
    page = checked(rehead_command, write_masks(tmp_path / "data"), "data.format=masks", "data.classes=[sky,road]")
    assert any(np.asarray(picture).max() > 240 for picture in page.pictures())


def test_thumbnails_end_with_their_budget_and_that_is_said(
    rehead_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "BUDGET", 1)
    page = checked(rehead_command, spoiled(tmp_path / "data"))
    assert len(page.pictures()) == 1
    assert re.search(r"[1-9]\d* examples are without their picture", " ".join(page.text))


def test_findings_without_an_image_have_no_picture(tmp_path: Path) -> None:
    from rehead.datasets.audit.run import check_data

    thumbnails = page_module._Thumbnails(check_data(write_coco(tmp_path)))
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name in ("train.json", "nowhere.png", "broken.png", "train"):
        assert thumbnails(Finding("grey", "advice", str(tmp_path / name), "")) == ""


def test_a_page_that_cannot_be_written_is_said_first(rehead_command, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    for out in (tmp_path, tmp_path / "report.txt"):
        outcome = rehead_command("data", "check", root, "--html", out)
        assert (outcome.code, outcome.out) == (2, "")
        assert "--html" in outcome.err

"""Folders and files of somebody else: nothing keeps a reader waiting, leads it in circles, or vanishes unsaid."""

from __future__ import annotations

import ast
import logging
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_house import FILES, REPOSITORY, room_of

from rehead.configs.readers import FoldersSplit, YoloSplit
from rehead.configs.schema import DataOptions
from rehead.data.image_io import image_size, read_image
from rehead.datasets.audit.run import check_data
from rehead.datasets.file_names import image_names
from rehead.datasets.open import open_reader
from rehead.datasets.tree import Tree
from rehead.errors import DataError
from rehead.reading import contents, is_there, walk
from rehead.tasks.predict import find_images

OWN = {
    "core/reading.py",
    "core/files.py",
    "core/environment.py",
    "configs/transforms.py",
    "configs/load.py",
    "tasks/predict.py",
    "tasks/train.py",
}
"""Where folders are walked that are no data: rehead's own, those of a run, the cache, the system's."""


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), (9, 99, len(path.name))).save(path)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of folders that nobody may look into, as for a user who is not root."""
    names: set[str] = set()
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:
        if Path(os.fspath(path)).name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    return names


class TestLinks:
    def test_each_real_folder_is_walked_once_however_links_lead_around(self, tmp_path: Path) -> None:
        picture(tmp_path / "a/b/one.png")
        (tmp_path / "a/b/up").symlink_to(tmp_path)
        (tmp_path / "a/b/itself").symlink_to("itself")
        (tmp_path / "a/again").symlink_to(tmp_path / "a/b")
        walked = walk(tmp_path)
        assert image_names(tmp_path) == ["a/b/one.png"]
        assert walked.again == {"a/again": "a/b", "a/b/up": "."}

    def test_links_that_double_at_every_level_take_no_time(self, tmp_path: Path) -> None:
        """Without any circle, 2 ** 40 paths lead to the last of these folders."""
        for level in range(40):
            (tmp_path / f"d{level}").mkdir()
            for name in ("x", "y"):
                (tmp_path / f"d{level}/{name}").symlink_to(tmp_path / f"d{level + 1}", target_is_directory=True)
        picture(tmp_path / "d40/one.png")
        assert image_names(tmp_path) == ["d40/one.png"]
        # Also where only links lead there.
        assert image_names(tmp_path / "d0") == ["/".join("x" * 40) + "/one.png"]

    def test_what_is_outside_is_followed(self, tmp_path: Path) -> None:
        picture(tmp_path / "elsewhere/one.png")
        (tmp_path / "data").mkdir()
        (tmp_path / "data/images").symlink_to(tmp_path / "elsewhere")
        assert image_names(tmp_path / "data") == ["images/one.png"]

    def test_a_link_to_a_folder_beside_it_stands_for_its_files_where_formats_are_recognised(
        self, tmp_path: Path
    ) -> None:
        picture(tmp_path / "raw/one.png")
        (tmp_path / "train").mkdir()
        (tmp_path / "train/images").symlink_to(tmp_path / "raw")
        (tmp_path / "raw/up").symlink_to(tmp_path)
        assert Tree.of(tmp_path).images() == {"raw": ["one.png"], "train/images": ["one.png"]}


class TestFoldersThatCannotBeRead:
    def test_are_named_and_counted(self, tmp_path: Path, closed: set[str], caplog: pytest.LogCaptureFixture) -> None:
        for name in ("in", "secret", "deep/secret2"):
            picture(tmp_path / name / "one.png")
        closed |= {"secret", "secret2"}
        with caplog.at_level(logging.WARNING):
            assert image_names(tmp_path) == ["in/one.png"]
        (said,) = caplog.messages
        assert "2 folders cannot be read" in said
        assert "deep/secret2 (Permission denied), secret (Permission denied)" in said

    def test_the_folder_itself_is_an_error(self, tmp_path: Path, closed: set[str]) -> None:
        picture(tmp_path / "secret/one.png")
        closed.add("secret")
        with pytest.raises(DataError, match=r"secret: cannot be read: Permission denied"):
            image_names(tmp_path / "secret")

    def test_training_and_predicting_say_so(
        self, tmp_path: Path, closed: set[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("cat/one.png", "cat/secret/two.png", "dog/one.png"):
            picture(tmp_path / name)
        closed.add("secret")
        options = DataOptions(format="folders", root=str(tmp_path), train=FoldersSplit(images="."))
        assert len(open_reader(options, "train")) == 2
        assert "1 folders cannot be read, so nothing in them counts: secret (Permission denied)" in caplog.text
        caplog.clear()
        assert len(find_images([tmp_path])[0]) == 2
        assert "cat/secret (Permission denied)" in caplog.text

    def test_are_findings_of_the_check_in_every_format(self, tmp_path: Path, closed: set[str]) -> None:
        for split in ("train", "val"):
            for name in ("cat/one.png", "dog/one.png", "dog/secret/two.png"):
                picture(tmp_path / split / name)
        closed.add("secret")
        found = [one.file for one in check_data(tmp_path).findings if one.code == "unreadable_folder"]
        assert found == [str(tmp_path / split / "dog/secret") for split in ("train", "val")]

    def test_a_whole_split_is_too(self, tmp_path: Path, closed: set[str]) -> None:
        for split in ("train", "val"):
            for name in ("cat/one.png", "dog/one.png"):
                picture(tmp_path / split / name)
        closed.add("val")
        found = [one.file for one in check_data(tmp_path).findings if one.code == "unreadable_folder"]
        assert found == [str(tmp_path / "val")]

    def test_nobody_walks_but_by_the_one_function(self) -> None:
        """Which cannot forget a folder that cannot be read, a circle of links or a pipe."""
        walkers = {"walk", "rglob", "glob", "iglob", "iterdir", "listdir", "scandir", "fwalk"}
        found = [
            f"{name}:{node.lineno} {node.attr}"
            for path in FILES.values()
            if (name := path.relative_to(REPOSITORY).as_posix()) not in OWN
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in walkers and ast.unparse(node) != "ast.walk"
        ]
        assert found == []


def test_nobody_opens_but_by_the_one_function() -> None:
    """Which waits for no pipe, reads no device without end, and names the file."""
    opening = re.compile(r"\.read_bytes\(|\.read_text\(|\.open\((\"r|\)|mode=\"r)|(?<![.\w])open\(")
    cache = {"datasets/remembered.py", "datasets/cache.py"}
    files = [
        path for name, path in FILES.items() if name == "rehead.configs.load" or room_of(name) in ("data", "datasets")
    ]
    found = [path for path in files if opening.search(path.read_text())]
    assert {path.relative_to(REPOSITORY).as_posix() for path in found} == cache


SPECIAL = ("pipe.png", "device.png", "socket.png")


def special(folder: Path, name: str) -> Path:
    """Something that is no file; no device can be made without being root, but a link to one."""
    path = folder / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    elif name.startswith("device"):
        path.symlink_to("/dev/zero")
    else:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket has at most 107 characters
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
        os.chdir(here)
    return path


class TestWhatIsNoFile:
    @pytest.mark.parametrize("name", SPECIAL)
    def test_is_passed_over_by_name(self, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        picture(tmp_path / "one.png")
        special(tmp_path, name)
        assert find_images([tmp_path])[0] == [tmp_path / "one.png"]
        what = {"pipe.png": "a named pipe", "device.png": "a device", "socket.png": "a socket"}[name]
        assert f"1 are no files and are not read: {name} ({what})" in caplog.text

    @pytest.mark.parametrize("name", SPECIAL)
    def test_is_never_waited_for_or_read_without_end(self, name: str, tmp_path: Path) -> None:
        path = special(tmp_path, name)
        for read in (read_image, image_size, contents):
            with pytest.raises(DataError, match=f"{name}: (is a|cannot be read)"):
                read(path)

    @pytest.mark.parametrize("name", ["a.npy", "a.png", "a.json"])
    def test_nor_is_a_hole_of_a_terabyte(self, name: str, tmp_path: Path) -> None:
        with (tmp_path / name).open("wb") as file:
            try:
                file.truncate(2**40)
            except OSError:
                pytest.skip("this file system has no files with holes")
        for read in (read_image, image_size, contents):
            with pytest.raises(DataError, match=f"{name}: (is larger than|not an image)"):
                read(tmp_path / name)
        Tree.of(tmp_path).text(".", name)

    @pytest.mark.parametrize("name", ["a.npy", "a.png", "a.json"])
    def test_nor_is_a_folder(self, name: str, tmp_path: Path) -> None:
        (tmp_path / name).mkdir()
        for read in (read_image, image_size, contents):
            with pytest.raises(DataError, match=f"{name}: (is a folder|cannot be read: Is a directory)"):
                read(tmp_path / name)

    @pytest.mark.parametrize("name", SPECIAL)
    def test_is_a_finding_of_the_check(self, name: str, tmp_path: Path) -> None:
        for own in ("cat/one.png", "dog/one.png"):
            picture(tmp_path / "train" / own)
        special(tmp_path / "train/cat", name)
        files = [one.file for one in check_data(tmp_path).findings if one.code == "passed_over"]
        assert files == [str(tmp_path / "train/cat" / name)]

    def test_a_label_file_that_is_none_is_not_an_image_without_objects(self, tmp_path: Path) -> None:
        for own in ("one", "two"):
            picture(tmp_path / f"images/{own}.png")
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/one.txt").write_text("0 0.5 0.5 0.5 0.5")
        os.mkfifo(tmp_path / "labels/two.txt")
        (tmp_path / "data.yaml").write_text("{names: [cat], train: images}")
        options = DataOptions(format="yolo", root=str(tmp_path), train=YoloSplit(images="images"))
        with pytest.raises(DataError, match=r"two\.txt: is a named pipe, not a file"):
            open_reader(options, "train")
        checked = check_data(tmp_path)
        assert [one.file for one in checked.findings if one.code == "broken_annotation"] == [
            str(tmp_path / "labels/two.txt")
        ]


class TestNames:
    @pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800", "", "a/" * 3000])
    def test_any_name_is_asked_for_without_an_error_of_the_systems(self, name: str, tmp_path: Path) -> None:
        assert is_there(tmp_path / name) == (name == "")
        with pytest.raises(DataError):
            contents(tmp_path / name)

    def test_what_may_not_be_looked_at_is_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refusing(self: Path, **_: Any) -> os.stat_result:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "stat", refusing)
        assert is_there(tmp_path / "any")

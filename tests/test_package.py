"""The package builds, and the wheel works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def test_every_folder_with_code_is_listed_in_the_package() -> None:
    """A sub-package that is not listed would be missing from the wheel alone."""
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    listed = set(tool["setuptools"]["package-dir"].values())
    apart = {"tests", "benchmarks", "docs", "build", "dist", "site"}
    folders = {path.parent.relative_to(REPOSITORY) for path in REPOSITORY.glob("[a-z]*/**/*.py")}
    found = {folder.as_posix() for folder in folders if folder.parts[0] not in apart}
    assert found == listed
    packages = {name.removeprefix("rehead.").replace(".", "/") for name in tool["setuptools"]["packages"]}
    assert packages == found - {"core"} | {"rehead"}
    watched = {key["file"].split("/")[0] for key in tool["uv"]["cache-keys"]} - {"pyproject.toml"}
    assert watched == {folder.split("/")[0] for folder in listed}


def test_every_recipe_is_package_data() -> None:
    """Those of a sub-folder that is not listed would be missing from the wheel alone."""
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    configs = REPOSITORY / "configs"
    listed = {
        path for pattern in tool["setuptools"]["package-data"]["rehead.configs"] for path in configs.glob(pattern)
    }
    assert listed == set(configs.rglob("*.yaml"))


def test_every_template_is_package_data() -> None:
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    core = REPOSITORY / "core"
    listed = {path for pattern in tool["setuptools"]["package-data"]["rehead"] for path in core.glob(pattern)}
    assert set(core.rglob("*.j2")) <= listed
    assert set(core.rglob("*.j2"))


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    source, out, site = tmp_path / "source", tmp_path / "dist", tmp_path / "site"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in tracked.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    # Without isolation: the build needs setuptools alone, and the wheel is made from the sdist.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "configs/camvid_unet_r18.yaml", "core/py.typed"} <= names
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(site)
    assert {
        "rehead/py.typed",
        "rehead/configs/camvid_unet_r18.yaml",
        "rehead/configs/paper/resnet20.yaml",
        "rehead/datasets/formats/coco.py",
    } <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"rehead"}

    script = (
        "import rehead, pathlib, sys; from rehead.configs.load import recipes\n"
        "assert pathlib.Path(rehead.__file__).is_relative_to(sys.argv[1]), rehead.__file__\n"
        "assert len(recipes()) >= 3\n"
        "model = rehead.build_model('resnet18', 'unet', ['a', 'b'], weights='none')\n"
        "assert rehead.load_config('configs/camvid_unet_r18.yaml').task == 'segmentation'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", script, str(site)]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)

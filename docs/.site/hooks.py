"""What mkdocs.yml cannot say: pages for the rooms, links that lead out of docs/, and nothing loaded from elsewhere.

mkdocs calls the functions by their names.
"""

from __future__ import annotations

import ast
import posixpath
import re
import tempfile
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import rehead

REPOSITORY = Path(__file__).resolve().parents[2]
ELSEWHERE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "benchmarks/RESULTS.md": "measurements.md"}
"""Pages of the repository that the site has too, and as what."""
_SETUPTOOLS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
PACKAGES: dict[str, Path] = {name: REPOSITORY / folder for name, folder in _SETUPTOOLS["package-dir"].items()}
"""Every package by its name; tests/test_package.py compares the list in pyproject.toml with the folders."""
_PACKAGE = tempfile.TemporaryDirectory(prefix="rehead-docs-")
_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\[\]]+)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the reference behind the other pages, and shows mkdocstrings the package as it lies in the repository."""
    _mirror()
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_PACKAGE.name]
    assert config.nav is not None
    config.nav.append({"Reference": ["reference/index.md", *(_page(room) for room in _rooms())]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the reference, and those that lie outside docs/."""
    rooms = _rooms()
    for room, purpose in rooms.items():
        files.append(File.generated(config, _page(room), content="\n".join(_reference(room, purpose))))
    files.append(File.generated(config, "reference/index.md", content="\n".join(_index(rooms))))
    for path, page in ELSEWHERE.items():
        if page not in files.src_uris:
            files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links to files outside docs/ to where the site has them; where it has them not, the text stays alone."""
    uri = page.file.src_uri
    origin = next((path for path, copy in ELSEWHERE.items() if copy == uri and path != "README.md"), f"docs/{uri}")

    def replace(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        path, _, anchor = target.partition("#")
        if not path or ":" in path:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        if path.startswith("docs/") or path in ELSEWHERE:
            new = posixpath.relpath(ELSEWHERE.get(path, path.removeprefix("docs/")), posixpath.dirname(uri) or ".")
            return f"{match['picture']}[{text}]({new}{'#' * bool(anchor)}{anchor})"
        if match["picture"] or not (REPOSITORY / path).exists():
            return match[0]
        module = _module(REPOSITORY / path)
        return f"[{text}][{module}]" if module else text

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(replace, part) for part in parts)


def on_post_build(config: MkDocsConfig) -> None:
    """Fails where a page would load something from another machine."""
    found = [
        f"{path.relative_to(config.site_dir)}: {address}"
        for path in sorted(Path(config.site_dir).rglob("*"))
        if path.suffix in {".html", ".css"}
        for address in _loaded(path)
        if address.startswith(("http:", "https:", "//"))
    ]
    if found:
        raise PluginError("The site must load nothing from anywhere, but does:\n" + "\n".join(found))


def _mirror() -> None:
    """Links the package together as it lies in the repository.

    Not as it is installed: mkdocstrings passes over folders without `__init__.py`, and a file that is new is
    installed later.
    """
    for name, folder in PACKAGES.items():
        package = Path(_PACKAGE.name, *name.split("."))
        package.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.py*"):
            (package / path.name).unlink(missing_ok=True)
            (package / path.name).symlink_to(path)
        if not (package / "__init__.py").exists():
            (package / "__init__.py").touch()


def _page(room: str) -> str:
    return f"reference/{room.removeprefix('rehead.') if room != 'rehead' else 'core'}.md"


def _rooms() -> dict[str, str]:
    """What lives in each room, in the order of the table in CONTRIBUTING.md, which has to list them all."""
    rows = re.findall(r"^\| `(\w+)/` \|.*?([^|]+) \|$", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    listed = {"rehead" if folder == "core" else f"rehead.{folder}": purpose.strip() for folder, purpose in rows}
    missing = {name for name in PACKAGES if name.count(".") < 2} ^ set(listed)
    if missing:
        names = ", ".join(sorted(missing))
        raise PluginError(f"Only one of CONTRIBUTING.md's table of folders and pyproject.toml's packages has: {names}")
    return listed


def _index(rooms: dict[str, str]) -> Iterator[str]:
    yield "# Reference\n"
    yield "These names can be imported from `rehead`. Each is loaded when it is first used.\n"
    yield "| name | what |\n| --- | --- |"
    package = griffe.load("rehead", search_paths=[_PACKAGE.name])
    for name in sorted(rehead.__all__):
        docstring = package[name].final_target.docstring if package[name].is_alias else package[name].docstring
        if docstring is None:
            raise PluginError(f"rehead.{name} has no docstring")
        first = docstring.value.partition("\n\n")[0].replace("\n", " ")
        yield f"| [`{name}`][rehead.{name}] | {first} |"
    yield "\nAll names, by room. Imports only point down this list.\n"
    yield "| room | what lives there |\n| --- | --- |"
    yield from (f"| [`{room}`]({posixpath.basename(_page(room))}) | {rooms[room]} |" for room in rooms)


def _reference(room: str, purpose: str) -> Iterator[str]:
    yield f"# {room}\n"
    if ast.get_docstring(ast.parse(_init(PACKAGES[room]))) is None:
        yield f"{purpose[0].upper()}{purpose[1:]}.\n"
    for package, folder in PACKAGES.items():
        if package == room or (package.startswith(f"{room}.") and room != "rehead"):
            yield f"::: {package}\n    options:"
            # What it imports is shown where it is written.
            yield f"      members: [{', '.join(_defined(_init(folder)))}]"
            if package == room:
                yield "      show_root_heading: false"
            yield ""
            for path in sorted(folder.glob("*.py")):
                if not path.stem.startswith("_"):
                    yield f"::: {package}.{path.stem}\n"


def _init(folder: Path) -> str:
    path = folder / "__init__.py"
    return path.read_text() if path.exists() else ""


def _defined(code: str) -> Iterator[str]:
    for node in ast.parse(code).body:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.Assign(targets=[ast.Name(id=name)])
                | ast.AnnAssign(target=ast.Name(id=name))
            ) if not name.startswith("_"):
                yield name


def _module(path: Path) -> str | None:
    """The name by which a file of a room is imported."""
    if path.suffix != ".py" or path.stem.startswith("_"):
        return None
    return next((f"{name}.{path.stem}" for name, folder in PACKAGES.items() if path.parent == folder), None)


class _Loaded(HTMLParser):
    """Notes what a browser loads by itself; an `a` is for a person to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        names = {"src", "poster", "data"} | ({"href"} if tag in {"link", "use", "image"} else set())
        if named.get("rel") != "canonical":
            self.addresses += [named[name] for name in names & set(named)]
        self.addresses += [part.split()[0] for part in named.get("srcset", "").split(",") if part.strip()]
        self.addresses += _loaded_by_css(named.get("style", ""))
        if "mermaid" in named.get("class", "").split():
            self.addresses.append("https: what draws mermaid diagrams")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.addresses += _loaded_by_css(data)


def _loaded(path: Path) -> list[str]:
    if path.suffix == ".css":
        return _loaded_by_css(path.read_text())
    parser = _Loaded()
    parser.feed(path.read_text())
    return parser.addresses


def _loaded_by_css(code: str) -> list[str]:
    return re.findall(r"(?:url\(|@import )\s*[\"']?([^\"')]+)", code)

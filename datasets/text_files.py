"""What is written in the files of annotations, whatever its encoding, and the files that it names."""

from __future__ import annotations

import codecs
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rehead.errors import DataError
from rehead.plain_yaml import YamlError, load_yaml
from rehead.reading import contents, is_file, reading

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""Byte order marks; those of UTF-32 first, which begin as one of UTF-16 does."""


def utf8_of(path: Path) -> bytes:
    """The text of a file in UTF-8, without a byte order mark.

    UTF-16 and UTF-32 are known by their mark, or by the zeros of the first letter, which is ASCII in every format here
    (as RFC 4627 has it for JSON). Other encodings cannot be told apart, and so are refused.

    Raises:
        DataError: naming the line, if it is in another encoding.
    """
    data = contents(path)
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
    if encoding is None and len(data) > 1 and 0 in data[:2]:
        encoding = "utf-16-le" if data[1] == 0 else "utf-16-be"
    try:
        if encoding in (None, "utf-8"):
            data = data.removeprefix(codecs.BOM_UTF8)
            if not data.isascii():
                data.decode()
            return data
        assert encoding is not None
        return data.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        raise _not_text(path, data, error) from error


def _not_text(path: Path, data: bytes, error: UnicodeError) -> DataError:
    if not isinstance(error, UnicodeDecodeError) or error.encoding != "utf-8":
        return DataError(f"{path}: its byte order mark says another encoding than it is in: {error}")
    line = data.count(b"\n", 0, error.start) + 1
    word = re.split(rb"[\s\"',;<>]", data[max(0, error.start - 30) : error.start])[-1]
    word += re.split(rb"[\s\"',;<>]", data[error.start : error.start + 30])[0]
    return DataError(
        f"{path}: line {line}: not UTF-8 ({error.reason} at byte {error.start}); in Latin-1 it would read "
        f"'{word.decode('latin-1')}'. Save the file as UTF-8"
    )


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: as `utf8_of`.
    """
    return utf8_of(path).decode()


def lines_of(path: Path) -> list[str]:
    """Names of files, a line for each, without empty lines; names that are not UTF-8 as the file system has them.

    Raises:
        DataError: naming the file, if it cannot be read.
    """
    try:
        text = text_of(path)
    except DataError:
        text = os.fsdecode(contents(path))
    return [name for line in re.split(r"[\r\n]+", text) if (name := line.strip())]


def xml_of(path: Path) -> ElementTree.Element:
    """The outermost element of an XML file, in the encoding that it declares.

    Raises:
        DataError: naming the file, for broken XML.
    """
    data = contents(path)
    declared = re.match(rb"<\?xml[^>]*encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']", data[:200].lstrip())
    with reading(path, "broken XML"):
        if declared is None:
            return ElementTree.fromstring(text_of(path))
        # As text: the parser knows few encodings itself.
        return ElementTree.fromstring(data.decode(declared.group(1).decode()).lstrip())


def yaml_of(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        DataError: naming the file, for broken YAML.
    """
    try:
        return load_yaml(text_of(path))
    except YamlError as error:
        raise DataError(f"{path}: broken YAML: {error}") from error


def file_named(folder: Path, name: str) -> str:
    """The name of a file as annotations give it: with back-slashes on Windows, and as in addresses by some tools.

    Args:
        folder: that the name starts from.
        name: as given.

    Returns:
        The first that is there: the name, that with slashes, that without the signs of addresses (%20); the name
        with slashes where none is.
    """
    plain = name.replace("\\", "/")
    if plain == name and "%" not in name:
        return name
    tried = (name, plain, unquote(plain))
    return next((one for one in tried if is_file(folder / one)), plain)


def wrong_name(name: str) -> str:
    """Why no file can have a name; empty if one can."""
    if not name.strip():
        return "is empty"
    try:
        encoded = os.fsencode(name)
    except UnicodeError:
        return "is no text"
    if "\0" in name:
        return "holds a NUL"
    return "is too long" if len(encoded) > 4000 or max(map(len, encoded.split(b"/"))) > 255 else ""

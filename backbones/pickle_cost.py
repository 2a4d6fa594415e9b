"""How much work a pickle asks for, found without doing it.

A few letters build a tuple that holds another twice, which holds another twice, and so on: as the key of a dict, it
is hashed for ages, whoever reads it.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

MOST = 10_000_000
"""Values that a pickle may have hashed, each counted as often as it is found; a checkpoint has some thousands."""
PICKLES = 5
"""At the beginning of a file of PyTorch's older form."""


def is_endless(path: Path) -> bool:
    """Whether reading what `torch.save` wrote would take ages; False for what is no such file."""
    # Whatever is broken, PyTorch says; here only the work counts.
    with suppress(Exception), warnings.catch_warnings(action="ignore"):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return any(_hashed(file) > MOST for _ in range(PICKLES))
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] == "data.pkl":
                    with archive.open(name) as opened:
                        if _hashed(opened) > MOST:  # type: ignore[arg-type]
                            return True
    return False


def _hashed(file: BinaryIO) -> int:
    """The values that one pickle would have hashed; stops counting behind `MOST`."""
    # Sizes in place of the values; a value that is found twice is the same list twice.
    stack: list[list[int] | None] = []
    memo: dict[int, list[int]] = {}
    total = 0
    for code, argument, _ in pickletools.genops(file):
        name = code.name
        if name == "MARK":
            stack.append(None)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(str(argument))] = _top(stack)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(int(str(argument)), [1]))
        elif name not in ("PROTO", "FRAME"):
            before = code.stack_before
            taken = list(_to_mark(stack))[::-1] if pickletools.markobject in before else []
            fixed = before.index(pickletools.markobject) if pickletools.markobject in before else len(before)
            first = [stack.pop() or [0] for _ in range(min(fixed, len(stack)))][::-1]
            inside = sum(size[0] for size in (*first, *taken))
            if name in ("SETITEM", "SETITEMS", "DICT"):
                total += sum(size[0] for size in (first[1:2] or taken[::2]))  # the keys
            elif name in ("ADDITEMS", "FROZENSET", "REDUCE", "NEWOBJ"):
                total += sum(size[0] for size in (taken or first))
            if name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD") and first:
                first[0][0] = min(inside, 2 * MOST)
                stack.append(first[0])
            else:
                held = name.startswith(("TUPLE", "LIST", "DICT", "FROZENSET"))
                stack += [[min(1 + inside, 2 * MOST) if held else 1] for _ in code.stack_after]
        if total > MOST:
            break
    return total


def _top(stack: list[list[int] | None]) -> list[int]:
    return (stack[-1] if stack else None) or [1]


def _to_mark(stack: list[list[int] | None]) -> Iterator[list[int]]:
    """Takes everything off a stack down to its last mark."""
    while stack:
        size = stack.pop()
        if size is None:
            return
        yield size

"""What the fuzz tests change in files."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck
from hypothesis import strategies as st

SETTINGS: Any = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
TOKENS = [
    *(b"0", b"-1", b"1", b"1.5", b"-1e30", b"1e400", b"NaN", b"nan", b"inf", b"-Infinity", b"9" * 25, b"1_0"),
    *(b"null", b"true", b"[]", b"{}", b'""', b'"x"', b"[[[[", b"}", b"]", b'"', b",", b":", b"\n", b"\r", b"\t", b" "),
    *(
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\\u0000",
        b"\\ud800",
        b"../../x",
        b"C:\\b.png",
        b"%00",
    ),
    *(b"a" * 300, b"%20", b"\xe7\x8c\xab", b"<", b"</object>", b"&a;", b"- ", b"*a", b"&a ", b"? ", b"2020-40-40"),
    *(b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x01\x00", b"[" * 5000, b"{'a':" * 400),
]

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["cut", "delete", "insert", "replace", "swap", "flip"]),
        st.floats(0, 1),
        st.floats(0, 1),
        st.sampled_from(TOKENS),
    ),
    min_size=1,
    max_size=3,
)


def mutated(data: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    """A file after some changes; places are shares of its length."""
    for kind, at, other, token in changes:
        place, second = int(at * len(data)), int(other * len(data))
        first, last = min(place, second), max(place, second)
        word = place
        while word < len(data) and data[word : word + 1] not in b" ,:[]{}<>\"'\n=" and word < place + 40:
            word += 1
        data = {
            "cut": data[:place],
            "delete": data[:place] + data[place + 1 + int(other * 9) :],
            "insert": data[:place] + token + data[place:],
            "replace": data[:place] + token + data[word:],
            "swap": data[:first]
            + data[last : last + 20]
            + data[first + 20 : last]
            + data[first : first + 20]
            + data[last + 20 :],
            "flip": data[:place] + bytes(255 - one for one in data[place : place + 2]) + data[place + 2 :],
        }[kind]
    return data

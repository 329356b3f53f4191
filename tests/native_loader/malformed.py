"""JSON that was valid, and that somebody has changed in a place or two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True, slots=True)
class Token:
    """Text that stands in JSON as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Members:
    """A JSON object, in which a name may stand twice."""

    pairs: list[tuple[str, Any]]


_NAMES = st.sampled_from(
    ["", "a", "dtype", "shape", "__metadata__", "format", "..", "../a", "/", "\0", "é", "\ud800"]
)
_TOKENS = st.sampled_from(
    [
        *("-0", "0.0", "8.0", "1e1", "1E400", "-1", "08", "9223372036854775808", "1" * 5000),
        *("NaN", "-Infinity", "true", "null", '"\\ud800"', '"\\u0000"', '"\x01"', "[", "}", ""),
        "[" * 3000,
    ]
).map(Token)
_VALUES = st.one_of(
    _TOKENS,
    _NAMES,
    st.sampled_from([0, 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**64, -(2**63), 0.5]),
    st.just([]),
    st.just(Members([])),
    st.lists(st.integers(-1, 9), max_size=3),
    st.lists(_NAMES, max_size=2),
)


def encoded(value: Any) -> str:
    """Return a value as JSON, as far as its tokens let it be that."""
    if isinstance(value, Token):
        return value.text
    if isinstance(value, Members):
        return "{" + ",".join(f"{json.dumps(k)}:{encoded(v)}" for k, v in value.pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encoded, value)) + "]"
    return json.dumps(value)


def _tree(value: Any) -> Any:
    """Return a copy of what `json.loads` returns, with objects that can be changed at will."""
    if isinstance(value, dict):
        return Members([(name, _tree(each)) for name, each in value.items()])
    if isinstance(value, list):
        return [_tree(each) for each in value]
    return value


def _containers(value: Any) -> list[Any]:
    """Return all objects and lists in a value that have something in them."""
    parts = [each for _, each in value.pairs] if isinstance(value, Members) else value
    found = [value] if parts else []
    return found + [
        inner for each in parts if isinstance(each, Members | list) for inner in _containers(each)
    ]


def _change(draw: st.DrawFn, tree: Any) -> None:
    containers = _containers(tree)
    if not containers:
        return
    container = draw(st.sampled_from(containers))
    items: list[Any] = container.pairs if isinstance(container, Members) else container
    at = draw(st.integers(0, len(items) - 1))
    match draw(st.sampled_from(["replace", "replace", "rename", "remove", "repeat", "move"])):
        case "replace":
            value = draw(_VALUES)
            items[at] = (items[at][0], value) if isinstance(container, Members) else value
        case "rename" if isinstance(container, Members):
            items[at] = (draw(_NAMES), items[at][1])
        case "repeat":
            items.insert(draw(st.integers(0, len(items))), items[at])
        case "move":
            items.insert(draw(st.integers(0, len(items) - 1)), items.pop(at))
        case _:
            del items[at]


@st.composite
def changed(draw: st.DrawFn, document: Any, *, most_changes: int = 3) -> bytes:
    """Return a JSON document with a few changes to its values, and to its text."""
    tree = _tree(document)
    for _ in range(draw(st.integers(0, most_changes))):
        _change(draw, tree)
    raw = encoded(tree).encode(errors="surrogatepass")
    match draw(
        st.sampled_from(["as it is"] * 8 + ["cut", "longer", "marked", "spaced", "flipped"])
    ):
        case "cut":
            return raw[: draw(st.integers(0, len(raw)))]
        case "longer":
            return raw + draw(st.sampled_from([b"\0", b" ", b"{}", b"\xff", b"x"]))
        case "marked":
            return b"\xef\xbb\xbf" + raw
        case "spaced":
            return raw.replace(b",", b" ,\n\t ").replace(b":", b"\r : ")
        case "flipped" if raw:
            at = draw(st.integers(0, len(raw) - 1))
            return raw[:at] + bytes([raw[at] ^ draw(st.integers(1, 255))]) + raw[at + 1 :]
        case _:
            return raw

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.header_rules import parse_by_rules
from pilotlight.native_loader.formats.json_objects import BrokenRule, count_strings
from pilotlight.native_loader.formats.parts import HeaderTensor
from pilotlight.native_loader.formats.plain_headers import parse_plain

A = b'"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
B = b'"b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]}'
METADATA = b'"__metadata__": {"format": "pt"}'


def joined(*members: bytes) -> bytes:
    return b"{" + b", ".join(members) + b"}"


@pytest.mark.parametrize(
    ("text", "data_bytes", "names", "metadata"),
    [
        (joined(A), 8, ["a"], {}),
        (joined(METADATA, A, B), 16, ["a", "b"], {"format": "pt"}),
        (joined(METADATA, B, A) + b"   ", 16, ["a", "b"], {"format": "pt"}),
        (joined(METADATA), 0, [], {"format": "pt"}),
        (joined(b'"__metadata__": {}', A), 8, ["a"], {}),
        (joined(rb'"__metadata__": {"said": "\"no\""}', A), 8, ["a"], {"said": '"no"'}),
        (joined(METADATA, A).replace(b" ", b""), 8, ["a"], {"format": "pt"}),
        (joined(METADATA, A).replace(b" ", b" \n\t"), 8, ["a"], {"format": "pt"}),
        (b"{}", 0, [], {}),
    ],
)
def test_parses_headers_as_writers_write_them(
    text: bytes, data_bytes: int, names: list[str], metadata: dict[str, str]
) -> None:
    parsed = parse_plain(text, data_bytes)

    assert parsed is not None
    assert list(parsed[0]) == names
    assert parsed[1] == metadata
    assert parsed == parse_by_rules(text, data_bytes)


@pytest.mark.parametrize("dtype", sorted(ITEM_BITS))
def test_knows_every_dtype(dtype: str) -> None:
    n_bytes = ITEM_BITS[dtype]  # eight items of so many bits each
    field = {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, n_bytes]}

    parsed = parse_plain(json.dumps({"t": field}).encode(), n_bytes)

    assert parsed is not None
    assert parsed[0]["t"] == HeaderTensor(dtype=dtype, shape=(2, 4), data_offsets=(0, n_bytes))


@pytest.mark.parametrize(
    ("text", "data_bytes"),
    [
        (joined(A, METADATA), 8),
        (joined(A.replace(b"[2],", b'[2], "more": 1,')), 8),
        (joined(rb'"__metadata__": {"a": "\\"}', A), 8),
        (joined(b'"__metadata__": {"a": "{}"}', A), 8),
        (joined(A.replace(b"[2]", b"[2, 0]").replace(b"8]", b"0]")), 0),
    ],
)
def test_leaves_unusual_headers_that_keep_the_rules_to_the_rules(
    text: bytes, data_bytes: int
) -> None:
    tensors, _ = parse_by_rules(text, data_bytes)

    assert list(tensors) == ["a"]
    assert parse_plain(text, data_bytes) is None


@pytest.mark.parametrize(
    ("text", "data_bytes"),
    [
        (joined(A, A), 8),
        (joined(METADATA, METADATA, A), 8),
        (joined(METADATA, A, METADATA), 8),
        (joined(METADATA, A, A.replace(b"a", rb"\u0061", 1)), 8),
        (joined(A.replace(b'"dtype"', b'"dtype": "F32", "dtype"')), 8),
        (joined(A.replace(b'"shape": [2]', b'"more": ""')), 8),
        (joined(A.replace(b'"shape": [2]', b'"dtype": "F32"')), 8),
        (joined(A, b'"__metadata__": ' + A.partition(b": ")[2]), 8),
        (joined(METADATA)[:-1] + b",}", 0),
        (joined(METADATA)[:-1] + b",,}", 0),
        (b"{" + METADATA + A + b"}", 8),
        (joined(METADATA, A) + b"x", 8),
        (joined(METADATA, A), 7),
        (joined(METADATA, A), 9),
        (joined(METADATA, A, B.replace(b"8", b"4")), 16),
        (joined(A.replace(b"[2]", b"[3]")), 8),
        (joined(A.replace(b"[2]", b"[-2]")), 8),
        (joined(A.replace(b"[0, 8]", b"[0, 8.0]")), 8),
        (joined(A.replace(b"F32", b"F128")), 8),
        (joined(A.replace(b"[2]", b"[2305843009213693952, 4]").replace(b"8]", b"0]")), 0),
        (joined(b'"__metadata__": {"a": 1}', A), 8),
        (joined(b'"__metadata__": {"a": "1", "a": "2"}', A), 8),
        (joined(rb'"__metadata__": {"\ud800": "t"}', A), 8),
        (joined(A.replace(b"a", b"\xff", 1)), 8),
        (joined(A.replace(b"a", b"\xed\xa0\x80", 1)), 8),
        (b'{"a": ' + b"[" * 100_000, 8),
        (b"[]", 0),
        (b"", 0),
    ],
)
def test_never_takes_what_breaks_a_rule(text: bytes, data_bytes: int) -> None:
    with pytest.raises(BrokenRule):
        parse_by_rules(text, data_bytes)

    assert parse_plain(text, data_bytes) is None


NAMES = st.sampled_from(["a", "b", "c", "", "dtype", "__metadata__", '"', "\\", "}", "é", "\ud800"])
NUMBERS = st.sampled_from([0, 1, 2, 4, 8, -1, 2**62, 2**63, 0.0, True, "8"])
VALUES = st.one_of(
    NUMBERS, NAMES, st.lists(NUMBERS, max_size=3), st.dictionaries(NAMES, NAMES, max_size=2)
)
Members = list[tuple[str, Any]]


def encode(value: Any, space: str) -> str:
    """Return JSON in which names may appear twice: a list of pairs is an object."""
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        pairs = (f"{json.dumps(name)}:{space}{encode(each, space)}" for name, each in value)
        return "{" + f",{space}".join(pairs) + "}"
    return json.dumps(value)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, int]:
    """Valid headers of small tensors, of which a few members were changed or doubled."""
    members: Members = []
    reached = 0
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        n = draw(st.sampled_from([0, 4, 8]))
        offsets = [reached, reached + n]
        members.append((name, [("dtype", "U8"), ("shape", [n]), ("data_offsets", offsets)]))
        reached += n
    if draw(st.booleans()):
        members.insert(0, ("__metadata__", [("format", draw(NAMES))]))
    if draw(st.booleans()):
        members = draw(st.permutations(members))
    for _ in range(draw(st.integers(0, 2))):
        inner = [value for _, value in members if isinstance(value, list) and value]
        change(draw, draw(st.sampled_from([members, *inner])))
    text = encode(members, draw(st.sampled_from(["", " ", "\n\t"]))) if members else "{}"
    return text.encode(), max(reached + draw(st.sampled_from([0, 0, 0, 0, 4])), 0)


def change(draw: st.DrawFn, members: Members) -> None:
    if members and isinstance(members[0], tuple):
        at = draw(st.integers(0, len(members) - 1))
        name, value = members[at]
        changed = draw(st.sampled_from([(name, value), (draw(NAMES), value), (name, draw(VALUES))]))
        members[at : at + draw(st.integers(0, 1))] = [changed]


@pytest.mark.property
@given(headers())
@example((joined(METADATA, A, B), 16))
def test_takes_nothing_that_the_rules_refuse_or_read_otherwise(header: tuple[bytes, int]) -> None:
    text, data_bytes = header
    parsed = parse_plain(text, data_bytes)
    if parsed is None:
        return

    tensors, metadata = parse_by_rules(text, data_bytes)
    assert (list(parsed[0].items()), parsed[1]) == (list(tensors.items()), metadata)


@pytest.mark.property
@given(st.recursive(NAMES | NUMBERS, lambda each: st.lists(each) | st.dictionaries(NAMES, each)))
def test_counts_the_strings_of_valid_json(document: Any) -> None:
    def n_strings(value: Any) -> int:
        if isinstance(value, dict):
            return len(value) + sum(n_strings(each) for each in value.values())
        if isinstance(value, list):
            return sum(n_strings(each) for each in value)
        return int(isinstance(value, str))

    counted = count_strings(json.dumps(document).encode())

    assert counted in (None, n_strings(document))

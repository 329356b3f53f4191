from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotlight.native_loader import CorruptCheckpoint
from pilotlight.native_loader.formats.header import LENGTH_BYTES, parse_header


def many_members(n: int) -> bytes:
    return b"{" + b",".join(b'"%d":0' % i for i in range(n)) + b"}"


def many_tensors(n: int) -> bytes:
    field = b'"%d":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
    return b"{" + b",".join(field % (i, i, i + 1) for i in range(n)) + b"}"


BOMBS: dict[str, Callable[[int], bytes]] = {
    "nested lists": lambda n: b'{"a":' + b"[" * n + b"]" * n + b"}",
    "nested objects": lambda n: b'{"a":' * n + b"0" + b"}" * n,
    "a list of lists": lambda n: b'{"a":[' + b"[]," * n + b"[]]}",
    "a long number": lambda n: b'{"a":' + b"1" * n + b"}",
    "a long name": lambda n: b'{"' + b"a" * n + b'":0}',
    "a name of escapes": lambda n: b'{"' + rb"\u0041" * n + b'":0}',
    "backslashes": lambda n: b'{"' + b"\\" * (2 * n) + b'":0}',
    "spaces": lambda n: b"{" + b" " * n + b"}",
    "names": many_members,
    "one name": lambda n: b"{" + b'"a":0,' * n + b'"a":0}',
    "tensors": many_tensors,
    "a shape of ones": lambda n: (
        b'{"a":{"dtype":"U8","shape":[' + b"1," * n + b'1],"data_offsets":[0,1]}}'
    ),
    "a shape of zeros": lambda n: (
        b'{"a":{"dtype":"U8","shape":[' + b"0," * n + b'0],"data_offsets":[0,0]}}'
    ),
    "metadata": lambda n: (
        b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(n)) + b"}}"
    ),
}


def cost_of(text: bytes) -> tuple[float, int]:
    """Return the processor's seconds and the bytes of memory that parsing a header takes."""
    raw = len(text).to_bytes(LENGTH_BYTES, "little") + text
    tracemalloc.start()
    started = time.process_time()
    with contextlib.suppress(CorruptCheckpoint):
        parse_header(raw, Path("model.safetensors"), len(raw))
    seconds = time.process_time() - started
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return seconds, peak_bytes


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_header_takes_much_more_time_or_memory_than_its_size(bomb: str) -> None:
    small, large = BOMBS[bomb](3_000), BOMBS[bomb](60_000)

    small_seconds, _ = cost_of(small)
    # The least of a few: the processor is shared, and its caches are.
    seconds, peak_bytes = min(cost_of(large) for _ in range(3))

    # Python's own objects are what a list of empty lists or a dictionary of numbers is made of.
    assert peak_bytes < 100 * len(large) + (1 << 20)
    # Twenty times as long takes some twenty times the time; four hundred would be quadratic.
    assert seconds < 100 * (small_seconds + 0.001)

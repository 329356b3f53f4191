"""What `pack` and the process that opens pickles for it say to each other.

Each message is a letter, the length of what follows as 8 little-endian bytes, and
that. `pack` sends LIST with paths, then READ with the name of a tensor, as often as
it likes; the answers are TENSORS, or any number of BYTES and END, or FAILED.
"""

from __future__ import annotations

from typing import BinaryIO

import msgspec

LIST, READ = b"L", b"R"
TENSORS, BYTES, END, FAILED = b"T", b"B", b"E", b"F"

_LENGTH_BYTES = 8
_MAX_BYTES = 256 << 20


class PickledTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of a state dict."""

    file: int
    """Which of the listed paths."""
    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    view: int
    """Equal for tensors that are the same bytes in the same memory."""


class PickledTensors(msgspec.Struct, frozen=True, kw_only=True):
    """All tensors of a checkpoint, in the order of its files and of their state dicts."""

    tensors: dict[str, PickledTensor]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file can't be read as weights."""

    file: int
    rule: str


class Unreadable(Exception):
    """What a file breaks that must hold of weights."""


class Garbled(Exception):
    """The other side has died, or speaks another language."""


def send(stream: BinaryIO, kind: bytes, payload: bytes | memoryview = b"") -> None:
    """Send one message."""
    stream.write(kind + len(payload).to_bytes(_LENGTH_BYTES, "little"))
    stream.write(payload)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[bytes, bytes]:
    """Return the next message: its letter, and what follows.

    Raises:
        Garbled: there is none.
    """
    head = stream.read(1 + _LENGTH_BYTES)
    length = int.from_bytes(head[1:], "little")
    if len(head) <= _LENGTH_BYTES or length > _MAX_BYTES:
        raise Garbled
    payload = stream.read(length)
    if len(payload) < length:
        raise Garbled
    return head[:1], payload

"""Messages between the kernel and a file system in user space, as <linux/fuse.h> has them."""

from __future__ import annotations

import enum
import os
import stat
import struct
from dataclasses import dataclass

MAJOR = 7
MINOR = 31
"""Of the protocol that answers are made in; kernels that know a newer one speak this too."""
MAX_READ_BYTES = 1 << 20

_IN_HEADER = struct.Struct("<IIQQIIII")
_OUT_HEADER = struct.Struct("<IiQ")
_READ_IN = struct.Struct("<QQI")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY_OUT = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QII")
_OPEN_OUT = struct.Struct("<QII")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")

_ASYNC_READ = 1 << 0
_MAX_PAGES = 1 << 22
_OPEN_DIRECT_IO = 1 << 0


class Opcode(enum.IntEnum):
    """What the kernel asks for, as far as a file system that is only read must know it."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


UNANSWERED = frozenset(
    {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.DESTROY},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question of the kernel's."""

    opcode: int
    unique: int
    """Comes back with the answer."""
    node: int
    body: bytes

    @classmethod
    def parse(cls, message: bytes) -> Request:
        """Take a message apart."""
        length, opcode, unique, node, *_ = _IN_HEADER.unpack_from(message)
        return cls(opcode=opcode, unique=unique, node=node, body=message[_IN_HEADER.size : length])

    @property
    def name(self) -> str:
        """Return the name that a LOOKUP asks about."""
        return os.fsdecode(self.body.rstrip(b"\0"))

    @property
    def open_flags(self) -> int:
        """Return the flags of an OPEN."""
        return int.from_bytes(self.body[:4], "little")

    @property
    def range(self) -> tuple[int, int]:
        """Return the offset and the size that a READ or a READDIR asks for."""
        _, offset, size = _READ_IN.unpack_from(self.body)
        return offset, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a file is, as far as the kernel must know it."""

    size_bytes: int
    mode: int
    mtime_ns: int
    ctime_ns: int


def answer(request: Request, body: bytes = b"", *, error: int = 0) -> bytes:
    """Return the message that answers a request; `error` is an errno."""
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), -error, request.unique) + body


def init_body() -> bytes:
    """Return what answers INIT: reads of up to `MAX_READ_BYTES`, several at a time."""
    pages = MAX_READ_BYTES // 4096
    flags = _ASYNC_READ | _MAX_PAGES
    return _INIT_OUT.pack(MAJOR, MINOR, MAX_READ_BYTES, flags, 64, 48, 4096, 1, pages, 0, 0)


def attr_body(attributes: Attributes, node: int) -> bytes:
    """Return what answers GETATTR; the kernel is to ask again each time."""
    return _ATTR_OUT.pack(0, 0, 0) + _attr(attributes, node)


def entry_body(attributes: Attributes, node: int) -> bytes:
    """Return what answers LOOKUP; the kernel is to ask again each time."""
    return _ENTRY_OUT.pack(node, 0, 0, 0, 0, 0) + _attr(attributes, node)


def open_body(*, bypasses_cache: bool) -> bytes:
    """Return what answers OPEN and OPENDIR."""
    return _OPEN_OUT.pack(0, _OPEN_DIRECT_IO if bypasses_cache else 0, 0)


def statfs_body() -> bytes:
    """Return what answers STATFS: a file system of no size."""
    return _STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0)


def directory_body(names: list[tuple[str, int]], offset: int) -> bytes:
    """Return what answers READDIR from an entry on: names and nodes."""
    body = b""
    for number, (name, node) in enumerate(names[offset:], start=offset + 1):
        raw = os.fsencode(name)
        body += struct.pack("<QQII", node, number, len(raw), stat.S_IFREG >> 12) + raw
        body += bytes(-len(body) % 8)
    return body


def _attr(attributes: Attributes, node: int) -> bytes:
    mtime, mtime_ns = divmod(attributes.mtime_ns, 1_000_000_000)
    ctime, ctime_ns = divmod(attributes.ctime_ns, 1_000_000_000)
    n_blocks = -(-attributes.size_bytes // 512)
    return _ATTR.pack(
        *(node, attributes.size_bytes, n_blocks),
        *(mtime, mtime, ctime),
        *(mtime_ns, mtime_ns, ctime_ns),
        *(attributes.mode, 1, os.getuid(), os.getgid()),
        *(0, 4096, 0),
    )

"""Headers of safetensors files, with every bound checked.

A file is 8 bytes of little-endian header length, the header (JSON, which may end
in spaces), and the tensors' bytes without holes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pilotlight.native_loader.errors import CorruptCheckpoint, PickleRefused
from pilotlight.native_loader.formats.header_rules import parse_by_rules
from pilotlight.native_loader.formats.json_objects import BrokenRule
from pilotlight.native_loader.formats.parts import HeaderTensor
from pilotlight.native_loader.formats.plain_headers import parse_plain

MAX_HEADER_BYTES = 100_000_000
"""What the format allows."""
LENGTH_BYTES = 8

RangeReader = Callable[[int, int], bytes]
"""Returns that many of a file's bytes, or fewer at its end, from an offset on."""

FIRST_READ_BYTES = 16 << 10
"""Many headers are no longer, and a cold disk gives no fewer bytes in less time."""

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_LFS_START = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: Mapping[str, HeaderTensor]
    """In the order of their bytes."""
    metadata: Mapping[str, str]
    data_offset: int
    """From the start of the file."""
    raw: bytes
    """All bytes before the data."""


def read_header(read: RangeReader, *, file: Path, size_bytes: int) -> Header:
    """Read and check a file's header.

    Raises:
        CorruptCheckpoint: it breaks a rule of the format.
        PickleRefused: it is a pickle under another name.
    """
    start = read(FIRST_READ_BYTES, 0)
    _check_kind(start, file)
    if len(start) < LENGTH_BYTES:
        raise CorruptCheckpoint(file, f"is {size_bytes} bytes long, shorter than any header")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise CorruptCheckpoint(
            file, f"claims a header of {length:,d} bytes; the format allows {MAX_HEADER_BYTES:,d}"
        )
    if length > size_bytes - LENGTH_BYTES:
        raise CorruptCheckpoint(file, f"claims a header of {length:,d} bytes, longer than the file")
    return parse_header(_read_to(LENGTH_BYTES + length, read, start, file), file, size_bytes)


def parse_header(raw: bytes, file: Path, size_bytes: int) -> Header:
    """Check a header, given with its length in front.

    Raises:
        CorruptCheckpoint: it breaks a rule of the format.
    """
    try:
        if raw[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
            raise BrokenRule("has a header that does not begin with '{'")
        text = raw[LENGTH_BYTES:]
        data_bytes = size_bytes - len(raw)
        tensors, metadata = parse_plain(text, data_bytes) or parse_by_rules(text, data_bytes)
    except BrokenRule as exc:
        raise CorruptCheckpoint(file, str(exc)) from exc
    return Header(tensors=tensors, metadata=metadata, data_offset=len(raw), raw=raw)


def _check_kind(start: bytes, file: Path) -> None:
    # A header's length may be the same bytes; then its '{' follows.
    is_header = start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    if start.startswith(_PICKLE_STARTS) and not is_header:
        raise PickleRefused(file)
    if start.startswith(_LFS_START):
        raise CorruptCheckpoint(file, "is a Git LFS pointer; fetch the weights with git lfs pull")


def _read_to(end: int, read: RangeReader, start: bytes, file: Path) -> bytes:
    """Return the file's bytes up to `end`, of which `start` was read before."""
    parts = [start[:end]]
    done = len(parts[0])
    while done < end:
        part = read(end - done, done)
        if not part:
            raise CorruptCheckpoint(file, f"ends at byte {done:,d}, within its header")
        parts.append(part)
        done += len(part)
    return b"".join(parts)

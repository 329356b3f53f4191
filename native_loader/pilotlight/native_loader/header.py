"""Headers of safetensors files, with every bound checked.

A file is 8 bytes of little-endian header length, the header (JSON, which may end
in spaces), and the tensors' bytes without holes.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from pilotlight.native_loader.dtypes import ITEM_BITS
from pilotlight.native_loader.errors import CorruptCheckpoint, PickleRefused
from pilotlight.native_loader.unicode_text import is_unicode

MAX_HEADER_BYTES = 100_000_000
"""What the format allows."""
LENGTH_BYTES = 8
_MAX_INT64 = 2**63 - 1

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_LFS_START = b"version https://git-lfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderTensor:
    """A tensor as its file's header describes it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """From the start of the data, as `end` is."""
    end: int


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


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlong = 40


class _Broken(Exception):
    """A rule of the format that a header breaks; the caller knows the file."""


def read_header(fd: int, *, file: Path, size_bytes: int) -> Header:
    """Read and check the header of an open file.

    Raises:
        CorruptCheckpoint: it breaks a rule of the format.
        PickleRefused: it is a pickle under another name.
    """
    start = os.pread(fd, 64, 0)
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
    return parse_header(_read_exactly(fd, LENGTH_BYTES + length, file), file, size_bytes)


def parse_header(raw: bytes, file: Path, size_bytes: int) -> Header:
    """Check a header, given with its length in front.

    Raises:
        CorruptCheckpoint: it breaks a rule of the format.
    """
    try:
        if raw[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
            raise _Broken("has a header that does not begin with '{'")
        document = _parse_object(raw[LENGTH_BYTES:])
        metadata = _metadata(document.pop("__metadata__", {}))
        tensors = {name: _tensor(name, value) for name, value in document.items()}
        data_bytes = size_bytes - len(raw)
        ordered = _check_places(tensors, data_bytes)
    except _Broken as exc:
        raise CorruptCheckpoint(file, str(exc)) from exc
    return Header(tensors=ordered, metadata=metadata, data_offset=len(raw), raw=raw)


def parse_json_object(raw: bytes, file: Path) -> dict[str, Any]:
    """Parse a JSON object in which no name appears twice.

    Raises:
        CorruptCheckpoint: it is something else.
    """
    try:
        return _parse_object(raw)
    except _Broken as exc:
        raise CorruptCheckpoint(file, str(exc)) from exc


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as exc:
        raise _Broken("holds JSON that is not UTF-8") from exc
    except RecursionError as exc:
        raise _Broken("holds JSON that is nested too deeply") from exc
    except ValueError as exc:
        raise _Broken(f"holds no valid JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise _Broken("holds no JSON object where one must be")
    return cast("dict[str, Any]", document)


def _show(value: object) -> str:
    """Return a value of the file for a message: whatever it is, on one line and not too long."""
    return _SHORT.repr(value)


def _check_kind(start: bytes, file: Path) -> None:
    # A header's length may be the same bytes; then its '{' follows.
    is_header = start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"
    if start.startswith(_PICKLE_STARTS) and not is_header:
        raise PickleRefused(file)
    if start.startswith(_LFS_START):
        raise CorruptCheckpoint(file, "is a Git LFS pointer; fetch the weights with git lfs pull")


def _read_exactly(fd: int, length: int, file: Path) -> bytes:
    parts: list[bytes] = []
    done = 0
    while done < length:
        part = os.pread(fd, length - done, done)
        if not part:
            raise CorruptCheckpoint(file, f"ends at byte {done:,d}, within its header")
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _Broken(f"names {_show(counts.most_common(1)[0][0])} twice")
    return unique


def _no_constant(constant: str) -> NoReturn:
    raise _Broken(f"holds {constant}, which is not JSON")


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _Broken("__metadata__ is no JSON object")
    metadata = cast("dict[str, object]", value)
    for name, text in metadata.items():
        if not isinstance(text, str):
            raise _Broken(f"__metadata__ holds something else than text under {_show(name)}")
        for part in (name, text):
            _check_unicode(part, "__metadata__ holds")
    return cast("dict[str, str]", metadata)


def _tensor(name: str, value: object) -> HeaderTensor:
    _check_unicode(name, "a tensor has the name")
    if not isinstance(value, dict):
        raise _Broken(f"tensor {_show(name)} is no JSON object")
    fields = cast("dict[str, object]", value)
    missing = [key for key in ("dtype", "shape", "data_offsets") if key not in fields]
    if missing:
        raise _Broken(f"tensor {_show(name)} lacks {missing[0]}")
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise _Broken(f"tensor {_show(name)} has the unknown dtype {_show(dtype)}")
    shape = _whole_numbers(name, "shape", fields["shape"])
    offsets = _whole_numbers(name, "data_offsets", fields["data_offsets"])
    if len(offsets) != 2:
        raise _Broken(f"tensor {_show(name)} has {len(offsets)} data_offsets, not 2")
    begin, end = offsets
    _check_size(name, dtype, shape, begin, end)
    return HeaderTensor(dtype=dtype, shape=shape, begin=begin, end=end)


def _check_unicode(text: str, found: str) -> None:
    if not is_unicode(text):
        raise _Broken(f"{found} {_show(text)}, which is not Unicode text")


def _whole_numbers(name: str, key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise _Broken(f"tensor {_show(name)} has a {key} that is no list")
    numbers = cast("list[object]", value)
    for number in numbers:
        # In Python True is an int, in JSON it is not.
        if type(number) is not int or not 0 <= number <= _MAX_INT64:
            raise _Broken(f"tensor {_show(name)} has {_show(number)} in its {key}")
    return cast("tuple[int, ...]", tuple(numbers))


def _check_size(name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> None:
    n_items = 1
    for dimension in shape:
        n_items *= dimension
        if n_items > _MAX_INT64:
            raise _Broken(f"tensor {_show(name)} has the impossible shape {_show(list(shape))}")
    bits = n_items * ITEM_BITS[dtype]
    if bits % 8:
        raise _Broken(f"tensor {_show(name)} does not end at a whole byte")
    if end < begin or end - begin != bits // 8:
        raise _Broken(
            f"tensor {_show(name)} needs {bits // 8:,d} bytes and has bytes {begin:,d} to {end:,d}"
        )


def _check_places(tensors: dict[str, HeaderTensor], data_bytes: int) -> dict[str, HeaderTensor]:
    """Return the tensors in the order of their bytes, which cover the data exactly."""
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    reached = 0
    for name, tensor in ordered.items():
        if tensor.begin < reached:
            raise _Broken(
                f"tensor {_show(name)} overlaps the one before it, at byte {tensor.begin:,d}"
            )
        if tensor.begin > reached:
            raise _Broken(f"has a hole of {tensor.begin - reached:,d} bytes before {_show(name)}")
        reached = tensor.end
    if reached > data_bytes:
        raise _Broken(f"holds {data_bytes:,d} bytes of data, and its tensors need {reached:,d}")
    if reached < data_bytes:
        raise _Broken(f"holds {data_bytes - reached:,d} bytes that belong to no tensor")
    return ordered

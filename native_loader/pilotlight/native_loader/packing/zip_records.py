"""The records of PyTorch's zip files: the bytes that tensors are mapped from."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from pilotlight.native_loader.packing.pickle_messages import Unreadable

_HEADER_BYTES = 30
_NAME_LENGTH_AT, _EXTRA_LENGTH_AT = 26, 28
"""In the header before each record, of two bytes each; the record follows both."""
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mapping:
    """Addresses that show a file."""

    start: int
    end: int
    offset: int
    """In the file, of what is at the start."""


class ZipRecords:
    """The records of one file, each stored as it is.

    PyTorch maps as many bytes as the pickle says from where a record begins, and looks
    neither at what the archive says of its length, nor of its compression or checksum.
    """

    def __init__(self, path: str) -> None:
        """Read the archive's directory.

        Raises:
            Unreadable: it is none.
        """
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
            with open(path, "rb") as stream:
                self._at = {
                    _start_of(stream.fileno(), info): info for info in self._archive.infolist()
                }
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as exc:
            raise Unreadable(f"is no whole zip file: {exc}") from exc
        self._sound: set[str] = set()
        self._mapping = _Mapping(start=0, end=0, offset=0)

    def check_extents(self, tensors: Iterable[torch.Tensor]) -> None:
        """Check that each tensor is mapped from a record that is stored, and as long.

        Raises:
            Unreadable: one is not.
        """
        for tensor in tensors:
            if tensor.numel():
                self._record_of(tensor)

    def check_bytes(self, tensor: torch.Tensor) -> None:
        """Compare the record of a tensor with its checksum, the first time.

        Raises:
            Unreadable: they differ.
        """
        if not tensor.numel():
            return
        info = self._record_of(tensor)
        # PyTorch writes 0 where it was told to compute none.
        if info.filename in self._sound or not info.CRC:
            return
        try:
            with self._archive.open(info) as record:
                while record.read(_READ_BYTES):
                    pass
        except (zipfile.BadZipFile, EOFError) as exc:
            raise Unreadable(f"has record {info.filename!r:.120}, which is damaged: {exc}") from exc
        self._sound.add(info.filename)

    def _record_of(self, tensor: torch.Tensor) -> zipfile.ZipInfo:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if not self._mapping.start <= address < self._mapping.end:
            self._mapping = _mapping_at(address)
        info = self._at.get(address - self._mapping.start + self._mapping.offset)
        if info is None:
            raise Unreadable("has a tensor whose bytes are those of no record")
        shown = f"{info.filename!r:.120}"
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Unreadable(
                f"has record {shown} compressed or encrypted, which PyTorch never does"
            )
        if not info.compress_size == info.file_size == storage.nbytes():
            raise Unreadable(
                f"has record {shown} of {info.file_size:,d} bytes,"
                f" where its pickle says {storage.nbytes():,d}"
            )
        return info


def _start_of(fd: int, info: zipfile.ZipInfo) -> int:
    header = os.pread(fd, _HEADER_BYTES, info.header_offset)
    if len(header) < _HEADER_BYTES:
        raise EOFError(f"record {info.filename!r:.120} lies outside")
    name_bytes = int.from_bytes(header[_NAME_LENGTH_AT:_EXTRA_LENGTH_AT], "little")
    extra_bytes = int.from_bytes(header[_EXTRA_LENGTH_AT:], "little")
    return info.header_offset + _HEADER_BYTES + name_bytes + extra_bytes


def _mapping_at(address: int) -> _Mapping:
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        span, _, offset, _, inode = line.split()[:5]
        start, end = (int(each, 16) for each in span.split("-"))
        if start <= address < end and inode != "0":
            return _Mapping(start=start, end=end, offset=int(offset, 16))
    raise Unreadable("has a tensor whose bytes are those of no record")

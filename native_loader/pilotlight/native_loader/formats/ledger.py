"""Checksums learned from weight files that do not say them themselves."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated

import msgspec

from pilotlight.native_loader.errors import CorruptCheckpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.parts import CHUNK_BYTES, CheckpointFile, n_chunks_of
from pilotlight.native_loader.formats.whole_files import read_whole

_MAX_BYTES = 16 << 20
"""The checksums of a file of 20 TB take less."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned of one file; worth something only while the file is the same."""

    path: str
    """For people who read the ledger."""
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    chunk_bytes: int
    crc32c: tuple[Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)], ...]

    def describes(self, file: CheckpointFile) -> bool:
        return (
            (self.device, self.inode, self.size_bytes) == (file.device, file.inode, file.size_bytes)
            and (self.mtime_ns, self.ctime_ns) == (file.mtime_ns, file.ctime_ns)
            and self.chunk_bytes == CHUNK_BYTES
            and len(self.crc32c) == n_chunks_of(file)
        )


class ChecksumLedger:
    """Learned chunk checksums, one small file per weight file. Thread-safe.

    An entry holds for a file of the same device, inode, size, mtime_ns and
    ctime_ns: whoever writes to the file changes ctime_ns. A newer state of a file
    replaces the entry of the older one, and an entry that can't be read counts
    as not there.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._lock = Lock()
        self._known: dict[tuple[int, int], _Entry] = {}

    def find(self, file: CheckpointFile) -> tuple[int, ...] | None:
        """Return the CRC-32C of each of the file's chunks, None where they are not known."""
        with self._lock:
            entry = self._known.get((file.device, file.inode))
        if entry is None or not entry.describes(file):
            entry = self._read(file)
        if entry is None or not entry.describes(file):
            return None
        self._keep(entry)
        return entry.crc32c

    def learn(self, file: CheckpointFile, crc32c: Sequence[int]) -> None:
        """Keep the checksums of a file that was just read whole.

        A ledger that can't be written keeps them for this process only.
        """
        entry = _Entry(
            path=os.fsencode(file.path).decode(errors="replace"),
            device=file.device,
            inode=file.inode,
            size_bytes=file.size_bytes,
            mtime_ns=file.mtime_ns,
            ctime_ns=file.ctime_ns,
            chunk_bytes=CHUNK_BYTES,
            crc32c=tuple(crc32c),
        )
        self._keep(entry)
        with contextlib.suppress(OSError):
            self._write(entry, self._place(file))

    def forget(self, file: CheckpointFile) -> None:
        """Drop what was learned of a file, so that it is learned anew."""
        with self._lock:
            self._known.pop((file.device, file.inode), None)
        with contextlib.suppress(OSError):
            self._place(file).unlink(missing_ok=True)

    def _keep(self, entry: _Entry) -> None:
        with self._lock:
            self._known[entry.device, entry.inode] = entry

    def _place(self, file: CheckpointFile) -> Path:
        return self._directory / f"{file.device:x}-{file.inode:x}.json"

    def _read(self, file: CheckpointFile) -> _Entry | None:
        try:
            raw = read_whole(self._place(file), most_bytes=_MAX_BYTES, roots=Roots([]))
            return msgspec.json.decode(raw, type=_Entry)
        except OSError:
            return None
        except (CorruptCheckpoint, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.forget(file)
            return None

    def _write(self, entry: _Entry, place: Path) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=self._directory, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(fd, "wb") as stream:
                stream.write(msgspec.json.encode(entry))
            os.replace(temporary, place)
        except BaseException:
            os.unlink(temporary)
            raise

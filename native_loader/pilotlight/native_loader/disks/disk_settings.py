"""How disks are read best, as probed once and remembered."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated

import msgspec

from pilotlight.native_loader import _native
from pilotlight.native_loader.disks.filesystems import fsid_of, mount_source
from pilotlight.native_loader.errors import CorruptCheckpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.parts import CheckpointFile
from pilotlight.native_loader.formats.whole_files import read_whole

PROBED_FILE_BYTES = 256 << 20
"""A smaller file is read before a probe would have paid."""

PROBE_SECONDS = 0.2

_VERSION = 1
_MAX_BYTES = 64 << 10
_Count = Annotated[int, msgspec.Meta(ge=1, le=64)]
_BlockBytes = Annotated[int, msgspec.Meta(ge=4096, le=64 << 20, multiple_of=4096)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSettings:
    """`n_readers` threads with `depth` blocks in flight each."""

    n_readers: int = 4
    depth: int = 1
    """More than one by io_uring only."""
    block_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredDisk:
    """How fast a disk was, and by which settings."""

    settings: DiskSettings
    bytes_per_second: float


DiskProbe = Callable[[CheckpointFile], MeasuredDisk | None]
"""Measures the disk that a file lies on; None where it can't tell."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one file system, as long as it and the kernel are the same."""

    version: int
    device: int
    fsid: int
    source: str
    """For people too: what is mounted."""
    kernel: str
    measured_at: float
    """In seconds since 1970."""
    n_readers: _Count
    depth: _Count
    block_bytes: _BlockBytes
    bytes_per_second: Annotated[float, msgspec.Meta(gt=0)]
    """Of the probe, or of a load that was faster."""

    @property
    def settings(self) -> DiskSettings:
        return DiskSettings(
            n_readers=self.n_readers, depth=self.depth, block_bytes=self.block_bytes
        )


_Key = tuple[int, int]  # device, fsid


class KnownDisks:
    """Probes disks when they are first read, and remembers each in a small file. Thread-safe.

    An entry holds for a device number with the same file system and mount source,
    under the same kernel; one that can't be read counts as not there. Where there is
    no directory, or it can't be written, this process alone remembers.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        probe: DiskProbe | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = None if directory is None else Path(directory)
        self._probe = probe_disk if probe is None else probe
        self._clock = clock
        self._lock = Lock()
        self._probing: defaultdict[int, Lock] = defaultdict(Lock)
        """One for each device: a disk that does not answer holds up nobody else."""
        self._known: dict[_Key, _Entry] = {}

    def settings_for(self, file: CheckpointFile) -> DiskSettings:
        """Return how to read the disk that a file lies on.

        An unknown disk is probed, for a fifth of a second, if the file is large; the
        usual settings are returned where that is not worth it, or can't tell.
        """
        entry = self._find(file)
        if entry is None and file.size_bytes >= PROBED_FILE_BYTES:
            with self._probing_of(file):
                entry = self._find(file) or self._measure(file)
        return DiskSettings() if entry is None else entry.settings

    def remembered(self, file: CheckpointFile) -> DiskSettings | None:
        """Return how to read the disk that a file lies on, None where it was never probed."""
        entry = self._find(file)
        return None if entry is None else entry.settings

    def measure(self, file: CheckpointFile) -> MeasuredDisk | None:
        """Probe the disk that a file lies on, known or not; None where the file can't tell."""
        with self._probing_of(file):
            entry = self._measure(file)
        if entry is None:
            return None
        return MeasuredDisk(settings=entry.settings, bytes_per_second=entry.bytes_per_second)

    def bytes_per_second(self, files: Sequence[CheckpointFile]) -> float | None:
        """Return how fast files can be read together, None where a disk is not known."""
        bytes_per_disk: dict[int, int] = {}
        limits: dict[int, float] = {}
        for file in files:
            entry = self._find(file)
            if entry is None:
                return None
            limits[file.device] = entry.bytes_per_second
            bytes_per_disk[file.device] = bytes_per_disk.get(file.device, 0) + file.size_bytes
        total_bytes = sum(bytes_per_disk.values())
        # The disk that takes longest, with the share of the bytes that lies on it.
        return min(
            (limits[disk] * (total_bytes / n) for disk, n in bytes_per_disk.items() if n > 0),
            default=None,
        )

    def raise_limit(self, files: Sequence[CheckpointFile], bytes_per_second: float) -> None:
        """Learn that a disk gave files faster than it was known to be.

        Nothing is learned of disks that are not known, or of several at once.
        """
        if len({file.device for file in files}) != 1 or not math.isfinite(bytes_per_second):
            return
        entry = self._find(files[0])
        if entry is not None and bytes_per_second > entry.bytes_per_second:
            self._keep(msgspec.structs.replace(entry, bytes_per_second=bytes_per_second))

    def _probing_of(self, file: CheckpointFile) -> Lock:
        with self._lock:
            return self._probing[file.device]

    def _measure(self, file: CheckpointFile) -> _Entry | None:
        measured = self._probe(file)
        if measured is None:
            return None
        entry = _Entry(
            version=_VERSION,
            device=file.device,
            fsid=fsid_of(file.path),
            source=mount_source(file.device),
            kernel=platform.release(),
            measured_at=self._clock(),
            n_readers=measured.settings.n_readers,
            depth=measured.settings.depth,
            block_bytes=measured.settings.block_bytes,
            bytes_per_second=measured.bytes_per_second,
        )
        self._keep(entry)
        return entry

    def _find(self, file: CheckpointFile) -> _Entry | None:
        key = (file.device, fsid_of(file.path))
        with self._lock:
            entry = self._known.get(key)
        if entry is not None:
            return entry
        entry = self._read(file.device)
        if entry is None or not _describes(entry, key):
            return None
        with self._lock:
            return self._known.setdefault(key, entry)

    def _keep(self, entry: _Entry) -> None:
        with self._lock:
            self._known[entry.device, entry.fsid] = entry
        if self._directory is not None:
            with contextlib.suppress(OSError):
                _write(entry, self._place(self._directory, entry.device))

    def _read(self, device: int) -> _Entry | None:
        if self._directory is None:
            return None
        try:
            place = self._place(self._directory, device)
            raw = read_whole(place, most_bytes=_MAX_BYTES, roots=Roots([]))
            return msgspec.json.decode(raw, type=_Entry)
        except (OSError, CorruptCheckpoint):
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    @staticmethod
    def _place(directory: Path, device: int) -> Path:
        return directory / f"{device:x}.json"


def probe_disk(file: CheckpointFile) -> MeasuredDisk | None:
    """Read parts of a file with several settings and return the best, None if it can't tell."""
    result = _native.probe_disk(
        (
            os.fsencode(file.path),
            file.device,
            file.inode,
            file.size_bytes,
            file.mtime_ns,
            file.ctime_ns,
        ),
        PROBE_SECONDS,
    )
    if result.best is None:
        return None
    settings = result.best.settings
    return MeasuredDisk(
        settings=DiskSettings(
            n_readers=settings.n_readers, depth=settings.depth, block_bytes=settings.block_bytes
        ),
        bytes_per_second=result.best.bytes_per_second,
    )


def _describes(entry: _Entry, key: _Key) -> bool:
    return (
        (entry.version, entry.device, entry.fsid) == (_VERSION, *key)
        and entry.kernel == platform.release()
        and entry.source == mount_source(entry.device)
    )


def _write(entry: _Entry, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(msgspec.json.encode(entry))
        os.replace(temporary, place)
    except BaseException:
        os.unlink(temporary)
        raise

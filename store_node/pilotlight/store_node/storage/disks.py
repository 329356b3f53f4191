"""How fast the disks are: a short measurement of each when the node starts.

Probes of one disk take turns by a lock file named after it, so that nodes which
share it don't measure each other. What was measured last is kept below the home
directory and is the assumption of the next start.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from pilotlight.native_loader import CheckpointFile
from pilotlight.native_loader.disks.disk_settings import KnownDisks
from pilotlight.store_node.protocol import Channel, ChannelId

ASSUMED_BYTES_PER_SECOND = 1e9
"""Between a SATA SSD (0.5 GB/s) and an NVMe one (2 to 7 GB/s)."""
ASSUMED_LATENCY_SECONDS = 0.000_2

_STRIDE_BYTES = 1 << 20
_SMALL_BYTES = 4096
_LATENCY_READS = 5
_TURN_SECONDS = 60.0
_TURN_PERIOD_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTarget:
    """A disk and a large file on it."""

    channel_id: ChannelId
    file: CheckpointFile


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: str
    bytes_per_second: Annotated[float, msgspec.Meta(gt=0, le=1e13)]
    latency_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)]


class DiskProbe:
    """Measures disks, one after another, and remembers what it found."""

    def __init__(self, records: Path, disks: KnownDisks, *, locks: Path | None = None) -> None:
        self._records = records
        self._disks = disks
        self._locks = locks or _runtime_directory()
        self._stopped = threading.Event()

    def assume(self, channel_id: ChannelId) -> Channel:
        """Return what was measured last, or an assumption; either way not measured now."""
        record = self._read(channel_id)
        return Channel(
            channel_id=channel_id,
            kind="disk",
            bytes_per_second=record.bytes_per_second if record else ASSUMED_BYTES_PER_SECOND,
            latency_seconds=record.latency_seconds if record else ASSUMED_LATENCY_SECONDS,
            measured=False,
        )

    def measure(self, target: ProbeTarget) -> Channel | None:
        """Read a file directly for a fifth of a second; None where that can't be done.

        How the disk is read best is remembered for the loader. Waits for its turn; for
        a thread of its own.
        """
        try:
            with self._turn(target.channel_id), _opened(target.file.path) as fd:
                latency_seconds = _latency(fd)
                disk = self._disks.measure(target.file)
        except (OSError, TimeoutError):
            return None
        if disk is None or self._stopped.is_set():
            return None
        bytes_per_second = disk.bytes_per_second
        self._write(target.channel_id, bytes_per_second, latency_seconds)
        return Channel(
            channel_id=target.channel_id,
            kind="disk",
            bytes_per_second=bytes_per_second,
            latency_seconds=latency_seconds,
            measured=True,
        )

    def stop(self) -> None:
        """Have a measurement end soon, without a result."""
        self._stopped.set()

    @contextlib.contextmanager
    def _turn(self, channel_id: ChannelId) -> Generator[None]:
        self._locks.mkdir(parents=True, exist_ok=True, mode=0o700)
        deadline = time.monotonic() + _TURN_SECONDS
        with (self._locks / f"{_file_name(channel_id)}.lock").open("w") as lock:
            while not _try_lock(lock.fileno()):
                if time.monotonic() > deadline or self._stopped.wait(_TURN_PERIOD_SECONDS):
                    raise TimeoutError(f"no turn to probe {channel_id}")
            yield

    def _place(self, channel_id: ChannelId) -> Path:
        return self._records / f"{_file_name(channel_id)}.json"

    def _read(self, channel_id: ChannelId) -> _Record | None:
        try:
            return msgspec.json.decode(self._place(channel_id).read_bytes(), type=_Record)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _write(self, channel_id: ChannelId, bytes_per_second: float, latency: float) -> None:
        record = _Record(
            channel_id=channel_id, bytes_per_second=bytes_per_second, latency_seconds=latency
        )
        # A probe that can't be kept is made again at the next start.
        with contextlib.suppress(OSError):
            self._records.mkdir(parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(dir=self._records, prefix=".")
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(record))
            os.replace(temporary, self._place(channel_id))


def _latency(fd: int) -> float:
    """Return the median time of a small read, far apart in the file's first megabytes."""
    times: list[float] = []
    with mmap.mmap(-1, _SMALL_BYTES) as buffer:
        for number in range(_LATENCY_READS):
            began = time.monotonic()
            os.preadv(fd, [buffer], number * _STRIDE_BYTES)
            times.append(time.monotonic() - began)
    return sorted(times)[len(times) // 2]


@contextlib.contextmanager
def _opened(path: Path) -> Generator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return False
        raise
    return True


def _runtime_directory() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        return Path(base) / "pilotlight"
    return Path(tempfile.gettempdir()) / f"pilotlight-{os.getuid()}"


def _file_name(channel_id: ChannelId) -> str:
    return hashlib.sha256(channel_id.encode()).hexdigest()[:16]

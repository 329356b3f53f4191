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
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pilotlight.store_node.protocol import Channel, ChannelId

ASSUMED_BYTES_PER_SECOND = 1e9
"""Between a SATA SSD (0.5 GB/s) and an NVMe one (2 to 7 GB/s)."""
ASSUMED_LATENCY_SECONDS = 0.000_2

PROBE_SECONDS = 0.5
PROBE_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_SMALL_BYTES = 4096
_LATENCY_READS = 5
_LEAST_BYTES = 8 << 20
_TURN_SECONDS = 60.0
_TURN_PERIOD_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTarget:
    """A disk and a large file on it."""

    channel_id: ChannelId
    path: Path
    size_bytes: int


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    channel_id: str
    bytes_per_second: float
    latency_seconds: float


class DiskProbe:
    """Measures disks, one after another, and remembers what it found."""

    def __init__(self, records: Path, *, locks: Path | None = None, threads: int = 4) -> None:
        self._records = records
        self._locks = locks or _runtime_directory()
        self._threads = threads
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
        """Read a file directly for at most half a second; None where that can't be done.

        Waits for its turn; for a thread of its own.
        """
        if target.size_bytes < _LEAST_BYTES:
            return None
        try:
            with self._turn(target.channel_id), _opened(target.path) as fd:
                latency_seconds = _latency(fd)
                bytes_per_second = self._rate(fd, target.size_bytes)
        except (OSError, TimeoutError):
            return None
        if self._stopped.is_set():
            return None
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

    def _rate(self, fd: int, size_bytes: int) -> float:
        reader = _BlockReader(fd, size_bytes, is_stopped=self._stopped.is_set)
        began = time.monotonic()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="probe") as threads:
            futures = [threads.submit(reader.run, began) for _ in range(self._threads)]
            read_bytes = sum(future.result() for future in futures)
        return read_bytes / max(time.monotonic() - began, 1e-9)

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
            record = msgspec.json.decode(self._place(channel_id).read_bytes(), type=_Record)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return record if record.bytes_per_second > 0 else None

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


class _BlockReader:
    """Reads the blocks of a file, shared by several threads, until time or budget is up."""

    def __init__(self, fd: int, size_bytes: int, *, is_stopped: Callable[[], bool]) -> None:
        self._fd = fd
        self._n_blocks = min(size_bytes, PROBE_BYTES) // _BLOCK_BYTES
        self._is_stopped = is_stopped
        self._next = 0
        self._lock = threading.Lock()

    def run(self, began: float) -> int:
        """Read until there is no more to read; return the bytes read."""
        read_bytes = 0
        with mmap.mmap(-1, _BLOCK_BYTES) as buffer:
            while time.monotonic() - began < PROBE_SECONDS and not self._is_stopped():
                block = self._take()
                if block is None:
                    break
                read_bytes += os.preadv(self._fd, [buffer], block * _BLOCK_BYTES)
        return read_bytes

    def _take(self) -> int | None:
        with self._lock:
            block, self._next = self._next, self._next + 1
        return block if block < self._n_blocks else None


def _latency(fd: int) -> float:
    """Return the median time of a small read, far apart in the file's first megabytes."""
    times: list[float] = []
    with mmap.mmap(-1, _SMALL_BYTES) as buffer:
        for number in range(_LATENCY_READS):
            began = time.monotonic()
            os.preadv(fd, [buffer], number * _BLOCK_BYTES)
            times.append(time.monotonic() - began)
    return sorted(times)[len(times) // 2]


@contextlib.contextmanager
def _opened(path: Path) -> Generator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
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

"""How far loads are and how they went."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from pilotlight.native_loader import _native
from pilotlight.native_loader.bottleneck import LoadTimes, bottleneck
from pilotlight.native_loader.disks.disk_settings import DiskSettings

ChecksumState = Literal["learned", "verified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """How far a load is."""

    done_bytes: int
    """In DRAM, of `total_bytes` that are read."""
    total_bytes: int
    started: bool
    """True once its first block has been asked for."""
    copied_bytes: int = 0
    """On devices, of `total_copied_bytes`; both 0 where nothing is copied."""
    total_copied_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """How a load went that succeeded."""

    bytes_read: int
    queue_seconds: float
    """From submission to the first block."""
    busy_seconds: float
    """From the first block to the last block or copy."""
    direct_io: bool
    direct_io_refusal: str
    """Why the file system refused direct reads; "" where it did not."""
    page_cache_bytes: int
    """Bytes that were taken from the page cache by choice."""
    n_interruptions: int
    """How often the disk left this load for another one: then `busy_seconds` counts both."""
    checksum: ChecksumState
    """"verified" if every chunk was compared with a known checksum."""
    bytes_digest: str
    """Over all chunks' checksums: equal for equal files."""
    bottleneck: str
    """One line: what the load waited for most, its speed and its limit."""
    copied_bytes: int = 0
    """Bytes that went to devices."""
    copy_seconds: float = 0.0
    """In which devices' links were busy, summed over the devices."""

    @property
    def tells_disk_speed(self) -> bool:
        """Whether `bytes_read` came from the disk, and in `busy_seconds` nothing else did.

        Nor was anything else waited for: a load that is copied to devices is not heard.
        """
        is_alone = not self.n_interruptions and not self.copied_bytes
        return self.direct_io and not self.page_cache_bytes and is_alone


def result_of(
    outcome: _native.LoadOutcome,
    *,
    is_verified: bool,
    n_readers: int = DiskSettings().n_readers,
    disk_bytes_per_second: float | None = None,
    n_links: int = 0,
) -> LoadResult:
    """Say for people and schedulers what `n_readers` threads and `n_links` devices measured.

    `disk_bytes_per_second` is what the load's disks are known to give together.
    """
    times = LoadTimes(
        bytes_read=outcome.bytes_read,
        busy_seconds=outcome.busy_seconds,
        n_readers=n_readers,
        read_seconds=outcome.read_seconds,
        populate_seconds=outcome.populate_seconds,
        checksum_seconds=outcome.checksum_seconds,
        page_cache_bytes=outcome.page_cache_bytes,
        direct_refusal=outcome.direct_refusal,
        disk_bytes_per_second=disk_bytes_per_second,
        n_links=n_links,
        copied_bytes=outcome.copied_bytes,
        copy_seconds=outcome.copy_seconds,
        unpinned=outcome.is_unpinned,
    )
    digest = hashlib.sha256(b"".join(crc.to_bytes(4, "little") for crc in outcome.crc32c))
    return LoadResult(
        bytes_read=outcome.bytes_read,
        queue_seconds=outcome.queued_seconds,
        busy_seconds=outcome.busy_seconds,
        direct_io=not outcome.direct_refusal,
        direct_io_refusal=outcome.direct_refusal,
        page_cache_bytes=outcome.page_cache_bytes,
        n_interruptions=outcome.n_interruptions,
        checksum="verified" if is_verified else "learned",
        bytes_digest=digest.hexdigest(),
        bottleneck=bottleneck(times),
        copied_bytes=outcome.copied_bytes,
        copy_seconds=outcome.copy_seconds,
    )

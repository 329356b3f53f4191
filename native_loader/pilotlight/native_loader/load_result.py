"""How far loads are and how they went."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from pilotlight.native_loader import _native

ChecksumState = Literal["learned", "verified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """How far a load is."""

    done_bytes: int
    total_bytes: int
    started: bool
    """True once its first block has been asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """How a load went that succeeded."""

    bytes_read: int
    queue_seconds: float
    """From submission to the first block."""
    busy_seconds: float
    """From the first block to the last."""
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
    """One line: what the load waited for most, and its speed."""

    @property
    def tells_disk_speed(self) -> bool:
        """Whether `bytes_read` came from the disk, and in `busy_seconds` nothing else did."""
        return self.direct_io and not self.page_cache_bytes and not self.n_interruptions


def result_of(outcome: _native.LoadOutcome, *, is_verified: bool) -> LoadResult:
    """Say for people and schedulers what the readers measured."""
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
        bottleneck=_bottleneck(outcome),
    )


def _bottleneck(outcome: _native.LoadOutcome) -> str:
    """Say where the readers spent most of their time."""
    seconds = {
        "disk-bound": outcome.read_seconds,
        "memory-bound, the pool being populated": outcome.populate_seconds,
        "processor-bound, checksums being computed": outcome.checksum_seconds,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    if bound == "disk-bound" and 2 * outcome.page_cache_bytes > outcome.bytes_read:
        bound = "page cache"
    elif bound == "disk-bound" and outcome.direct_refusal:
        bound = f"disk-bound, direct reads refused ({outcome.direct_refusal})"
    rate = outcome.bytes_read / max(outcome.busy_seconds, 1e-9)
    return f"{bound}: {rate / 1e9:.2f} GB/s"

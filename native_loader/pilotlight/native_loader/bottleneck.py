"""What a load waited for most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_LEAST_SECONDS = 1e-9
_UNITS = {"GB/s": 1e9, "MB/s": 1e6, "kB/s": 1e3}
_LEAST_SHOWN = 0.01
"""Of a unit; a lower rate is shown in a smaller one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTimes:
    """What a load's readers and links did; seconds are summed over all of a kind."""

    bytes_read: int
    busy_seconds: float
    """From the first block to the last block or copy."""
    n_readers: int
    """Threads, of all its disks."""
    read_seconds: float
    populate_seconds: float
    checksum_seconds: float
    page_cache_bytes: int = 0
    direct_refusal: str = ""
    disk_bytes_per_second: float | None = None
    """What the disks are known to give."""
    n_links: int = 0
    """Devices that were copied to."""
    copied_bytes: int = 0
    copy_seconds: float = 0.0
    """In which links were busy."""
    link_bytes_per_second: float | None = None
    """What the links together are known to give."""
    unpinned: bool = False
    """Whether a device could not pin the memory that it copied from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tier:
    name: str
    moved_bytes: int
    share_seconds: float
    """How long one of its readers or links was busy, on average."""
    limit: float | None
    """In bytes a second, where nothing else is waited for."""


def bottleneck(times: LoadTimes) -> str:
    """Name the tier that a load spent most of its time in, its speed and that tier's limit.

    For example "disk-bound: 2.21 of 2.30 GB/s". A disk's limit is what it is known to
    give, or what it just gave if that is more; it is left out where it is not known.
    Another tier's is what it would have done without waiting for anything else.
    """
    tier = max(_tiers(times), key=lambda tier: tier.share_seconds)
    if tier.moved_bytes == 0:
        return "nothing had to be moved"
    rate = tier.moved_bytes / max(times.busy_seconds, _LEAST_SECONDS)
    if tier.limit is None:
        return f"{tier.name}: {_shown(rate)}"
    return f"{tier.name}: {_shown(rate, of=max(tier.limit, rate))}"


def _shown(rate: float, *, of: float | None = None) -> str:
    """Name rates in the largest unit in which the first is no zero."""
    fitting = (name for name, unit in _UNITS.items() if rate >= _LEAST_SHOWN * unit)
    name = next(fitting, "kB/s")
    limit = "" if of is None else f" of {of / _UNITS[name]:.2f}"
    return f"{rate / _UNITS[name]:.2f}{limit} {name}"


def _tiers(times: LoadTimes) -> Iterator[_Tier]:
    yield _disk(times)
    yield _reader_work(times, "memory-bound, the pool being populated", times.populate_seconds)
    yield _reader_work(times, "processor-bound, checksums being computed", times.checksum_seconds)
    if times.n_links:
        yield _link(times)


def _disk(times: LoadTimes) -> _Tier:
    if 2 * times.page_cache_bytes > times.bytes_read:
        return _reader_work(times, "page cache", times.read_seconds)
    refused = times.direct_refusal != ""
    return _Tier(
        name="disk-bound" + (f", direct reads refused ({times.direct_refusal})" if refused else ""),
        moved_bytes=times.bytes_read,
        share_seconds=times.read_seconds / times.n_readers,
        # What is known was measured by direct reads.
        limit=None if refused else times.disk_bytes_per_second,
    )


def _reader_work(times: LoadTimes, name: str, seconds: float) -> _Tier:
    share_seconds = seconds / times.n_readers
    return _Tier(
        name=name,
        moved_bytes=times.bytes_read,
        share_seconds=share_seconds,
        limit=times.bytes_read / max(share_seconds, _LEAST_SECONDS),
    )


def _link(times: LoadTimes) -> _Tier:
    share_seconds = times.copy_seconds / times.n_links
    measured = times.copied_bytes / max(share_seconds, _LEAST_SECONDS)
    return _Tier(
        name="link-bound" + (", from memory that is not pinned" if times.unpinned else ""),
        moved_bytes=times.copied_bytes,
        share_seconds=share_seconds,
        limit=times.link_bytes_per_second or measured,
    )

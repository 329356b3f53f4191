from __future__ import annotations

from dataclasses import replace

from pilotlight.native_loader.bottleneck import LoadTimes, bottleneck

# 2 GB in one second by four readers that waited for the disk most of the time.
DISK_BOUND = LoadTimes(
    bytes_read=2_000_000_000,
    busy_seconds=1.0,
    n_readers=4,
    read_seconds=3.0,
    populate_seconds=0.5,
    checksum_seconds=0.25,
)


def test_names_the_disk_and_what_it_is_known_to_give() -> None:
    times = replace(DISK_BOUND, disk_bytes_per_second=2_300_000_000.0)

    assert bottleneck(times) == "disk-bound: 2.00 of 2.30 GB/s"


def test_names_no_limit_of_a_disk_that_is_not_known() -> None:
    assert bottleneck(DISK_BOUND) == "disk-bound: 2.00 GB/s"


def test_a_disk_that_just_gave_more_can_give_that() -> None:
    times = replace(DISK_BOUND, disk_bytes_per_second=1_900_000_000.0)

    assert bottleneck(times) == "disk-bound: 2.00 of 2.00 GB/s"


def test_says_where_direct_reads_were_refused_and_their_limit_does_not_hold() -> None:
    times = replace(
        DISK_BOUND, direct_refusal="Invalid argument", disk_bytes_per_second=2_300_000_000.0
    )

    assert bottleneck(times) == "disk-bound, direct reads refused (Invalid argument): 2.00 GB/s"


def test_names_the_page_cache_where_most_bytes_came_from_it() -> None:
    times = replace(
        DISK_BOUND, page_cache_bytes=1_000_000_001, disk_bytes_per_second=2_300_000_000.0
    )

    # Four readers that copied for 3 s in all: each 0.5 GB in 0.75 s.
    assert bottleneck(times) == "page cache: 2.00 of 2.67 GB/s"
    assert bottleneck(replace(times, page_cache_bytes=999_999_999)).startswith("disk-bound")


def test_names_memory_that_was_populated() -> None:
    times = replace(DISK_BOUND, populate_seconds=3.2)

    # Four readers that populated for 3.2 s in all: each 0.5 GB in 0.8 s.
    assert bottleneck(times) == "memory-bound, the pool being populated: 2.00 of 2.50 GB/s"


def test_names_the_processor_that_computed_checksums() -> None:
    times = replace(DISK_BOUND, checksum_seconds=3.2)

    assert bottleneck(times) == "processor-bound, checksums being computed: 2.00 of 2.50 GB/s"


def test_names_the_links_to_the_devices() -> None:
    # Two links that were busy for 0.8 s each, with three quarters of the bytes.
    times = replace(DISK_BOUND, n_links=2, copied_bytes=1_500_000_000, copy_seconds=1.6)

    # 1.5 GB in 0.8 s are 1.875 GB/s.
    assert bottleneck(times) == "link-bound: 1.50 of 1.88 GB/s"
    assert (
        bottleneck(replace(times, link_bytes_per_second=3_000_000_000.0))
        == "link-bound: 1.50 of 3.00 GB/s"
    )
    assert (
        bottleneck(replace(times, unpinned=True))
        == "link-bound, from memory that is not pinned: 1.50 of 1.88 GB/s"
    )


def test_names_the_disk_where_the_links_are_less_busy() -> None:
    # One of four readers was waiting for the disk for 0.75 s, the link was busy for 0.7 s.
    times = replace(DISK_BOUND, n_links=1, copied_bytes=2_000_000_000, copy_seconds=0.7)

    assert bottleneck(times) == "disk-bound: 2.00 GB/s"


def test_says_that_nothing_had_to_be_moved() -> None:
    nothing = replace(
        DISK_BOUND,
        bytes_read=0,
        busy_seconds=0.0,
        read_seconds=0.0,
        populate_seconds=0.0,
        checksum_seconds=0.0,
    )

    assert bottleneck(nothing) == "nothing had to be moved"


def test_a_slow_load_is_told_in_smaller_units() -> None:
    slow = replace(DISK_BOUND, bytes_read=2_000_000)
    tiny = replace(DISK_BOUND, bytes_read=20)

    # Four readers that populated for 3.2 s in all: each a quarter in 0.8 s.
    assert bottleneck(slow) == "disk-bound: 2.00 MB/s"
    assert bottleneck(replace(slow, populate_seconds=3.2)).endswith(": 2.00 of 2.50 MB/s")
    assert bottleneck(tiny) == "disk-bound: 0.02 kB/s"
    assert bottleneck(replace(DISK_BOUND, bytes_read=10_000_000)) == "disk-bound: 0.01 GB/s"

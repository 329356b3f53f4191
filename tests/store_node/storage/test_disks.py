from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from pilotlight.native_loader import CheckpointFile
from pilotlight.native_loader.disks.disk_settings import KnownDisks
from pilotlight.store_node.protocol import ChannelId
from pilotlight.store_node.storage.disks import (
    ASSUMED_BYTES_PER_SECOND,
    DiskProbe,
    ProbeTarget,
)

DISK = ChannelId("host/disk-1:2")


def target_at(path: Path) -> ProbeTarget:
    status = path.stat()
    file = CheckpointFile(
        path=path,
        size_bytes=status.st_size,
        data_offset=8,
        device=status.st_dev,
        inode=status.st_ino,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )
    return ProbeTarget(channel_id=DISK, file=file)


@pytest.fixture
def probe(tmp_path: Path) -> DiskProbe:
    return DiskProbe(tmp_path / "records", KnownDisks(), locks=tmp_path / "locks")


@pytest.fixture
def target(tmp_path: Path) -> ProbeTarget:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1 << 20) * 64)
    return target_at(path)


def test_assumes_something_before_the_first_measurement(probe: DiskProbe) -> None:
    channel = probe.assume(DISK)

    assert (channel.channel_id, channel.kind) == (DISK, "disk")
    assert channel.bytes_per_second == ASSUMED_BYTES_PER_SECOND
    assert not channel.measured


@pytest.mark.usefixtures("direct_reads")
def test_measures_by_direct_reads_and_remembers(probe: DiskProbe, target: ProbeTarget) -> None:
    measured = probe.measure(target)

    assert measured is not None
    assert measured.measured
    assert measured.bytes_per_second > 1e6
    assert 0 < measured.latency_seconds < 0.5
    later = probe.assume(DISK)
    assert later.bytes_per_second == measured.bytes_per_second
    assert not later.measured


def test_measures_nothing_by_a_file_that_is_small_or_gone(
    tmp_path: Path, probe: DiskProbe, target: ProbeTarget
) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"weights")

    assert probe.measure(target_at(small)) is None
    target.file.path.unlink()
    assert probe.measure(target) is None


@pytest.mark.usefixtures("direct_reads")
@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"x":' + "[" * 200_000,
        '{"channel_id":"a","bytes_per_second":1e308,"latency_seconds":0.1}',
        '{"channel_id":"a","bytes_per_second":1e9,"latency_seconds":-1}',
    ],
    ids=["cut", "deep", "too fast", "before it was asked"],
)
def test_broken_record_counts_as_none(
    tmp_path: Path, probe: DiskProbe, target: ProbeTarget, text: str
) -> None:
    probe.measure(target)
    [record] = (tmp_path / "records").iterdir()
    record.write_text(text)

    assert probe.assume(DISK).bytes_per_second == ASSUMED_BYTES_PER_SECOND


@pytest.mark.usefixtures("direct_reads")
def test_waits_for_its_turn_and_ends_when_told_to(
    tmp_path: Path, probe: DiskProbe, target: ProbeTarget
) -> None:
    probe.measure(target)
    [lock] = (tmp_path / "locks").iterdir()
    results: list[object] = []

    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: results.append(probe.measure(target)))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        probe.stop()
        waiting.join(5.0)

    assert results == [None]

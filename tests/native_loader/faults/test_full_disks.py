from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Absent

from pilotlight.native_loader import Checkpoint, ChecksumLedger, ChunkPool, Loader, PackFailed
from pilotlight.native_loader.packing.pack import pack

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 30
MNT_DETACH = 2


@pytest.fixture
def small_disk(tmp_path: Path, absent: Absent) -> Iterator[Path]:
    """A file system that has room for a checkpoint of three chunks, and little more."""
    place = tmp_path / "small-disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=64m") != 0:
        absent("mount", f"no tmpfs can be mounted: {os.strerror(ctypes.get_errno())}")
    yield place
    libc.umount2(os.fsencode(place), MNT_DETACH)


def fill(disk: Path, *, left_bytes: int = 0) -> None:
    room = os.statvfs(disk)
    with (disk / "filler").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, room.f_bavail * room.f_frsize - left_bytes)


def test_a_disk_that_fills_up_while_packing_is_told_and_leaves_nothing(
    large: Checkpoint, small_disk: Path
) -> None:
    def fill_once(done_bytes: int, total_bytes: int) -> None:
        if not (small_disk / "filler").exists():
            fill(small_disk, left_bytes=1 << 20)

    with pytest.raises(PackFailed, match="can't be written, and nothing was: no space left"):
        pack(large, small_disk / "packed", progress=fill_once)

    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_pack_that_failed_for_lack_of_room_succeeds_when_there_is_some(
    large: Checkpoint, small_disk: Path
) -> None:
    fill(small_disk)
    with pytest.raises(PackFailed, match="bytes and the disk has 0 left"):
        pack(large, small_disk / "packed")
    (small_disk / "filler").unlink()

    packed = pack(large, small_disk / "packed")

    assert packed.verify().n_chunks == 3


def test_checksums_that_can_not_be_kept_fail_no_load(
    pool: ChunkPool, large: Checkpoint, small_disk: Path
) -> None:
    ledger = ChecksumLedger(small_disk / "ledger")
    fill(small_disk)
    chunks = pool.allocate(large.n_chunks)

    with Loader(pool, ledger=ledger) as loader:
        first = loader.submit(large, chunks).result(DEADLINE_SECONDS)
        second = loader.submit(large, chunks).result(DEADLINE_SECONDS)

    assert (first.checksum, second.checksum) == ("learned", "verified")
    assert ChecksumLedger(small_disk / "ledger").find(large.files[0]) is None
    pool.release(chunks)

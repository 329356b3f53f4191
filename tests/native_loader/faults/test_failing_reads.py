from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tests.native_loader.faults.conftest import IN_THE_MIDDLE, StuckLoad
from tests.native_loader.faults.faulty_file_system import Faults
from tests.native_loader.faults.faulty_files import FaultyFiles

from pilotlight.native_loader import (
    Checkpoint,
    ChecksumLedger,
    ChunkPool,
    FileChanged,
    Loader,
    ReadFailed,
)
from pilotlight.native_loader.disks.disk_settings import DiskSettings, KnownDisks, probe_disk
from pilotlight.native_loader.packing.pack import pack

pytestmark = pytest.mark.integration

NAME = "model.safetensors"
DEADLINE_SECONDS = 30


def held(pool: ChunkPool, checkpoint: Checkpoint, chunks: list[int]) -> bytes:
    return b"".join(
        os.pread(pool.fd, chunk.length, target * pool.chunk_bytes)
        for chunk, target in zip(checkpoint.chunks, chunks, strict=True)
    )


@pytest.mark.parametrize(
    "faults",
    [
        Faults(error_at=IN_THE_MIDDLE),
        Faults(error_at=IN_THE_MIDDLE, refuses_direct=True),
        Faults(error_at=IN_THE_MIDDLE, bypasses_cache=True),
        Faults(error_at=0),
    ],
)
def test_an_error_fails_the_load_it_happens_in_and_no_other(
    pool: ChunkPool,
    loader: Loader,
    faulty: FaultyFiles,
    failing: Checkpoint,
    sound: Checkpoint,
    faults: Faults,
) -> None:
    faulty.set(NAME, faults)
    chunks = pool.allocate(failing.n_chunks)
    other_chunks = pool.allocate(sound.n_chunks)

    load = loader.submit(failing, chunks)
    other = loader.submit(sound, other_chunks)

    with pytest.raises(ReadFailed, match="Input/output error") as caught:
        load.result(DEADLINE_SECONDS)
    assert caught.value.file == failing.files[0].path
    assert caught.value.errno == errno.EIO
    assert faults.error_at is not None
    assert 0 <= faults.error_at - caught.value.offset < 1 << 20
    other.result(DEADLINE_SECONDS)
    assert held(pool, sound, other_chunks) == sound.files[0].path.read_bytes()
    pool.release(chunks + other_chunks)


def test_a_disk_that_works_again_is_read_again(
    pool: ChunkPool, loader: Loader, faulty: FaultyFiles, failing: Checkpoint, source: Path
) -> None:
    chunks = pool.allocate(failing.n_chunks)
    faulty.set(NAME, Faults(error_at=IN_THE_MIDDLE))
    with pytest.raises(ReadFailed):
        loader.submit(failing, chunks).result(DEADLINE_SECONDS)

    faulty.set(NAME, Faults())
    loader.submit(failing, chunks).result(DEADLINE_SECONDS)

    assert held(pool, failing, chunks) == (source / NAME).read_bytes()
    pool.release(chunks)


@pytest.mark.parametrize(
    ("faults", "refusal"),
    [
        (Faults(refuses_direct=True), "Invalid argument"),
        (Faults(most_bytes=100_000, bypasses_cache=True), ""),
        (Faults(most_bytes=5_000, bypasses_cache=True), ""),
        (Faults(bypasses_cache=True, refuses_direct=True), "Invalid argument"),
    ],
)
def test_refused_direct_reads_and_short_reads_only_take_longer(
    pool: ChunkPool,
    loader: Loader,
    faulty: FaultyFiles,
    failing: Checkpoint,
    source: Path,
    faults: Faults,
    refusal: str,
) -> None:
    faulty.set(NAME, faults)
    chunks = pool.allocate(failing.n_chunks)

    result = loader.submit(failing, chunks).result(DEADLINE_SECONDS)

    assert held(pool, failing, chunks) == (source / NAME).read_bytes()
    assert result.direct_io_refusal == refusal
    assert result.direct_io is not bool(refusal)
    pool.release(chunks)


def test_a_short_read_that_means_the_end_of_the_file_is_one(
    pool: ChunkPool, loader: Loader, faulty: FaultyFiles, failing: Checkpoint
) -> None:
    # To the page cache a file system says by a short read that a file ends there.
    faulty.set(NAME, Faults(most_bytes=100_000))
    chunks = pool.allocate(failing.n_chunks)

    with pytest.raises(FileChanged, match="it ended before its size was reached"):
        loader.submit(failing, chunks).result(DEADLINE_SECONDS)

    pool.release(chunks)


def test_a_file_that_can_not_be_opened_any_more(
    pool: ChunkPool, loader: Loader, faulty: FaultyFiles, failing: Checkpoint
) -> None:
    faulty.set(NAME, Faults(open_error=errno.ESTALE))
    chunks = pool.allocate(failing.n_chunks)

    with pytest.raises(ReadFailed, match="Stale file handle"):
        loader.submit(failing, chunks).result(DEADLINE_SECONDS)

    pool.release(chunks)


def test_a_file_system_that_dies_in_the_middle(faulty: FaultyFiles, stuck: StuckLoad) -> None:
    faulty.kill()

    with pytest.raises(ReadFailed):
        stuck.load.result(DEADLINE_SECONDS)


def test_a_file_system_that_says_a_file_is_shorter_now(
    faulty: FaultyFiles, stuck: StuckLoad
) -> None:
    faulty.set(NAME, Faults(missing_bytes=1 << 20))
    faulty.release()

    with pytest.raises(FileChanged, match="bytes long and is now"):
        stuck.load.result(DEADLINE_SECONDS)


@pytest.mark.parametrize(
    "faults", [Faults(error_at=0), Faults(refuses_direct=True), Faults(open_error=errno.EACCES)]
)
def test_a_disk_that_fails_its_probe_is_read_as_usual(
    faulty: FaultyFiles, failing: Checkpoint, faults: Faults
) -> None:
    (file,) = failing.files
    disks = KnownDisks(probe=probe_disk)
    faulty.set(NAME, faults)

    assert disks.measure(file) is None

    assert disks.settings_for(file) == DiskSettings()


@pytest.mark.parametrize("error_at", [0, 30])
def test_a_header_that_can_not_be_read(faulty: FaultyFiles, error_at: int) -> None:
    faulty.set(NAME, Faults(error_at=error_at, bypasses_cache=True))

    with pytest.raises(ReadFailed, match="Input/output error"):
        Checkpoint.open(faulty.directory)


def test_verifying_says_what_could_not_be_read(
    faulty: FaultyFiles, failing: Checkpoint, tmp_path: Path
) -> None:
    faulty.set(NAME, Faults(error_at=IN_THE_MIDDLE))

    with pytest.raises(ReadFailed, match="Input/output error"):
        failing.verify(ChecksumLedger(tmp_path / "ledger"))

    assert ChecksumLedger(tmp_path / "ledger").find(failing.files[0]) is None


def test_packing_from_a_failing_disk_leaves_nothing(
    faulty: FaultyFiles, failing: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "packs").mkdir()
    faulty.set(NAME, Faults(error_at=IN_THE_MIDDLE))

    with pytest.raises(ReadFailed, match="Input/output error"):
        pack(failing, tmp_path / "packs" / "packed")

    assert list((tmp_path / "packs").iterdir()) == []

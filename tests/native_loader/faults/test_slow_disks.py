from __future__ import annotations

import threading
import time

import pytest
from tests.native_loader.faults.conftest import StuckLoad
from tests.native_loader.faults.faulty_file_system import Faults
from tests.native_loader.faults.faulty_files import FaultyFiles
from tests.native_loader.faults.waiting import wait_until_closing, wait_until_reading

from pilotlight.native_loader import (
    Checkpoint,
    ChunkPool,
    ChunkStateError,
    LoadCancelled,
    Loader,
    LoadPending,
    PoolBusy,
)

pytestmark = pytest.mark.integration

NAME = "model.safetensors"
DEADLINE_SECONDS = 30


def test_a_disk_that_does_not_answer_holds_up_nothing_on_other_disks(
    pool: ChunkPool,
    loader: Loader,
    faulty: FaultyFiles,
    failing: Checkpoint,
    sound: Checkpoint,
    stuck: StuckLoad,
) -> None:
    other_chunks = pool.allocate(sound.n_chunks)
    other = loader.submit(sound, other_chunks)

    other.result(DEADLINE_SECONDS)
    assert loader.finished() == [other]
    with pytest.raises(LoadPending):
        stuck.load.result(timeout=0)
    faulty.set(NAME, Faults())
    faulty.release()
    assert stuck.load.result(DEADLINE_SECONDS).bytes_read == failing.size_bytes
    pool.release(other_chunks)


def test_chunks_are_kept_while_a_read_that_was_cancelled_may_still_write_them(
    pool: ChunkPool, faulty: FaultyFiles, stuck: StuckLoad
) -> None:
    stuck.load.cancel()

    with pytest.raises(LoadPending):
        stuck.load.result(timeout=0)
    with pytest.raises(ChunkStateError, match="is loading, not cached"):
        pool.release(stuck.chunks)
    with pytest.raises(PoolBusy):
        pool.close()
    faulty.release()
    with pytest.raises(LoadCancelled):
        stuck.load.result(DEADLINE_SECONDS)


def test_loads_of_the_same_disk_go_on_beside_a_read_without_an_answer(
    pool: ChunkPool, loader: Loader, faulty: FaultyFiles, failing: Checkpoint, stuck: StuckLoad
) -> None:
    faulty.set(NAME, Faults())

    other_chunks = pool.allocate(failing.n_chunks)
    other = loader.submit(failing, other_chunks)

    assert other.result(DEADLINE_SECONDS).bytes_read == failing.size_bytes
    faulty.release()
    stuck.load.result(DEADLINE_SECONDS)
    pool.release(other_chunks)


def test_closing_waits_for_reads_that_may_still_write(
    loader: Loader, faulty: FaultyFiles, stuck: StuckLoad
) -> None:
    closing = threading.Thread(target=loader.close)
    closing.start()
    wait_until_closing(loader, stuck.load, stuck.chunks)
    faulty.release()
    closing.join(DEADLINE_SECONDS)

    assert not closing.is_alive()
    with pytest.raises(LoadCancelled):
        stuck.load.result(timeout=0)


def test_a_load_from_a_slow_disk_is_cancelled_within_a_read(
    pool: ChunkPool, loader: Loader, faulty: FaultyFiles, failing: Checkpoint
) -> None:
    read_seconds = 0.2
    faulty.set(NAME, Faults(delay_seconds=read_seconds))
    chunks = pool.allocate(failing.n_chunks)
    load = loader.submit(failing, chunks)
    wait_until_reading(load)

    started = time.monotonic()
    load.cancel()
    with pytest.raises(LoadCancelled):
        load.result(DEADLINE_SECONDS)

    # A block is one read of the file system's; a busy machine gets some more time.
    assert time.monotonic() - started < read_seconds + 1
    assert load.progress().done_bytes < failing.size_bytes
    pool.release(chunks)


def test_a_slow_disk_takes_its_time_and_no_byte_is_wrong(
    pool: ChunkPool, loader: Loader, faulty: FaultyFiles, failing: Checkpoint
) -> None:
    faulty.set(NAME, Faults(delay_seconds=0.01))
    chunks = pool.allocate(failing.n_chunks)

    result = loader.submit(failing, chunks).result(DEADLINE_SECONDS)

    assert result.busy_seconds > 0.01
    assert loader.submit(failing, chunks).result(DEADLINE_SECONDS).bytes_digest == (
        result.bytes_digest
    )
    pool.release(chunks)

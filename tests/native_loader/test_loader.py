from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import random
import select
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    ChecksumLedger,
    ChecksumMismatch,
    ChunkPool,
    ChunkStateError,
    FileChanged,
    LayoutMismatch,
    LoadCancelled,
    Loader,
    LoaderClosed,
    LoadPending,
    PoolBusy,
    ReadFailed,
)
from pilotlight.native_loader.devices.device import open_device
from pilotlight.native_loader.disks.disk_settings import DiskSettings
from pilotlight.native_loader.formats.parts import Place
from pilotlight.native_loader.loader import DeviceCopies
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.placements.placement import one_device
from pilotlight.native_loader.testing import random_tensor, write_checkpoint

DEADLINE_SECONDS = 30


def held(pool: ChunkPool, checkpoint: Checkpoint, chunks: list[int]) -> list[bytes]:
    """Return what the pool holds of each of the checkpoint's files."""
    files = [b""] * len(checkpoint.files)
    for chunk, target in zip(checkpoint.chunks, chunks, strict=True):
        files[chunk.file] += os.pread(pool.fd, chunk.length, target * pool.chunk_bytes)
    return files


def test_loads_every_byte(pool: ChunkPool, loader: Loader, large: Checkpoint) -> None:
    chunks = pool.allocate(large.n_chunks)

    load = loader.submit(large, chunks)
    result = load.result(DEADLINE_SECONDS)

    assert held(pool, large, chunks) == [large.files[0].path.read_bytes()]
    assert load.done
    assert result.bytes_read == large.size_bytes
    assert result.checksum == "learned"
    assert result.busy_seconds > 0
    assert result.queue_seconds >= 0
    assert result.bottleneck.endswith("GB/s")
    assert load.progress().done_bytes == load.progress().total_bytes == large.size_bytes
    assert load.progress().started
    assert load.checkpoint is large


def test_loads_into_chunks_in_any_order(pool: ChunkPool, loader: Loader, large: Checkpoint) -> None:
    chunks = list(reversed(pool.allocate(5)))[:3]

    loader.submit(large, chunks).result(DEADLINE_SECONDS)

    assert held(pool, large, chunks) == [large.files[0].path.read_bytes()]


def test_the_digest_is_that_of_the_bytes(
    tmp_path: Path, pool: ChunkPool, loader: Loader, rng: random.Random
) -> None:
    same = random_tensor(rng, "U8", 1000)
    digests = []
    for name, tensor in [("a", same), ("b", same), ("c", random_tensor(rng, "U8", 1000))]:
        checkpoint = Checkpoint.open(write_checkpoint(tmp_path / name, {"t": tensor}))
        load = loader.submit(checkpoint, pool.allocate(1))
        digests.append(load.result(DEADLINE_SECONDS).bytes_digest)

    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_learns_checksums_and_verifies_them_from_then_on(
    tmp_path: Path, pool: ChunkPool, large: Checkpoint
) -> None:
    ledger = ChecksumLedger(tmp_path / "ledger")
    chunks = pool.allocate(large.n_chunks)

    with Loader(pool, ledger=ledger) as loader:
        first = loader.submit(large, chunks).result(DEADLINE_SECONDS)
        second = loader.submit(large, chunks).result(DEADLINE_SECONDS)

    assert (first.checksum, second.checksum) == ("learned", "verified")
    assert first.bytes_digest == second.bytes_digest
    # What readers compute is what verification computes from the same files.
    assert large.verify(ledger).n_verified == 3


def test_a_known_checksum_that_differs_fails_the_load(
    tmp_path: Path, pool: ChunkPool, large: Checkpoint
) -> None:
    ledger = ChecksumLedger(tmp_path / "ledger")
    large.verify(ledger)
    known = ledger.find(large.files[0])
    assert known is not None
    ledger.learn(large.files[0], [*known[:2], known[2] ^ 1])

    with Loader(pool, ledger=ledger) as loader:
        load = loader.submit(large, pool.allocate(large.n_chunks))
        with pytest.raises(ChecksumMismatch, match="chunk 2 has checksum") as caught:
            load.result(DEADLINE_SECONDS)

    assert caught.value.file == large.files[0].path


def test_a_packed_checkpoint_is_verified_at_its_first_load(
    tmp_path: Path,
    pool: ChunkPool,
    loader: Loader,
    large: Checkpoint,
    flip_byte: Callable[[Path, int], None],
) -> None:
    packed = pack(large, tmp_path / "packed")
    chunks = pool.allocate(packed.n_chunks)
    assert loader.submit(packed, chunks).result(DEADLINE_SECONDS).checksum == "verified"
    flip_byte(packed.files[0].path, CHUNK_BYTES + 5)

    with pytest.raises(ChecksumMismatch) as caught:
        loader.submit(Checkpoint.open(packed.path), chunks).result(DEADLINE_SECONDS)

    assert caught.value.chunk == 1


def shrink(file: Path) -> None:
    os.truncate(file, CHUNK_BYTES)


def rewrite(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"changed")


def replace(file: Path) -> None:
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.rename(file)


@pytest.mark.parametrize("change", [shrink, rewrite, replace])
def test_a_file_that_changed_since_it_was_opened_fails_the_load(
    pool: ChunkPool, loader: Loader, large: Checkpoint, change: Callable[[Path], None]
) -> None:
    change(large.files[0].path)

    load = loader.submit(large, pool.allocate(large.n_chunks))

    with pytest.raises(FileChanged, match="has changed since its checkpoint was opened"):
        load.result(DEADLINE_SECONDS)


def test_a_file_that_is_gone_fails_the_load(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    large.files[0].path.unlink()

    load = loader.submit(large, pool.allocate(large.n_chunks))

    with pytest.raises(ReadFailed, match="No such file") as caught:
        load.result(DEADLINE_SECONDS)
    assert caught.value.file == large.files[0].path


def test_a_failed_load_leaves_its_chunks_to_the_caller(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    chunks = pool.allocate(large.n_chunks)
    large.files[0].path.unlink()
    with pytest.raises(ReadFailed):
        loader.submit(large, chunks).result(DEADLINE_SECONDS)

    pool.release(chunks)

    assert pool.accounts().free == pool.n_chunks


@pytest.fixture
def slow(pool: ChunkPool) -> Iterator[Loader]:
    """A loader that needs so many small reads for a large checkpoint that it is still busy."""
    with Loader(pool, settings=DiskSettings(n_readers=1, block_bytes=4096)) as loader:
        yield loader


def test_cancels_within_a_moment(pool: ChunkPool, slow: Loader, large: Checkpoint) -> None:
    chunks = pool.allocate(large.n_chunks)
    load = slow.submit(large, chunks)

    started = time.monotonic()
    load.cancel()
    with pytest.raises(LoadCancelled):
        load.result(DEADLINE_SECONDS)

    # A tenth of a second is promised; a machine that is busy with other things gets more.
    assert time.monotonic() - started < 1
    assert load.progress().done_bytes < large.size_bytes
    pool.release(chunks)


def test_cancelling_a_load_that_has_ended_changes_nothing(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    load = loader.submit(large, pool.allocate(large.n_chunks))
    load.result(DEADLINE_SECONDS)

    load.cancel()

    assert load.result().bytes_read == large.size_bytes


def test_a_higher_priority_goes_first(
    pool: ChunkPool, slow: Loader, large: Checkpoint, directory: Path
) -> None:
    small = Checkpoint.open(directory)
    low = slow.submit(large, pool.allocate(large.n_chunks))
    high = slow.submit(small, pool.allocate(1), priority=1)

    for load in (high, low):
        load.result(DEADLINE_SECONDS)

    assert slow.finished() == [high, low]
    # None if the first block of `low` was not yet asked for when `high` came.
    assert low.result().n_interruptions <= 1
    assert high.result().n_interruptions == 0


@pytest.mark.parametrize(
    ("change", "tells"),
    [
        ({}, True),
        ({"n_interruptions": 1}, False),
        ({"direct_io": False}, False),
        ({"page_cache_bytes": 1}, False),
    ],
)
def test_only_a_load_that_had_the_disk_for_itself_tells_its_speed(
    pool: ChunkPool, loader: Loader, directory: Path, change: dict[str, Any], tells: bool
) -> None:
    result = loader.submit(Checkpoint.open(directory), pool.allocate(1)).result(DEADLINE_SECONDS)

    assert dataclasses.replace(result, **{"direct_io": True, **change}).tells_disk_speed is tells


def test_a_load_can_be_promoted(
    pool: ChunkPool, slow: Loader, large: Checkpoint, directory: Path
) -> None:
    small = Checkpoint.open(directory)
    first = slow.submit(large, pool.allocate(large.n_chunks), priority=2)
    second = slow.submit(small, pool.allocate(1))
    third = slow.submit(small, pool.allocate(1))

    third.promote(1)
    for load in (first, second, third):
        load.result(DEADLINE_SECONDS)

    assert slow.finished() == [first, third, second]


def test_the_shorter_of_two_equals_goes_first(
    pool: ChunkPool, slow: Loader, large: Checkpoint, directory: Path
) -> None:
    long = slow.submit(large, pool.allocate(large.n_chunks))
    short = slow.submit(Checkpoint.open(directory), pool.allocate(1))

    for load in (long, short):
        load.result(DEADLINE_SECONDS)

    assert slow.finished() == [short, long]


def test_waits_no_longer_than_told(pool: ChunkPool, slow: Loader, large: Checkpoint) -> None:
    load = slow.submit(large, pool.allocate(large.n_chunks))

    with pytest.raises(LoadPending, match=f"{load.id} has not ended within 0 s"):
        load.result(timeout=0)

    assert not load.done


def test_announces_each_end_once(pool: ChunkPool, loader: Loader, large: Checkpoint) -> None:
    loads = [loader.submit(large, pool.allocate(large.n_chunks)) for _ in range(3)]
    for load in loads:
        load.result(DEADLINE_SECONDS)

    readable, _, _ = select.select([loader.completion_fd], [], [], 0)
    finished = loader.finished()

    assert readable == [loader.completion_fd]
    assert {load.id for load in finished} == {load.id for load in loads}
    assert all(any(load is known for known in loads) for load in finished)
    assert loader.finished() == []
    assert select.select([loader.completion_fd], [], [], 0)[0] == []


@pytest.mark.integration
async def test_an_event_loop_learns_of_ends(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(loader.completion_fd, ended.set)

    load = loader.submit(large, pool.allocate(large.n_chunks))
    async with asyncio.timeout(DEADLINE_SECONDS):
        await ended.wait()

    loop.remove_reader(loader.completion_fd)
    assert loader.finished() == [load]
    assert load.result(timeout=0).bytes_read == large.size_bytes


def test_other_threads_run_while_one_waits(
    pool: ChunkPool, slow: Loader, large: Checkpoint
) -> None:
    load = slow.submit(large, pool.allocate(large.n_chunks))

    def wait() -> None:
        with pytest.raises(LoadCancelled):
            load.result()

    waiter = threading.Thread(target=wait)
    waiter.start()
    n_steps = 0
    while waiter.is_alive() and n_steps < 1000:
        n_steps += 1

    assert n_steps == 1000
    load.cancel()
    waiter.join()


def test_chunks_that_are_loading_can_not_be_taken_away(
    pool: ChunkPool, slow: Loader, large: Checkpoint
) -> None:
    chunks = pool.allocate(large.n_chunks)
    slow.submit(large, chunks)

    with pytest.raises(ChunkStateError, match="is loading, not cached"):
        pool.release(chunks)
    with pytest.raises(ChunkStateError):
        slow.submit(large, chunks)
    with pytest.raises(PoolBusy):
        pool.close()


def test_refuses_chunks_that_are_not_held(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    with pytest.raises(ChunkStateError, match="is free, not cached"):
        loader.submit(large, [0, 1, 2])


def test_refuses_the_wrong_number_of_chunks(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    with pytest.raises(LayoutMismatch, match="has 3 chunks, and 2 were given"):
        loader.submit(large, pool.allocate(2))


def test_refuses_a_pool_of_smaller_chunks(large: Checkpoint) -> None:
    pool = ChunkPool(1 << 20, chunk_bytes=4096)

    with Loader(pool) as loader, pytest.raises(LayoutMismatch, match="does not fit a pool's chunk"):
        loader.submit(large, pool.allocate(3))


def test_closing_cancels_what_runs(pool: ChunkPool, slow: Loader, large: Checkpoint) -> None:
    chunks = pool.allocate(large.n_chunks)
    load = slow.submit(large, chunks)

    slow.close()
    slow.close()

    with pytest.raises(LoadCancelled):
        load.result(timeout=0)
    assert slow.finished() == [load]
    with pytest.raises(LoaderClosed):
        slow.submit(large, chunks)


def test_takes_the_page_cache_only_when_told_to(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    data = large.files[0].path.read_bytes()
    chunks = pool.allocate(large.n_chunks)

    cached = loader.submit(large, chunks, use_page_cache=True).result(DEADLINE_SECONDS)
    is_same = held(pool, large, chunks) == [data]
    from_disk = loader.submit(large, chunks).result(DEADLINE_SECONDS)

    assert is_same
    assert cached.page_cache_bytes in (0, large.size_bytes)  # 0 where the kernel can't say
    assert from_disk.page_cache_bytes == 0


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no tmpfs to read from")
def test_reads_from_memory_file_systems_too(
    pool: ChunkPool, loader: Loader, rng: random.Random
) -> None:
    directory = Path("/dev/shm") / f"pilotlight-test-{os.getpid()}"
    tensor = random_tensor(rng, "U8", 100_001)
    try:
        checkpoint = Checkpoint.open(write_checkpoint(directory, {"t": tensor}))
        chunks = pool.allocate(1)

        result = loader.submit(checkpoint, chunks).result(DEADLINE_SECONDS)

        assert held(pool, checkpoint, chunks)[0].endswith(tensor.data)
        # Whether tmpfs takes direct reads depends on the kernel; a refusal is reported.
        assert result.direct_io == (result.direct_io_refusal == "")
    finally:
        (directory / "model.safetensors").unlink(missing_ok=True)
        directory.rmdir()


def test_reads_only_what_is_not_resident(
    pool: ChunkPool, large: Checkpoint, tmp_path: Path
) -> None:
    ledger = ChecksumLedger(tmp_path / "ledger")
    with Loader(pool, ledger=ledger) as loader:
        chunks = pool.allocate(large.n_chunks)
        loader.submit(large, chunks).result(DEADLINE_SECONDS)
        evicted = chunks[1]
        pool.release([evicted])
        chunks[1] = pool.allocate(1)[0]
        ledger.forget(large.files[0])

        result = loader.submit(large, chunks, resident=[0, 2]).result(DEADLINE_SECONDS)

    assert held(pool, large, chunks) == [large.files[0].path.read_bytes()]
    assert result.bytes_read == CHUNK_BYTES
    assert result.checksum == "learned"
    assert ledger.find(large.files[0]) is None, "a part of a file teaches nothing of all of it"


def test_small_checkpoints_share_a_chunk(
    pool: ChunkPool, loader: Loader, rng: random.Random, tmp_path: Path
) -> None:
    chunk = pool.allocate(1)[0]
    places = [Place(chunk=chunk, offset=i * (1 << 20)) for i in range(5)]
    small = [
        Checkpoint.open(write_checkpoint(tmp_path / str(i), {"a": random_tensor(rng, "U8", 99)}))
        for i in range(5)
    ]

    loads = [loader.submit(each, [place]) for each, place in zip(small, places, strict=True)]

    for each, place, load in zip(small, places, loads, strict=True):
        load.result(DEADLINE_SECONDS)
        where = chunk * pool.chunk_bytes + place.offset
        assert os.pread(pool.fd, each.size_bytes, where) == each.files[0].path.read_bytes()
    pool.release([chunk])


def test_a_cancelled_load_is_announced_while_it_is_held(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    load = loader.submit(large, pool.allocate(large.n_chunks))
    load.cancel()

    with pytest.raises(LoadCancelled):
        load.result(DEADLINE_SECONDS)

    assert loader.finished() == [load]


def test_a_loader_that_goes_unclosed_ends_its_loads(pool: ChunkPool, large: Checkpoint) -> None:
    device = open_device("cpu")
    placement = one_device(large, "cpu")
    for _ in range(5):
        loader = Loader(pool)
        staging = pool.allocate(2)
        memories = [device.allocate(placement.partitions[0].size_bytes)]
        loader.stream(large, staging, DeviceCopies(placement=placement, memories=memories))
        del loader, memories
        gc.collect()
        pool.release(staging)


def test_a_kept_loader_keeps_no_loads(pool: ChunkPool, loader: Loader, large: Checkpoint) -> None:
    chunks = pool.allocate(large.n_chunks)
    load = loader.submit(large, chunks)
    load.result(DEADLINE_SECONDS)
    gone = weakref.ref(load)

    del load
    gc.collect()

    assert gone() is None
    assert loader.finished() == []

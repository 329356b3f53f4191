from __future__ import annotations

import pytest
from tests.native_loader.fake_driver import FakeDriver
from tests.native_loader.faults.conftest import IN_THE_MIDDLE
from tests.native_loader.faults.faulty_file_system import Faults
from tests.native_loader.faults.faulty_files import FaultyFiles

from pilotlight.native_loader import (
    Checkpoint,
    ChunkPool,
    ChunkStateError,
    DeviceFailed,
    DeviceMemoryRefused,
    LoadCancelled,
    Loader,
    LoadPending,
    PoolExhausted,
    ReadFailed,
    open_device,
)
from pilotlight.native_loader.loader import DeviceCopies
from pilotlight.native_loader.loading import load_through
from pilotlight.native_loader.placements.placement import one_device

pytestmark = pytest.mark.integration

NAME = "model.safetensors"
DEADLINE_SECONDS = 30


@pytest.fixture(params=["cpu", "cuda:0"])
def device_name(request: pytest.FixtureRequest, fake_driver: FakeDriver) -> str:
    """A device of each kind, where the fake driver makes the GPU."""
    name: str = request.param
    return name


def test_an_error_in_the_middle_of_a_stream_leaves_nothing_behind(
    pool: ChunkPool, faulty: FaultyFiles, failing: Checkpoint, device_name: str
) -> None:
    faulty.set(NAME, Faults(error_at=IN_THE_MIDDLE))

    with Loader(pool) as loader, pytest.raises(ReadFailed, match="Input/output error"):
        load_through(loader, pool, failing, open_device(device_name))

    assert pool.accounts().free == pool.n_chunks


def test_a_stream_through_a_single_chunk_brings_everything(
    pool: ChunkPool, failing: Checkpoint, device_name: str
) -> None:
    others = pool.allocate(pool.n_chunks - 1)

    with Loader(pool) as loader:
        weights, result = load_through(loader, pool, failing, open_device(device_name))

    assert result.bytes_read == failing.size_bytes
    assert weights.size_bytes == failing.tensors["a"].size_bytes
    pool.release(others)


def test_a_stream_without_a_chunk_is_refused(
    pool: ChunkPool, sound: Checkpoint, device_name: str
) -> None:
    chunks = pool.allocate(pool.n_chunks)

    with Loader(pool) as loader, pytest.raises(PoolExhausted):
        load_through(loader, pool, sound, open_device(device_name))

    pool.release(chunks)


def test_a_copy_that_fails_takes_its_load_alone_with_it(
    pool: ChunkPool, large: Checkpoint, sound: Checkpoint, fake_driver: FakeDriver
) -> None:
    fake_driver.fail("cuMemcpyHtoDAsync_v2", nth=2)
    chunks = pool.allocate(sound.n_chunks)

    with Loader(pool) as loader:
        with pytest.raises(DeviceFailed, match="cuMemcpyHtoDAsync"):
            load_through(loader, pool, large, open_device("cuda:0"))
        loader.submit(sound, chunks).result(DEADLINE_SECONDS)
        weights, _ = load_through(loader, pool, large, open_device("cuda:0"))

    assert weights.size_bytes == sum(entry.size_bytes for entry in large.tensors.values())
    pool.release(chunks)


def test_a_device_without_room_takes_no_chunk(
    pool: ChunkPool, large: Checkpoint, fake_driver: FakeDriver
) -> None:
    fake_driver.reset(1, 16 << 20)

    with Loader(pool) as loader, pytest.raises(DeviceMemoryRefused):
        load_through(loader, pool, large, open_device("cuda:0"))

    assert pool.accounts().free == pool.n_chunks


def test_staging_is_kept_while_a_read_that_was_cancelled_may_still_write_it(
    pool: ChunkPool, faulty: FaultyFiles, failing: Checkpoint, device_name: str
) -> None:
    faulty.set(NAME, Faults(hold_at=IN_THE_MIDDLE))
    device = open_device(device_name)
    placement = one_device(failing, device.name)
    memory = device.allocate(placement.partitions[0].size_bytes)
    staging = pool.allocate(1)
    copies = DeviceCopies(placement=placement, memories=[memory])
    with Loader(pool) as loader:
        load = loader.stream(failing, staging, copies)
        faulty.wait_until_held()

        load.cancel()

        with pytest.raises(LoadPending):
            load.result(timeout=0)
        with pytest.raises(ChunkStateError, match="is loading, not cached"):
            pool.release(staging)
        faulty.release()
        with pytest.raises(LoadCancelled):
            load.result(DEADLINE_SECONDS)
    pool.release(staging)

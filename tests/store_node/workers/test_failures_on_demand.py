"""What a node sees of the timed engine's failures."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pilotlight.native_loader import WeightLayout
from pilotlight.store_node.engines import Emission, EngineSetup, Work
from pilotlight.store_node.errors import EngineFailed, WorkerDied
from pilotlight.store_node.protocol import RequestId, Sampling
from pilotlight.store_node.workers import Worker, WorkerPool

pytestmark = pytest.mark.integration

TIMED = "pilotlight.store_node.engines.timed:TimedEngine"

NOTHING = WeightLayout(chunk_bytes=4096, files=(), tensors={}, aliases={})

SetupFor = Callable[..., EngineSetup]


@pytest.fixture
async def worker(start_pool: Callable[..., Awaitable[WorkerPool]]) -> Worker:
    return (await start_pool(timed=TIMED)).take("timed")


@pytest.fixture
def arena() -> Iterator[int]:
    descriptor = os.memfd_create("arena")
    yield descriptor
    os.close(descriptor)


async def test_a_crash_while_preparing_is_a_death(
    worker: Worker, setup_for: SetupFor, tmp_path: Path
) -> None:
    with pytest.raises(WorkerDied, match="killed by SIGKILL"):
        await worker.prepare(setup_for(tmp_path, fail_prepare="crash"))


async def test_a_crash_while_binding_is_a_death(
    worker: Worker, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    await worker.prepare(setup_for(tmp_path, fail_bind="crash"))

    with pytest.raises(WorkerDied, match="killed by SIGKILL"):
        await worker.bind(arena, NOTHING)


async def test_running_out_of_memory_while_binding_has_its_code(
    worker: Worker, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    await worker.prepare(setup_for(tmp_path, fail_bind="out_of_memory"))

    with pytest.raises(EngineFailed) as failed:
        await worker.bind(arena, NOTHING)

    assert failed.value.code == "out_of_memory"


async def test_a_stalled_bind_ends_with_its_worker(
    worker: Worker, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    await worker.prepare(setup_for(tmp_path, fail_bind="stall"))
    call = asyncio.create_task(worker.bind(arena, NOTHING))
    await asyncio.sleep(0)

    worker.kill()

    assert (await worker.wait_dead()).signal == signal.SIGKILL
    with pytest.raises(WorkerDied):
        await call


async def test_a_crash_between_tokens_loses_none_that_came_before(
    worker: Worker, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    emissions: list[Emission] = []
    worker.on_emissions = emissions.extend
    await worker.prepare(setup_for(tmp_path, crash_after_tokens="5"))
    await worker.bind(arena, NOTHING)

    await worker.admit(
        Work(
            request_id=RequestId("a"),
            attempt=1,
            prompt_ids=(1, 2),
            emitted_ids=(),
            sampling=Sampling(temperature=0.0, max_tokens=100),
        )
    )
    death = await worker.wait_dead()

    assert death.signal == signal.SIGKILL
    assert sum(len(emission.token_ids) for emission in emissions) == 5

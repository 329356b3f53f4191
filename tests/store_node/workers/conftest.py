"""Pools of workers for these tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from pilotlight.store_node.engines import EngineSetup
from pilotlight.store_node.protocol import ModelId, Reference, ReplicaId, ReplicaSpec
from pilotlight.store_node.workers import WorkerPool

TIMED = "pilotlight.store_node.engines.timed:TimedEngine"
TRANSFORMERS = "pilotlight.store_node.engines.transformers:TransformersEngine"

_DEADLINE_SECONDS = 60.0

StartPool = Callable[..., Awaitable[WorkerPool]]


@pytest.fixture
async def start_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartPool]:
    """Return a function that starts a pool, waits until it is warm, and closes it in the end.

    An engine's target without a module is a class of `odd_engines`.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    pools: list[WorkerPool] = []

    async def start(
        *,
        warm: int = 1,
        is_awaited: bool = True,
        memory_bytes: int | None = None,
        checkpoints: tuple[Path, ...] = (),
        **engines: str,
    ) -> WorkerPool:
        pool = WorkerPool(
            engines={
                name: target if ":" in target else f"odd_engines:{target}"
                for name, target in engines.items()
            },
            threads=1,
            checkpoints=checkpoints,
            log_directory=tmp_path / "logs",
            warm=warm,
            memory_bytes=memory_bytes,
        )
        pools.append(pool)
        await pool.start()
        if is_awaited:
            await wait_until_warm(pool, dict.fromkeys(engines, warm))
        return pool

    yield start
    for pool in pools:
        await pool.close()


async def wait_until_warm(pool: WorkerPool, counts: dict[str, int]) -> None:
    changed = asyncio.Event()
    pool.on_change = changed.set
    async with asyncio.timeout(_DEADLINE_SECONDS):
        while pool.warm_count() != counts:
            await changed.wait()
            changed.clear()


@pytest.fixture
def until_warm() -> Callable[[WorkerPool, dict[str, int]], Awaitable[None]]:
    """Return what waits until a pool has just so many warm workers."""
    return wait_until_warm


@pytest.fixture
def setup_for() -> Callable[..., EngineSetup]:
    """Return what builds a setup from a folder and engine options."""

    def build(directory: Path, *, concurrency: int = 1, **options: str) -> EngineSetup:
        spec = ReplicaSpec(
            replica_id=ReplicaId("r"),
            model=ModelId("model"),
            reference=Reference("c"),
            engine_options=options,
            concurrency=concurrency,
        )
        return EngineSetup(spec=spec, directory=directory, threads=1)

    return build

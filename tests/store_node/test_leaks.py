"""A node that starts and stops models for long is as it was in the beginning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pilotlight.store_node.protocol import PoolAccounts, ReplicaState
from pilotlight.store_node.testing.harness import make_checkpoint
from pilotlight.store_node.testing.node_process import Footprint, NodeProcess

pytestmark = pytest.mark.integration

N_WARM = 2
N_BEFORE = 10
"""Cycles after which all is there that comes once: threads, connections, caches."""

FAILURES = {"timed": {"fail_bind": "crash"}, "transformers": {"no_such_option": "1"}}
"""Options with which an engine's worker dies before its replica is READY."""

TOLERANCE_BYTES = 2 << 20
"""Measured over 200 cycles: a node grows by 0.5 MB, for it remembers the keys of commands and
the ids of requests and ended replicas up to a limit, and a zygote not at all. What a leak of one
cycle takes, be it a worker's connection or the page tables of a fork, is more after 190 of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a node and its zygote hold while nothing runs."""

    node: Footprint
    zygote: Footprint
    n_processes: int
    accounts: PoolAccounts | None

    @classmethod
    async def of(cls, node: NodeProcess, engine: str) -> State:
        await node.wait_warm(N_WARM, engine=engine)
        processes = node.descendants()
        return cls(
            node=Footprint.of(node.process.pid),
            zygote=Footprint.of(processes[0]),
            n_processes=len(processes),
            accounts=(await node.client.describe()).accounts,
        )

    def check_is_as(self, before: State) -> None:
        assert (self.n_processes, self.accounts) == (before.n_processes, before.accounts)
        for mine, its in ((self.node, before.node), (self.zygote, before.zygote)):
            assert (mine.descriptors, mine.threads) == (its.descriptors, its.threads)
            assert mine.resident_bytes <= its.resident_bytes + TOLERANCE_BYTES


async def cycle(node: NodeProcess, number: int, engine: str) -> None:
    """Start a model, ask it and stop it; every third start fails instead."""
    await node.wait_warm(N_WARM, engine=engine)
    replica = f"r{number}"
    if number % 3 == 2:
        options = FAILURES[engine]
        assert await node.client.start("llama", replica, engine=engine, options=options) is None
        await node.controller.wait_state(replica, ReplicaState.FAILED)
    else:
        await node.run("llama", replica, engine=engine)
        assert len(await node.client.text(f"q{number}", replica, max_tokens=3)) == 3
        await node.end(replica)


async def check_nothing_is_left(home: Path, *, engine: str, n_cycles: int) -> None:
    sizes = ("--device-memory", "64MiB", "--dram", "64MiB")
    async with NodeProcess.running(home, *sizes, "--engine", engine) as node:
        for number in range(N_BEFORE):
            await cycle(node, number, engine)
        before = await State.of(node, engine)

        for number in range(N_BEFORE, n_cycles):
            await cycle(node, number, engine)

        (await State.of(node, engine)).check_is_as(before)


async def test_nothing_is_left_of_starts_and_stops(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=2)

    await check_nothing_is_left(tmp_path, engine="timed", n_cycles=12)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nothing_is_left_of_many_starts_and_stops(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=2)

    await check_nothing_is_left(tmp_path, engine="timed", n_cycles=200)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nothing_is_left_of_many_real_models(
    tmp_path: Path, make_tiny_llama: Callable[..., list[int]]
) -> None:
    make_tiny_llama(tmp_path / "models" / "llama", prompt=(1, 2, 3), n_tokens=1)

    await check_nothing_is_left(tmp_path, engine="transformers", n_cycles=200)

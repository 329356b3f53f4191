from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from pilotlight.scheduler.errors import LeadershipLost
from pilotlight.scheduler.store import (
    HeldBy,
    NodeRecord,
    PutNode,
    StateStore,
    this_process,
    upgrade,
)
from pilotlight.scheduler.store.leadership import is_gone

pytestmark = pytest.mark.integration

ELSEWHERE = "another-host:1:2:abc"
NODE = PutNode(NodeRecord(node_id="n1", incarnation="i", address="a:1", is_up=True, changed_at=1.0))


def holder_of(pid: int, started_at: str) -> str:
    host, _, _, space = this_process().split(":")
    return f"{host}:{pid}:{started_at}:{space}"


def holder_that_has_ended() -> str:
    program = "import pilotlight.scheduler.store as s; print(s.this_process(), end='')"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


async def contender(url: str) -> StateStore:
    upgrade(url)
    store = StateStore(url)
    await store.open()
    return store


async def test_epochs_grow_with_every_leader(url: str) -> None:
    store = await contender(url)

    for epoch in (1, 2, 3):
        assert await store.acquire(this_process(), 60.0) == epoch
        await store.release()

    assert store.epoch is None
    await store.close()


async def test_a_held_lease_is_told_with_its_holder_and_time(url: str) -> None:
    leader, other = await contender(url), await contender(url)
    await leader.acquire(ELSEWHERE, 60.0)

    held = await other.acquire(this_process(), 60.0)

    assert isinstance(held, HeldBy)
    assert held.holder == ELSEWHERE
    assert 50 < held.remaining_seconds <= 60
    with pytest.raises(LeadershipLost):
        await other.apply([NODE])
    await leader.close()
    await other.close()


async def test_one_of_two_that_ask_at_once_leads(url: str) -> None:
    stores = [await contender(url), await contender(url)]

    answers = await asyncio.gather(
        *(store.acquire(f"host-{i}:1:1:x", 60.0) for i, store in enumerate(stores))
    )

    assert sorted(isinstance(answer, HeldBy) for answer in answers) == [False, True]
    for store in stores:
        await store.close()


async def test_a_lease_that_has_ended_is_taken_over(url: str) -> None:
    old, new = await contender(url), await contender(url)
    await old.acquire(ELSEWHERE, 0.0)

    assert await new.acquire(this_process(), 60.0) == 2
    await old.close()
    await new.close()


async def test_a_replaced_leader_writes_nothing(url: str) -> None:
    old, new = await contender(url), await contender(url)
    await old.acquire(ELSEWHERE, 0.0)
    await new.acquire(this_process(), 60.0)

    with pytest.raises(LeadershipLost, match="epoch 1 has ended; epoch 2 leads"):
        await old.apply([NODE])
    with pytest.raises(LeadershipLost):
        await old.renew()
    with pytest.raises(LeadershipLost):
        await old.raise_epoch(5)
    await old.release()  # passed over: the lease is another's

    assert (await new.load_state()).nodes == ()
    await new.apply([NODE])
    await old.close()
    await new.close()


async def test_a_leader_that_slept_but_was_not_replaced_goes_on(
    url: str, execute: Callable[[str, str], None]
) -> None:
    store, other = await contender(url), await contender(url)
    await store.acquire(ELSEWHERE, 60.0)
    execute(url, "update leadership set expires_at = 0")

    await store.renew()

    assert isinstance(await other.acquire(this_process(), 60.0), HeldBy)
    await store.apply([NODE])
    await store.close()
    await other.close()


async def test_an_epoch_is_raised_above_what_a_node_has_seen(store: StateStore) -> None:
    assert await store.raise_epoch(41) == 42
    assert await store.raise_epoch(7) == 43
    assert store.epoch == 43
    await store.apply([NODE])


async def test_what_is_written_while_the_epoch_is_raised_is_written_with_the_new_one(
    store: StateStore,
) -> None:
    await asyncio.gather(store.raise_epoch(41), store.apply([NODE]), store.renew())

    assert store.epoch == 42
    assert (await store.load_state()).nodes == (NODE.node,)


async def test_a_killed_process_of_this_machine_is_replaced_at_once(url: str) -> None:
    store = await contender(url)
    await store.acquire(holder_that_has_ended(), 3600.0)

    assert await store.acquire(this_process(), 60.0) == 2
    await store.close()


def test_this_process_is_not_gone() -> None:
    assert not is_gone(this_process())


def test_a_pid_that_another_process_has_now_is_gone() -> None:
    assert is_gone(holder_of(os.getpid(), "1"))


def test_nothing_is_known_of_processes_elsewhere() -> None:
    _, pid, started_at, space = this_process().split(":")

    assert not is_gone(ELSEWHERE)
    assert not is_gone(f"{socket.gethostname()}:{pid}:1:another-boot")
    assert not is_gone(f"another-host:{pid}:{started_at}:{space}")
    assert not is_gone("")


def test_a_process_that_nobody_has_reaped_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()  # ends when the process does
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        assert is_gone(holder_of(child.pid, "1"))

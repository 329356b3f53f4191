from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.errors import LeadershipLost, StateUnavailable
from pilotlight.scheduler.store import (
    DecisionRecord,
    FinishDecision,
    NodeRecord,
    Phases,
    PutDecision,
    PutModel,
    PutNode,
    PutReplica,
    PutStart,
    RemoveModel,
    RemoveReplica,
    ReplicaRecord,
    StartPosition,
    StartRecord,
    State,
    StateStore,
    engine,
    sqlite_url,
    this_process,
    upgrade,
)
from pilotlight.store_node.protocol import ModelId, Reference

pytestmark = pytest.mark.integration

MODEL = Model(
    name=ModelId("opt"),
    path="/models/opt",
    reference=Reference("opt"),
    layout_id="l1",
    size_bytes=2**40,
    devices=2,
    engine_options={"prefill_seconds": "0.1", "naïve": "ja"},
    keep_alive_seconds=None,
    priority=-3,
    deployed_at=1_700_000_000.25,
)
NODE = NodeRecord(
    node_id="n1",
    incarnation="i1",
    address="127.0.0.1:50060",
    is_up=True,
    changed_at=2.0,
    devices=2,
    device_kind="cpu",
    dram_bytes=2**41,
    version="0.1.0",
)
REPLICA = ReplicaRecord(
    replica_id="r1",
    model="opt",
    node_id="n1",
    state="starting",
    devices=2,
    decision_id="d1",
    changed_at=3.0,
)
DECISION = DecisionRecord(
    decision_id="d1",
    recording_offset=41,
    policy="serverlessllm",
    made_at=4.0,
    plan='{"steps":[]}',
    reasons=("least",),
)
START = StartRecord(
    replica_id="r1",
    decision_id="d1",
    model="opt",
    node_id="n1",
    tier="ssd",
    size_bytes=2**40,
    bytes_read=2**40 + 1,
    started_at=5.0,
    ready_seconds=1.5,
    first_token_seconds=1.75,
    estimated=Phases(
        queue_seconds=0.0, transfer_seconds=1.0, worker_seconds=0.25, bind_seconds=0.125
    ),
    measured=None,
    checksum="learned",
    bottleneck="disk-bound: 2.21 GB/s",
)


def start_at(started_at: float, replica_id: str) -> StartRecord:
    return replace(START, started_at=started_at, replica_id=replica_id)


async def test_an_empty_state_has_nothing(store: StateStore) -> None:
    assert await store.load_state() == State(models=(), nodes=(), replicas=())
    assert await store.list_starts(10) == ()
    assert await store.find_decision("d1") is None


async def test_every_record_comes_back_as_it_was(store: StateStore) -> None:
    await store.apply(
        [
            PutModel(MODEL),
            PutNode(NODE),
            PutReplica(REPLICA),
            PutDecision(DECISION),
            PutStart(START),
        ]
    )

    assert await store.load_state() == State(models=(MODEL,), nodes=(NODE,), replicas=(REPLICA,))
    assert await store.list_starts(10) == (START,)
    assert await store.find_decision("d1") == replace(DECISION, epoch=1)


async def test_a_second_record_of_one_key_replaces_the_first(store: StateStore) -> None:
    assert START.estimated is not None
    phases = replace(START.estimated, handover_seconds=0.01, prefill_seconds=0.5)
    known = replace(START, measured=phases)
    await store.apply([PutModel(MODEL), PutReplica(REPLICA), PutStart(START)])

    await store.apply(
        [
            PutModel(replace(MODEL, max_replicas=4, keep_alive_seconds=60.0)),
            PutReplica(replace(REPLICA, state="ready")),
            PutStart(known),
        ]
    )

    state = await store.load_state()
    assert state.models == (replace(MODEL, max_replicas=4, keep_alive_seconds=60.0),)
    assert state.replicas == (replace(REPLICA, state="ready"),)
    assert await store.list_starts(10) == (known,)


async def test_changes_are_made_in_their_order(store: StateStore) -> None:
    await store.apply([PutModel(MODEL), RemoveModel("opt"), RemoveModel("opt")])
    await store.apply([RemoveReplica("r1"), PutReplica(REPLICA)])

    assert await store.load_state() == State(models=(), nodes=(), replicas=(REPLICA,))


async def test_a_decision_is_finished_with_its_outcome(store: StateStore) -> None:
    await store.apply([PutDecision(DECISION)])

    await store.apply(
        [
            FinishDecision(decision_id="d1", outcome="done", finished_at=9.0),
            FinishDecision(decision_id="unknown", outcome="done", finished_at=9.0),
        ]
    )

    assert await store.find_decision("d1") == replace(
        DECISION, epoch=1, outcome="done", finished_at=9.0
    )


async def test_changes_are_made_all_or_none(store: StateStore) -> None:
    nothing: Any = None

    with pytest.raises(StateUnavailable) as refused:
        await store.apply([PutModel(MODEL), PutNode(replace(NODE, address=nothing))])

    assert "\n" not in str(refused.value)
    assert (await store.load_state()).models == ()
    await store.apply([PutModel(MODEL)])  # and the store goes on


async def test_nothing_is_written_without_leading(url: str) -> None:
    upgrade(url)
    store = StateStore(url)
    await store.open()

    with pytest.raises(LeadershipLost, match="does not lead"):
        await store.apply([PutModel(MODEL)])

    assert (await store.load_state()).models == ()
    await store.close()


async def test_starts_are_listed_newest_first_and_page_by_page(store: StateStore) -> None:
    # Two of one instant: the key decides, and no page repeats or skips one.
    starts = [start_at(1.0, "a"), start_at(2.0, "b"), start_at(2.0, "c"), start_at(3.0, "d")]
    await store.apply([PutStart(start) for start in starts])

    first = await store.list_starts(2)
    second = await store.list_starts(2, before=first[-1].position)
    third = await store.list_starts(2, before=second[-1].position)

    assert [start.replica_id for start in (*first, *second, *third)] == ["d", "c", "b", "a"]
    assert second[-1].position == StartPosition(1.0, "a")
    assert third == ()


async def test_only_the_newest_decisions_and_starts_are_kept(url: str) -> None:
    upgrade(url)
    store = StateStore(url, kept_rows=10)
    await store.open()
    await store.acquire(this_process(), 60.0)

    for i in range(500):
        await store.apply(
            [
                PutDecision(replace(DECISION, decision_id=f"d{i}", made_at=float(i))),
                PutStart(start_at(float(i), f"r{i}")),
            ]
        )

    starts = await store.list_starts(100)
    assert [start.replica_id for start in starts] == [f"r{i}" for i in range(499, 489, -1)]
    assert await store.find_decision("d490") is not None
    assert await store.find_decision("d489") is None
    await store.close()


async def test_a_contender_neither_stops_the_leader_nor_loses_its_writes(
    store: StateStore, url: str
) -> None:
    other = StateStore(url)
    await other.open()

    for i in range(50):
        await store.apply([PutReplica(replace(REPLICA, replica_id=f"r{i:02}"))])
        await other.acquire("another-host:1:1:x", 60.0)

    assert len((await other.load_state()).replicas) == 50
    await other.close()


async def test_a_file_that_another_process_keeps_locked_is_named(
    sqlite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.05)
    store = await _leader_of(sqlite_file)
    other = sqlite3.connect(sqlite_file)
    other.execute("begin immediate")

    with pytest.raises(StateUnavailable, match="another process keeps it locked"):
        await store.apply([PutModel(MODEL)])

    other.close()
    await store.apply([PutModel(MODEL)])
    await store.close()


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Let no SQLite database grow beyond 40 pages."""

    def limit(connection: Any, _record: object) -> None:
        connection.execute("pragma max_page_count = 40")

    event.listen(Engine, "connect", limit)
    yield
    event.remove(Engine, "connect", limit)


@pytest.mark.usefixtures("small_disk")
async def test_a_full_disk_loses_nothing_that_was_written(sqlite_file: Path) -> None:
    store = await _leader_of(sqlite_file)
    await store.apply([PutModel(MODEL)])

    with pytest.raises(StateUnavailable, match="the disk is full"):
        await store.apply([PutDecision(replace(DECISION, plan="x" * 1_000_000))])

    assert (await store.load_state()).models == (MODEL,)
    await store.apply([RemoveModel("opt")])
    await store.close()


# Applies pairs of changes for ever and says which were applied.
_WRITER = """
import asyncio, sys
from pilotlight.scheduler.store import *
from pilotlight.store_node.protocol import ModelId, Reference

async def main(url):
    store = StateStore(url)
    await store.open()
    await store.acquire(this_process(), 3600.0)
    n = 0
    while True:
        replica = dict(model="m", node_id="n", state="ready", devices=1, decision_id="d")
        await store.apply([
            PutReplica(ReplicaRecord(replica_id=f"a{n}", changed_at=0.0, **replica)),
            PutReplica(ReplicaRecord(replica_id=f"b{n}", changed_at=0.0, **replica)),
        ])
        print(n, flush=True)
        n += 1

asyncio.run(main(sys.argv[1]))
"""


def confirmed_by_a_killed_writer(url: str) -> list[int]:
    with subprocess.Popen([sys.executable, "-c", _WRITER, url], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        confirmed = [int(writer.stdout.readline()) for _ in range(100)]
        os.kill(writer.pid, signal.SIGKILL)
        return confirmed + [int(line) for line in writer.stdout if line.endswith(b"\n")]


async def test_what_a_killed_writer_has_confirmed_is_there_and_whole(sqlite_file: Path) -> None:
    url = sqlite_url(sqlite_file)
    upgrade(url)
    confirmed = confirmed_by_a_killed_writer(url)

    store = StateStore(url)
    await store.open()
    names = {replica.replica_id for replica in (await store.load_state()).replicas}
    assert names >= {f"{half}{n}" for n in confirmed for half in "ab"}
    assert {name[1:] for name in names if name[0] == "a"} == {
        name[1:] for name in names if name[0] == "b"
    }
    assert await store.acquire(this_process(), 60.0) == 2  # at once: its holder is gone
    await store.close()
    with sqlite3.connect(sqlite_file) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    connection.close()


async def _leader_of(path: Path) -> StateStore:
    url = sqlite_url(path)
    upgrade(url)
    store = StateStore(url)
    await store.open()
    await store.acquire(this_process(), 60.0)
    return store

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pilotlight.scheduler.core.actions import Command
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.virtual_node import REPORT_SECONDS, Speeds, VirtualNode
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    CommandHeader,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    Incarnation,
    ModelId,
    NodeId,
    NodeUpdate,
    Reference,
    ReplicaId,
    ReplicaSpec,
    ReplicaState,
    StartReplicaRequest,
    StopReplicaRequest,
    Tier,
)

GIGABYTE = 10**9
SPEEDS = Speeds(
    disk_bytes_per_second=1.0e9,
    attach_seconds=0.0,
    worker_seconds=0.1,
    bind_seconds=0.05,
    prefill_seconds=0.1,
    teardown_seconds=0.2,
)
"""A gigabyte takes a second from disk; a start is READY 0.05 s later, from memory in 0.15 s."""

HEADER = CommandHeader(epoch=1, incarnation=Incarnation("a-1"), idempotency_key="k")


@dataclass
class World:
    """A node and what it has said."""

    devices: int = 2
    dram_bytes: int = 10 * GIGABYTE
    heap: EventHeap = field(default_factory=EventHeap)
    said: list[tuple[float, NodeUpdate]] = field(default_factory=list[tuple[float, NodeUpdate]])

    def __post_init__(self) -> None:
        self.node = VirtualNode(
            id=NodeId("a"),
            heap=self.heap,
            devices=self.devices,
            dram_bytes=self.dram_bytes,
            checkpoints={Reference(name): GIGABYTE for name in "mno"},
            speeds=SPEEDS,
            report_to=lambda report: self.said.append((self.heap.now, report[1])),
        )

    def do(self, command: Command) -> str:
        return self.node.carry_out(command)

    def ended(self) -> dict[str, tuple[ReplicaState, float]]:
        """Return the last state of each replica, and when it was reported, less the delay."""
        return {
            status.replica_id: (status.state, round(at - REPORT_SECONDS, 5))
            for at, update in self.said
            for status in update.replicas
        }

    def tier(self, replica: str) -> Tier | None:
        outcomes = [
            status.outcome
            for _, update in self.said
            for status in update.replicas
            if status.replica_id == replica and status.outcome
        ]
        return outcomes[-1].tier if outcomes else None

    def in_dram(self) -> set[str]:
        return {copy.reference for copy in self.node.report().checkpoints if copy.dram_bytes}


def _start(replica: str, model: str = "m", *, devices: int = 1) -> StartReplicaRequest:
    return StartReplicaRequest(
        header=HEADER,
        spec=ReplicaSpec(
            replica_id=ReplicaId(replica),
            model=ModelId(model),
            reference=Reference(model),
            devices=devices,
        ),
    )


def _stop(replica: str, *, if_idle: bool = True) -> StopReplicaRequest:
    return StopReplicaRequest(header=HEADER, replica_id=ReplicaId(replica), if_idle=if_idle)


def test_a_start_from_disk_takes_transfer_and_bind() -> None:
    world = World()

    assert world.do(_start("r")) == ""
    world.heap.run_until(5.0)

    # 1 s of transfer hides the worker, then 0.05 s.
    assert world.ended() == {"r": (ReplicaState.READY, 1.05)}
    assert world.tier("r") is Tier.SSD


def test_two_loads_take_turns_on_the_disk() -> None:
    world = World()

    world.do(_start("r", "m"))
    world.do(_start("s", "n"))
    world.heap.run_until(5.0)

    assert world.ended() == {
        "r": (ReplicaState.READY, 1.05),
        "s": (ReplicaState.READY, 2.05),
    }


def test_two_starts_of_one_model_share_its_load() -> None:
    world = World()
    world.do(_start("r"))
    world.heap.run_until(0.5)

    world.do(_start("s"))
    world.heap.run_until(5.0)

    assert world.ended() == {
        "r": (ReplicaState.READY, 1.05),
        "s": (ReplicaState.READY, 1.05),
    }


def test_what_was_bound_stays_in_memory_when_its_replica_stops() -> None:
    world = World()
    world.do(_start("r"))
    world.heap.run_until(2.0)
    world.do(_stop("r"))
    world.heap.run_until(3.0)
    assert world.in_dram() == {"m"}

    world.do(_start("s"))
    world.heap.run_until(5.0)

    assert world.tier("s") is Tier.DRAM
    # From memory only the worker is waited for: 0.1 + 0.05 s.
    assert world.ended()["s"] == (ReplicaState.READY, 3.15)


def test_a_replica_that_runs_lends_its_bytes_to_the_next() -> None:
    world = World()
    world.do(_start("r"))
    world.heap.run_until(2.0)

    world.do(_start("s"))
    world.heap.run_until(3.0)

    assert world.tier("s") is Tier.DRAM


def test_memory_forgets_what_was_used_longest_ago() -> None:
    world = World(dram_bytes=2 * GIGABYTE)
    for name in "mno":
        world.do(_start(name, name))
        world.heap.run_until(world.heap.now + 3.0)
        world.do(_stop(name))
        world.heap.run_until(world.heap.now + 3.0)

    assert world.in_dram() == {"n", "o"}


def test_devices_are_exclusive() -> None:
    world = World(devices=2)

    assert world.do(_start("r", devices=2)) == ""

    assert world.do(_start("s")) == "0 of 2 devices are free"


def test_devices_come_back_after_teardown() -> None:
    world = World(devices=1)
    world.do(_start("r"))
    world.heap.run_until(2.0)

    world.do(_stop("r"))
    assert world.do(_start("s")) != ""
    world.heap.run_until(2.2)

    assert world.do(_start("s")) == ""
    world.heap.run_until(2.3)
    assert world.ended()["r"] == (ReplicaState.STOPPED, 2.2)


def test_a_busy_replica_does_not_stop_if_idle() -> None:
    world = World()
    world.do(_start("r"))
    world.heap.run_until(2.0)
    world.node.begin(ReplicaId("r"))

    assert world.do(_stop("r")) == "1 requests run on it"


def test_a_busy_replica_that_must_stop_ends_its_requests_first() -> None:
    world = World()
    world.do(_start("r"))
    world.heap.run_until(2.0)
    world.node.begin(ReplicaId("r"))

    assert world.do(_stop("r", if_idle=False)) == ""
    world.heap.run_until(5.0)
    world.node.end(ReplicaId("r"))
    world.heap.run_until(6.0)

    assert world.ended()["r"] == (ReplicaState.STOPPED, 5.2)


def test_a_start_that_is_given_up_never_gets_ready_but_its_load_ends_in_memory() -> None:
    world = World()
    world.do(_start("r"))
    world.heap.run_until(0.5)

    world.do(CancelStartRequest(header=HEADER, replica_id=ReplicaId("r")))
    world.heap.run_until(0.9)
    assert world.in_dram() == set()
    world.heap.run_until(2.0)

    assert world.ended()["r"] == (ReplicaState.STOPPED, 0.7)
    assert world.in_dram() == {"m"}


def test_a_fetch_ends_in_memory() -> None:
    world = World()

    world.do(FetchCheckpointRequest(header=HEADER, reference=Reference("m")))
    world.heap.run_until(0.9)
    assert world.in_dram() == set()
    world.heap.run_until(1.1)

    assert world.in_dram() == {"m"}


def test_an_eviction_empties_memory() -> None:
    world = World()
    world.do(FetchCheckpointRequest(header=HEADER, reference=Reference("m")))
    world.heap.run_until(2.0)

    world.do(EvictCheckpointRequest(header=HEADER, reference=Reference("m")))

    assert world.in_dram() == set()


@pytest.mark.parametrize("replica", ["unknown", "r"])
def test_stopping_what_has_stopped_is_harmless(replica: str) -> None:
    world = World()
    world.do(_start("r"))
    world.heap.run_until(2.0)
    world.do(_stop("r"))

    assert world.do(_stop(replica)) == ""
    world.heap.run_until(5.0)

    states = [status.state for _, update in world.said for status in update.replicas]
    assert states.count(ReplicaState.STOPPED) == 1


def test_traffic_is_reported_when_it_begins_and_when_it_ends() -> None:
    world = World()
    world.do(_start("r"))
    world.heap.run_until(2.0)

    world.node.begin(ReplicaId("r"))
    world.node.begin(ReplicaId("r"))
    world.heap.run_until(3.0)
    world.node.end(ReplicaId("r"))
    world.node.end(ReplicaId("r"))
    world.heap.run_until(4.0)

    running = [s.running for _, update in world.said for s in update.summaries]
    assert running == [1, 0]

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from tests.scheduler.simulation.clusters import (
    GIGABYTE,
    PREFILL_SECONDS,
    TIMES,
    copy_of,
    machine_of,
    node_of,
)

from pilotlight.scheduler.core.actions import Command
from pilotlight.scheduler.simulation import (
    EventHeap,
    LinearTimes,
    Network,
    NodeTimes,
    VirtualChannel,
    VirtualNode,
)
from pilotlight.scheduler.simulation.virtual_engine import Job
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    CommandHeader,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    GenerateRequest,
    ModelId,
    NodeUpdate,
    Reference,
    ReplicaId,
    ReplicaSpec,
    ReplicaState,
    ReplicaStatus,
    RequestId,
    Sampling,
    StartOutcome,
    StartReplicaRequest,
    StopReplicaRequest,
    Tier,
)
from pilotlight.store_node.protocol.refusals import Refusal


@dataclass
class World:
    """A node, and what it has said; it is its own listener."""

    devices: int = 2
    dram_bytes: int = 10 * GIGABYTE
    times: NodeTimes = TIMES
    serve_times: LinearTimes = field(
        default_factory=lambda: LinearTimes(prefill_fixed_seconds=PREFILL_SECONDS)
    )
    links: tuple[VirtualChannel, ...] = ()
    warm_workers: int = 100
    heap: EventHeap = field(default_factory=EventHeap)
    said: list[tuple[float, NodeUpdate]] = field(default_factory=list[tuple[float, NodeUpdate]])
    tokens: list[tuple[str, bool, float]] = field(default_factory=list[tuple[str, bool, float]])
    cuts: list[str] = field(default_factory=list[str])
    n_commands: int = 0

    def __post_init__(self) -> None:
        self.node = node_of(
            "a",
            machine_of(
                [copy_of(name) for name in "mno"],
                devices=self.devices,
                dram_bytes=self.dram_bytes,
                times=self.times,
                serve_times=self.serve_times,
                links=self.links,
                warm_workers=self.warm_workers,
            ),
            heap=self.heap,
            network=Network(self.heap),
            listener=self,
        )

    # -- as listener

    def node_reported(self, node: VirtualNode, update: NodeUpdate) -> None:
        self.said.append((self.heap.now, update))

    def emitted(self, job: Job, *, is_last: bool) -> None:
        self.tokens.append((job.request_id, is_last, round(self.heap.now, 5)))

    def cut(self, request_id: RequestId, attempt: int, refusal: Refusal) -> None:
        self.cuts.append(refusal.code)

    # -- what tests do

    def do(self, command: Command) -> str:
        """Give a command; return the word for its refusal, empty where it is carried out."""
        self.n_commands += 1
        header = replace(
            HEADER, idempotency_key=str(self.n_commands), incarnation=self.node.incarnation
        )
        refusal = self.node.command(replace(command, header=header))
        self.node.core.check_integrity()
        return refusal.code if refusal else ""

    def at(self, seconds: float) -> None:
        self.heap.run_until(seconds)
        self.node.core.check_integrity()

    def send(
        self, request: str, replica: str = "r", *, tokens: int = 2, seconds: float | None = 1.0
    ) -> str:
        """Send a request; return the word for its refusal."""
        refusal = self.node.admit(
            GenerateRequest(
                request_id=RequestId(request),
                attempt=1,
                epoch=1,
                incarnation=self.node.incarnation,
                idempotency_key="",
                deadline_seconds=300.0,
                replica_id=ReplicaId(replica),
                prompt_ids=(0,),
                sampling=Sampling(),
            ),
            Job(
                request_id=RequestId(request),
                attempt=1,
                replica=ReplicaId(replica),
                context_tokens=1,
                left_tokens=tokens,
                left_seconds=seconds,
            ),
        )
        return refusal.code if refusal else ""

    def statuses(self, replica: str) -> list[tuple[float, ReplicaStatus]]:
        return [
            (at, status)
            for at, update in self.said
            for status in update.replicas
            if status.replica_id == replica
        ]

    def ended(self) -> dict[str, tuple[ReplicaState, float]]:
        """Return the last state of each replica, and when it was reached first."""
        found: dict[str, tuple[ReplicaState, float]] = {}
        for at, update in self.said:
            for status in update.replicas:
                if found.get(status.replica_id, (None, 0.0))[0] is not status.state:
                    since = round(at - TIMES.report_seconds, 5)
                    found[status.replica_id] = (status.state, since)
        return found

    def outcome(self, replica: str = "r") -> StartOutcome:
        outcomes = [status.outcome for _, status in self.statuses(replica) if status.outcome]
        return outcomes[-1]

    def in_dram(self) -> set[str]:
        return {copy.reference for copy in self.node.report().checkpoints if copy.dram_bytes}


HEADER = CommandHeader(epoch=1, incarnation=World().node.incarnation, idempotency_key="")


def _start(replica: str, model: str = "m", *, devices: int = 1) -> StartReplicaRequest:
    return StartReplicaRequest(
        header=HEADER,
        spec=ReplicaSpec(
            replica_id=ReplicaId(replica),
            model=ModelId(model),
            reference=Reference(model),
            layout_id=f"layout-{model}",
            engine="timed",
            concurrency=4,
            devices=devices,
        ),
    )


def _stop(replica: str, *, if_idle: bool = True, grace_seconds: float = 0.0) -> StopReplicaRequest:
    return StopReplicaRequest(
        header=HEADER,
        replica_id=ReplicaId(replica),
        if_idle=if_idle,
        grace_seconds=grace_seconds,
    )


def test_a_start_from_disk_takes_transfer_and_bind() -> None:
    world = World()

    assert world.do(_start("r")) == ""
    world.at(5.0)

    # 1 s of transfer hides the worker, then 0.05 s.
    assert world.ended() == {"r": (ReplicaState.READY, 1.05)}
    assert world.outcome("r").tier is Tier.SSD


def test_two_loads_take_turns_on_the_disk() -> None:
    world = World()

    world.do(_start("r", "m"))
    world.do(_start("s", "n"))
    world.at(5.0)

    assert world.ended() == {
        "r": (ReplicaState.READY, 1.05),
        "s": (ReplicaState.READY, 2.05),
    }


def test_two_starts_of_one_model_share_its_load() -> None:
    world = World()
    world.do(_start("r"))
    world.at(0.5)

    world.do(_start("s"))
    world.at(5.0)

    assert world.ended() == {
        "r": (ReplicaState.READY, 1.05),
        "s": (ReplicaState.READY, 1.05),
    }


def test_what_was_bound_stays_in_memory_when_its_replica_stops() -> None:
    world = World()
    world.do(_start("r"))
    world.at(2.0)
    world.do(_stop("r"))
    world.at(3.0)
    assert world.in_dram() == {"m"}

    world.do(_start("s"))
    world.at(5.0)

    assert world.outcome("s").tier is Tier.DRAM
    # From memory only the worker is waited for: 0.1 + 0.05 s.
    assert world.ended()["s"] == (ReplicaState.READY, 3.15)


def test_a_replica_that_runs_lends_its_bytes_to_the_next() -> None:
    world = World()
    world.do(_start("r"))
    world.at(2.0)

    world.do(_start("s"))
    world.at(3.0)

    assert world.outcome("s").tier is Tier.DEVICE
    assert world.outcome("s").bytes_read == 0


def test_memory_forgets_what_was_used_longest_ago() -> None:
    world = World(dram_bytes=21 * GIGABYTE // 10)
    for name in "mno":
        world.do(_start(name, name))
        world.at(world.heap.now + 3.0)
        world.do(_stop(name))
        world.at(world.heap.now + 3.0)

    assert world.in_dram() == {"n", "o"}


def test_devices_are_exclusive() -> None:
    world = World(devices=2)

    assert world.do(_start("r", devices=2)) == ""

    assert world.do(_start("s")) == "devices_busy"


def test_devices_come_back_after_teardown() -> None:
    world = World(devices=1)
    world.do(_start("r"))
    world.at(2.0)

    world.do(_stop("r"))
    assert world.do(_start("s")) != ""
    world.at(2.2)

    assert world.do(_start("s")) == ""
    world.at(2.3)
    assert world.ended()["r"] == (ReplicaState.STOPPED, 2.2)


def test_a_busy_replica_does_not_stop_if_idle() -> None:
    world = World()
    world.do(_start("r"))
    world.at(2.0)
    world.send("q")

    assert world.do(_stop("r")) == "replica_busy"


def test_a_busy_replica_that_must_stop_ends_its_requests_first() -> None:
    world = World()
    world.do(_start("r"))
    world.at(2.0)
    world.send("q", seconds=3.0)

    assert world.do(_stop("r", if_idle=False, grace_seconds=10.0)) == ""
    world.at(10.0)

    assert world.tokens == [("q", False, 2.1), ("q", True, 5.1)]
    assert world.ended()["r"] == (ReplicaState.STOPPED, 5.3)


def test_requests_that_outlast_the_grace_are_cut() -> None:
    world = World()
    world.do(_start("r"))
    world.at(2.0)
    world.send("q", seconds=30.0)

    world.do(_stop("r", if_idle=False, grace_seconds=1.0))
    world.at(40.0)

    assert world.cuts == ["replica_stopped"]
    assert world.ended()["r"] == (ReplicaState.STOPPED, 3.2)
    assert world.tokens == [("q", False, 2.1)]


def test_a_start_that_is_given_up_never_gets_ready_but_its_load_ends_in_memory() -> None:
    world = World()
    world.do(_start("r"))
    world.at(0.5)

    world.do(CancelStartRequest(header=HEADER, replica_id=ReplicaId("r")))
    world.at(0.9)
    assert world.in_dram() == set()
    world.at(2.0)

    assert world.ended()["r"] == (ReplicaState.STOPPED, 0.7)
    assert world.in_dram() == {"m"}


def test_a_fetch_ends_in_memory() -> None:
    world = World()

    world.do(FetchCheckpointRequest(header=HEADER, reference=Reference("m")))
    world.at(0.9)
    assert world.in_dram() == set()
    world.at(1.1)

    assert world.in_dram() == {"m"}


def test_an_eviction_empties_memory() -> None:
    world = World()
    world.do(FetchCheckpointRequest(header=HEADER, reference=Reference("m")))
    world.at(2.0)

    world.do(EvictCheckpointRequest(header=HEADER, reference=Reference("m")))

    assert world.in_dram() == set()


def test_stopping_what_has_stopped_is_harmless() -> None:
    world = World()
    world.do(_start("r"))
    world.at(2.0)
    world.do(_stop("r"))

    assert world.do(_stop("r")) == ""
    assert world.do(_stop("unknown")) == "unknown_replica"
    world.at(5.0)

    states = [status.state for _, status in world.statuses("r")]
    assert states.count(ReplicaState.STOPPED) == 1


def test_a_replica_that_falls_idle_is_reported_at_once_and_a_busy_one_by_heartbeat() -> None:
    world = World()
    world.do(_start("r"))
    world.at(3.0)
    world.said.clear()

    world.send("q", seconds=None, tokens=1)
    world.at(3.0 + PREFILL_SECONDS + 0.002)
    (idle,) = [summary for _, update in world.said for summary in update.summaries]
    world.said.clear()
    world.send("p", seconds=5.0)
    world.at(3.9)
    busy_at = [at for at, update in world.said for s in update.summaries if s.running]
    world.at(4.5)

    assert idle.running == 0
    assert idle.idle_seconds == pytest.approx(0.001, abs=1e-4)
    assert busy_at == []
    busy_at = [at for at, update in world.said for s in update.summaries if s.running]
    assert busy_at == [pytest.approx(4.0)]


def test_the_first_token_completes_what_is_known_of_a_start() -> None:
    world = World()
    world.do(_start("r"))
    world.at(2.0)

    world.send("q")
    world.at(3.0)

    assert world.outcome().prefill_seconds == pytest.approx(PREFILL_SECONDS)


def test_tokens_take_longer_together() -> None:
    # Steps of 0.1 s for each of the requests that decode: alone 0.1, two at once 0.2.
    times = LinearTimes(
        prefill_fixed_seconds=0.0, step_fixed_seconds=0.0, step_seconds_per_request=0.1
    )
    world = World(serve_times=times)
    world.do(_start("r"))
    world.at(2.0)

    world.send("a", tokens=11, seconds=None)
    world.at(2.5)
    world.send("b", tokens=3, seconds=None)
    world.at(10.0)

    # a has half of its ten steps behind it when b joins for two, in 0.4 s; then three alone.
    ends = {name: at for name, is_last, at in world.tokens if is_last}
    assert ends == {"b": 2.9, "a": 3.2}


def test_a_cancelled_request_makes_room_for_the_others() -> None:
    times = LinearTimes(
        prefill_fixed_seconds=0.0, step_fixed_seconds=0.0, step_seconds_per_request=0.1
    )
    world = World(serve_times=times)
    world.do(_start("r"))
    world.at(2.0)
    world.send("a", tokens=11, seconds=None)
    world.send("b", tokens=11, seconds=None)
    world.at(3.0)

    world.node.close_stream(RequestId("b"), 1)
    world.at(10.0)

    # Five steps together in the first second, five alone in half a second.
    assert [each for each in world.tokens if each[1]] == [("a", True, 3.5)]


def test_a_replica_takes_no_more_than_its_engine_can() -> None:
    world = World()
    world.do(_start("r"))
    world.at(2.0)

    assert [world.send(str(n)) for n in range(5)] == ["", "", "", "", "no_slot"]


def test_without_a_warm_worker_a_start_waits_for_a_cold_one() -> None:
    world = World(warm_workers=1, times=replace(TIMES, cold_worker_seconds=5.0))

    world.do(_start("r", "m"))
    world.do(_start("s", "n"))
    world.at(20.0)

    assert world.ended()["r"] == (ReplicaState.READY, 1.05)
    assert world.ended()["s"] == (ReplicaState.READY, 5.15)
    warm = [(round(at, 3), update.warm_workers["timed"]) for at, update in world.said]
    assert warm[-1] == (5.151, 1)


def test_copying_to_devices_counts_as_transfer() -> None:
    # 1 GB over 4 GB/s.
    links = (VirtualChannel(name="link", bytes_per_second=4.0 * GIGABYTE),) * 2
    world = World(links=links)
    world.do(FetchCheckpointRequest(header=HEADER, reference=Reference("m")))
    world.at(2.0)

    world.do(_start("r"))
    world.at(4.0)

    # The worker takes 0.1 s, the copy 0.25 s after that, the rest 0.05 s.
    outcome = world.outcome()
    assert (outcome.tier, outcome.bytes_read) == (Tier.DRAM, 0)
    assert outcome.transfer_seconds == pytest.approx(0.25)
    assert outcome.bind_seconds == pytest.approx(0.05)
    assert world.ended()["r"] == (ReplicaState.READY, 2.4)


def test_what_comes_from_disk_is_copied_to_devices_on_its_way() -> None:
    links = (VirtualChannel(name="link", bytes_per_second=4.0 * GIGABYTE),) * 2
    world = World(links=links)

    world.do(_start("r"))
    world.at(4.0)

    # Behind the last byte from disk comes one chunk more, over the link.
    last_chunk = (16 << 20) / (4.0 * GIGABYTE)
    assert world.outcome().transfer_seconds == pytest.approx(1.0 + last_chunk, abs=1e-5)


def test_a_node_that_crashed_comes_back_empty_under_another_name() -> None:
    world = World()
    before = world.node.incarnation
    world.do(_start("r"))
    world.do(FetchCheckpointRequest(header=HEADER, reference=Reference("n")))
    world.at(1.2)
    world.send("q")
    world.said.clear()

    world.node.crash()
    world.at(10.0)
    assert world.said == []
    world.node.restart()
    report = world.node.report()

    assert report.incarnation != before
    assert report.replicas == ()
    assert world.in_dram() == set()
    assert world.tokens == []
    assert world.do(_start("s")) == ""

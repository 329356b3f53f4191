"""A store node without a machine: what it holds, and how long its work takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pilotlight.scheduler.core.actions import Command
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.virtual_storage import VirtualStorage
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    Channel,
    ChannelId,
    CheckpointStatus,
    Engine,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    Incarnation,
    NodeId,
    NodeReport,
    NodeResources,
    NodeUpdate,
    Reference,
    ReplicaId,
    ReplicaState,
    ReplicaStatus,
    ReplicaSummary,
    StartOutcome,
    StartReplicaRequest,
    StopReplicaRequest,
    Tier,
)

ENGINE_CONCURRENCY = 4
"""Requests that one replica takes at once, at most."""

REPORT_SECONDS = 0.001
"""From a change on a node until the core hears of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """What a virtual node's work takes."""

    disk_bytes_per_second: float = 2.0e9
    attach_seconds: float = 0.002
    worker_seconds: float = 0.1
    bind_seconds: float = 0.05
    prefill_seconds: float = 0.1
    teardown_seconds: float = 0.1


@dataclass(slots=True)
class _Running:
    status: ReplicaStatus
    running: int = 0
    idle_since: float = 0.0


@dataclass(slots=True)
class VirtualNode:
    """Answers commands as a node would: one disk in order, LRU in DRAM, exclusive devices.

    A load that nobody waits for any more runs to its end and stays in DRAM.
    """

    id: NodeId
    heap: EventHeap
    devices: int
    dram_bytes: int
    checkpoints: Mapping[Reference, int]
    """Size in bytes of each checkpoint on SSD."""
    engine: str = "timed"
    speeds: Speeds = field(default_factory=Speeds)
    report_to: Callable[[tuple[NodeId, NodeUpdate]], None] = lambda _: None
    """Who hears of changes."""
    _replicas: dict[ReplicaId, _Running] = field(default_factory=dict[ReplicaId, _Running])
    _storage: VirtualStorage = field(init=False)

    def __post_init__(self) -> None:
        self._storage = VirtualStorage(
            heap=self.heap,
            checkpoints=self.checkpoints,
            bytes_per_second=self.speeds.disk_bytes_per_second,
            dram_bytes=self.dram_bytes,
            is_bound=lambda reference: self._bound_bytes(reference) > 0,
            loaded=self._say_checkpoints,
        )

    @property
    def incarnation(self) -> Incarnation:
        """A virtual node never restarts."""
        return Incarnation(f"{self.id}-1")

    def report(self) -> NodeReport:
        """Return what it says when it joins."""
        return NodeReport(
            node_id=self.id,
            incarnation=self.incarnation,
            address=f"{self.id}:0",
            epoch=1,
            resources=NodeResources(
                devices=self.devices,
                device_kind="cpu",
                device_bytes=1 << 40,
                dram_bytes=self.dram_bytes,
                channels=(
                    Channel(
                        channel_id=ChannelId(f"disk@{self.id}"),
                        kind="disk",
                        bytes_per_second=self.speeds.disk_bytes_per_second,
                        latency_seconds=0.0,
                        measured=True,
                    ),
                ),
            ),
            engines=(Engine(name=self.engine, version="1"),),
            checkpoints=tuple(map(self._copy, self.checkpoints)),
            warm_workers={self.engine: self.devices},
        )

    def carry_out(self, command: Command) -> str:
        """Take a command; return why it is refused, empty where it is not."""
        match command:
            case StartReplicaRequest():
                return self._start(command)
            case StopReplicaRequest() | CancelStartRequest():
                return self._stop(command)
            case FetchCheckpointRequest():
                if not self._is_in_memory(command.reference):
                    self._storage.load(command.reference)
            case EvictCheckpointRequest():
                self._storage.drop(command.reference)
                self._say_checkpoints()
        return ""

    def begin(self, replica: ReplicaId) -> None:
        """A request begins to run."""
        running = self._replicas[replica]
        running.running += 1
        if running.running == 1:
            self._say(has_summaries=True)

    def end(self, replica: ReplicaId) -> None:
        """A request has ended; a replica that fell idle is reported at once."""
        running = self._replicas[replica]
        running.running -= 1
        running.idle_since = self.heap.now
        if running.running:
            return
        if running.status.state is ReplicaState.DRAINING:
            self._tear_down(replica)
        else:
            self._say(has_summaries=True)

    def _start(self, command: StartReplicaRequest) -> str:
        spec = command.spec
        held = sum(len(r.status.devices) for r in self._replicas.values())
        if held + spec.devices > self.devices:
            return f"{self.devices - held} of {self.devices} devices are free"
        outcome = self._outcome(spec.reference)
        status = ReplicaStatus(
            replica_id=spec.replica_id,
            model=spec.model,
            reference=spec.reference,
            state=ReplicaState.STARTING,
            devices=tuple(range(spec.devices)),
            concurrency=min(spec.concurrency, ENGINE_CONCURRENCY),
            deployment=spec.deployment,
        )
        self._replicas[spec.replica_id] = _Running(status)
        ready = self.heap.now + (
            outcome.queue_seconds
            + outcome.transfer_seconds
            + outcome.worker_seconds
            + outcome.bind_seconds
        )
        done = replace(status, state=ReplicaState.READY, outcome=outcome)
        self.heap.call_at(ready, self._ready, done)
        return ""

    def _ready(self, status: ReplicaStatus) -> None:
        running = self._replicas.get(status.replica_id)
        if running is None or running.status.state is not ReplicaState.STARTING:
            return
        running.status = status
        running.idle_since = self.heap.now
        self._storage.drop(status.reference)
        self._say(replicas=(status,), checkpoints=(self._copy(status.reference),))

    def _stop(self, command: StopReplicaRequest | CancelStartRequest) -> str:
        running = self._replicas.get(command.replica_id)
        if running is None or running.status.state is ReplicaState.DRAINING:
            return ""
        if isinstance(command, StopReplicaRequest) and command.if_idle and running.running:
            return f"{running.running} requests run on it"
        running.status = replace(running.status, state=ReplicaState.DRAINING)
        self._say(replicas=(running.status,))
        if not running.running:
            self._tear_down(command.replica_id)
        return ""

    def _tear_down(self, replica: ReplicaId) -> None:
        gone = self.heap.now + self.speeds.teardown_seconds
        self.heap.call_at(gone, self._stopped, replica)

    def _stopped(self, replica: ReplicaId) -> None:
        status = self._replicas.pop(replica).status
        # A start that was given up leaves what its load brings in, once it has.
        if status.outcome is not None:
            self._storage.keep(status.reference)
        stopped = replace(status, state=ReplicaState.STOPPED, devices=())
        self._say(replicas=(stopped,), checkpoints=tuple(map(self._copy, self.checkpoints)))

    def _outcome(self, reference: Reference) -> StartOutcome:
        in_memory = self._is_in_memory(reference)
        queue, transfer = (0.0, 0.0) if in_memory else self._storage.load(reference)
        size = self.checkpoints[reference]
        waited = queue + transfer + self.speeds.attach_seconds
        return StartOutcome(
            tier=Tier.DRAM if in_memory else Tier.SSD,
            bytes_read=0 if in_memory else size,
            queue_seconds=queue,
            transfer_seconds=transfer + self.speeds.attach_seconds,
            worker_seconds=max(0.0, self.speeds.worker_seconds - waited),
            bind_seconds=self.speeds.bind_seconds,
            disk_busy_seconds=0.0 if in_memory else size / self.speeds.disk_bytes_per_second,
            worker_busy_seconds=self.speeds.worker_seconds,
        )

    def _is_in_memory(self, reference: Reference) -> bool:
        return self._storage.cached_bytes(reference) + self._bound_bytes(reference) > 0

    def _bound_bytes(self, reference: Reference) -> int:
        # Only what has been READY has an outcome; a start that was given up binds nothing.
        statuses = [running.status for running in self._replicas.values()]
        is_bound = any(each.outcome and each.reference == reference for each in statuses)
        return self.checkpoints[reference] if is_bound else 0

    def _copy(self, reference: Reference) -> CheckpointStatus:
        return CheckpointStatus(
            reference=reference,
            path=f"/{reference}",
            layout_id=f"layout-{reference}",
            size_bytes=self.checkpoints[reference],
            ssd_channel=ChannelId(f"disk@{self.id}"),
            dram_bytes=self._storage.cached_bytes(reference),
            bound_bytes=self._bound_bytes(reference),
            context_tokens=2048,
        )

    def _say_checkpoints(self) -> None:
        self._say(checkpoints=tuple(map(self._copy, self.checkpoints)))

    def _say(
        self,
        *,
        replicas: tuple[ReplicaStatus, ...] = (),
        checkpoints: tuple[CheckpointStatus, ...] = (),
        has_summaries: bool = False,
    ) -> None:
        update = NodeUpdate(
            replicas=replicas,
            checkpoints=checkpoints,
            has_summaries=has_summaries,
            summaries=tuple(map(self._summary, self._ready_replicas())) if has_summaries else (),
            warm_workers={self.engine: self.devices} if has_summaries else {},
        )
        self.heap.call_at(self.heap.now + REPORT_SECONDS, self.report_to, (self.id, update))

    def _ready_replicas(self) -> list[ReplicaId]:
        return [
            replica
            for replica, running in self._replicas.items()
            if running.status.state is ReplicaState.READY
        ]

    def _summary(self, replica: ReplicaId) -> ReplicaSummary:
        running = self._replicas[replica]
        return ReplicaSummary(
            replica_id=replica,
            running=running.running,
            free_slots=max(running.status.concurrency - running.running, 0),
            idle_seconds=0.0 if running.running else self.heap.now - running.idle_since,
        )

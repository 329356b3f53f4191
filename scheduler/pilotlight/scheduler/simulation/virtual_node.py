"""A store node without a machine: the node's own core, and a shell on a virtual clock.

Theory of operation. What a node decides (leases, residency, eviction, single
flight, what is refused) is decided by the very core that real nodes run. This
shell carries out its actions in virtual time: a load is a transfer over the
network's channels, a worker gets ready after a while, an engine computes by its
serve times. Changes are reported together, a moment after the first of them; a
replica that took up work is reported with the next heartbeat, one that fell
idle at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from pilotlight.scheduler.core.actions import Command
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.network import Network, Transfer, VirtualChannel
from pilotlight.scheduler.simulation.noise import draw_factor
from pilotlight.scheduler.simulation.serve_times import ServeTimes
from pilotlight.scheduler.simulation.virtual_engine import Job, VirtualEngine
from pilotlight.store_node.core import Capacity, CheckpointCopy, Evictor, NodeCore, actions, events
from pilotlight.store_node.engines.engine import Emission, Offer
from pilotlight.store_node.protocol import (
    Channel,
    ChannelId,
    ChecksumState,
    Engine,
    FinishReason,
    GenerateRequest,
    Incarnation,
    ModelId,
    NodeId,
    NodeReport,
    NodeResources,
    NodeUpdate,
    Reference,
    ReplicaId,
    RequestId,
)
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal

CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTimes:
    """What a node's work takes that is not bytes or tokens, in seconds."""

    warm_worker_seconds: float = 0.1
    """Until a warm worker has done all that needs no weights."""
    cold_worker_seconds: float = 5.0
    """Until there is a worker, where no warm one is left; also until one was made up for."""
    bind_seconds: float = 0.05
    teardown_seconds: float = 0.1
    report_seconds: float = 0.001
    """From a change until the core hears of it."""
    heartbeat_seconds: float = 1.0
    noise: float = 0.0
    """Standard deviation of the logarithm of everything that a worker does (see `noise`)."""
    transfer_noise: float = 0.0
    """The same of what moving bytes takes, from disks and to devices."""
    node_spread: float = 0.0
    """The same of how slow a node's transfers are beside other nodes', all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a virtual node consists of."""

    devices: int
    device_bytes: int
    dram_bytes: int
    copies: tuple[CheckpointCopy, ...]
    disks: Mapping[ChannelId, tuple[VirtualChannel, ...]]
    """The channels from each disk to this node's DRAM, the disk first."""
    links: tuple[VirtualChannel, ...] = ()
    """From DRAM to each device; none where devices compute on what lies in DRAM."""
    engine: str = "timed"
    warm_workers: int = 4
    concurrency: int = 4
    """Requests that a replica's engine takes at once, at most."""
    times: NodeTimes = field(default_factory=NodeTimes)
    serve_times: Callable[[ModelId], ServeTimes]


class Listener(Protocol):
    """Who hears of what happens on a node."""

    def node_reported(self, node: VirtualNode, update: NodeUpdate) -> None:
        """Something has changed."""
        ...

    def emitted(self, job: Job, *, is_last: bool) -> None:
        """An attempt has its first token, or its last."""
        ...

    def cut(self, request_id: RequestId, attempt: int, refusal: Refusal) -> None:
        """An attempt ended before it was finished."""
        ...


@dataclass(slots=True, kw_only=True)
class _Worker:
    """What serves one replica."""

    engine: VirtualEngine
    model: ModelId
    reference: Reference
    devices: int
    read_seconds: float = 0.0
    """That the disk was busy with what it waited for."""
    is_dead: bool = False


@dataclass(slots=True, kw_only=True)
class _Changes:
    """What the core has not been told yet."""

    replicas: dict[ReplicaId, None] = field(default_factory=dict[ReplicaId, None])
    checkpoints: dict[Reference, None] = field(default_factory=dict[Reference, None])
    traffic: dict[ReplicaId, None] = field(default_factory=dict[ReplicaId, None])
    is_due: bool = False


class VirtualNode:
    """One store node; `restart` gives it another life."""

    def __init__(
        self,
        node_id: NodeId,
        machine: Machine,
        *,
        heap: EventHeap,
        network: Network,
        evictor: Callable[[], Evictor],
        draw: Random,
        listener: Listener,
    ) -> None:
        self.id = node_id
        self.machine = machine
        self._heap = heap
        self._network = network
        self._evictor = evictor
        self._draw = draw
        self._listener = listener
        self._lives = 0
        self._is_dead = False
        # Drawn first, and even where it makes no difference: what else is drawn stays the same.
        self._slowness = draw_factor(draw, machine.times.node_spread)
        self._carry_out: Mapping[type[Any], Callable[[Any], None]] = {
            actions.Reply: self._reply,
            actions.SubmitLoad: self._submit_load,
            actions.PromoteLoad: self._promote_load,
            actions.CancelLoad: self._cancel_load,
            actions.TakeWorker: self._take_worker,
            actions.BindWorker: self._bind_worker,
            actions.KillWorker: self._kill_worker,
            actions.CancelWork: self._cancel_work,
            actions.EndStream: self._end_stream,
            actions.SetTimer: self._set_timer,
            actions.ReportReplica: self._replica_changed,
            actions.ReportCheckpoint: self._checkpoint_changed,
            actions.ReportLoads: lambda _: self._report_soon(),
            actions.ReportIdle: lambda _: self._report_soon(),
        }
        self.restart()

    # -- its life

    @property
    def incarnation(self) -> Incarnation:
        """Of this life."""
        return Incarnation(f"{self.id}-{self._lives}")

    def restart(self) -> None:
        """Begin anew: DRAM and devices are empty, what ran is gone; nobody is told."""
        machine = self.machine
        self._lives += 1
        self._is_dead = False
        self._changes = _Changes()
        self._loads: dict[str, Transfer] = {}
        self._workers: dict[ReplicaId, _Worker] = {}
        self._jobs: dict[RequestId, Job] = {}
        self._warm_workers = machine.warm_workers
        self._answer: Refusal | None = None
        self._heartbeat_at = 0.0
        self.core = NodeCore(
            incarnation=self.incarnation,
            capacity=Capacity(
                n_devices=machine.devices,
                device_chunks=machine.device_bytes // CHUNK_BYTES,
                dram_chunks=machine.dram_bytes // CHUNK_BYTES,
                chunk_bytes=CHUNK_BYTES,
            ),
            engines={machine.engine: "1"},
            evictor=self._evictor(),
        )
        self._handle(events.CopiesFound(copies=machine.copies))
        self._accounts = self.core.reports.accounts()
        for name, path in machine.disks.items():
            pace = path[0].bytes_per_second
            self._handle(events.PaceFound(channel_id=name, bytes_per_second=pace))

    def crash(self) -> None:
        """End this life: nothing that was begun in it ends."""
        for worker in self._workers.values():
            worker.is_dead = True
            worker.engine.stop()
        for transfer in self._loads.values():
            self._network.cancel(transfer)
        self._lives += 1
        self._is_dead = True
        self._changes = _Changes()
        self._loads.clear()
        self._jobs.clear()

    def report(self) -> NodeReport:
        """Return what it says when it joins."""
        machine, reports = self.machine, self.core.reports
        self._changes = _Changes()
        return NodeReport(
            node_id=self.id,
            incarnation=self.incarnation,
            address=f"{self.id}:0",
            epoch=self.core.epoch,
            resources=NodeResources(
                devices=machine.devices,
                device_kind="virtual" if machine.links else "cpu",
                device_bytes=machine.device_bytes,
                dram_bytes=machine.dram_bytes,
                channels=tuple(self._channels()),
            ),
            engines=(Engine(name=machine.engine, version="1"),),
            checkpoints=reports.checkpoints(),
            replicas=reports.replicas(),
            loads=reports.loads(),
            warm_workers={machine.engine: self._warm_workers},
            accounts=reports.accounts(),
            summaries=reports.summaries(now=self._heap.now),
        )

    # -- what it is asked

    def command(self, command: Command) -> Refusal | None:
        """Take a command; return why it is refused, None where it is not."""
        self._note_progress()
        self._handle(events.CommandReceived(ticket=0, command=command))
        return self._answer

    def admit(self, request: GenerateRequest, job: Job) -> Refusal | None:
        """Take an attempt of a request; return why it is refused, None where it is not."""
        if self._is_dead:
            # Whoever asks before it is known to be gone finds nobody.
            return Refusal(code=ErrorCode.NODE_STOPPING, message=f"{self.id} does not answer")
        self._jobs[request.request_id] = job
        self._handle(events.RequestReceived(ticket=0, request=request))
        if self._answer is not None:
            del self._jobs[request.request_id]
            return self._answer
        self._note_traffic(job.replica)
        self._workers[job.replica].engine.admit(job)
        return None

    def close_stream(self, request_id: RequestId, attempt: int) -> None:
        """Nobody reads an attempt's tokens any more."""
        self._handle(events.StreamClosed(request_id=request_id, attempt=attempt))

    def emitted_tokens(self, job: Job) -> int:
        """Return how many tokens an attempt that runs here has emitted."""
        worker = self._workers.get(job.replica)
        return worker.engine.emitted_tokens(job) if worker else 0

    # -- what its core asks for

    def _handle(self, event: events.Event) -> None:
        for action in self.core.handle(event, self._heap.now):
            carry_out = self._carry_out.get(type(action))
            # What is left out is about bytes in memory and tokens on a wire: there are none.
            if carry_out is not None:
                carry_out(action)

    def _reply(self, action: actions.Reply) -> None:
        self._answer = action.refusal

    def _submit_load(self, action: actions.SubmitLoad) -> None:
        copy = self.core.reports.copy(action.reference)
        assert copy is not None, "the core loads what it has found"
        self._loads[action.load_id] = self._network.begin(
            self.machine.disks[copy.ssd_channel],
            copy.size_bytes,
            lambda transfer: self._loaded(action.load_id, action.reference, transfer),
            priority=action.priority,
            slowness=self._transfer_noise(),
        )

    def _loaded(self, load_id: str, reference: Reference, transfer: Transfer) -> None:
        del self._loads[load_id]
        for worker in self._workers.values():
            if worker.reference == reference:
                worker.read_seconds = transfer.busy_seconds
        self._handle(
            events.LoadSucceeded(
                load_id=load_id,
                bytes_read=transfer.n_bytes,
                queue_seconds=transfer.queue_seconds,
                busy_seconds=transfer.busy_seconds,
                checksum=ChecksumState.VERIFIED,
                bytes_digest="",
                bottleneck="",
            )
        )

    def _promote_load(self, action: actions.PromoteLoad) -> None:
        self._network.promote(self._loads[action.load_id], action.priority)

    def _cancel_load(self, action: actions.CancelLoad) -> None:
        self._network.cancel(self._loads.pop(action.load_id))
        self._later(0.0, self._load_cancelled, action.load_id)

    def _load_cancelled(self, load_id: str) -> None:
        self._handle(events.LoadFailed(load_id=load_id, code=None, message="cancelled"))

    def _take_worker(self, action: actions.TakeWorker) -> None:
        spec, times = action.spec, self.machine.times
        seconds = times.warm_worker_seconds * self._noise()
        if self._warm_workers:
            self._warm_workers -= 1
            self._later(times.cold_worker_seconds, self._refill, None)
        else:
            seconds += times.cold_worker_seconds * self._noise()
        replica = spec.replica_id
        worker = self._workers[replica] = _Worker(
            engine=VirtualEngine(
                self._heap,
                self.machine.serve_times(spec.model),
                noise=self._noise,
                on_first=lambda job: self._emitted(replica, job, is_last=False),
                on_last=lambda job: self._emitted(replica, job, is_last=True),
            ),
            model=spec.model,
            reference=spec.reference,
            devices=spec.devices,
        )
        self._later(seconds, self._prepared, (replica, worker, seconds))

    def _refill(self, _: None) -> None:
        self._warm_workers += 1
        self._report_soon()

    def _prepared(self, prepared: tuple[ReplicaId, _Worker, float]) -> None:
        replica, worker, seconds = prepared
        if not worker.is_dead:
            self._handle(events.WorkerPrepared(replica_id=replica, busy_seconds=seconds))

    def _bind_worker(self, action: actions.BindWorker) -> None:
        replica, worker = action.replica_id, self._workers[action.replica_id]
        links = self.machine.links
        if not links:
            self._copied(replica, worker, copy_seconds=0.0)
            return
        began, status = self._heap.now, self.core.reports.replica(replica)
        assert status is not None, "it is being bound"
        left = len(status.devices)

        def arrived(_: Transfer) -> None:
            nonlocal left
            left -= 1
            if not left:
                self._copied(replica, worker, copy_seconds=self._heap.now - began)

        n_bytes = self._bytes_to_copy(worker)
        for device in status.devices:
            slowness = self._transfer_noise()
            self._network.begin((links[device],), n_bytes, arrived, slowness=slowness)

    def _bytes_to_copy(self, worker: _Worker) -> int:
        """Return what each device still lacks when its worker is bound.

        What comes from disk is copied chunk by chunk as it arrives, so that little
        is left when the last chunk is there.
        """
        copy = self.core.reports.copy(worker.reference)
        assert copy is not None, "it is being bound"
        part = -(-copy.size_bytes // worker.devices)
        if not worker.read_seconds:
            return part
        copied = worker.read_seconds * self.machine.links[0].bytes_per_second
        return min(max(part - int(copied), CHUNK_BYTES), part)

    def _copied(self, replica: ReplicaId, worker: _Worker, *, copy_seconds: float) -> None:
        seconds = self.machine.times.bind_seconds * self._noise()
        self._later(seconds, self._bound, (replica, worker, copy_seconds))

    def _bound(self, bound: tuple[ReplicaId, _Worker, float]) -> None:
        replica, worker, copy_seconds = bound
        if worker.is_dead:
            return
        offer = Offer(
            concurrency=self.machine.concurrency,
            context_tokens=2048,
            dtype="float16",
            copy_seconds=copy_seconds,
        )
        self._handle(events.WorkerBound(replica_id=replica, offer=offer))

    def _kill_worker(self, action: actions.KillWorker) -> None:
        worker = self._workers[action.replica_id]
        worker.is_dead = True
        worker.engine.stop()
        seconds = self.machine.times.teardown_seconds * self._noise()
        self._later(seconds, self._died, action.replica_id)

    def _died(self, replica: ReplicaId) -> None:
        del self._workers[replica]
        self._handle(events.WorkerDied(replica_id=replica, reason="it was told to end"))

    def _emitted(self, replica: ReplicaId, job: Job, *, is_last: bool) -> None:
        emission = Emission(
            request_id=job.request_id,
            attempt=job.attempt,
            seq=0,
            token_ids=(0,),
            finish_reason=FinishReason.LENGTH if is_last else None,
        )
        if is_last:
            del self._jobs[job.request_id]
        self._handle(events.TokensEmitted(replica_id=replica, emissions=(emission,)))
        self._note_traffic(replica)
        self._listener.emitted(job, is_last=is_last)

    def _cancel_work(self, action: actions.CancelWork) -> None:
        self._jobs.pop(action.request_id, None)
        self._note_traffic(action.replica_id)
        worker = self._workers.get(action.replica_id)
        if worker is not None:
            worker.engine.cancel(action.request_id)

    def _end_stream(self, action: actions.EndStream) -> None:
        self._jobs.pop(action.request_id, None)
        self._listener.cut(action.request_id, action.attempt, action.refusal)

    def _set_timer(self, action: actions.SetTimer) -> None:
        # Who waits for a request is not kept by the node's deadline but by his own.
        if isinstance(action.key, events.DrainDeadline):
            self._later(action.at - self._heap.now, self._time_is_up, action.key)

    def _time_is_up(self, key: events.DrainDeadline) -> None:
        self._handle(events.TimerFired(key=key))

    # -- what it says

    def _replica_changed(self, action: actions.ReportReplica) -> None:
        self._changes.replicas[action.replica_id] = None
        self._report_soon()

    def _checkpoint_changed(self, action: actions.ReportCheckpoint) -> None:
        self._changes.checkpoints[action.reference] = None
        self._report_soon()

    def _note_traffic(self, replica: ReplicaId) -> None:
        """Have the next report say what a replica does."""
        self._changes.traffic[replica] = None
        self._report_by_heartbeat()

    def _report_by_heartbeat(self) -> None:
        if self._heartbeat_at <= self._heap.now:
            self._heartbeat_at = self._heap.now + self.machine.times.heartbeat_seconds
            self._later(self.machine.times.heartbeat_seconds, self._beat, None)

    def _beat(self, _: None) -> None:
        if self._changes.traffic or self._loads:
            self._report()

    def _report_soon(self) -> None:
        if not self._changes.is_due:
            self._changes.is_due = True
            self._later(self.machine.times.report_seconds, self._report_due, None)

    def _report_due(self, _: None) -> None:
        if self._changes.is_due:
            self._report()

    def _report(self) -> None:
        changes, self._changes = self._changes, _Changes()
        now, reports = self._heap.now, self.core.reports
        self._note_progress()
        replicas = (reports.replica(each) for each in changes.replicas)
        checkpoints = (reports.checkpoint(each) for each in changes.checkpoints)
        summaries = (reports.summary(each, now=now) for each in changes.traffic)
        if changes.checkpoints:
            self._accounts = reports.accounts()
        update = NodeUpdate(
            replicas=tuple(each for each in replicas if each is not None),
            checkpoints=tuple(each for each in checkpoints if each is not None),
            loads=reports.loads(),
            summaries=tuple(each for each in summaries if each is not None),
            has_summaries=True,
            warm_workers={self.machine.engine: self._warm_workers},
            accounts=self._accounts,
        )
        self._listener.node_reported(self, update)
        if self._loads:
            self._report_by_heartbeat()

    def _note_progress(self) -> None:
        for load_id, transfer in self._loads.items():
            done = self._network.done_bytes(transfer)
            progressed = events.LoadProgressed(load_id=load_id, done_bytes=done)
            # What it asks for is a report, which is due anyway.
            self.core.handle(progressed, self._heap.now)

    def _channels(self) -> list[Channel]:
        found = [
            _channel(name, "disk", min(each.bytes_per_second for each in path))
            for name, path in self.machine.disks.items()
        ]
        # All devices have links of one kind.
        links = self.machine.links[:1]
        return found + [_channel(ChannelId(e.name), "host_link", e.bytes_per_second) for e in links]

    # -- time and chance

    def _later(self, seconds: float, function: Callable[[Any], None], argument: Any) -> None:
        """Call a method of this life, unless it is over by then."""
        at = self._heap.now + seconds
        self._heap.call_at(at, self._if_alive, (self._lives, function, argument))

    def _if_alive(self, call: tuple[int, Callable[[Any], None], Any]) -> None:
        life, function, argument = call
        if life == self._lives:
            function(argument)

    def _noise(self) -> float:
        spread = self.machine.times.noise
        return draw_factor(self._draw, spread) if spread else 1.0

    def _transfer_noise(self) -> float:
        spread = self.machine.times.transfer_noise
        return self._slowness * (draw_factor(self._draw, spread) if spread else 1.0)


def _channel(name: ChannelId, kind: str, bytes_per_second: float) -> Channel:
    return Channel(
        channel_id=name,
        kind=kind,
        bytes_per_second=bytes_per_second,
        latency_seconds=0.0,
        measured=True,
    )

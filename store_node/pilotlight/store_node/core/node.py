"""The node core: events in, actions out.

It owns the last word on device leases, residency and admission. It never
awaits, reads a clock or opens anything; the shell hands it what happened with
the time at which it happened, and carries out the actions in order.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight.store_node.core.actions import Action, Reply, ReportCheckpoint
from pilotlight.store_node.core.commands import Commands
from pilotlight.store_node.core.events import (
    CancelReceived,
    CommandReceived,
    CopiesFound,
    DrainDeadline,
    EpochSeen,
    Event,
    LoadFailed,
    LoadProgressed,
    LoadSucceeded,
    PaceFound,
    RequestDeadline,
    RequestReceived,
    ShutdownRequested,
    StreamClosed,
    StreamOverflowed,
    TimerFired,
    TimerKey,
    TokensEmitted,
    WorkerBound,
    WorkerDied,
    WorkerPrepared,
    WorkRejected,
)
from pilotlight.store_node.core.eviction import Evictor
from pilotlight.store_node.core.lifecycle import Lifecycle
from pilotlight.store_node.core.loading import Loading
from pilotlight.store_node.core.reports import Reports
from pilotlight.store_node.core.residency import Capacity
from pilotlight.store_node.core.serving import Serving
from pilotlight.store_node.core.state import NodeState
from pilotlight.store_node.protocol import CancelRequestRequest, Incarnation
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal


class NodeCore:
    """One node's state and rules."""

    def __init__(
        self,
        *,
        incarnation: Incarnation,
        capacity: Capacity,
        engines: Mapping[str, str],
        evictor: Evictor,
    ) -> None:
        """Begin with an empty node; `engines` says the version of each engine by name."""
        self._state = NodeState(
            incarnation=incarnation, capacity=capacity, engines=engines, evictor=evictor
        )
        self._serving = Serving(self._state)
        self._loading = Loading(self._state)
        self._lifecycle = Lifecycle(self._state, self._loading, self._serving)
        self._commands = Commands(self._state, self._lifecycle, self._loading)
        self.reports = Reports(self._state)

    @property
    def epoch(self) -> int:
        """The highest epoch seen."""
        return self._state.fence.epoch

    @property
    def is_idle(self) -> bool:
        """Whether no replica is left and nothing is being loaded."""
        return not self._state.replicas.alive() and not list(self._state.loads)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened at `now` (monotonic seconds); return what to do, in order."""
        if not self._handle_request_event(event, now) and not self._handle_fact(event, now):
            self._handle_node_event(event, now)
        self._lifecycle.settle(now=now)
        return self._state.take_actions()

    def check_integrity(self) -> None:
        """Raise BrokenInvariant where the state contradicts itself."""
        self._state.check_integrity()

    def _handle_request_event(self, event: Event, now: float) -> bool:
        """Handle what requests bring, which is nearly everything on a warm node."""
        match event:
            case TokensEmitted():
                self._serving.emitted(event, now=now)
            case RequestReceived(ticket=ticket, request=request):
                self._reply(ticket, self._serving.admit(request, now=now))
            case CancelReceived(ticket=ticket, request=cancel):
                self._reply(ticket, self._cancel(cancel, now))
            case StreamClosed(request_id=request_id, attempt=attempt):
                self._serving.cancel(request_id, attempt, now=now)
            case StreamOverflowed(request_id=request_id, attempt=attempt):
                refusal = Refusal(
                    code=ErrorCode.SLOW_CLIENT, message="the tokens are read too slowly"
                )
                self._serving.end(request_id, attempt, refusal, now=now)
            case WorkRejected():
                self._serving.rejected(event, now=now)
            case TimerFired(key=key):
                self._handle_timer(key, now)
            case _:
                return False
        return True

    def _handle_fact(self, event: Event, now: float) -> bool:
        """Handle what loads and workers bring."""
        match event:
            case LoadProgressed(load_id=load_id, done_bytes=done_bytes):
                self._state.loads.progress(load_id, done_bytes)
            case LoadSucceeded():
                self._loading.succeeded(event, now=now)
            case LoadFailed():
                self._loading.failed(event, now=now)
            case WorkerPrepared():
                self._lifecycle.prepared(event, now=now)
            case WorkerBound():
                self._lifecycle.bound(event, now=now)
            case WorkerDied():
                self._handle_death(event, now)
            case _:
                return False
        return True

    def _handle_node_event(self, event: Event, now: float) -> None:
        match event:
            case CommandReceived(ticket=ticket, command=command):
                self._reply(ticket, self._commands.carry_out(command, now=now))
            case CopiesFound():
                self._handle_copies(event)
            case PaceFound(channel_id=channel_id, bytes_per_second=pace):
                self._state.worth.note_pace(channel_id, pace)
            case EpochSeen(epoch=epoch):
                self._state.fence.see(epoch)
            case ShutdownRequested(grace_seconds=grace_seconds):
                self._shut_down(grace_seconds, now)
            case _:
                raise TypeError(f"{event} is no event")

    def _reply(self, ticket: int, refusal: Refusal | None) -> None:
        self._state.emit(Reply(ticket=ticket, refusal=refusal))

    def _cancel(self, request: CancelRequestRequest, now: float) -> Refusal | None:
        refusal = self._state.fence.check(request.epoch, request.incarnation)
        if refusal is None:
            self._serving.cancel(request.request_id, request.attempt, now=now)
        return refusal

    def _handle_timer(self, key: TimerKey, now: float) -> None:
        match key:
            case RequestDeadline(request_id=request_id, attempt=attempt):
                refusal = Refusal(
                    code=ErrorCode.DEADLINE_EXCEEDED, message="the request's deadline has passed"
                )
                self._serving.end(request_id, attempt, refusal, now=now)
            case DrainDeadline(replica_id=replica_id):
                replica = self._state.replicas.get(replica_id)
                if replica is not None:
                    self._lifecycle.drain_deadline_passed(replica, now=now)

    def _handle_death(self, event: WorkerDied, now: float) -> None:
        replica = self._state.replicas.get(event.replica_id)
        if replica is not None and not replica.has_ended:
            self._lifecycle.worker_died(replica, event, now=now)

    def _handle_copies(self, event: CopiesFound) -> None:
        for reference in self._state.copies.replace(event.copies):
            self._loading.copy_changed(reference)
            self._state.emit(ReportCheckpoint(reference=reference))

    def _shut_down(self, grace_seconds: float, now: float) -> None:
        self._state.is_stopping = True
        for replica in self._state.replicas:
            self._lifecycle.drain(replica, grace_seconds=grace_seconds, now=now)
        self._loading.stop_all()

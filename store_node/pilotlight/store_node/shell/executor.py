"""Runs the core: one event at a time, its actions in order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pilotlight.store_node.core import NodeCore
from pilotlight.store_node.core.actions import (
    AdmitWork,
    AllocateChunks,
    BindChunks,
    BindWorker,
    CancelLoad,
    CancelWork,
    ClearTimer,
    Deliver,
    EndStream,
    KillWorker,
    PromoteLoad,
    ReleaseChunks,
    Reply,
    ReportCheckpoint,
    ReportIdle,
    ReportLoads,
    ReportReplica,
    SetTimer,
    SubmitLoad,
    TakeWorker,
    UnbindChunks,
)
from pilotlight.store_node.core.events import (
    CancelReceived,
    Command,
    CommandReceived,
    Event,
    RequestReceived,
    StreamClosed,
    StreamOverflowed,
)
from pilotlight.store_node.doors.changes import Changes
from pilotlight.store_node.doors.streams import StreamRefused, TokenStream
from pilotlight.store_node.protocol import (
    CancelRequestRequest,
    CancelStartRequest,
    GenerateRequest,
    ReplicaState,
    ReplicaStatus,
    RequestId,
    StopReplicaRequest,
)
from pilotlight.store_node.protocol.refusals import Refusal
from pilotlight.store_node.shell.arena import Arena
from pilotlight.store_node.shell.inbox import Inbox
from pilotlight.store_node.shell.journal import Journal
from pilotlight.store_node.shell.timers import Timers
from pilotlight.store_node.shell.workforce import Workforce

_StreamKey = tuple[RequestId, int]


class Executor:
    """The one place that hands events to the core and carries out its actions.

    Used from the event loop only.
    """

    def __init__(
        self,
        core: NodeCore,
        inbox: Inbox,
        *,
        arena: Arena,
        workforce: Workforce,
        changes: Changes,
        journal: Journal,
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._arena = arena
        self._workforce = workforce
        self._changes = changes
        self._journal = journal
        self._timers = Timers(inbox.post)
        self._tickets = itertools.count(1)
        self._answers: dict[int, Refusal | None] = {}
        self._streams: dict[_StreamKey, TokenStream] = {}
        self._settled = asyncio.Event()
        self._carry_out = self._handlers()
        inbox.hand_on_to(self._handle)

    def command(self, command: Command) -> Refusal | None:
        """Have the core carry out a command; return its answer."""
        if isinstance(command, CancelStartRequest | StopReplicaRequest):
            # Whether half of the load is done decides what becomes of it.
            self._arena.report_progress()
        ticket = next(self._tickets)
        self._inbox.post(CommandReceived(ticket=ticket, command=command))
        return self._answers.pop(ticket)

    def cancel(self, request: CancelRequestRequest) -> Refusal | None:
        """Have the core cancel a request; return its answer."""
        ticket = next(self._tickets)
        self._inbox.post(CancelReceived(ticket=ticket, request=request))
        return self._answers.pop(ticket)

    def open_stream(self, request: GenerateRequest) -> TokenStream:
        """Have the core admit an attempt; return where its tokens come from.

        Raises:
            StreamRefused: it is not admitted.
        """
        ticket = next(self._tickets)
        self._inbox.post(RequestReceived(ticket=ticket, request=request))
        refusal = self._answers.pop(ticket)
        if refusal is not None:
            raise StreamRefused(refusal)
        key = (request.request_id, request.attempt)
        stream = TokenStream(
            request.request_id, request.attempt, on_overflow=lambda: self._overflow(key)
        )
        self._streams[key] = stream
        return stream

    def close_stream(self, stream: TokenStream) -> None:
        """Note that nobody reads an attempt's tokens any more."""
        key = (stream.request_id, stream.attempt)
        if self._streams.get(key) is stream:
            del self._streams[key]
            self._inbox.post(StreamClosed(request_id=key[0], attempt=key[1]))

    async def wait_idle(self) -> None:
        """Wait until no replica is left and nothing is being loaded."""
        while not self._core.is_idle:
            self._settled.clear()
            await self._settled.wait()

    def close(self) -> None:
        """Forget all timers."""
        self._timers.clear_all()

    def _handle(self, event: Event) -> None:
        now = asyncio.get_running_loop().time()
        for action in self._core.handle(event, now):
            self._carry_out[type(action)](action)
        self._settled.set()

    def _handlers(self) -> Mapping[type[Any], Callable[[Any], None]]:
        arena, workforce, timers, changes = (
            self._arena,
            self._workforce,
            self._timers,
            self._changes,
        )
        return {
            Reply: self._reply,
            AllocateChunks: lambda a: arena.allocate(a.reference, a.n_chunks),
            BindChunks: lambda a: arena.bind(a.reference),
            UnbindChunks: lambda a: arena.unbind(a.reference),
            ReleaseChunks: lambda a: arena.release(a.reference),
            SubmitLoad: arena.submit,
            PromoteLoad: arena.promote,
            CancelLoad: arena.cancel,
            TakeWorker: self._take_worker,
            BindWorker: self._bind_worker,
            KillWorker: lambda a: workforce.kill(a.replica_id),
            AdmitWork: lambda a: workforce.admit(a.replica_id, a.work),
            CancelWork: lambda a: workforce.cancel(a.replica_id, a.request_id),
            Deliver: self._deliver,
            EndStream: self._end_stream,
            SetTimer: lambda a: timers.set(a.key, a.at),
            ClearTimer: lambda a: timers.clear(a.key),
            ReportReplica: self._report_replica,
            ReportCheckpoint: lambda a: changes.note_checkpoint(a.reference),
            ReportLoads: lambda _: changes.note_loads(),
            ReportIdle: lambda _: changes.note_idle(),
        }

    def _reply(self, action: Reply) -> None:
        self._answers[action.ticket] = action.refusal

    def _take_worker(self, action: TakeWorker) -> None:
        copy = self._core.reports.copy(action.spec.reference)
        assert copy is not None
        adapter = self._core.reports.copy(action.spec.adapter)
        self._workforce.take(
            action.spec,
            Path(copy.path),
            adapter=Path(adapter.path) if adapter is not None else None,
        )

    def _bind_worker(self, action: BindWorker) -> None:
        layout = self._arena.layout(action.reference)
        self._workforce.bind(action.replica_id, self._arena.fd, layout)

    def _deliver(self, action: Deliver) -> None:
        emission = action.emission
        key = (emission.request_id, emission.attempt)
        stream = self._streams.get(key)
        if stream is None:
            return
        if emission.finish_reason is not None:
            del self._streams[key]
        stream.put(emission)

    def _end_stream(self, action: EndStream) -> None:
        stream = self._streams.pop((action.request_id, action.attempt), None)
        if stream is not None:
            stream.end(action.refusal)

    def _report_replica(self, action: ReportReplica) -> None:
        self._changes.note_replica(action.replica_id)
        status = self._core.reports.replica(action.replica_id)
        self._journal.note(status)
        if status is not None and _is_start_over(status):
            self._workforce.start_ended(action.replica_id)

    def _overflow(self, key: _StreamKey) -> None:
        self._inbox.post(StreamOverflowed(request_id=key[0], attempt=key[1]))


def _is_start_over(status: ReplicaStatus) -> bool:
    """Whether nobody waits for a start any more: its first request has its first token."""
    if status.state is ReplicaState.READY:
        return status.outcome is not None and status.outcome.prefill_seconds is not None
    return status.state is not ReplicaState.STARTING

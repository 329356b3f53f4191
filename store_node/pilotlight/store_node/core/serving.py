"""How attempts of requests are admitted, counted and ended."""

from __future__ import annotations

from pilotlight.store_node.core.actions import (
    AdmitWork,
    CancelWork,
    ClearTimer,
    Deliver,
    EndStream,
    ReportIdle,
    ReportReplica,
    SetTimer,
)
from pilotlight.store_node.core.events import RequestDeadline, TokensEmitted, WorkRejected
from pilotlight.store_node.core.replicas import Replica
from pilotlight.store_node.core.requests import RunningAttempt
from pilotlight.store_node.core.state import NodeState
from pilotlight.store_node.engines.engine import Emission, Work, WorkFailure
from pilotlight.store_node.protocol import (
    FinishReason,
    GenerateRequest,
    ReplicaState,
    RequestId,
)
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal


class Serving:
    """The rules for requests."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    def admit(self, request: GenerateRequest, *, now: float) -> Refusal | None:
        """Run an attempt, or say why not."""
        state = self._state
        if refusal := state.fence.check(request.epoch, request.incarnation):
            return refusal
        if refusal := self._check_request(request):
            return refusal
        self._supersede(request, now)
        replica = self._find_replica(request)
        if isinstance(replica, Refusal):
            return replica
        kv_tokens = _kv_need(replica, request)
        if refusal := _check_room(replica, kv_tokens):
            return refusal
        running = state.requests.add(request, kv_tokens=kv_tokens, now=now)
        replica.running.add(request.request_id)
        replica.kv_tokens_held += kv_tokens
        key = RequestDeadline(request_id=request.request_id, attempt=request.attempt)
        state.emit(SetTimer(key=key, at=running.deadline_at))
        state.emit(AdmitWork(replica_id=request.replica_id, work=_work_of(request)))
        return None

    def emitted(self, event: TokensEmitted, *, now: float) -> None:
        """Pass tokens on, but for those of attempts that have ended here."""
        for emission in event.emissions:
            running = self._state.requests.get(emission.request_id, emission.attempt)
            if running is None or running.replica_id != event.replica_id:
                continue
            self._count(running, emission, now)
            if emission.token_ids or emission.finish_reason is not None:
                self._state.emit(Deliver(emission=emission))
            if emission.failure is not None:
                self._cut(running, _refusal_of(emission.failure), now)
            elif emission.finish_reason is not None:
                self._remove(running, now)

    def cancel(self, request_id: RequestId, attempt: int, *, now: float) -> None:
        """Give up all attempts up to this one, now and for ever."""
        self._state.requests.bar(request_id, attempt)
        running = self._state.requests.running(request_id)
        if running is not None and running.attempt <= attempt:
            self._cancel_work(running)
            self._state.emit(Deliver(emission=_farewell(running)))
            self._remove(running, now)

    def end(self, request_id: RequestId, attempt: int, refusal: Refusal, *, now: float) -> None:
        """End one attempt's work and stream for a reason; unknown ones are no error."""
        running = self._state.requests.get(request_id, attempt)
        if running is not None:
            self._cancel_work(running)
            self._cut(running, refusal, now)

    def rejected(self, event: WorkRejected, *, now: float) -> None:
        """End an attempt that the engine does not take."""
        running = self._state.requests.get(event.request_id, event.attempt)
        if running is not None:
            code = self._code_of_rejection(running, event)
            self._cut(running, Refusal(code=code, message=event.message), now)

    def end_all(self, replica: Replica, refusal: Refusal, *, now: float) -> None:
        """End the streams of all that runs on a replica whose worker ends too."""
        for request_id in sorted(replica.running):
            running = self._state.requests.running(request_id)
            if running is not None:
                self._cut(running, refusal, now)

    def _check_request(self, request: GenerateRequest) -> Refusal | None:
        if self._state.is_stopping:
            return Refusal(code=ErrorCode.NODE_STOPPING, message="the node is stopping")
        if not request.request_id or request.attempt < 1 or not request.prompt_ids:
            return Refusal(
                code=ErrorCode.INVALID_REQUEST,
                message="a request needs an id, an attempt from 1, and at least one prompt id",
            )
        if not request.deadline_seconds > 0:
            return Refusal(
                code=ErrorCode.DEADLINE_EXCEEDED, message="the request's deadline has passed"
            )
        if self._state.requests.is_barred(request.request_id, request.attempt):
            return Refusal(
                code=ErrorCode.STALE_ATTEMPT,
                message=f"attempt {request.attempt} of {request.request_id!r} is known,"
                " or a later one is",
            )
        return None

    def _supersede(self, request: GenerateRequest, now: float) -> None:
        """Drop lower attempts: whoever sends a higher one has given them up."""
        running = self._state.requests.running(request.request_id)
        if running is not None:
            refusal = Refusal(
                code=ErrorCode.SUPERSEDED,
                message=f"attempt {request.attempt} of {request.request_id!r} follows this one",
            )
            self.end(running.request_id, running.attempt, refusal, now=now)
        # This attempt itself may come again when a slot is free.
        self._state.requests.bar(request.request_id, request.attempt - 1)

    def _find_replica(self, request: GenerateRequest) -> Replica | Refusal:
        replica = self._state.replicas.get(request.replica_id)
        if replica is None:
            return Refusal(
                code=ErrorCode.UNKNOWN_REPLICA, message=f"no replica {request.replica_id!r} here"
            )
        if replica.state is not ReplicaState.READY:
            return Refusal(
                code=ErrorCode.NOT_READY,
                message=f"replica {request.replica_id!r} is {replica.state}",
            )
        if request.compatibility not in (None, replica.compatibility):
            return Refusal(
                code=ErrorCode.INCOMPATIBLE,
                message=f"replica {request.replica_id!r} would compute other tokens:"
                f" it is {replica.compatibility}",
            )
        return replica

    def _code_of_rejection(self, running: RunningAttempt, event: WorkRejected) -> ErrorCode:
        """Say what a full engine lacks: it was only asked as it had a free slot."""
        offer = self._state.replicas[running.replica_id].offer
        accounts_for_kv = offer is not None and offer.kv_tokens is not None
        is_full = event.code is ErrorCode.NO_SLOT
        return ErrorCode.NO_KV_MEMORY if is_full and accounts_for_kv else event.code

    def _count(self, running: RunningAttempt, emission: Emission, now: float) -> None:
        running.next_seq = emission.seq + len(emission.token_ids)
        running.tokens_here += len(emission.token_ids)
        running.last_token_at = now
        if running.first_token_at is not None or not emission.token_ids:
            return
        running.first_token_at = now
        replica = self._state.replicas[running.replica_id]
        if replica.note_first_token(admitted_at=running.admitted_at, now=now):
            self._state.emit(ReportReplica(replica_id=replica.replica_id))

    def _cancel_work(self, running: RunningAttempt) -> None:
        self._state.emit(CancelWork(replica_id=running.replica_id, request_id=running.request_id))

    def _cut(self, running: RunningAttempt, refusal: Refusal, now: float) -> None:
        self._state.emit(
            EndStream(request_id=running.request_id, attempt=running.attempt, refusal=refusal)
        )
        self._remove(running, now)

    def _remove(self, running: RunningAttempt, now: float) -> None:
        self._state.requests.remove(running)
        replica = self._state.replicas[running.replica_id]
        replica.running.remove(running.request_id)
        replica.kv_tokens_held -= running.kv_tokens
        replica.idle_since = now
        key = RequestDeadline(request_id=running.request_id, attempt=running.attempt)
        self._state.emit(ClearTimer(key=key))
        if not replica.running:
            self._state.emit(ReportIdle())


def _kv_need(replica: Replica, request: GenerateRequest) -> int:
    """Return the KV memory that a request is to hold; 0 where nobody accounts for it."""
    offer = replica.offer
    if offer is None or offer.kv_tokens is None:
        return 0
    return offer.kv_need(len(request.prompt_ids), request.sampling.max_tokens)


def _check_room(replica: Replica, kv_tokens: int) -> Refusal | None:
    """Return what a replica lacks for one more request with so much KV memory."""
    limit = replica.offer.kv_tokens if replica.offer is not None else None
    if limit is not None and kv_tokens > limit:
        return Refusal(
            code=ErrorCode.CONTEXT_EXCEEDED,
            message=f"prompt and answer may come to {kv_tokens} tokens; replica"
            f" {replica.replica_id!r} has KV memory for {limit}",
        )
    if len(replica.running) >= replica.concurrency:
        return Refusal(
            code=ErrorCode.NO_SLOT,
            message=f"replica {replica.replica_id!r} runs {len(replica.running)} requests"
            f" of at most {replica.concurrency}",
        )
    if limit is not None and replica.kv_tokens_held + kv_tokens > limit:
        return Refusal(
            code=ErrorCode.NO_KV_MEMORY,
            message=f"prompt and answer may come to {kv_tokens} tokens; of the {limit} of replica"
            f" {replica.replica_id!r} others hold {replica.kv_tokens_held}",
        )
    return None


def _refusal_of(failure: WorkFailure) -> Refusal:
    """Return what the reader of an attempt is told that its engine gave up."""
    is_known = failure.code == ErrorCode.INVALID_LOGITS
    code = ErrorCode.INVALID_LOGITS if is_known else ErrorCode.ENGINE_FAILED
    return Refusal(code=code, message=failure.message)


def _work_of(request: GenerateRequest) -> Work:
    return Work(
        request_id=request.request_id,
        attempt=request.attempt,
        prompt_ids=request.prompt_ids,
        emitted_ids=request.emitted_ids,
        sampling=request.sampling,
    )


def _farewell(running: RunningAttempt) -> Emission:
    return Emission(
        request_id=running.request_id,
        attempt=running.attempt,
        seq=running.next_seq,
        token_ids=(),
        finish_reason=FinishReason.CANCELLED,
    )

"""Which attempts run on the node, and which may never run any more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from pilotlight.store_node.protocol import (
    GenerateRequest,
    ReplicaId,
    RequestId,
    RunningRequest,
)

MOST_KNOWN_REQUESTS = 65_536
"""Requests whose highest attempt is remembered after they ended: hours of them, in a few MB."""


@dataclass(slots=True, kw_only=True)
class RunningAttempt:
    """One attempt, from its admission to its last token."""

    request_id: RequestId
    attempt: int
    replica_id: ReplicaId
    prompt_tokens: int
    next_seq: int
    """Tokens emitted over all attempts."""
    admitted_at: float
    deadline_at: float
    kv_tokens: int = 0
    """That it holds of its replica's KV memory."""
    first_token_at: float | None = None
    tokens_here: int = 0
    """Tokens emitted by this attempt."""
    last_token_at: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """The pace after the first token; 0 before the second."""
        if self.first_token_at is None or self.last_token_at <= self.first_token_at:
            return 0.0
        return (self.tokens_here - 1) / (self.last_token_at - self.first_token_at)

    def status(self, *, now: float) -> RunningRequest:
        """Return what a summary says of it."""
        return RunningRequest(
            request_id=self.request_id,
            attempt=self.attempt,
            prompt_tokens=self.prompt_tokens,
            emitted_tokens=self.next_seq,
            tokens_per_second=self.tokens_per_second,
            deadline_seconds=max(0.0, self.deadline_at - now),
            movable=True,
        )


class Requests:
    """All running attempts, and the highest attempt known of each request."""

    def __init__(self) -> None:
        self._running: dict[RequestId, RunningAttempt] = {}
        self._known: OrderedDict[RequestId, int] = OrderedDict()

    def __iter__(self) -> Iterator[RunningAttempt]:
        return iter(list(self._running.values()))

    def get(self, request_id: RequestId, attempt: int) -> RunningAttempt | None:
        """Return a running attempt."""
        running = self._running.get(request_id)
        return running if running is not None and running.attempt == attempt else None

    def running(self, request_id: RequestId) -> RunningAttempt | None:
        """Return whatever attempt of a request runs."""
        return self._running.get(request_id)

    def is_barred(self, request_id: RequestId, attempt: int) -> bool:
        """Whether an attempt ran, was cancelled, or has been overtaken."""
        return attempt <= self._known.get(request_id, 0)

    def bar(self, request_id: RequestId, attempt: int) -> None:
        """Never admit attempts up to this one."""
        self._known[request_id] = max(attempt, self._known.get(request_id, 0))
        self._known.move_to_end(request_id)
        while len(self._known) > MOST_KNOWN_REQUESTS:
            self._known.popitem(last=False)

    def add(self, request: GenerateRequest, *, kv_tokens: int, now: float) -> RunningAttempt:
        """Take an attempt that was admitted with so much KV memory."""
        self.bar(request.request_id, request.attempt)
        running = RunningAttempt(
            request_id=request.request_id,
            attempt=request.attempt,
            replica_id=request.replica_id,
            prompt_tokens=len(request.prompt_ids),
            next_seq=len(request.emitted_ids),
            admitted_at=now,
            deadline_at=now + request.deadline_seconds,
            kv_tokens=kv_tokens,
        )
        self._running[request.request_id] = running
        return running

    def remove(self, running: RunningAttempt) -> None:
        """Forget an attempt that has ended."""
        del self._running[running.request_id]

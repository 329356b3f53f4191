"""A replica's engine in virtual time.

Theory of operation. A request prefills on its own, then decodes together with
the others: each step gives every one of them a token and takes as long as the
number of them says. So all advance at one pace, which changes only when one
joins or leaves; a counter of steps that have passed tells each how far it is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.serve_times import ServeTimes
from pilotlight.store_node.protocol import ReplicaId, RequestId


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One attempt of a request."""

    request_id: RequestId
    attempt: int
    replica: ReplicaId
    context_tokens: int
    """To prefill: the prompt, and what earlier attempts emitted."""
    left_tokens: int
    """To emit, at least one."""
    left_seconds: float | None = None
    """From its first token to its last, whatever else runs; None = as its tokens take."""
    is_over: bool = False
    first_at: float | None = None
    """When it had its first token."""
    first_step: float = 0.0
    """Number of steps that had passed when it began to decode."""


class VirtualEngine:
    """Computes what one replica is given; says when a request has its first and its last token."""

    def __init__(
        self,
        heap: EventHeap,
        times: ServeTimes,
        *,
        noise: Callable[[], float],
        on_first: Callable[[Job], None],
        on_last: Callable[[Job], None],
    ) -> None:
        self._heap = heap
        self._times = times
        self._noise = noise
        self._on_first = on_first
        self._on_last = on_last
        self._jobs: dict[RequestId, Job] = {}
        self._decoding: list[tuple[float, int, Job]] = []
        """By the step after which each is over."""
        self._n_decoding = 0
        self._steps = 0.0
        self._stepped_at = 0.0
        self._stopped_at = float("inf")
        self._number = 0
        self._change = 0

    def admit(self, job: Job) -> None:
        """Begin to compute a request."""
        self._jobs[job.request_id] = job
        seconds = self._times.prefill_seconds(job.context_tokens) * self._noise()
        self._heap.call_at(self._heap.now + seconds, self._prefilled, job)

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request."""
        job = self._jobs.pop(request_id, None)
        if job is not None:
            job.is_over = True
            self._drop_over()

    def stop(self) -> None:
        """Compute nothing any more."""
        self._count_steps()
        self._stopped_at = self._heap.now
        self._n_decoding = 0
        for job in self._jobs.values():
            job.is_over = True
        self._jobs.clear()
        self._decoding.clear()
        self._change += 1

    def emitted_tokens(self, job: Job) -> int:
        """Return how many tokens an attempt has emitted so far, of those that it was to emit."""
        if job.first_at is None:
            return 0
        if job.left_seconds is not None:
            whole = job.left_seconds
            passed = min(self._heap.now, self._stopped_at) - job.first_at
            share = min(passed / whole, 1.0) if whole > 0.0 else 1.0
            return int(share * job.left_tokens)
        self._count_steps()
        return min(1 + int(self._steps - job.first_step), job.left_tokens)

    def _prefilled(self, job: Job) -> None:
        if job.is_over:
            return
        job.first_at = self._heap.now
        self._on_first(job)
        if job.request_id not in self._jobs:
            return
        if job.left_seconds is not None:
            self._heap.call_at(self._heap.now + job.left_seconds, self._finish, job)
        elif job.left_tokens <= 1:
            self._finish(job)
        else:
            self._count_steps()
            job.first_step = self._steps
            self._number += 1
            heapq.heappush(self._decoding, (self._steps + job.left_tokens - 1, self._number, job))
            self._n_decoding += 1
            self._expect_next()

    def _finish(self, job: Job) -> None:
        if not job.is_over:
            job.is_over = True
            del self._jobs[job.request_id]
            self._on_last(job)

    def _count_steps(self) -> None:
        now = self._heap.now
        if self._n_decoding:
            self._steps += (now - self._stepped_at) / self._times.token_seconds(self._n_decoding)
        self._stepped_at = now

    def _expect_next(self) -> None:
        self._change += 1
        if self._decoding:
            steps = max(self._decoding[0][0] - self._steps, 0.0)
            at = self._heap.now + steps * self._times.token_seconds(self._n_decoding)
            self._heap.call_at(at, self._stepped, self._change)

    def _stepped(self, change: int) -> None:
        if change != self._change:
            return
        self._count_steps()
        last, _, job = heapq.heappop(self._decoding)
        self._steps = max(self._steps, last)
        self._n_decoding -= 1
        self._expect_next()
        self._finish(job)

    def _drop_over(self) -> None:
        left = [entry for entry in self._decoding if not entry[2].is_over]
        if len(left) < len(self._decoding):
            self._count_steps()
            self._decoding = left
            heapq.heapify(self._decoding)
            self._n_decoding = len(left)
            self._expect_next()

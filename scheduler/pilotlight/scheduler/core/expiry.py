"""When idle replicas expire.

Theory of operation. A replica expires once it was idle for its model's
keep-alive. The first to expire of all idle ones sets a timer; when that fires,
those that are due are marked as expired, and a plan is asked for if one of them
may end. A marked one is looked at again once it may end after all.
"""

from __future__ import annotations

import heapq
import math

from pilotlight.scheduler.core.state import ClusterState, Replica
from pilotlight.store_node.protocol import ReplicaId


def load_seconds(replica: Replica) -> float:
    """Return what a replica's start took until READY; NaN before it was."""
    outcome = replica.outcome
    if outcome is None:
        return math.nan
    return (
        outcome.queue_seconds
        + outcome.transfer_seconds
        + outcome.worker_seconds
        + outcome.bind_seconds
    )


def expires_at(state: ClusterState, replica: Replica) -> float:
    """Return when a replica was idle for long enough, in monotonic seconds.

    NaN where it is not idle, minus infinity where its model is deleted.
    """
    if replica.idle_since is None:
        return math.nan
    model = state.models.get(replica.model)
    if model is None:
        return -math.inf
    keep = model.keep_alive_seconds
    if keep is None:
        keep = load_seconds(replica)
    return replica.idle_since + (0.0 if math.isnan(keep) else keep)


class IdleExpiries:
    """The idle replicas that are not marked, the first to expire first."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._heap: list[tuple[float, ReplicaId]] = []
        self._has_news = False
        for replica in state.replicas.values():
            if not replica.is_expired:
                self.note(replica)
        # Where the state has a timer, that is for the first of these.
        self._has_news &= state.idle_timer_at is None

    def note(self, replica: Replica) -> None:
        """Take up that a replica is idle, or that it may end after all."""
        at = expires_at(self._state, replica)
        if not math.isnan(at):
            replica.is_expired = False
            heapq.heappush(self._heap, (at, replica.id))
            self._has_news = True

    def take_news(self) -> float | None:
        """Return when the next one expires, if something was noted since the last call."""
        if not self._has_news:
            return None
        self._has_news = False
        return self._next()

    def pop_due(self, now: float) -> list[Replica]:
        """Mark the replicas that have expired, and return them."""
        due: list[Replica] = []
        while (at := self._next()) is not None and at <= now:
            replica = self._state.replicas[heapq.heappop(self._heap)[1]]
            replica.is_expired = True
            due.append(replica)
        self._has_news = True
        return due

    def _next(self) -> float | None:
        """Drop what is out of date; return when the first one expires."""
        while self._heap:
            at, replica_id = self._heap[0]
            replica = self._state.replicas.get(replica_id)
            is_noted = replica is not None and not replica.is_expired
            if replica is not None and is_noted and expires_at(self._state, replica) == at:
                return at
            heapq.heappop(self._heap)
        return None

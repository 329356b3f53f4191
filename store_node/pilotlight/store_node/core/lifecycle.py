"""How replicas come and go.

Events only note facts; `settle` then takes every step that the facts allow, so
that the order in which they arrive does not matter.
"""

from __future__ import annotations

from pilotlight.store_node.core.actions import BindWorker, KillWorker, SetTimer, TakeWorker
from pilotlight.store_node.core.copies import CheckpointCopy
from pilotlight.store_node.core.events import (
    DrainDeadline,
    WorkerBound,
    WorkerDied,
    WorkerPrepared,
)
from pilotlight.store_node.core.loading import Loading
from pilotlight.store_node.core.replicas import Failure, Replica, StartClock, outcome_of
from pilotlight.store_node.core.residency import Account, Residency
from pilotlight.store_node.core.serving import Serving
from pilotlight.store_node.core.state import NodeState
from pilotlight.store_node.engines.engine import Offer
from pilotlight.store_node.protocol import (
    CompatibilityKey,
    ReplicaState,
    StartReplicaRequest,
    Tier,
)
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal


class Lifecycle:
    """The rules for replicas."""

    def __init__(self, state: NodeState, loading: Loading, serving: Serving) -> None:
        self._state = state
        self._loading = loading
        self._serving = serving

    def start(self, request: StartReplicaRequest, copy: CheckpointCopy, *, now: float) -> None:
        """Begin a start whose devices are known to be free: its load and its worker at once."""
        state, spec = self._state, request.spec
        replica = Replica(
            spec=spec,
            devices=state.leases.grant(spec.replica_id, spec.devices),
            tier=_tier_of(state.ledger.get(copy.reference)),
            clock=StartClock(began_at=now),
            evict=request.evict,
        )
        state.replicas.add(replica)
        self._loading.hold(copy, replica, request.priority, now=now)
        state.emit(TakeWorker(spec=spec))

    def prepared(self, event: WorkerPrepared, *, now: float) -> None:
        """Note that a worker has done all that needs no weights."""
        replica = self._state.replicas.get(event.replica_id)
        if replica is not None and replica.state is ReplicaState.STARTING:
            replica.clock.prepared_at = now
            replica.clock.worker_busy_seconds = event.busy_seconds

    def bound(self, event: WorkerBound, *, now: float) -> None:
        """Note that a replica can take requests."""
        replica = self._state.replicas.get(event.replica_id)
        if replica is None or replica.state is not ReplicaState.STARTING:
            return
        replica.offer = event.offer
        replica.compatibility = self._compatibility(replica, event.offer)
        replica.outcome = outcome_of(replica, now=now)
        replica.idle_since = replica.clock.ready_at = now
        self._state.replicas.move(replica, ReplicaState.READY)

    def worker_died(self, replica: Replica, event: WorkerDied, *, now: float) -> None:
        """Note that nothing of a replica's worker is left."""
        replica.is_worker_dead = True
        if replica.teardown_began_at is None and replica.failure is None:
            failure = Failure(code=event.code, message=event.reason, log_tail=event.log_tail)
            self._state.replicas.fail(replica, failure)
        self._serving.end_all(replica, self._reason_to_cut(replica), now=now)

    def drain(self, replica: Replica, *, grace_seconds: float, now: float) -> None:
        """End a replica: no new requests, the running ones have `grace_seconds`."""
        if replica.has_ended:
            return
        if replica.state is ReplicaState.DRAINING:
            replica.drain_until = min(replica.drain_until, now + grace_seconds)
        else:
            was_starting = replica.state is ReplicaState.STARTING
            replica.drain_until = now + grace_seconds
            self._state.replicas.move(replica, ReplicaState.DRAINING)
            if was_starting:
                self._loading.give_up(replica.spec.reference)
        if replica.running:
            key = DrainDeadline(replica_id=replica.replica_id)
            self._state.emit(SetTimer(key=key, at=replica.drain_until))

    def drain_deadline_passed(self, replica: Replica, *, now: float) -> None:
        """Note that a draining replica's requests have had their time."""
        replica.drain_until = min(replica.drain_until, now)

    def settle(self, *, now: float) -> None:
        """Take every step that is due."""
        for replica in self._state.replicas.unsettled():
            if replica.failure is not None:
                self.drain(replica, grace_seconds=0.0, now=now)
            if replica.state is ReplicaState.STARTING:
                self._bind_if_due(replica, now)
            elif replica.state is ReplicaState.DRAINING:
                self._tear_down_if_due(replica, now)
                self._finish_if_due(replica, now)

    def _bind_if_due(self, replica: Replica, now: float) -> None:
        reference, clock = replica.spec.reference, replica.clock
        if clock.bind_began_at is not None or clock.prepared_at is None:
            return
        if self._state.ledger[reference].is_loaded:
            clock.bind_began_at = now
            self._state.emit(BindWorker(replica_id=replica.replica_id, reference=reference))

    def _tear_down_if_due(self, replica: Replica, now: float) -> None:
        is_waiting = bool(replica.running) and now < replica.drain_until
        if replica.teardown_began_at is not None or is_waiting:
            return
        self._serving.end_all(replica, self._reason_to_cut(replica), now=now)
        replica.teardown_began_at = now
        if not replica.is_worker_dead:
            self._state.emit(KillWorker(replica_id=replica.replica_id))

    def _finish_if_due(self, replica: Replica, now: float) -> None:
        if not replica.is_worker_dead:
            return
        if replica.holds_chunks:
            self._loading.let_go(replica, now=now)
        if replica.holds_chunks:
            return
        self._state.leases.give_back(replica.replica_id)
        replica.devices = ()
        if replica.teardown_began_at is not None:
            replica.teardown_seconds = now - replica.teardown_began_at
        is_failed = replica.failure is not None
        self._state.replicas.move(
            replica, ReplicaState.FAILED if is_failed else ReplicaState.STOPPED
        )

    def _reason_to_cut(self, replica: Replica) -> Refusal:
        if self._state.is_stopping:
            return Refusal(code=ErrorCode.NODE_STOPPING, message="the node is stopping")
        if replica.failure is not None:
            return Refusal(code=ErrorCode.WORKER_DIED, message=replica.failure.message)
        return Refusal(code=ErrorCode.REPLICA_STOPPED, message="the replica was stopped")

    def _compatibility(self, replica: Replica, offer: Offer) -> CompatibilityKey:
        version = self._state.engines[replica.spec.engine]
        return CompatibilityKey(
            content=self._state.ledger[replica.spec.reference].content,
            engine=replica.spec.engine,
            engine_version=f"{version} {offer.variant}" if offer.variant else version,
            dtype=offer.dtype,
            parallelism=len(replica.devices),
        )


def _tier_of(residency: Residency | None) -> Tier:
    if residency is None or not residency.is_loaded:
        return Tier.SSD
    return Tier.DEVICE if residency.account is Account.BOUND else Tier.DRAM

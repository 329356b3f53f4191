"""What the node says about itself, as the wire's values."""

from __future__ import annotations

from pilotlight.store_node.core.copies import CheckpointCopy
from pilotlight.store_node.core.loads import LoadRecord
from pilotlight.store_node.core.replicas import Replica
from pilotlight.store_node.core.residency import Account
from pilotlight.store_node.core.state import NodeState
from pilotlight.store_node.protocol import (
    CheckpointStatus,
    LoadStatus,
    PoolAccounts,
    Reference,
    ReplicaId,
    ReplicaState,
    ReplicaStatus,
    ReplicaSummary,
)


class Reports:
    """Views of the core's state; they change nothing."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    def copies(self) -> tuple[CheckpointCopy, ...]:
        """Return all copies that the last scan found."""
        return tuple(self._state.copies)

    def copy(self, reference: Reference) -> CheckpointCopy | None:
        """Return one copy."""
        return self._state.copies.get(reference)

    def checkpoints(self) -> tuple[CheckpointStatus, ...]:
        """Return every copy's status."""
        return tuple(self._checkpoint(copy) for copy in self._state.copies)

    def checkpoint(self, reference: Reference) -> CheckpointStatus | None:
        """Return one copy's status; None where it is gone."""
        copy = self._state.copies.get(reference)
        return self._checkpoint(copy) if copy is not None else None

    def replicas(self) -> tuple[ReplicaStatus, ...]:
        """Return every replica's status, the ended ones that are still known among them."""
        return tuple(_replica(each) for each in self._state.replicas)

    def replica(self, replica_id: ReplicaId) -> ReplicaStatus | None:
        """Return one replica's status."""
        replica = self._state.replicas.get(replica_id)
        return _replica(replica) if replica is not None else None

    def loads(self) -> tuple[LoadStatus, ...]:
        """Return all loads in flight."""
        return tuple(self._load(each) for each in self._state.loads)

    def summaries(self, *, now: float) -> tuple[ReplicaSummary, ...]:
        """Return the traffic of every replica that can have some."""
        return tuple(
            self._summary(each, now)
            for each in self._state.replicas.alive()
            if each.offer is not None
        )

    def summary(self, replica_id: ReplicaId, *, now: float) -> ReplicaSummary | None:
        """Return one replica's traffic; None where it can have none."""
        replica = self._state.replicas.get(replica_id)
        if replica is None or replica.offer is None or replica.has_ended:
            return None
        return self._summary(replica, now)

    def accounts(self) -> PoolAccounts:
        """Return the accounts of the chunk pool."""
        capacity, ledger = self._state.capacity, self._state.ledger
        cached = ledger.n_chunks(Account.CACHED)
        bound = ledger.n_chunks(Account.BOUND)
        return PoolAccounts(
            free_bytes=(capacity.total_chunks - cached - bound) * capacity.chunk_bytes,
            cached_bytes=cached * capacity.chunk_bytes,
            bound_bytes=bound * capacity.chunk_bytes,
            total_bytes=capacity.total_chunks * capacity.chunk_bytes,
        )

    def _checkpoint(self, copy: CheckpointCopy) -> CheckpointStatus:
        state, reference = self._state, copy.reference
        residency = state.ledger.get(reference)
        is_there = residency is not None and residency.is_loaded and not residency.is_stale
        is_bound = residency is not None and residency.account is Account.BOUND
        return CheckpointStatus(
            reference=reference,
            path=copy.path,
            layout_id=copy.layout_id,
            size_bytes=copy.size_bytes,
            content_id=copy.content_id,
            bytes_digest=state.copies.digest_of(reference),
            tensors=copy.tensors,
            ssd_channel=copy.ssd_channel,
            dram_bytes=copy.size_bytes if is_there and not is_bound else 0,
            bound_bytes=copy.size_bytes if is_there and is_bound else 0,
            pinned=state.ledger.is_pinned(reference),
            quarantine=state.copies.quarantine_of(reference),
            architecture=copy.architecture,
            context_tokens=copy.context_tokens,
            dtype=copy.dtype,
            execution_files=copy.execution_files,
        )

    def _load(self, load: LoadRecord) -> LoadStatus:
        waiting = self._state.starting(load.reference)
        return LoadStatus(
            load_id=load.load_id,
            reference=load.reference,
            replica_id=waiting[0].replica_id if waiting else ReplicaId(""),
            done_bytes=load.done_bytes,
            total_bytes=load.total_bytes,
            priority=load.priority,
            cancellable=load.is_less_than_half_done,
            channel_id=load.channel_id,
        )

    def _summary(self, replica: Replica, now: float) -> ReplicaSummary:
        requests = [
            each.status(now=now)
            for each in self._state.requests
            if each.replica_id == replica.replica_id
        ]
        is_open = replica.state is ReplicaState.READY
        kv_tokens = replica.offer.kv_tokens if replica.offer is not None else None
        return ReplicaSummary(
            replica_id=replica.replica_id,
            running=len(requests),
            free_slots=replica.concurrency - len(requests) if is_open else 0,
            kv_tokens_free=None if kv_tokens is None else kv_tokens - replica.kv_tokens_held,
            idle_seconds=0.0 if requests else max(0.0, now - replica.idle_since),
            requests=tuple(requests),
        )


def _replica(replica: Replica) -> ReplicaStatus:
    spec, offer, failure = replica.spec, replica.offer, replica.failure
    return ReplicaStatus(
        replica_id=spec.replica_id,
        model=spec.model,
        reference=spec.reference,
        state=replica.state,
        devices=replica.devices,
        concurrency=replica.concurrency,
        compatibility=replica.compatibility,
        outcome=replica.outcome,
        error_code=failure.code if failure is not None else "",
        error=failure.message if failure is not None else "",
        log_tail=failure.log_tail if failure is not None else "",
        context_tokens=offer.context_tokens if offer is not None else spec.context_tokens,
        teardown_seconds=replica.teardown_seconds,
        deployment=spec.deployment,
    )

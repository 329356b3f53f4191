"""How loads begin and end: single flight, prefetches, and the cancel rule."""

from __future__ import annotations

from pilotlight.store_node.core.copies import CheckpointCopy
from pilotlight.store_node.core.events import LoadFailed, LoadSucceeded
from pilotlight.store_node.core.loads import LoadRecord
from pilotlight.store_node.core.replicas import Failure, Replica
from pilotlight.store_node.core.state import NodeState
from pilotlight.store_node.protocol import Reference, ReplicaState
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal


class Loading:
    """The rules for loads; what they mean for replicas is noted there for `Lifecycle`."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    def hold(self, copy: CheckpointCopy, replica: Replica, priority: int, *, now: float) -> None:
        """Give a checkpoint to a replica that starts, and load it where it is not there."""
        self._state.worth.note_use(copy.reference, now=now)
        residency = self._state.ledger.hold(copy, replica.replica_id, now=now)
        if not residency.is_loaded:
            self._state.loads.ensure(copy, priority, now=now)

    def fetch(self, copy: CheckpointCopy, priority: int, *, now: float) -> Refusal | None:
        """Begin a prefetch, join the load in flight, or do nothing where the bytes are there."""
        state = self._state
        residency = state.ledger.get(copy.reference) or state.ledger.cache(copy, now=now)
        if residency is None:
            return Refusal(
                code=ErrorCode.DRAM_FULL,
                message=f"DRAM has no room for {copy.reference!r}:"
                " what fills it is pinned or being loaded",
            )
        state.worth.note_use(copy.reference, now=now)
        if not residency.is_loaded:
            state.loads.wish_for(copy.reference, priority)
            state.loads.ensure(copy, priority, now=now)
        return None

    def succeeded(self, event: LoadSucceeded, *, now: float) -> None:
        """Note that a checkpoint's bytes are there."""
        state = self._state
        load = state.loads.end(event.load_id)
        if load is None:
            return
        reference, digest = load.reference, event.bytes_digest
        residency = state.ledger.complete(reference, bytes_digest=digest, now=now)
        state.loads.forget_wish(reference)
        state.worth.note_load(
            reference, bytes_read=event.bytes_read, busy_seconds=event.busy_seconds, now=now
        )
        state.copies.learn_digest(reference, identity=residency.identity, bytes_digest=digest)
        for replica in state.starting(reference):
            clock = replica.clock
            clock.first_block_at = load.submitted_at + event.queue_seconds
            clock.loaded_at = now
            clock.bytes_read = event.bytes_read
            clock.disk_busy_seconds = event.busy_seconds
            clock.checksum = event.checksum
            clock.bottleneck = event.bottleneck

    def failed(self, event: LoadFailed, *, now: float) -> None:
        """Note that a load ended with nothing; begin another where it was cancelled too early."""
        state = self._state
        load = state.loads.end(event.load_id)
        if load is None:
            return
        if event.code is None and self._begin_again(load, now):
            return
        if event.code is ErrorCode.CHECKSUM_MISMATCH:
            state.copies.quarantine(load.reference, event.message)
        state.loads.forget_wish(load.reference)
        for holder in state.ledger.abandon(load.reference):
            self._fail(state.replicas[holder], event)

    def copy_changed(self, reference: Reference) -> None:
        """Note that a copy is gone from disk, or is other than the one in the pool."""
        state = self._state
        residency, copy = state.ledger.get(reference), state.copies.get(reference)
        if residency is None or (copy is not None and copy.identity == residency.identity):
            return
        state.ledger.mark_stale(reference)
        state.loads.forget_wish(reference)
        load = state.loads.of(reference)
        if load is not None and not state.starting(reference):
            state.loads.cancel(load)

    def give_up(self, reference: Reference) -> None:
        """Apply the cancel rule: a load less than half done ends, another one is kept in DRAM."""
        state = self._state
        load = state.loads.of(reference)
        if load is None or state.starting(reference) or state.loads.wish_of(reference) is not None:
            return
        if load.is_less_than_half_done or state.is_stopping:
            state.loads.cancel(load)
        elif not load.is_cancelling:
            state.loads.wish_for(reference, load.priority)

    def let_go(self, replica: Replica, *, now: float) -> None:
        """Return the chunks of a replica whose worker is dead, unless a load still writes to them.

        Then it is called again when that load has ended.
        """
        state, reference = self._state, replica.spec.reference
        load = state.loads.of(reference)
        is_last = state.ledger[reference].holders == {replica.replica_id}
        if load is not None and load.is_cancelling and is_last:
            return
        if state.ledger.let_go(reference, replica.replica_id, evict=replica.evict, now=now):
            replica.holds_chunks = False
        elif load is not None:
            # What was to be kept as a prefetch fits nowhere.
            state.loads.forget_wish(reference)
            state.loads.cancel(load)

    def stop_all(self) -> None:
        """Cancel every load."""
        for load in list(self._state.loads):
            self._state.loads.forget_wish(load.reference)
            self._state.loads.cancel(load)

    def _begin_again(self, load: LoadRecord, now: float) -> bool:
        state, reference = self._state, load.reference
        copy, wish = state.copies.get(reference), state.loads.wish_of(reference)
        is_wanted = wish is not None or bool(state.starting(reference))
        if copy is None or state.ledger[reference].is_stale or not is_wanted:
            return False
        state.loads.ensure(copy, load.priority, now=now)
        return True

    def _fail(self, replica: Replica, event: LoadFailed) -> None:
        replica.holds_chunks = False
        if replica.state is ReplicaState.STARTING:
            code = event.code or ErrorCode.FILE_CHANGED
            self._state.replicas.fail(replica, Failure(code=code, message=event.message))

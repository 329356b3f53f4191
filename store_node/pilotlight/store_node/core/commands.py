"""What the controller's commands mean, and when they are refused."""

from __future__ import annotations

from pilotlight.store_node.core.copies import CheckpointCopy
from pilotlight.store_node.core.events import Command
from pilotlight.store_node.core.lifecycle import Lifecycle
from pilotlight.store_node.core.loading import Loading
from pilotlight.store_node.core.replicas import Replica
from pilotlight.store_node.core.state import NodeState
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    PinCheckpointRequest,
    Reference,
    ReplicaId,
    ReplicaState,
    StartReplicaRequest,
    StopReplicaRequest,
)
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal


class Commands:
    """Carries out commands: each one once, and only those of the latest leader."""

    def __init__(self, state: NodeState, lifecycle: Lifecycle, loading: Loading) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._loading = loading

    def carry_out(self, command: Command, *, now: float) -> Refusal | None:
        """Return None where the command is carried out, or was before."""
        fence, key = self._state.fence, command.header.idempotency_key
        if refusal := fence.check_command(command.header):
            return refusal
        if fence.knows(key):
            return fence.recall(key)
        answer = self._dispatch(command, now)
        fence.remember(key, answer)
        return answer

    def _dispatch(self, command: Command, now: float) -> Refusal | None:
        if self._state.is_stopping:
            return Refusal(code=ErrorCode.NODE_STOPPING, message="the node is stopping")
        match command:
            case StartReplicaRequest():
                return self._start(command, now)
            case StopReplicaRequest():
                return self._stop(command, now)
            case CancelStartRequest():
                return self._cancel_start(command, now)
            case FetchCheckpointRequest():
                return self._fetch(command, now)
            case EvictCheckpointRequest():
                return self._evict(command.reference)
            case PinCheckpointRequest():
                return self._pin(command)

    def _start(self, request: StartReplicaRequest, now: float) -> Refusal | None:
        spec = request.spec
        if refusal := self._check_spec(request):
            return refusal
        copy = self._find_copy(spec.reference, layout_id=spec.layout_id)
        if isinstance(copy, Refusal):
            return copy
        if refusal := self._check_devices(spec.devices, copy):
            return refusal
        self._lifecycle.start(request, copy, now=now)
        return None

    def _check_spec(self, request: StartReplicaRequest) -> Refusal | None:
        spec = request.spec
        if not spec.replica_id or spec.devices < 1:
            return Refusal(
                code=ErrorCode.INVALID_REQUEST,
                message="a replica needs an id and at least one device",
            )
        if self._state.replicas.get(spec.replica_id) is not None:
            return Refusal(
                code=ErrorCode.REPLICA_EXISTS, message=f"replica {spec.replica_id!r} exists"
            )
        if self._state.replicas.is_barred(spec.replica_id):
            return Refusal(
                code=ErrorCode.REPLICA_STOPPED,
                message=f"replica {spec.replica_id!r} was given up before its start came",
            )
        if spec.adapter and isinstance(found := self._state.copies.find(spec.adapter), Refusal):
            return found
        if spec.engine not in self._state.engines:
            known = ", ".join(sorted(self._state.engines))
            return Refusal(
                code=ErrorCode.UNKNOWN_ENGINE,
                message=f"this node has no engine {spec.engine!r}; it has: {known}",
            )
        return None

    def _check_devices(self, n_devices: int, copy: CheckpointCopy) -> Refusal | None:
        capacity, leases = self._state.capacity, self._state.leases
        if n_devices > leases.n_devices:
            return Refusal(
                code=ErrorCode.TOO_LARGE,
                message=f"{n_devices} devices are wanted, this node has {leases.n_devices}",
            )
        if copy.n_chunks > n_devices * capacity.device_chunks:
            room_bytes = n_devices * capacity.device_chunks * capacity.chunk_bytes
            return Refusal(
                code=ErrorCode.TOO_LARGE,
                message=f"{copy.reference!r} needs {copy.n_chunks * capacity.chunk_bytes} bytes,"
                f" {n_devices} devices of this node hold {room_bytes}",
            )
        if n_devices > leases.n_free:
            return Refusal(
                code=ErrorCode.DEVICES_BUSY,
                message=f"{n_devices} devices are wanted, {leases.n_free} are free",
            )
        return None

    def _stop(self, request: StopReplicaRequest, now: float) -> Refusal | None:
        replica = self._find_replica(request.replica_id)
        if isinstance(replica, Refusal):
            return replica
        if request.if_idle and replica.running and replica.state is ReplicaState.READY:
            return Refusal(
                code=ErrorCode.REPLICA_BUSY,
                message=f"replica {request.replica_id!r} runs {len(replica.running)} requests",
            )
        self._lifecycle.drain(replica, grace_seconds=max(0.0, request.grace_seconds), now=now)
        return None

    def _cancel_start(self, request: CancelStartRequest, now: float) -> Refusal | None:
        replica = self._find_replica(request.replica_id)
        if isinstance(replica, Refusal):
            return replica
        if replica.state is ReplicaState.READY:
            return Refusal(
                code=ErrorCode.ALREADY_READY, message=f"replica {request.replica_id!r} is ready"
            )
        self._lifecycle.drain(replica, grace_seconds=0.0, now=now)
        return None

    def _fetch(self, request: FetchCheckpointRequest, now: float) -> Refusal | None:
        copy = self._find_copy(request.reference)
        if isinstance(copy, Refusal):
            return copy
        capacity = self._state.capacity
        is_there = self._state.ledger.get(copy.reference) is not None
        if not is_there and copy.n_chunks > capacity.dram_chunks:
            return Refusal(
                code=ErrorCode.TOO_LARGE,
                message=f"{copy.reference!r} needs {copy.n_chunks * capacity.chunk_bytes} bytes,"
                f" DRAM holds {capacity.dram_chunks * capacity.chunk_bytes}",
            )
        return self._loading.fetch(copy, request.priority, now=now)

    def _evict(self, reference: Reference) -> Refusal | None:
        ledger = self._state.ledger
        residency = ledger.get(reference)
        if residency is None or residency.holders:
            # Nothing of it lies in DRAM, which is what was wanted.
            return None
        if not residency.is_loaded:
            return Refusal(code=ErrorCode.LOADING, message=f"{reference!r} is being loaded")
        if ledger.is_pinned(reference):
            return Refusal(code=ErrorCode.PINNED, message=f"{reference!r} is pinned")
        ledger.evict(reference)
        return None

    def _pin(self, request: PinCheckpointRequest) -> Refusal | None:
        copy = self._find_copy(request.reference)
        if isinstance(copy, Refusal) and request.pinned:
            return copy
        self._state.ledger.pin(request.reference, pinned=request.pinned)
        return None

    def _find_copy(self, reference: Reference, *, layout_id: str = "") -> CheckpointCopy | Refusal:
        """Return a copy that may be used and whose bytes in the pool, if any, are its own."""
        copy = self._state.copies.find(reference, layout_id=layout_id)
        residency = self._state.ledger.get(reference)
        if isinstance(copy, CheckpointCopy) and residency is not None and residency.is_stale:
            return Refusal(
                code=ErrorCode.LAYOUT_CHANGED,
                message=f"{reference!r} has changed on disk, and replicas still use what it was",
            )
        return copy

    def _find_replica(self, replica_id: ReplicaId) -> Replica | Refusal:
        """Return the replica that a command is to end."""
        replica = self._state.replicas.get(replica_id)
        if replica is None:
            # A start waits for a look at the disk, and what ends it may overtake it.
            self._state.replicas.bar(replica_id)
            return Refusal(
                code=ErrorCode.UNKNOWN_REPLICA, message=f"no replica {replica_id!r} here"
            )
        return replica

"""The whole state of a node core, and the actions that it has asked for."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight.store_node.core.actions import Action
from pilotlight.store_node.core.copies import Copies
from pilotlight.store_node.core.devices import DeviceLeases
from pilotlight.store_node.core.errors import BrokenInvariant
from pilotlight.store_node.core.eviction import Evictor
from pilotlight.store_node.core.fence import Fence
from pilotlight.store_node.core.loads import LoadRecord, Loads
from pilotlight.store_node.core.replicas import Replica, Replicas
from pilotlight.store_node.core.requests import Requests
from pilotlight.store_node.core.residency import Capacity, ChunkLedger
from pilotlight.store_node.core.worth import Worth
from pilotlight.store_node.protocol import Incarnation, Reference, ReplicaState


class NodeState:
    """What the parts of the core share; each part of it has one owner's rules."""

    def __init__(
        self,
        *,
        incarnation: Incarnation,
        capacity: Capacity,
        engines: Mapping[str, str],
        evictor: Evictor,
    ) -> None:
        self._actions: list[Action] = []
        self.capacity = capacity
        self.engines = dict(engines)
        self.is_stopping = False
        self.fence = Fence(incarnation)
        self.copies = Copies()
        self.leases = DeviceLeases(capacity.n_devices)
        self.worth = Worth()
        self.ledger = ChunkLedger(capacity, evictor, self.worth, self.emit)
        self.loads = Loads(self.emit)
        self.replicas = Replicas(self.emit)
        self.requests = Requests()

    def emit(self, action: Action) -> None:
        """Ask for an action."""
        self._actions.append(action)

    def take_actions(self) -> list[Action]:
        """Return what was asked for since the last call."""
        actions, self._actions = self._actions, []
        return actions

    def starting(self, reference: Reference) -> list[Replica]:
        """Return the replicas that wait for a checkpoint."""
        return [
            each
            for each in self.replicas.alive()
            if each.state is ReplicaState.STARTING and each.spec.reference == reference
        ]

    def check_integrity(self) -> None:
        """Raise BrokenInvariant where the parts contradict each other."""
        self.ledger.check_integrity()
        self._check_replicas()
        self._check_loads()
        self._check_requests()

    def _check_replicas(self) -> None:
        alive = [each for each in self.replicas if not each.has_ended]
        if alive != self.replicas.alive():
            raise BrokenInvariant(f"{alive} have not ended, not {self.replicas.alive()}")
        unsettled = self.replicas.unsettled()
        for each in alive:
            if (each.state is ReplicaState.READY and each.failure is None) == (each in unsettled):
                raise BrokenInvariant(f"{each.replica_id} is {each.state}, unsettled: {unsettled}")
            if self.leases.held_by(each.replica_id) != each.devices:
                raise BrokenInvariant(f"{each.replica_id} does not hold {each.devices}")
            if each.state is ReplicaState.STARTING and not each.holds_chunks:
                raise BrokenInvariant(f"{each.replica_id} starts without its checkpoint")
        if self.leases.holders() != {each.replica_id for each in alive}:
            raise BrokenInvariant(f"devices are leased to {self.leases.holders()}")
        holding = {(each.spec.reference, each.replica_id) for each in alive if each.holds_chunks}
        held = {(each.reference, holder) for each in self.ledger for holder in each.holders}
        if holding != held:
            raise BrokenInvariant(f"replicas hold {holding}, the ledger says {held}")

    def _check_loads(self) -> None:
        loading = sorted(each.reference for each in self.ledger if not each.is_loaded)
        loads: list[LoadRecord] = list(self.loads)
        if loading != sorted(each.reference for each in loads):
            raise BrokenInvariant(f"{loading} wait for the loads {loads}")

    def _check_requests(self) -> None:
        running = {(each.replica_id, each.request_id) for each in self.requests}
        claimed = {
            (replica.replica_id, request)
            for replica in self.replicas
            for request in replica.running
        }
        if running != claimed:
            raise BrokenInvariant(f"requests run as {running}, replicas say {claimed}")
        for replica in self.replicas:
            self._check_kv(replica)

    def _check_kv(self, replica: Replica) -> None:
        held = sum(
            each.kv_tokens for each in self.requests if each.replica_id == replica.replica_id
        )
        limit = replica.offer.kv_tokens if replica.offer is not None else None
        if held != replica.kv_tokens_held or (limit is not None and held > limit):
            raise BrokenInvariant(
                f"{replica.replica_id} says that {replica.kv_tokens_held} tokens of {limit} are"
                f" held, its requests hold {held}"
            )

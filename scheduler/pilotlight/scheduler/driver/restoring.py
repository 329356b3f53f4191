"""What a controller that begins to lead tells its core of the SQL state."""

from __future__ import annotations

from pilotlight.scheduler.core.events import KnownReplica, Restored
from pilotlight.scheduler.core.plan import DecisionId
from pilotlight.scheduler.store import State
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId


def restored_event(epoch: int, state: State) -> Restored:
    """Return the first event of a leader."""
    return Restored(
        epoch=epoch,
        models=state.models,
        replicas=tuple(
            KnownReplica(
                replica=ReplicaId(record.replica_id),
                model=ModelId(record.model),
                node=NodeId(record.node_id),
                devices=record.devices,
                decision=DecisionId(record.decision_id),
            )
            for record in state.replicas
        ),
    )

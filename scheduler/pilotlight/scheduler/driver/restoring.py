"""What a controller that begins to lead tells its core of the SQL state."""

from __future__ import annotations

from pilotlight.scheduler.core.events import KnownNode, KnownReplica, Restored
from pilotlight.scheduler.core.plan import DecisionId
from pilotlight.scheduler.store import State
from pilotlight.store_node.protocol import (
    Incarnation,
    ModelId,
    NodeId,
    NodeResources,
    ReplicaId,
)


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
        nodes=tuple(
            KnownNode(
                node=NodeId(record.node_id),
                incarnation=Incarnation(record.incarnation),
                address=record.address,
                resources=NodeResources(
                    devices=record.devices,
                    device_kind=record.device_kind,
                    device_bytes=0,
                    dram_bytes=record.dram_bytes,
                ),
                package_version=record.version,
            )
            for record in state.nodes
        ),
    )

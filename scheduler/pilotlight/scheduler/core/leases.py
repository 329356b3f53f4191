"""How many devices of a node may still be promised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pilotlight.scheduler.core.plan import Stop
from pilotlight.scheduler.core.state import ClusterState, Replica, StepState
from pilotlight.store_node.protocol import NodeId, ReplicaId

_ENDED = (StepState.DONE, StepState.CANCELLED, StepState.FAILED)


def devices_free(
    state: ClusterState, node: NodeId, replicas: Iterable[Replica] | None = None
) -> int:
    """Return a node's devices that are neither held nor promised.

    `replicas` are the node's, in the state's order; where they are not given, all
    are looked through for them. What a stop will free belongs from its decision on
    to the starts that come after it: such a start counts only for what its victims
    do not hold. Negative where a node runs more than it was asked to.
    """
    here = state.replicas.values() if replicas is None else replicas
    live = [replica for replica in here if replica.node == node and replica.is_live]
    held = sum(replica.devices for replica in live)
    return state.nodes[node].resources.devices - held + _inherited_devices(state, live)


def _inherited_devices(state: ClusterState, live: Iterable[Replica]) -> int:
    """Return how many devices starts take over from their victims, each device once."""
    left: dict[ReplicaId, int] = {}
    inherited = 0
    for replica in live:
        wanted = replica.devices
        for victim in _victims(state, replica):
            given = min(wanted, left.get(victim.id, victim.devices))
            left[victim.id] = left.get(victim.id, victim.devices) - given
            wanted -= given
            inherited += given
    return inherited


def _victims(state: ClusterState, replica: Replica) -> Iterator[Replica]:
    """Yield the replicas on its node that a start waits for to stop."""
    decision = state.decisions.get(replica.decision)
    if decision is None or replica.step is None:
        return
    for before in decision.steps[replica.step].step.after:
        step = decision.steps[before]
        victim = state.replicas.get(step.replica) if step.replica else None
        if victim is None or not isinstance(step.step, Stop) or step.state in _ENDED:
            continue
        if victim.is_live and victim.node == replica.node:
            yield victim

"""What must hold of the core's state after every event."""

from __future__ import annotations

from pilotlight.scheduler.core.leases import devices_free
from pilotlight.scheduler.core.plan import Start, Stop
from pilotlight.scheduler.core.state import ADOPTED, ClusterState, StepState
from pilotlight.store_node.protocol import ReplicaState


def check_integrity(state: ClusterState) -> None:
    """Raise AssertionError where the state contradicts itself."""
    _check_capacity(state)
    _check_replicas(state)
    _check_steps(state)


def _check_capacity(state: ClusterState) -> None:
    for node in state.nodes.values():
        found = [r for r in state.replicas.values() if r.node == node.id and r.decision == ADOPTED]
        # A node may run what nobody here asked for; it has the last word.
        free = devices_free(state, node.id) + sum(replica.devices for replica in found)
        assert free >= 0, f"{-free} devices of {node.id} are promised that it does not have"


def _check_replicas(state: ClusterState) -> None:
    for replica in state.replicas.values():
        assert replica.is_live, f"{replica.id} has ended and was not forgotten"
        if replica.idle_since is not None:
            assert replica.state is ReplicaState.READY, f"{replica.id} is idle and {replica.state}"


def _check_steps(state: ClusterState) -> None:
    pending = set(state.pending.values())
    for decision in state.decisions.values():
        for step in decision.steps.values():
            if step.state is StepState.TENTATIVE:
                assert decision.id in pending, f"{decision.id} waits for no transaction"
            if isinstance(step.step, Stop) and step.state in (StepState.SENT, StepState.ACKED):
                replica = state.replicas.get(step.step.replica)
                assert replica is None or replica.is_stopping, f"{step.step.replica} goes on"
            if isinstance(step.step, Start) and step.state is StepState.SENT:
                assert step.replica in state.replicas, f"{step.step.id} starts nothing"

"""What must hold of the core's state, and of what is derived from it, after every event."""

from __future__ import annotations

from pilotlight.scheduler.core.index import StateIndex
from pilotlight.scheduler.core.leases import devices_free
from pilotlight.scheduler.core.needs import Change, Needs
from pilotlight.scheduler.core.plan import Start, Stop
from pilotlight.scheduler.core.state import ADOPTED, ClusterState, PlannedStep, StepState
from pilotlight.store_node.protocol import ReplicaState


def check_integrity(state: ClusterState, index: StateIndex, needs: Needs) -> None:
    """Raise AssertionError where the state contradicts itself, or what is derived contradicts it.

    `needs` are renewed, which changes nothing where they are right.
    """
    _check_capacity(state)
    _check_replicas(state)
    _check_steps(state)
    assert index.contents() == StateIndex(state).contents(), "the index is not the state's"
    for model in state.models:
        assert needs.renew(model) is Change.NOTHING, f"what {model} needs was not renewed"
    assert needs.lacking == Needs(state, index).lacking


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
        else:
            assert not replica.is_expired, f"{replica.id} is not idle and has expired"


def _check_steps(state: ClusterState) -> None:
    pending = set(state.pending.values())
    for decision in state.decisions.values():
        for step in decision.steps.values():
            if step.state is StepState.TENTATIVE:
                assert decision.id in pending, f"{decision.id} waits for no transaction"
            if step.state is StepState.COMMITTED:
                before = [decision.steps[id_].state for id_ in step.step.after]
                assert _is_held_back(state, step, before), f"{step.step.id} waits for nothing"
            if isinstance(step.step, Stop) and step.state in (StepState.SENT, StepState.ACKED):
                replica = state.replicas.get(step.step.replica)
                assert replica is None or replica.is_stopping, f"{step.step.replica} goes on"
            if isinstance(step.step, Start) and step.state is StepState.SENT:
                assert step.replica in state.replicas, f"{step.step.id} starts nothing"


def _is_held_back(state: ClusterState, step: PlannedStep, before: list[StepState]) -> bool:
    """Return whether a committed step has a reason not to be sent, and may yet be."""
    if {StepState.FAILED, StepState.CANCELLED} & {*before}:
        return False
    if any(each is not StepState.DONE for each in before):
        return True
    replica = state.replicas.get(step.replica) if step.replica else None
    return isinstance(step.step, Start) and replica is not None and replica.is_leaving

"""Accepts or rejects a plan, step by step, against the state as it is now.

Theory of operation. All facts that the steps read are compared first, because
accepting one step changes what the next would read. Then each step is tried in
the plan's order on top of those accepted before it. A rejected step takes along
those after it; the others stand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotlight.estimators import Residency
from pilotlight.scheduler.core.actions import RejectedStep
from pilotlight.scheduler.core.copies import copy_on, residency_of
from pilotlight.scheduler.core.leases import devices_free
from pilotlight.scheduler.core.plan import (
    AnyStep,
    CancelStart,
    DecisionId,
    Evict,
    Fetch,
    Migrate,
    Plan,
    Preempt,
    Read,
    Refuse,
    Start,
    StepId,
    Stop,
    Subject,
    WaitFor,
)
from pilotlight.scheduler.core.state import (
    ClusterState,
    Decision,
    PlannedStep,
    Replica,
    StepState,
)
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId, ReplicaState


def accept(turn: Turn, plan: Plan, *, policy: str) -> tuple[Decision, list[RejectedStep]]:
    """Take up a plan's valid steps as TENTATIVE; return them and what was rejected."""
    state = turn.state
    decision = Decision(
        id=DecisionId(f"d{state.epoch}-{state.next_decision}"), policy=policy, at=turn.now, steps={}
    )
    state.decisions[decision.id] = decision
    stale = [_stale_read(state, step.reads) for step in plan.steps]
    rejected: list[RejectedStep] = []
    for step, is_stale in zip(plan.steps, stale, strict=True):
        reason = is_stale or _missing_predecessor(decision, step) or _try(turn, decision, step)
        if reason:
            rejected.append(RejectedStep(step=step, reason=reason))
    if decision.steps:
        state.next_decision += 1
    else:
        del state.decisions[decision.id]
    return decision, rejected


def not_stoppable(turn: Turn, replica: Replica) -> str:
    """Return why a replica can't be told to stop at the moment; empty where it can."""
    if replica.is_stopping:
        return f"{replica.id} is already being stopped"
    node = turn.state.nodes.get(replica.node)
    if replica.sent_at is not None and (node is None or not node.is_up):
        return f"{replica.node} is not up"
    return ""


def _stale_read(state: ClusterState, reads: tuple[Read, ...]) -> str:
    for read in reads:
        if _version(state, read) != read.version:
            return f"{read.subject} {read.key} has changed since the plan was made"
    return ""


def _version(state: ClusterState, read: Read) -> int | None:
    match read.subject:
        case Subject.NODE:
            node = state.nodes.get(NodeId(read.key))
            return node.version if node else None
        case Subject.MODEL:
            return state.model_versions.get(ModelId(read.key))
        case Subject.REPLICA:
            replica = state.replicas.get(ReplicaId(read.key))
            return replica.version if replica else None


def _missing_predecessor(decision: Decision, step: AnyStep) -> str:
    if step.id in decision.steps:
        return f"two steps are called {step.id}"
    missing = [before for before in step.after if before not in decision.steps]
    return f"it comes after {missing[0]}, which was not accepted" if missing else ""


def _try(turn: Turn, decision: Decision, step: AnyStep) -> str:
    return _TRIALS[type(step)](turn, decision, step)


def _take(turn: Turn, decision: Decision, step: AnyStep, replica: ReplicaId | None = None) -> str:
    planned = PlannedStep(step=step, state=StepState.TENTATIVE, replica=replica)
    decision.steps[step.id] = planned
    turn.index.add_step(decision, planned)
    return ""


def _try_start(turn: Turn, decision: Decision, step: Start) -> str:
    state = turn.state
    if reason := _no_start(turn, step):
        return reason
    model = state.models[step.model]
    replica = Replica(
        id=ReplicaId(f"r{state.epoch}-{state.next_replica}"),
        model=step.model,
        node=step.node,
        devices=model.devices,
        state=ReplicaState.STARTING,
        decision=decision.id,
        step=StepId(step.id),
        since=turn.now,
        created_at=turn.now,
        estimated=step.estimated,
    )
    _take(turn, decision, step, replica.id)
    turn.add_replica(replica)
    free = devices_free(state, step.node, turn.index.replicas_on(step.node))
    if free < 0:
        turn.remove_replica(replica.id)
        turn.index.forget_step(decision, decision.steps.pop(step.id))
        return (
            f"{step.node} has {free + model.devices} free devices, {step.model} needs"
            f" {model.devices}"
        )
    state.next_replica += 1
    turn.touch_replica(replica)
    return ""


def _no_start(turn: Turn, step: Start) -> str:
    state = turn.state
    model, node = state.models.get(step.model), state.nodes.get(step.node)
    if model is None:
        return f"no model {step.model} is deployed"
    if node is None or not node.is_up:
        return f"{step.node} is not up"
    if copy_on(state, model, node) is None:
        return f"{step.node} holds no usable copy of {step.model}"
    if model.engine not in {engine.name for engine in node.engines}:
        return f"{step.node} does not have the engine {model.engine}"
    back_off = state.back_offs.get(f"{step.model}@{step.node}")
    if back_off and back_off.until > turn.now:
        return f"{step.model} has failed {back_off.failures} times on {step.node}"
    live = turn.index.count_of(step.model).live
    if live >= model.max_replicas:
        return f"{step.model} has {live} of {model.max_replicas} replicas"
    return ""


def _try_stop(turn: Turn, decision: Decision, step: Stop) -> str:
    replica = turn.state.replicas.get(step.replica)
    if replica is None or not replica.is_live:
        return f"{step.replica} is gone"
    if reason := not_stoppable(turn, replica):
        return reason
    if step.if_idle and replica.state is not ReplicaState.READY:
        return f"{step.replica} is {replica.state}"
    if step.if_idle and replica.idle_since is None:
        return f"{step.replica} runs requests"
    replica.is_stopping = True
    turn.touch_replica(replica)
    return _take(turn, decision, step, replica.id)


def _try_cancel_start(turn: Turn, decision: Decision, step: CancelStart) -> str:
    replica = turn.state.replicas.get(step.replica)
    if replica is None or replica.state is not ReplicaState.STARTING:
        return f"{step.replica} is not starting"
    if turn.now < replica.not_cancelled_before:
        return f"{step.replica} could not be cancelled a moment ago"
    if reason := not_stoppable(turn, replica):
        return reason
    replica.is_stopping = True
    turn.touch_replica(replica)
    return _take(turn, decision, step, replica.id)


def _try_fetch(turn: Turn, decision: Decision, step: Fetch) -> str:
    flags = _residency(turn, step.model, step.node)
    if isinstance(flags, str):
        return flags
    if not flags & Residency.SSD:
        return f"{step.node} holds no usable copy of {step.model}"
    return _take(turn, decision, step)


def _try_evict(turn: Turn, decision: Decision, step: Evict) -> str:
    flags = _residency(turn, step.model, step.node)
    if isinstance(flags, str):
        return flags
    if flags & Residency.PINNED:
        return f"{step.model} is pinned on {step.node}"
    return _take(turn, decision, step)


def _residency(turn: Turn, model_id: ModelId, node_id: NodeId) -> Residency | str:
    model, node = turn.state.models.get(model_id), turn.state.nodes.get(node_id)
    if model is None:
        return f"no model {model_id} is deployed"
    if node is None or not node.is_up:
        return f"{node_id} is not up"
    return residency_of(turn.state, model, node)


def _try_wait(turn: Turn, decision: Decision, step: WaitFor) -> str:
    if step.model not in turn.state.models:
        return f"no model {step.model} is deployed"
    return _take(turn, decision, step)


def _try_refuse(turn: Turn, decision: Decision, step: Refuse) -> str:
    if step.model not in turn.state.models:
        return f"no model {step.model} is deployed"
    if turn.now < turn.state.settles_at:
        turn.set_timer("replan:settled", after_seconds=turn.state.settles_at - turn.now)
        return "nodes may still come back"
    return _take(turn, decision, step)


def _cannot(turn: Turn, decision: Decision, step: Preempt | Migrate) -> str:
    return "running requests are not moved by this controller"


_Trial = Callable[[Turn, Decision, Any], str]
_TRIALS: Mapping[type[AnyStep], _Trial] = {
    Start: _try_start,
    Stop: _try_stop,
    CancelStart: _try_cancel_start,
    Fetch: _try_fetch,
    Evict: _try_evict,
    WaitFor: _try_wait,
    Refuse: _try_refuse,
    Preempt: _cannot,
    Migrate: _cannot,
}

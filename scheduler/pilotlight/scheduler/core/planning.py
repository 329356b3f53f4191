"""Turns demand into committed decisions: asks for plans, takes them up, has them written.

Theory of operation. A plan is asked for where a new one may differ: always where
a node or a model came, went or changed, a step failed, a back-off is over or the
policy asked to be asked; else where a model lacks more replicas or has more
superfluous starts than before (`needs`), where devices came free on a node that
holds a model which lacks some, and where idle replicas expire (`expiry`).
"""

from __future__ import annotations

import math
from functools import partial

from pilotlight.scheduler.core import replicas, steps
from pilotlight.scheduler.core.actions import (
    DecisionMade,
    ModelRefused,
    RejectedStep,
    RequestPlan,
    SetTimer,
)
from pilotlight.scheduler.core.commitment import accept
from pilotlight.scheduler.core.events import (
    DemandChanged,
    Persisted,
    PersistFailed,
    PlanProposed,
)
from pilotlight.scheduler.core.needs import Change
from pilotlight.scheduler.core.plan import Plan, Start
from pilotlight.scheduler.core.state import Decision, Demand
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import ModelId, NodeId

LEAST_REPLAN_SECONDS = 0.01
"""Between a plan and the next one that its policy asks for."""

IDLE_TIMER = "replan:idle"
LACKING_TIMER = "replan:lacking"


def conclude(turn: Turn) -> None:
    """After each event: see whether a new plan may differ, and ask for one if so."""
    for model in turn.touched_models:
        change = turn.needs.renew(model)
        if Change.ASKS in change:
            turn.want_plan()
        if Change.SPARES in change:
            _offer_idle(turn, model)
    for replica in turn.idle_replicas:
        if turn.needs.can_spare(replica.model):
            turn.freed_nodes[replica.node] = None
    if not turn.state.is_plan_stale and any(map(partial(_is_wanted, turn), turn.freed_nodes)):
        turn.want_plan()
    if turn.is_next_plan_open and turn.needs.lacking:
        # A policy may leave for later what it could do, and not say when.
        turn.set_timer(LACKING_TIMER, after_seconds=turn.settings.lacking_replan_seconds)
    _set_idle_timer(turn)
    if turn.is_plan_put_off:
        turn.state.is_plan_stale = False
    _request_plan_if_stale(turn)


def lacking_timer_fired(turn: Turn) -> None:
    """The last plan left models lacking, and that was a while ago."""
    if turn.needs.lacking:
        turn.want_plan()


def idle_timer_fired(turn: Turn) -> None:
    """The first idle replica to expire, as it was known then, is due."""
    turn.state.idle_timer_at = None
    _end_expired(turn)


def _end_expired(turn: Turn) -> None:
    turn.state.idle_timer_fired_at = turn.now
    for replica in turn.expiries.pop_due(turn.now):
        if not replica.is_leaving and turn.needs.can_spare(replica.model):
            turn.want_plan()


def _offer_idle(turn: Turn, model: ModelId) -> None:
    """A model could spare more replicas: others may take their devices."""
    for replica in turn.index.replicas_of(model):
        if replica.idle_since is not None and not replica.is_leaving:
            turn.freed_nodes[replica.node] = None
    turn.recall_expired(model)


def _is_wanted(turn: Turn, node_id: NodeId) -> bool:
    node = turn.state.nodes.get(node_id)
    return node is not None and turn.needs.is_held_lacking(node)


def _set_idle_timer(turn: Turn) -> None:
    """Keep one timer for the first idle replica to expire; it may fire too early, never late."""
    state = turn.state
    at = _next_expiry(turn)
    if at is not None and at <= turn.now:
        _end_expired(turn)
        at = _next_expiry(turn)
    if at is not None and (state.idle_timer_at is None or at < state.idle_timer_at):
        state.idle_timer_at = at
        turn.actions.append(SetTimer(timer=IDLE_TIMER, at=at))


def _next_expiry(turn: Turn) -> float | None:
    """Return when expired replicas may be looked at next, if that may have changed."""
    at, before = turn.expiries.take_news(), turn.state.idle_timer_fired_at
    if at is None or before is None:
        return at
    return max(at, before + turn.settings.idle_replan_seconds)


def _request_plan_if_stale(turn: Turn) -> None:
    """Never for two plans at once."""
    state = turn.state
    if not state.is_plan_stale or state.plan_in_flight is not None:
        return
    state.is_plan_stale = False
    state.plan_in_flight = state.next_plan
    state.plan_version = state.version
    state.next_plan += 1
    turn.actions.append(RequestPlan(plan_id=state.plan_in_flight))


def demand_changed(turn: Turn, event: DemandChanged) -> None:
    """A router says how many requests wait for a model."""
    if event.model not in turn.state.models:
        # A request that ran there was lost after its model had gone.
        if event.waiting:
            turn.announce(ModelRefused(model=event.model, reason="it was deleted"))
        return
    before = turn.state.demand.get(event.model)
    if event.waiting and event.oldest_arrival is not None:
        if before is not None and before.was_refused:
            turn.want_plan()
        turn.state.demand[event.model] = Demand(
            waiting=event.waiting, oldest_arrival=event.oldest_arrival
        )
    else:
        turn.state.demand.pop(event.model, None)
    if turn.index.count_of(event.model).expected:
        _line_heard_of(turn, event.model)
    turn.touch_demand(event.model)


def _line_heard_of(turn: Turn, model: ModelId) -> None:
    """What waits now waits in spite of the replicas that became READY before."""
    for replica in turn.index.replicas_of(model):
        if replica.is_expected:
            replica.is_expected = False
            turn.index.count_replica(replica)


def plan_proposed(turn: Turn, event: PlanProposed) -> None:
    """The policy has answered."""
    if event.plan_id != turn.state.plan_in_flight:
        return
    turn.state.plan_in_flight = None
    turn.state.previous_plan = event.plan
    if event.failure:
        turn.publish("policy_failed", event.failure)
    was_overtaken = turn.state.version != turn.state.plan_version
    if event.plan.steps and take_up(turn, event.plan, policy=event.policy) and was_overtaken:
        turn.want_plan()
    if event.plan.replan_at is not None and math.isfinite(event.plan.replan_at):
        # Who wants to be asked again at once would be asked for ever.
        seconds = max(event.plan.replan_at - turn.now, LEAST_REPLAN_SECONDS)
        turn.set_timer("replan:policy", after_seconds=seconds)
    turn.is_next_plan_open = event.plan.replan_at is None


def persisted(turn: Turn, event: Persisted) -> None:
    """A transaction has committed."""
    decision = turn.state.pending.pop(event.token, None)
    if decision is not None:
        steps.commit(turn, decision)


def persist_failed(turn: Turn, event: PersistFailed) -> None:
    """A transaction has not committed: nothing of its decision happens."""
    decision = turn.state.pending.pop(event.token, None)
    turn.publish("state_failed", f"the state could not be written: {event.reason}")
    if decision is not None:
        steps.abandon(turn, decision, event.reason)
        # Not at once: what failed a moment ago would fail again.
        turn.is_plan_put_off = True
        turn.set_timer("replan:state", after_seconds=turn.settings.first_back_off_seconds)


def take_up(turn: Turn, plan: Plan, *, policy: str) -> list[RejectedStep]:
    """Have a plan's valid steps written down, to be carried out then; return the others."""
    decision, rejected = accept(turn, plan, policy=policy)
    _publish(turn, decision, rejected)
    if decision.steps:
        _write(turn, decision, rejected)
    return rejected


def _publish(turn: Turn, decision: Decision, rejected: list[RejectedStep]) -> None:
    for item in rejected:
        text = f"step {item.step.id} was rejected: {item.reason}"
        turn.publish("plan_rejected", text, decision=decision.id)
    for planned in decision.steps.values():
        step = planned.step
        if isinstance(step, Start):
            turn.publish(
                "start_planned",
                f"{step.model} will start on {step.node} from {step.tier}",
                node=step.node,
                model=step.model,
                replica=planned.replica,
                decision=decision.id,
            )


def _write(turn: Turn, decision: Decision, rejected: list[RejectedStep]) -> None:
    made = DecisionMade(
        decision=decision.id,
        policy=decision.policy,
        steps=tuple(step.step for step in decision.steps.values()),
        rejected=tuple(rejected),
    )
    reserved = [
        replicas.changed(turn.state.replicas[step.replica])
        for step in decision.steps.values()
        if isinstance(step.step, Start) and step.replica
    ]
    turn.persist(made, *reserved, commits=decision.id)

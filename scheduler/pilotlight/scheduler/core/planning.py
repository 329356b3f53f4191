"""Turns demand into committed decisions: asks for plans, takes them up, has them written."""

from __future__ import annotations

from pilotlight.scheduler.core import replicas, steps
from pilotlight.scheduler.core.actions import (
    DecisionMade,
    ModelRefused,
    RejectedStep,
    RequestPlan,
)
from pilotlight.scheduler.core.commitment import accept
from pilotlight.scheduler.core.events import (
    DemandChanged,
    Persisted,
    PersistFailed,
    PlanProposed,
)
from pilotlight.scheduler.core.plan import Plan, Start
from pilotlight.scheduler.core.state import Decision, Demand
from pilotlight.scheduler.core.turn import Turn


def request_plan_if_stale(turn: Turn) -> None:
    """Ask for a plan where a new one may differ; never for two at once."""
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
    if event.waiting and event.oldest_arrival is not None:
        turn.state.demand[event.model] = Demand(
            waiting=event.waiting, oldest_arrival=event.oldest_arrival
        )
    else:
        turn.state.demand.pop(event.model, None)
    turn.want_plan()


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
    if event.plan.replan_at is not None:
        turn.set_timer("replan:policy", after_seconds=max(event.plan.replan_at - turn.now, 0.0))


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
        turn.state.is_plan_stale = False
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

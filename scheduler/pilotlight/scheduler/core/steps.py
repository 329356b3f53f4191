"""Carries a decision's steps from TENTATIVE to their end.

Theory of operation. A decision's steps are TENTATIVE until its transaction has
committed, then COMMITTED. A committed step is sent once all steps it comes after
are DONE. The node acks or refuses; a start is DONE when its replica is READY, a
stop when it is STOPPED, the rest when they are acked. A step that fails, or is
cancelled, cancels all that come after it. When all have ended the decision is
forgotten: the SQL state has it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight.scheduler.core import replicas
from pilotlight.scheduler.core.actions import DecisionEnded, ModelRefused, Send
from pilotlight.scheduler.core.commands import command_for
from pilotlight.scheduler.core.events import Acked, Lost, Refused
from pilotlight.scheduler.core.plan import (
    CancelStart,
    DecisionId,
    Refuse,
    Start,
    StepId,
    Stop,
    WaitFor,
)
from pilotlight.scheduler.core.state import Decision, PlannedStep, Replica, StepState
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import ReplicaState
from pilotlight.store_node.protocol.refusals import ErrorCode

TRANSITIONS: Mapping[StepState, frozenset[StepState]] = {
    StepState.TENTATIVE: frozenset({StepState.COMMITTED, StepState.CANCELLED}),
    StepState.COMMITTED: frozenset({StepState.SENT, StepState.DONE, StepState.CANCELLED}),
    StepState.SENT: frozenset(
        {StepState.ACKED, StepState.DONE, StepState.FAILED, StepState.CANCELLED}
    ),
    StepState.ACKED: frozenset({StepState.DONE, StepState.FAILED, StepState.CANCELLED}),
    StepState.DONE: frozenset(),
    StepState.CANCELLED: frozenset(),
    StepState.FAILED: frozenset(),
}


def commit(turn: Turn, decision_id: DecisionId) -> None:
    """A decision's transaction has committed: send what waits for nothing."""
    decision = turn.state.decisions.get(decision_id)
    if decision is None:
        return
    for step in decision.steps.values():
        if step.state is StepState.TENTATIVE:
            _move(step, StepState.COMMITTED)
    _advance(turn, decision)


def abandon(turn: Turn, decision_id: DecisionId, reason: str) -> None:
    """A decision's transaction has failed: nothing of it happens."""
    decision = turn.end_decision(decision_id)
    for step in decision.steps.values() if decision else ():
        _cancel(turn, step, reason)
    turn.want_plan()


def acked(turn: Turn, event: Acked) -> None:
    """A node carries a step out."""
    found = _find(turn, event.decision, event.step)
    if found is None:
        return
    decision, step = found
    if step.state is StepState.SENT:
        _move(step, StepState.ACKED)
    if step.state is StepState.ACKED and not isinstance(step.step, Start | Stop | CancelStart):
        _move(step, StepState.DONE)
        _advance(turn, decision)


def refused(turn: Turn, event: Refused) -> None:
    """A node does not carry a step out."""
    found = _find(turn, event.decision, event.step)
    if found is not None and event.code == ErrorCode.UNKNOWN_REPLICA:
        _already_gone(turn, found[1], event.reason)
    _failed(turn, event.decision, event.step, code=event.code, reason=event.reason)


def lost(turn: Turn, event: Lost) -> None:
    """A node could not be asked, or did not answer: it may carry the step out, or not.

    A replica that comes up after all is reported by its node, and adopted or stopped.
    """
    _failed(turn, event.decision, event.step, code="lost", reason=event.reason)


def replica_moved(turn: Turn, replica: Replica) -> None:
    """A replica has entered a new state: end the steps that waited for it."""
    found = turn.index.steps_of(replica.id)
    for decision in {decision.id: decision for decision, _ in found}.values():
        for of, step in found:
            # What came before may have let go of it.
            if of is decision and step.replica == replica.id:
                _follow(turn, decision, step, replica)
        _advance(turn, decision)


def is_start_unanswered(turn: Turn, replica: Replica) -> bool:
    """Return whether a start was sent and its node has said neither yes nor no."""
    found = _start_of(turn, replica)
    return found is not None and found[1].state is StepState.SENT


def _already_gone(turn: Turn, step: PlannedStep, reason: str) -> None:
    """What a node was to stop it does not know: that is as good as stopped."""
    replica = turn.state.replicas.get(step.replica) if step.replica else None
    is_sent = step.state in (StepState.SENT, StepState.ACKED)
    if replica is None or not is_sent:
        return
    if isinstance(step.step, CancelStart):
        replicas.drop(turn, replica, reason)
        replica_moved(turn, replica)
    elif isinstance(step.step, Stop):
        replicas.fail(turn, replica, reason, code=ErrorCode.UNKNOWN_REPLICA)
        replica_moved(turn, replica)


def _failed(
    turn: Turn, decision_id: DecisionId, step_id: StepId, *, code: str, reason: str
) -> None:
    found = _find(turn, decision_id, step_id)
    if found is None:
        return
    decision, step = found
    if step.state not in (StepState.SENT, StepState.ACKED):
        return
    _move(step, StepState.FAILED)
    step.note = reason
    turn.publish("command_failed", f"{step_id}: {reason}", decision=decision_id)
    replica = turn.state.replicas.get(step.replica) if step.replica else None
    if isinstance(step.step, Start) and replica is not None:
        replicas.fail(turn, replica, reason, code=code)
        replica_moved(turn, replica)
    elif replica is not None:
        _keep(turn, replica)
    _advance(turn, decision)
    turn.want_plan()


def _follow(turn: Turn, decision: Decision, step: PlannedStep, replica: Replica) -> None:
    is_sent = step.state in (StepState.SENT, StepState.ACKED)
    if not isinstance(step.step, Start):
        if not replica.is_live:
            _have_nothing_to_end(turn, decision, step)
    elif is_sent and replica.state is ReplicaState.READY:
        _move(step, StepState.DONE)
    elif not replica.is_live and TRANSITIONS[step.state]:
        _move(step, StepState.FAILED if is_sent else StepState.CANCELLED)
        step.note = replica.error


def _have_nothing_to_end(turn: Turn, decision: Decision, step: PlannedStep) -> None:
    """The replica that a stop names is gone: the step is done as soon as it may be."""
    if step.state in (StepState.SENT, StepState.ACKED):
        _move(step, StepState.DONE)
    # A replica that was given up may yet be reported, and is then not this step's to end.
    turn.index.forget_step(decision, step)
    step.replica = None


def _keep(turn: Turn, replica: Replica) -> None:
    """A stop did not happen: the replica goes on, its start is sent if it was held back."""
    replicas.keep(turn, replica)
    if found := _start_of(turn, replica):
        _advance(turn, found[0])


def _advance(turn: Turn, decision: Decision) -> None:
    """Send what can be sent, cancel what never will be, forget what has ended."""
    progressed = True
    while progressed:
        progressed = False
        for step in decision.steps.values():
            if step.state is StepState.COMMITTED:
                progressed |= _consider(turn, decision, step)
    _end_if_over(turn, decision)


def _end_if_over(turn: Turn, decision: Decision) -> None:
    planned = decision.steps.values()
    if any(TRANSITIONS[step.state] for step in planned):
        return
    if turn.end_decision(decision.id) is None:
        return
    failed = [step for step in planned if step.state is not StepState.DONE]
    outcome = "; ".join(f"{step.step.id} {step.state}: {step.note}" for step in failed) or "done"
    turn.persist(DecisionEnded(decision=decision.id, outcome=outcome))


def _consider(turn: Turn, decision: Decision, step: PlannedStep) -> bool:
    before = [decision.steps[id_] for id_ in step.step.after]
    if any(b.state in (StepState.FAILED, StepState.CANCELLED) for b in before):
        _cancel(turn, step, "what it comes after did not happen")
        turn.want_plan()
        return True
    if not all(b.state is StepState.DONE for b in before) or _is_overtaken(turn, step):
        return False
    _carry_out(turn, decision, step)
    return True


def _is_overtaken(turn: Turn, step: PlannedStep) -> bool:
    """Return whether a start was told to stop before it was sent; that stop ends it."""
    replica = turn.state.replicas.get(step.replica) if step.replica else None
    return isinstance(step.step, Start) and replica is not None and replica.is_leaving


def _withdraw(turn: Turn, replica: Replica) -> None:
    """End a start that its node has not heard of."""
    found = _start_of(turn, replica)
    if found is None:
        replicas.drop(turn, replica, "withdrawn")
        return
    _cancel(turn, found[1], "withdrawn")
    _advance(turn, found[0])


def _carry_out(turn: Turn, decision: Decision, step: PlannedStep) -> None:
    if isinstance(step.step, WaitFor):
        _move(step, StepState.DONE)
        return
    if isinstance(step.step, Refuse):
        _move(step, StepState.DONE)
        turn.announce(ModelRefused(model=step.step.model, reason=step.step.reason))
        if demand := turn.state.demand.get(step.step.model):
            demand.was_refused = True
        turn.publish("refused", step.step.reason, model=step.step.model, decision=decision.id)
        return
    replica = turn.state.replicas.get(step.replica) if step.replica else None
    if isinstance(step.step, Stop | CancelStart) and (replica is None or replica.sent_at is None):
        _move(step, StepState.DONE)
        if replica is not None:
            _withdraw(turn, replica)
        return
    node, command = command_for(turn, decision, step)
    if command is None or node is None:
        _cancel(turn, step, "its node or its copy is gone")
        turn.want_plan()
        return
    _move(step, StepState.SENT)
    if replica is not None:
        _before_sending(turn, step, replica)
    turn.actions.append(
        Send(
            node=node.id,
            incarnation=node.incarnation,
            decision=decision.id,
            step=step.step.id,
            command=command,
        )
    )


def _before_sending(turn: Turn, step: PlannedStep, replica: Replica) -> None:
    if isinstance(step.step, Start):
        replica.sent_at = turn.now
        replicas.limit_start(turn, replica)
    else:
        replicas.unroute(turn, replica, step.step.reason)


def _cancel(turn: Turn, step: PlannedStep, reason: str) -> None:
    if not TRANSITIONS[step.state]:
        return
    _move(step, StepState.CANCELLED)
    step.note = reason
    replica = turn.state.replicas.get(step.replica) if step.replica else None
    if replica is None or not replica.is_live:
        return
    if isinstance(step.step, Start):
        replicas.drop(turn, replica, reason)
        for decision, other in turn.index.steps_of(replica.id):
            # Steps that were to end it have nothing to do any more.
            if not isinstance(other.step, Start):
                _have_nothing_to_end(turn, decision, other)
    else:
        _keep(turn, replica)


def _find(
    turn: Turn, decision_id: DecisionId, step_id: StepId
) -> tuple[Decision, PlannedStep] | None:
    decision = turn.state.decisions.get(decision_id)
    step = decision.steps.get(step_id) if decision else None
    return (decision, step) if decision and step else None


def _start_of(turn: Turn, replica: Replica) -> tuple[Decision, PlannedStep] | None:
    return _find(turn, replica.decision, replica.step) if replica.step else None


def _move(step: PlannedStep, state: StepState) -> None:
    if state not in TRANSITIONS[step.state]:
        raise AssertionError(f"a step can't go from {step.state} to {state}")
    step.state = state

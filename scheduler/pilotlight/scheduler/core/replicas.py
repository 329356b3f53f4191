"""Follows replicas through their states, as their nodes report them.

Theory of operation. A replica is STARTING from the moment a plan proposes it,
and READY, DRAINING, STOPPED or FAILED when its node says so; a report that would
go backwards is old and passed over. Routers hear of it when it becomes READY and
when it takes no more requests. One that has ended is forgotten here at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight.scheduler.core import lessons
from pilotlight.scheduler.core.actions import (
    ReplicaChanged,
    RouteAdded,
    RouteRemoved,
    StartFinished,
)
from pilotlight.scheduler.core.state import BackOff, Replica
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import (
    ReplicaState,
    ReplicaStatus,
    ReplicaSummary,
)
from pilotlight.store_node.protocol.refusals import FINAL_CODES, ErrorCode

_MOST_DOUBLINGS = 32
"""Of a back-off; a model that has to run may fail for days, and a float has an end."""

_S = ReplicaState
TRANSITIONS: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    _S.STARTING: frozenset({_S.READY, _S.DRAINING, _S.STOPPED, _S.FAILED}),
    _S.READY: frozenset({_S.DRAINING, _S.STOPPED, _S.FAILED}),
    _S.DRAINING: frozenset({_S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset(),
    _S.FAILED: frozenset(),
}


def apply_status(turn: Turn, replica: Replica, status: ReplicaStatus) -> bool:
    """Take over what a node reports; return whether the replica changed its state."""
    is_news = replica.is_confirmed
    replica.is_confirmed = True
    if status.state is replica.state:
        _take_prefill(turn, replica, status)
        if not is_news and replica.state is ReplicaState.STARTING:
            limit_start(turn, replica)
        return False
    if status.state not in TRANSITIONS[replica.state]:
        return False
    match status.state:
        case ReplicaState.READY:
            _ready(turn, replica, status, is_news=is_news)
        case ReplicaState.DRAINING:
            _enter(turn, replica, ReplicaState.DRAINING)
            unroute(turn, replica, "draining")
        case ReplicaState.STOPPED:
            _stopped(turn, replica, status)
        case _:
            fail(turn, replica, status.error, code=status.error_code, log_tail=status.log_tail)
    return True


def apply_summary(turn: Turn, replica: Replica, summary: ReplicaSummary) -> None:
    """Take over a replica's traffic; a replica that fell idle may change plans."""
    replica.summary = summary
    replica.running = summary.running
    if replica.is_expected:
        replica.is_expected = False
        turn.index.count_replica(replica)
        turn.touch_demand(replica.model)
    turn.columns.touch_replica(replica.id)
    if replica.state is not ReplicaState.READY:
        return
    was_idle_since = replica.idle_since
    if summary.running:
        replica.idle_since, replica.is_expired = None, False
    else:
        # A request that came and went between two summaries shows as a later idle time.
        idle_since = turn.now - summary.idle_seconds
        turn.note_idle(replica, max(was_idle_since or idle_since, idle_since))
    if was_idle_since is not None and replica.idle_since != was_idle_since:
        # Of several that have expired, those stay that were idle for the shortest time.
        turn.recall_expired(replica.model)


def fail(turn: Turn, replica: Replica, reason: str, *, code: str = "", log_tail: str = "") -> None:
    """A replica has ended against our will."""
    # A node lets go of what a failed start holds before it reports the failure: by then it
    # is DRAINING. What was never reported here may have been READY long ago.
    is_failed_start = not replica.was_ready and replica.is_confirmed
    replica.error = reason or code or "unknown"
    unroute(turn, replica, replica.error, is_lost=True, code=code)
    _enter(turn, replica, ReplicaState.FAILED)
    finished = _finished(turn, replica) if is_failed_start else ()
    if is_failed_start:
        back_off(turn, replica, code=code)
    turn.persist(changed(replica), *finished)
    kind = "start_failed" if is_failed_start else "replica_failed"
    _publish(turn, replica, kind, replica.error, log_tail=log_tail)
    _forget(turn, replica)


def limit_start(turn: Turn, replica: Replica) -> None:
    """Give a start that its node knows of its time, and no more."""
    turn.set_timer(f"start:{replica.id}", after_seconds=turn.settings.start_timeout_seconds)


def back_off(turn: Turn, replica: Replica, *, code: str = "") -> None:
    """A start of this model failed on this node: leave it alone for a while."""
    is_final = code in FINAL_CODES
    settings, key = turn.settings, f"{replica.model}@{replica.node}"
    known = turn.state.back_offs.get(key)
    failures = known.failures if known else 0
    # Until replicas of what a copy was have ended, a start can only wait.
    failures = max(failures, 1) if code == ErrorCode.LAYOUT_CHANGED else failures + 1
    doublings = min(failures - 1, _MOST_DOUBLINGS)
    seconds = min(
        settings.first_back_off_seconds * 2.0**doublings, settings.longest_back_off_seconds
    )
    if is_final:
        seconds = settings.longest_back_off_seconds
    turn.state.back_offs[key] = BackOff(
        model=replica.model,
        node=replica.node,
        failures=failures,
        until=turn.now + seconds,
        reason=replica.error,
        is_final=is_final,
    )
    turn.touch_back_offs()
    turn.set_timer(f"replan:{key}", after_seconds=seconds)


def drop(turn: Turn, replica: Replica, reason: str) -> None:
    """A start is given up before its node heard of it."""
    replica.error = reason
    _enter(turn, replica, ReplicaState.STOPPED)
    turn.persist(changed(replica))
    text = f"{replica.model} will not start on {replica.node}: {reason}"
    _publish(turn, replica, "start_withdrawn", text)
    _forget(turn, replica)


def keep(turn: Turn, replica: Replica) -> None:
    """A stop did not happen: the replica goes on, for now where it must go."""
    replica.is_stopping = False
    if replica.must_go:
        turn.set_timer("insist", after_seconds=turn.settings.first_back_off_seconds)
    elif replica.state is ReplicaState.STARTING:
        seconds = turn.settings.first_back_off_seconds
        replica.not_cancelled_before = turn.now + seconds
        turn.set_timer(f"replan:{replica.id}", after_seconds=seconds)
    elif replica.state is ReplicaState.READY:
        # It may be busy: the next summary says whether, and for how long not.
        replica.idle_since, replica.is_expired = None, False
        route(turn, replica)
    turn.touch_replica(replica)


def unroute(
    turn: Turn, replica: Replica, reason: str, *, is_lost: bool = False, code: str = ""
) -> None:
    """Let no new requests go to a replica."""
    if replica.state in (ReplicaState.READY, ReplicaState.DRAINING):
        removed = RouteRemoved(replica=replica.id, is_lost=is_lost, reason=reason, code=code)
        turn.announce(removed)


def route(turn: Turn, replica: Replica) -> None:
    """Let requests go to a READY replica; saying it again is harmless."""
    node = turn.state.nodes[replica.node]
    turn.announce(
        RouteAdded(
            replica=replica.id,
            model=replica.model,
            node=replica.node,
            incarnation=node.incarnation,
            address=node.address,
            concurrency=replica.concurrency,
            context_tokens=replica.context_tokens,
            compatibility=replica.compatibility,
            epoch=turn.state.epoch,
        )
    )


def changed(replica: Replica) -> ReplicaChanged:
    """Return what the SQL state should say of a replica."""
    return ReplicaChanged(
        replica=replica.id,
        model=replica.model,
        node=replica.node,
        devices=replica.devices,
        state=replica.state,
        decision=replica.decision,
        error=replica.error,
    )


def _ready(turn: Turn, replica: Replica, status: ReplicaStatus, *, is_news: bool) -> None:
    """Take over that a replica is READY; it is no news where its node was only asked now."""
    _take_details(replica, status)
    _enter(turn, replica, ReplicaState.READY)
    replica.was_ready = True
    # What waits for it is on its way there: it is not idle until a summary says so.
    replica.is_expected = replica.model in turn.state.demand
    if not replica.is_expected:
        turn.note_idle(replica, turn.now)
    turn.index.count_replica(replica)
    if turn.state.back_offs.pop(f"{replica.model}@{replica.node}", None):
        turn.touch_back_offs()
        # Others of its model may be started there again.
        turn.freed_nodes[replica.node] = None
    lessons.of_start(turn, replica)
    if not replica.is_leaving:
        route(turn, replica)
    turn.persist(changed(replica), *_finished(turn, replica))
    if is_news:
        tier = replica.outcome.tier if replica.outcome else "?"
        text = f"{replica.model} started on {replica.node} from {tier}"
        _publish(turn, replica, "start_done", text)
    elif not replica.must_go:
        _publish(turn, replica, "replica_adopted", f"{replica.model} goes on on {replica.node}")


def _stopped(turn: Turn, replica: Replica, status: ReplicaStatus) -> None:
    unroute(turn, replica, status.error or "stopped", is_lost=not replica.is_stopping)
    replica.error = status.error
    _enter(turn, replica, ReplicaState.STOPPED)
    turn.persist(changed(replica))
    what = "stopped" if replica.was_ready else "gave up its start"
    text = f"{replica.model} {what} on {replica.node}"
    _publish(turn, replica, "replica_stopped", text)
    _forget(turn, replica)


def _take_details(replica: Replica, status: ReplicaStatus) -> None:
    replica.concurrency = max(status.concurrency, 1)
    replica.context_tokens = status.context_tokens
    replica.compatibility = status.compatibility
    replica.outcome = status.outcome


def _take_prefill(turn: Turn, replica: Replica, status: ReplicaStatus) -> None:
    """The first request's prefill becomes known after READY."""
    late = status.outcome.prefill_seconds if status.outcome else None
    known = replica.outcome.prefill_seconds if replica.outcome else None
    if replica.state is not ReplicaState.READY or late is None or known is not None:
        return
    replica.outcome = status.outcome
    lessons.of_prefill(turn, replica, late)
    if finished := _finished(turn, replica):
        turn.persist(*finished)


def _enter(turn: Turn, replica: Replica, state: ReplicaState) -> None:
    replica.state = state
    replica.since = turn.now
    if state is not ReplicaState.READY:
        replica.idle_since, replica.is_expired = None, False
    turn.touch_replica(replica)


def _forget(turn: Turn, replica: Replica) -> None:
    turn.remove_replica(replica.id)
    turn.touch_replica(replica)
    turn.freed_nodes[replica.node] = None


def _finished(turn: Turn, replica: Replica) -> tuple[StartFinished, ...]:
    """Return how a start went, if it was sent from here; what was written of others stays."""
    if replica.step is None or replica.sent_at is None:
        return ()
    model = turn.state.models.get(replica.model)
    finished = StartFinished(
        replica=replica.id,
        model=replica.model,
        node=replica.node,
        decision=replica.decision,
        size_bytes=model.size_bytes if model else 0,
        age_seconds=turn.now - replica.sent_at,
        ready_seconds=replica.since - replica.sent_at,
        estimated=replica.estimated,
        outcome=replica.outcome,
        error=replica.error,
    )
    return (finished,)


def _publish(turn: Turn, replica: Replica, kind: str, text: str, *, log_tail: str = "") -> None:
    turn.publish(
        kind,
        text,
        node=replica.node,
        model=replica.model,
        replica=replica.id,
        decision=replica.decision,
        log_tail=log_tail,
    )

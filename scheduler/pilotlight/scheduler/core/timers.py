"""What is to be done when a time has come that the core asked to be woken at."""

from __future__ import annotations

from pilotlight.scheduler.core import nodes, planning, replicas
from pilotlight.scheduler.core.decree import insist, stop_replica
from pilotlight.scheduler.core.events import TimerFired
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import ReplicaId, ReplicaState


def fired(turn: Turn, event: TimerFired) -> None:
    """A timer's name says what it was for."""
    kind, _, rest = event.timer.partition(":")
    match kind:
        case "replan" if event.timer == planning.IDLE_TIMER:
            planning.idle_timer_fired(turn)
        case "replan" if event.timer == planning.LACKING_TIMER:
            planning.lacking_timer_fired(turn)
        case "replan":
            turn.want_plan()
        case "restored":
            nodes.unconfirmed(turn)
        case "insist":
            insist(turn)
        case "start":
            _start_timed_out(turn, ReplicaId(rest))
        case "node":
            node, _, incarnation = rest.rpartition(":")
            nodes.grace_is_over(turn, node, incarnation)
        case _:
            raise AssertionError(f"unknown timer {event.timer!r}")


def _start_timed_out(turn: Turn, replica_id: ReplicaId) -> None:
    replica = turn.state.replicas.get(replica_id)
    if replica is None or replica.state is not ReplicaState.STARTING or replica.is_stopping:
        return
    replica.error = f"not ready after {turn.settings.start_timeout_seconds:g} s"
    replicas.back_off(turn, replica)
    stop_replica(turn, replica, replica.error)

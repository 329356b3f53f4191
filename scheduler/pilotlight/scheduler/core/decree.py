"""Decisions that follow from what users and nodes say, without a policy."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight.scheduler.core import planning
from pilotlight.scheduler.core.commitment import not_stoppable
from pilotlight.scheduler.core.events import EvictAsked, FetchAsked
from pilotlight.scheduler.core.plan import AnyStep, Evict, Fetch, Plan, StepId, Stop
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.core.turn import Turn

_ASKED = "a user asked for it"


def stop_replica(turn: Turn, replica: Replica, reason: str) -> None:
    """See that a replica ends, its running requests first, whatever comes in between."""
    replica.must_go = reason
    turn.touch_replica(replica)
    _tell(turn, replica)


def insist(turn: Turn) -> None:
    """Tell replicas that must go once more, where that did not reach their node."""
    for replica in list(turn.state.replicas.values()):
        if replica.must_go:
            _tell(turn, replica)


def fetch_asked(turn: Turn, event: FetchAsked) -> None:
    """A user wants a checkpoint in memory."""
    _decide(
        turn,
        [
            Fetch(id=StepId(f"fetch-{node}"), model=event.model, node=node, reason=_ASKED)
            for node in event.nodes
        ],
    )


def evict_asked(turn: Turn, event: EvictAsked) -> None:
    """A user wants a checkpoint out of memory."""
    _decide(
        turn,
        [
            Evict(id=StepId(f"evict-{node}"), model=event.model, node=node, reason=_ASKED)
            for node in event.nodes
        ],
    )


def _tell(turn: Turn, replica: Replica) -> None:
    if not_stoppable(turn, replica):
        return
    stop = Stop(
        id=StepId("stop"),
        replica=replica.id,
        if_idle=False,
        grace_seconds=turn.settings.drain_seconds,
        reason=replica.must_go,
    )
    _decide(turn, [stop])


def _decide(turn: Turn, steps: Sequence[AnyStep]) -> None:
    planning.take_up(turn, Plan(steps=tuple(steps)), policy="core")

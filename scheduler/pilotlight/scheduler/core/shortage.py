"""The rule of how many replicas a model lacks, and how many it could spare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.state import Replica
from pilotlight.store_node.protocol import ReplicaState


class ReplicaCount(NamedTuple):
    """What a model has."""

    live: int
    """Replicas that take requests or will."""
    starting: int
    """Those of them that will."""
    concurrency: int
    """What one that was READY was found to take at once; 0 = none is."""


def count_replicas(replicas: Iterable[Replica]) -> ReplicaCount:
    """Count one model's replicas."""
    live = starting = concurrency = 0
    for replica in replicas:
        if replica.state is ReplicaState.READY:
            concurrency = max(concurrency, replica.concurrency)
        if replica.is_live and not replica.is_leaving:
            live += 1
            starting += replica.state is ReplicaState.STARTING
    return ReplicaCount(live, starting, concurrency)


def replicas_lacking(model: Model, has: ReplicaCount, *, waiting: int) -> int:
    """Return how many replicas a model lacks: as many as its waiting requests fill.

    Less those that are starting already, within its limits. What a replica takes at
    once is what one was found to, before there was one what it may.
    """
    at_once = has.concurrency or max(model.concurrency, 1)
    wanted = max(-(-waiting // at_once) - has.starting, model.min_replicas - has.live)
    return max(0, min(wanted, model.max_replicas - has.live))


def replicas_to_spare(*, live: int, waiting: int, least: int) -> int:
    """Return how many replicas of a model may end; none while requests wait for it."""
    return 0 if waiting else live - least

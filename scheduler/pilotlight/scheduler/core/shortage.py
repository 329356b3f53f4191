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
    expected: int
    """Those that do, of which the model's line has not heard yet."""
    concurrency: int
    """What one that was READY was found to take at once; 0 = none is."""


def count_replicas(replicas: Iterable[Replica]) -> ReplicaCount:
    """Count one model's replicas."""
    live = starting = expected = concurrency = 0
    for replica in replicas:
        share = share_of(replica)
        live += share.live
        starting += share.starting
        expected += share.expected
        concurrency = max(concurrency, share.concurrency)
    return ReplicaCount(live, starting, expected, concurrency)


def share_of(replica: Replica) -> ReplicaCount:
    """Return what one replica is of its model's count."""
    stays = replica.is_live and not replica.is_leaving
    is_ready = replica.state is ReplicaState.READY
    return ReplicaCount(
        live=int(stays),
        starting=int(stays and replica.state is ReplicaState.STARTING),
        expected=int(stays and is_ready and replica.is_expected),
        concurrency=replica.concurrency if is_ready else 0,
    )


def replicas_lacking(model: Model, has: ReplicaCount, *, waiting: int) -> int:
    """Return how many replicas a model lacks: as many as its waiting requests fill.

    Less those that are starting already, or have just begun to take them, within its
    limits. What a replica takes at once is what one was found to, before there was
    one what it may.
    """
    at_once = has.concurrency or max(model.concurrency, 1)
    coming = has.starting + has.expected
    wanted = max(-(-waiting // at_once) - coming, model.min_replicas - has.live)
    return max(0, min(wanted, model.max_replicas - has.live))


def replicas_to_spare(*, live: int, waiting: int, least: int) -> int:
    """Return how many replicas of a model may end; none while requests wait for it."""
    return 0 if waiting else live - least

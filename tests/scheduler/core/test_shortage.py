from __future__ import annotations

import pytest

from pilotlight.scheduler.core.shortage import (
    ReplicaCount,
    count_replicas,
    replicas_lacking,
    replicas_to_spare,
)
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.testing.reports import model_of
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import ReplicaState


def _replicas() -> list[Replica]:
    """Return three that start, on three nodes."""
    stage = Stage()
    stage.deploy("m", max_replicas=3)
    for node in ("a", "b", "c"):
        stage.join(node, holds=["m"])
    stage.demand("m", 3)
    stage.settle()
    return stage.replicas("m")


def test_replicas_are_counted_by_what_they_are_good_for() -> None:
    ready, starting, leaving = _replicas()
    ready.state, ready.concurrency = ReplicaState.READY, 4
    leaving.state, leaving.concurrency, leaving.is_stopping = ReplicaState.READY, 8, True

    # What leaves takes no more, but shows what another one would.
    assert count_replicas([ready, starting, leaving]) == ReplicaCount(2, 1, 0, 8)


def test_what_is_ready_counts_as_coming_until_its_line_is_heard_of() -> None:
    stage = Stage()
    stage.deploy("m", max_replicas=3)
    for node in ("a", "b", "c"):
        stage.join(node, holds=["m"])
    stage.demand("m", 2)
    stage.settle()
    first, second = stage.replicas("m")

    stage.obey_all()
    stage.report(first, ReplicaState.READY)
    stage.settle()
    assert stage.replicas("m") == [first, second]

    # The line's head went there, and one more has come: now somebody has no place.
    stage.demand("m", 2)
    stage.settle()
    assert len(stage.replicas("m")) == 3


@pytest.mark.parametrize(
    ("has", "waiting", "lacking"),
    [
        (ReplicaCount(0, 0, 0, 0), 0, 1),  # its minimum
        (ReplicaCount(1, 0, 0, 4), 0, 0),
        (ReplicaCount(0, 0, 0, 0), 5, 3),  # 5 / 2, as it may take 2 at once
        (ReplicaCount(1, 1, 0, 0), 5, 2),  # one of those is under way
        (ReplicaCount(1, 0, 1, 4), 5, 1),  # of whom the first four go where one is READY now
        (ReplicaCount(1, 0, 0, 4), 5, 2),  # 5 / 4, as one was found to take 4
        (ReplicaCount(3, 0, 0, 1), 9, 1),  # up to its maximum of 4
        (ReplicaCount(5, 0, 0, 1), 9, 0),
    ],
)
def test_a_model_lacks_what_its_requests_fill_within_its_limits(
    has: ReplicaCount, waiting: int, lacking: int
) -> None:
    model = model_of("m", concurrency=2, min_replicas=1, max_replicas=4)

    assert replicas_lacking(model, has, waiting=waiting) == lacking


@pytest.mark.parametrize(
    ("live", "waiting", "least", "spare"), [(3, 0, 1, 2), (1, 0, 1, 0), (0, 0, 1, -1), (3, 1, 0, 0)]
)
def test_a_model_spares_what_is_beyond_its_minimum_while_nobody_waits(
    live: int, waiting: int, least: int, spare: int
) -> None:
    assert replicas_to_spare(live=live, waiting=waiting, least=least) == spare

"""What no plan can beat on one snapshot.

Theory of operation. Of two loads on one disk the later one waits for the earlier
one. Seen from the end, the request in the k-th place from last makes k - 1 others
wait; so each place of each disk costs every request a known amount, whoever else is
there, and the best distribution is an assignment problem. Its linear relaxation is a
bound; and so is what any multipliers of its constraints prove, which is how it is
computed: the solver's rounding can't make it too large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.simulation.bound.assignment import Assignment, bound_of
from pilotlight.scheduler.simulation.bound.run_problem import Bools, Floats
from pilotlight.scheduler.simulation.bound.snapshot_problem import (
    UNPLACED_SECONDS,
    SnapshotProblem,
    snapshot_problem,
)

MOST_PLACES = 32
"""On each disk that are told apart; all farther from the end cost what the last of them does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotBound:
    """What the requests that wait for a place wait at least, whatever the plan."""

    total_seconds: float
    """Of first tokens from now, summed over the requests."""
    soonest_seconds: Floats
    """[requests] in rising order: the first token of each, were it alone in the cluster."""

    @property
    def mean(self) -> float:
        """Return the seconds of a request on average; NaN where nobody waits."""
        n_requests = len(self.soonest_seconds)
        return self.total_seconds / n_requests if n_requests else float("nan")

    def percentile(self, q: float) -> float:
        """Return what the q-th percentile of any plan is not below; NaN where nobody waits."""
        if not len(self.soonest_seconds):
            return float("nan")
        return float(np.percentile(self.soonest_seconds, q))


def snapshot_bound(
    snapshot: Snapshot,
    estimator: Estimator,
    *,
    unplaced_seconds: float = UNPLACED_SECONDS,
    may_preempt: bool = False,
) -> SnapshotBound:
    """Return a bound below the cost of every plan for a snapshot; see `plan_cost`.

    `may_preempt` allows plans to stop what is busy, too.
    """
    problem = snapshot_problem(
        snapshot, estimator, unplaced_seconds=unplaced_seconds, may_preempt=may_preempt
    )
    return bound_for(problem)


def bound_for(problem: SnapshotProblem) -> SnapshotBound:
    """Return the bound for a problem.

    Relaxed, each time in the bound's favour: a start's requests may be spread over
    several disks, and devices divided among starts; the first devices that a node has
    are there for all its starts; and a start whose worker is ready after its load alone
    counts either the load's waiting or the worker, whichever proves more on the whole.
    """
    soonest = problem.soonest_seconds()
    alone = np.minimum(soonest.min(axis=1, initial=np.inf), problem.unplaced_seconds)
    placeable = np.minimum(problem.n_waiting, problem.n_starts * problem.concurrency)
    each = np.concatenate(
        [
            np.repeat(alone, placeable),
            np.full(int((problem.n_waiting - placeable).sum()), problem.unplaced_seconds),
        ]
    )
    slack = np.full(soonest.shape, np.inf)
    possible = np.isfinite(soonest)
    slack[possible] = (soonest - problem.tail_seconds)[possible]
    slack[possible] -= problem.transfer_seconds[possible]
    choices = [slack <= 0.0, slack <= 0.5 * problem.disk_seconds, np.isfinite(slack)]
    totals = [
        bound_of(_assignment(problem, soonest, queues & (problem.disk_seconds > 0.0)))
        for queues in _different(choices)
    ]
    return SnapshotBound(
        total_seconds=max(float(each.sum()), *totals), soonest_seconds=np.sort(each)
    )


def _different(choices: list[Bools]) -> list[Bools]:
    found: list[Bools] = []
    for choice in choices:
        if not any(np.array_equal(choice, other) for other in found):
            found.append(choice)
    return found


def _assignment(problem: SnapshotProblem, soonest: Floats, queues: Bools) -> Assignment:
    """Return the assignment of requests to places; `queues` [M, N] says which starts wait in turn.

    Several starts of a model on one node share a load, which takes at most `batch`
    requests along. If each brings its share of the load's seconds, the requests of
    one load come to (batch - 1) / 2 shares too much on average, which is taken off.
    """
    n_devices = problem.devices_within_reach()
    takes = np.minimum(problem.concurrency, problem.n_waiting)
    n_starts = np.minimum(n_devices[None, :] // problem.devices[:, None], problem.n_starts[:, None])
    batch = np.minimum(problem.n_waiting[:, None], takes[:, None] * n_starts)
    share = np.where(queues, problem.disk_seconds / np.maximum(batch, 1), 0.0)
    loads = np.where(queues, problem.transfer_seconds, 0.0)
    in_turn = loads + problem.tail_seconds - share * (batch - 1) / 2.0
    cost = np.where(queues, in_turn, soonest)
    cost[(batch == 0) | ~np.isfinite(soonest)] = np.inf
    return Assignment(
        n_requests=problem.n_waiting,
        n_placeable=np.minimum(problem.n_waiting, problem.n_starts * problem.concurrency),
        cost=cost,
        share=share,
        channel=np.where(queues, problem.channel, -1),
        devices=problem.devices / takes,
        n_devices=n_devices,
        unplaced_seconds=problem.unplaced_seconds,
        n_places=int(min(problem.n_requests, MOST_PLACES)),
    )

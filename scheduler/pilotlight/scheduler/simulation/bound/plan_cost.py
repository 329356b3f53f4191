"""What a plan costs those who wait, by the one evaluator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pilotlight.estimators import Estimator, StartFinish, Timeline
from pilotlight.scheduler.core.plan import AnyStep, Fetch, Migrate, Plan, Preempt, Start, Stop
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.simulation.bound.errors import BoundInputError
from pilotlight.scheduler.simulation.bound.run_problem import Floats
from pilotlight.scheduler.simulation.bound.snapshot_problem import (
    UNPLACED_SECONDS,
    can_be_stopped,
    request_slots,
    requests_to_place,
    starts_allowed,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCost:
    """When each waiting request has its first token, in seconds from the snapshot's `now`."""

    first_token_seconds: Floats
    """[requests] in rising order; those that get no place cost what was stated."""

    @property
    def total_seconds(self) -> float:
        """Return the sum over all requests."""
        return float(self.first_token_seconds.sum())

    @property
    def mean(self) -> float:
        """Return the seconds of a request on average; NaN where nobody waits."""
        n_requests = len(self.first_token_seconds)
        return self.total_seconds / n_requests if n_requests else float("nan")


def plan_cost(
    snapshot: Snapshot,
    estimator: Estimator,
    plan: Plan,
    *,
    unplaced_seconds: float = UNPLACED_SECONDS,
) -> PlanCost:
    """Return what a plan costs, its steps carried out in their order.

    A start takes as many of its model's requests as it can at once, at the time of
    its first token. Requests that starts under way will take are the same for all
    plans and left out. A start takes nobody where the model can't be started, has all
    the replicas that it may have, or gets no devices.

    Raises:
        BoundInputError: the plan moves requests, which the evaluator can't judge.
    """
    finishes = _finishes(snapshot, estimator.timeline(snapshot), plan.steps)
    to_place, slots = requests_to_place(snapshot), request_slots(snapshot)
    most = starts_allowed(snapshot)
    seconds: list[float] = []
    for model in np.flatnonzero(to_place).tolist():
        n_requests = int(to_place[model])
        starts = [finish.first_token_seconds for finish in finishes.get(model, ())]
        # Those that come first in the plan are those that the core lets pass.
        reached = np.repeat(np.sort(starts[: int(most[model])]), int(slots[model]))[:n_requests]
        seconds += reached.tolist()
        seconds += [unplaced_seconds] * (n_requests - len(reached))
    return PlanCost(first_token_seconds=np.sort(np.array(seconds, np.float64)))


def _finishes(
    snapshot: Snapshot, timeline: Timeline, steps: Iterable[AnyStep]
) -> dict[int, list[StartFinish]]:
    """Return how the starts of each model go that get what they need."""
    found: dict[int, list[StartFinish]] = {}
    rows = np.flatnonzero(can_be_stopped(snapshot)).tolist()
    running = {snapshot.replica_ids[int(row)]: int(row) for row in rows}
    for step in steps:
        if isinstance(step, Stop | Preempt):
            # Devices are given back once.
            if (replica := running.pop(step.replica, None)) is not None:
                timeline.add_stop(replica)
        elif isinstance(step, Fetch):
            timeline.add_fetch(snapshot.model_row(step.model), snapshot.node_row(step.node))
        elif isinstance(step, Start):
            model, node = snapshot.model_row(step.model), snapshot.node_row(step.node)
            if not snapshot.can_start(model)[node]:
                continue
            finish = timeline.add_start(model, node)
            if np.isfinite(finish.first_token_seconds):
                found.setdefault(model, []).append(finish)
        elif isinstance(step, Migrate):
            raise BoundInputError("a plan that moves requests can't be judged")
    return found

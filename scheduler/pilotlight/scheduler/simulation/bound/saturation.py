"""The waiting that there must be because all devices together are not fast enough.

Theory of operation. Join all devices to one machine that serves one request at a
time, as fast as all of them together. Whatever a policy does, it could do on that
machine; and no policy has fewer requests in such a machine at any moment than the
one that serves what has the least left (Schrage 1968). A request is also there for
as long as it is held, however fast the others go. What is there and not served
waits, and the time for which requests are served is the sum of what they hold.
"""

from __future__ import annotations

import heapq

import numpy as np

from pilotlight.scheduler.simulation.bound.gaps import by_model, soonest_ends, sure_waits
from pilotlight.scheduler.simulation.bound.run_problem import Floats, RunProblem


def saturation_seconds(problem: RunProblem, *, n_devices: int) -> float:
    """Return how long the requests wait at least, all together."""
    arrived, n_requests = problem.arrived_at, problem.n_requests
    departures = [soonest_ends(problem), *_departures(problem, n_devices)]
    times = np.concatenate([arrived, *departures])
    order = np.argsort(times, kind="stable")
    there = np.zeros(len(times))
    for number in range(len(departures)):
        steps = np.zeros(len(times))
        steps[:n_requests] = 1.0
        steps[n_requests * (number + 1) : n_requests * (number + 2)] = -1.0
        there = np.maximum(there, np.cumsum(steps[order]))
    seconds = float(there[:-1] @ np.diff(times[order]))
    return max(seconds - float(problem.hold_seconds.sum()), 0.0)


def fewest_there(released_at: Floats, work_seconds: Floats) -> Floats:
    """Return [R], rising: when requests leave a machine that serves the shortest rest first.

    Requests can be served from `released_at` on, in any order, for `work_seconds`.
    """
    order = np.argsort(released_at, kind="stable")
    left_at: list[float] = []
    rest: list[float] = []
    now = 0.0
    for at, work in zip(released_at[order].tolist(), work_seconds[order].tolist(), strict=True):
        while rest and now + rest[0] <= at:
            now += heapq.heappop(rest)
            left_at.append(now)
        if rest:
            heapq.heapreplace(rest, rest[0] - (at - now))
        now = at
        heapq.heappush(rest, work)
    while rest:
        now += heapq.heappop(rest)
        left_at.append(now)
    return np.array(left_at)


def _departures(problem: RunProblem, n_devices: int) -> list[Floats]:
    """Return when requests leave the one machine, by two ways to see their model's first start.

    It keeps all requests from being served that arrive before it can be done; and it
    is work itself, which the first request brings along.
    """
    share = problem.model_devices / problem.model_concurrency / n_devices
    work = problem.hold_seconds * share[problem.model]
    after_start = fewest_there(problem.arrived_at + sure_waits(problem), work)
    order, is_first = by_model(problem)
    firsts = order[is_first]
    models = problem.model[firsts]
    starts = problem.next_start_seconds * problem.model_devices / n_devices
    with_start = work.copy()
    with_start[firsts] += starts[models]
    return [after_start, fewest_there(problem.arrived_at, with_start)]

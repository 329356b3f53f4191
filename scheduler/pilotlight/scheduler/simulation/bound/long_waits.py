"""How many requests must wait long, where those of one model are served in order.

Theory of operation. If a model has no replica at some moment between two of its
requests, then the earlier one waits at that moment, and for a whole start from then
on; or nobody waits, and the later one will wait for a whole start. So one of the two
waits at least as long as a start takes. A request has two such stretches beside it,
hence each of them is good for half a long wait; how many there must be is again what
the prices of devices prove.
"""

from __future__ import annotations

import numpy as np

from pilotlight.scheduler.simulation.bound.gaps import Gaps, by_model, sure_waits
from pilotlight.scheduler.simulation.bound.prices import best_prices
from pilotlight.scheduler.simulation.bound.run_problem import Bools, Floats, Ints, RunProblem
from pilotlight.scheduler.simulation.bound.wants import Wants

_MOST_LENGTHS = 4
"""Of waits that are looked at: the shortest starts and longer ones."""
_ROUNDS = 150


def long_waits(problem: RunProblem, edges: Floats, *, n_devices: int) -> Floats:
    """Return [R], rising: waits that, by rank, no run has shorter ones than."""
    ranks = np.zeros(problem.n_requests)
    asked = np.unique(problem.model[~problem.is_kept[problem.model]])
    takes = problem.next_start_seconds[asked]
    if not len(asked):
        return ranks
    for seconds in np.unique(
        np.percentile(takes, np.linspace(0, 75, _MOST_LENGTHS), method="lower")
    ):
        n_waits = min(_fewest(problem, edges, float(seconds), n_devices), problem.n_requests)
        ranks[problem.n_requests - n_waits :] = seconds
    return ranks


def _fewest(problem: RunProblem, edges: Floats, seconds: float, n_devices: int) -> int:
    """Return how many requests wait `seconds` at least."""
    order, _ = by_model(problem)
    order = order[problem.next_start_seconds[problem.model[order]] >= seconds]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.diff(problem.model[order]) != 0
    is_sure = sure_waits(problem)[order] >= seconds
    stretches = _stretches(problem, order, is_first, is_sure)
    n_sure = int(is_sure.sum())
    if not len(stretches.begin):
        return n_sure
    wants = Wants(
        begin=stretches.begin,
        end=stretches.end,
        devices=stretches.devices,
        # Whoever waits for a replica is counted by the stretch, however long he waits.
        n_waiting=np.full(len(stretches.begin), problem.n_requests + 1),
        n_replicas=np.ones(len(stretches.begin), np.int64),
    )
    prices = best_prices(stretches, wants, edges, n_devices=n_devices, rounds=_ROUNDS)
    # A count is a whole number: what is more than nine is ten.
    return n_sure + int(np.ceil(prices.waiting_seconds * (1.0 - 1e-9) - 1e-6))


def _stretches(problem: RunProblem, order: Ints, is_first: Bools, is_sure: Bools) -> Gaps:
    """Return the times between neighbours of one model, at the price of half a long wait.

    Where one of the two waits long in any case, a stretch costs nothing.
    """
    arrived = problem.arrived_at[order]
    has_both = ~is_first[1:] & (arrived[:-1] < arrived[1:])
    is_free = is_sure[:-1] | is_sure[1:]
    devices = problem.model_devices[problem.model[order]]
    return Gaps(
        begin=arrived[:-1][has_both],
        end=arrived[1:][has_both],
        cost=np.where(is_free, 0.0, 0.5)[has_both],
        devices=devices[1:][has_both],
        first_cost=0.0,
    )

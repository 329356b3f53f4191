"""What no policy can beat over a whole run, all arrivals known to it.

Theory of operation. Nobody starts a model unless a request of it waits, and a start
takes what it takes. So whatever is known of the future, each first request waits for
a start; models that are more than the devices must be without a replica now and then
and have somebody wait for it again; and work that exceeds the devices waits. The
argument is on the page about the bound in the documentation's concepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotlight.scheduler.simulation.bound.gaps import (
    device_wanted_from,
    gaps_of,
    soonest_ends,
    sure_waits,
)
from pilotlight.scheduler.simulation.bound.long_waits import long_waits
from pilotlight.scheduler.simulation.bound.prices import best_prices
from pilotlight.scheduler.simulation.bound.run_problem import Floats, Ints, RunProblem
from pilotlight.scheduler.simulation.bound.saturation import saturation_seconds
from pilotlight.scheduler.simulation.bound.wants import wants_of

MOST_CELLS = 1000
"""Into which a run is divided; prices are constant in each. More prove little more."""
_ROUNDING = 1e-9
"""Share that sums of many floating-point numbers may be too large by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBound:
    """What the requests of a run wait at least, all together and by rank, in seconds.

    Each of the three waits is a bound by itself; they do not add up.
    """

    total_seconds: float
    """From arrival to first token, summed over the requests."""
    first_token_seconds: Floats
    """[requests] in rising order: in no run is the k-th shortest below the k-th of these."""
    first_start_wait_seconds: float
    """That requests wait for the first start of their model."""
    placement_wait_seconds: float
    """That they wait because not all models that are wanted fit on the devices."""
    saturation_wait_seconds: float
    """That they wait because all devices together are not fast enough."""

    @property
    def mean(self) -> float:
        """Return the seconds of a request on average; NaN for a run without any."""
        n_requests = len(self.first_token_seconds)
        return self.total_seconds / n_requests if n_requests else float("nan")

    def percentile(self, q: float) -> float:
        """Return what the q-th percentile of no run is below; NaN for one without requests."""
        if not len(self.first_token_seconds):
            return float("nan")
        return float(np.percentile(self.first_token_seconds, q))


def run_bound(problem: RunProblem, *, in_order: bool = True) -> RunBound:
    """Return the bound for a run in which every request gets its first token.

    `in_order` says that a model's requests are placed in the order of their arrival,
    as the router does, and that none loses its place; it makes ranks and percentiles
    tighter and nothing else. Where requests lose their place (pre-emption, a lost
    node), what they wait for the next one counts as waiting, too.
    """
    if not problem.n_requests:
        return RunBound(
            total_seconds=0.0,
            first_token_seconds=np.zeros(0),
            first_start_wait_seconds=0.0,
            placement_wait_seconds=0.0,
            saturation_wait_seconds=0.0,
        )
    edges = cells_of(problem)
    sure, capacity = sure_waits(problem), usable_devices(problem)
    placement = _placement_seconds(problem, edges, capacity)
    saturation = saturation_seconds(problem, n_devices=capacity)
    waiting = max(float(sure.sum()), placement, saturation)
    ranks = np.sort(sure + problem.prefill_seconds)
    if in_order:
        least_prefill = float(problem.prefill_seconds.min())
        by_count = long_waits(problem, edges, n_devices=capacity)
        ranks = np.maximum(ranks, by_count + least_prefill * (by_count > 0.0))
    return RunBound(
        total_seconds=(waiting + float(problem.prefill_seconds.sum())) * (1.0 - _ROUNDING),
        first_token_seconds=ranks * (1.0 - _ROUNDING),
        first_start_wait_seconds=float(sure.sum()),
        placement_wait_seconds=placement,
        saturation_wait_seconds=saturation,
    )


def cells_of(problem: RunProblem) -> Floats:
    """Return the edges of the cells of a run: where requests arrive or end, or some of these."""
    wanted_from = device_wanted_from(problem)
    first = wanted_from[np.isfinite(wanted_from)]
    times = np.unique(np.concatenate([problem.arrived_at, soonest_ends(problem), first]))
    if len(times) < 2:
        return np.array([times[0], times[0] + 1.0])
    if len(times) <= MOST_CELLS + 1:
        return times
    rows = np.linspace(0, len(times) - 1, MOST_CELLS + 1).round().astype(np.int64)
    return times[rows]


def usable_devices(problem: RunProblem) -> int:
    """Return the most devices that whole replicas of the models can hold together."""
    sizes: Ints = np.unique(problem.model_devices)
    can_be_held = np.zeros(problem.n_devices + 1, np.bool_)
    can_be_held[0] = True
    for size in sizes[sizes <= problem.n_devices].tolist():
        for start in range(size):
            can_be_held[start::size] = np.logical_or.accumulate(can_be_held[start::size])
    return int(np.flatnonzero(can_be_held)[-1])


def _placement_seconds(problem: RunProblem, edges: Floats, n_devices: int) -> float:
    gaps, wants = gaps_of(problem), wants_of(problem)
    if not len(wants.begin):
        return gaps.first_cost
    prices = best_prices(gaps, wants, edges, n_devices=n_devices)
    return gaps.first_cost + prices.waiting_seconds

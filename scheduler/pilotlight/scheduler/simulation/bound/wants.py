"""How many replicas each model wants from moment to moment, and who waits where it has fewer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotlight.scheduler.simulation.bound.gaps import by_model, device_wanted_from, soonest_ends
from pilotlight.scheduler.simulation.bound.run_problem import Floats, Ints, RunProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """One row per stretch of time, model and kind of replica.

    Requests are there from their arrival for as long as they are held, or longer. If
    there are more than replicas take, the others wait. Between a model's requests one
    replica is wanted, too: without it, somebody waits, or the next request will.
    """

    begin: Floats
    """[W]."""
    end: Floats
    """[W]."""
    devices: Ints
    """[W] for each replica."""
    n_waiting: Ints
    """[W] requests that wait where such a replica is missing."""
    n_replicas: Ints
    """[W] of that kind."""


def wants_of(problem: RunProblem) -> Wants:
    """Return what all models want that do not run without being asked for."""
    order, _ = by_model(problem)
    model = problem.model[order]
    arrived = problem.arrived_at[order]
    times = np.concatenate([arrived, soonest_ends(problem)[order]])
    of_model = np.concatenate([model, model])
    steps = np.repeat(np.array([1, -1]), len(model))
    # At one time, those that end go before those that arrive: what is wanted for no time is not.
    by_time = np.lexsort((steps, times, of_model))
    times, of_model = times[by_time], of_model[by_time]
    there = np.cumsum(steps[by_time])
    begin, end = times[:-1], times[1:]
    begin = np.maximum(begin, device_wanted_from(problem)[of_model[:-1]])
    is_one = (of_model[:-1] == of_model[1:]) & (begin < end)
    begin, end, there, rows = begin[is_one], end[is_one], there[:-1][is_one], of_model[:-1][is_one]
    # Rows between two models are none; nothing is wanted after the last request has ended.
    takes = problem.model_concurrency[rows]
    full, rest = np.divmod(there, takes)
    devices = problem.model_devices[rows]
    n_rest = np.where(there == 0, 1, rest)
    return Wants(
        begin=np.concatenate([begin, begin]),
        end=np.concatenate([end, end]),
        devices=np.concatenate([devices, devices]),
        n_waiting=np.concatenate([takes, n_rest]),
        n_replicas=np.concatenate([full, (n_rest > 0).astype(np.int64)]),
    )

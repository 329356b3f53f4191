"""The times between a model's requests, in which its devices may be given to others."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pilotlight.scheduler.simulation.bound.run_problem import Bools, Floats, Ints, RunProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """One row per request that its model could be gone for; and what was asked for when.

    A model that nobody waits for and that has no replica between two of its requests
    makes the later one wait for a whole start, and those with it that come meanwhile.
    """

    begin: Floats
    """[G] when the model may be gone: all its earlier requests could have ended."""
    end: Floats
    """[G] when the next request arrives."""
    cost: Floats
    """[G] seconds of waiting, of all requests that one start makes wait, if it is gone."""
    devices: Ints
    """[G] that it needs."""
    first_cost: float
    """Seconds of waiting that the models' first starts cost, whatever is done."""


def gaps_of(problem: RunProblem) -> Gaps:
    """Return the gaps of all models that do not run without being asked for."""
    order, is_first = by_model(problem)
    model, arrived = problem.model[order], problem.arrived_at[order]
    cost = _cost_of_start(problem, order, is_first)
    begin = _free_from(model, soonest_ends(problem)[order], is_first)
    may_be_gone = begin < arrived
    return Gaps(
        begin=begin[may_be_gone],
        end=arrived[may_be_gone],
        cost=cost[may_be_gone],
        devices=problem.model_devices[model[may_be_gone]],
        first_cost=float(cost[is_first].sum()),
    )


def by_model(problem: RunProblem) -> tuple[Ints, Bools]:
    """Return the rows of requests model by model, each in time, and which are their model's first.

    Those of models that may run without being asked for are left out.
    """
    order = np.lexsort((np.arange(problem.n_requests), problem.model))
    order = order[~problem.is_kept[problem.model[order]]]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.diff(problem.model[order]) != 0
    return order, is_first


def sure_waits(problem: RunProblem) -> Floats:
    """Return [R]: what each request waits at least, whatever is done.

    Nobody starts a model before it was asked for: its first request waits for the
    whole first start, and those that arrive meanwhile for the rest of it.
    """
    waits = np.zeros(problem.n_requests)
    models, firsts = np.unique(problem.model, return_index=True)
    ready_at = np.full(len(problem.model_devices), -np.inf)
    ready_at[models] = problem.arrived_at[firsts] + problem.first_start_seconds[models]
    ready_at[problem.is_kept] = -np.inf
    return np.maximum(waits, ready_at[problem.model] - problem.arrived_at)


def device_wanted_from(problem: RunProblem) -> Floats:
    """Return [M]: when a model's first start must hold devices at the latest, to be soonest.

    Infinite for models that nobody asks for.
    """
    models, firsts = np.unique(problem.model, return_index=True)
    wanted_from = np.full(len(problem.model_devices), np.inf)
    early = (problem.first_start_seconds - problem.next_start_seconds)[models]
    wanted_from[models] = problem.arrived_at[firsts] + early
    return wanted_from


def soonest_ends(problem: RunProblem) -> Floats:
    """Return [R]: when each request ends at the soonest."""
    ends: Floats = problem.arrived_at + sure_waits(problem) + problem.hold_seconds
    return ends


def _cost_of_start(problem: RunProblem, order: Ints, is_first: Bools) -> Floats:
    """Return what a start on account of each arrival makes it and those after it wait.

    While devices are held for the start, as many count as one replica takes: the
    others wait for more replicas. Before that, while the first start of a model
    brings its bytes from where they lie, all of them count.
    """
    model, arrived = problem.model[order], problem.arrived_at[order]
    takes = problem.next_start_seconds[model]
    holds_from = np.where(is_first, device_wanted_from(problem)[model], arrived)
    cost = np.empty(len(model))
    for first, last in _spans(model):
        # Small differences of sums of many large times are wanted.
        since = (arrived[first:last] - arrived[first]).astype(np.longdouble)
        sums = np.zeros(len(since) + 1, np.longdouble)
        np.cumsum(since, out=sums[1:])
        rows = np.arange(last - first)
        ready = since + takes[first:last]
        # At least the request itself waits, however short its start.
        after: Ints = np.asarray(np.searchsorted(since, ready), np.int64)
        after = np.maximum(after, rows + 1)
        slots = int(problem.model_concurrency[model[first]])
        after = np.minimum(after, rows + slots)
        cost[first:last] = ready * (after - rows) - (sums[after] - sums[rows])
        held = float(holds_from[first] - arrived[first])
        early = since[: np.searchsorted(since, held)]
        served = np.maximum(since[:slots], held)
        waits = (held - early).sum() + np.maximum(held + takes[first] - served, 0.0).sum()
        cost[first] = max(float(waits), float(takes[first]))
    return cost


def _free_from(model: Ints, ended: Floats, is_first: Bools) -> Floats:
    """Return when all earlier requests of the same model could have ended, at the soonest."""
    begin = np.zeros(len(model))
    for first, last in _spans(model):
        begin[first + 1 : last] = np.maximum.accumulate(ended[first : last - 1])
    begin[is_first] = np.inf
    return begin


def _spans(model: Ints) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(model)) + 1
    bounds = [0, *edges.tolist(), len(model)]
    return [(a, b) for a, b in itertools.pairwise(bounds) if a < b]

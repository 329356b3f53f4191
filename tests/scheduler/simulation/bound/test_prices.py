from __future__ import annotations

import numpy as np
import pytest
from tests.scheduler.simulation.bound.runs import random_problem

from pilotlight.scheduler.simulation.bound.gaps import gaps_of
from pilotlight.scheduler.simulation.bound.linear_program import LinearProgram, solve
from pilotlight.scheduler.simulation.bound.prices import Dual, best_prices
from pilotlight.scheduler.simulation.bound.run_bound import cells_of
from pilotlight.scheduler.simulation.bound.run_problem import Floats, RunProblem
from pilotlight.scheduler.simulation.bound.wants import wants_of


def _least_cost(problem: RunProblem, edges: Floats) -> float:
    """Return what the prices are the dual of, solved as the linear program that it is."""
    gaps, wants = gaps_of(problem), wants_of(problem)
    n_cells, n_gaps = len(edges) - 1, len(gaps.begin)
    begins = np.concatenate([gaps.begin, wants.begin])
    ends = np.concatenate([gaps.end, wants.end])
    devices = np.concatenate([gaps.devices, wants.devices * wants.n_replicas])
    overlap = np.minimum(ends[:, None], edges[1:]) - np.maximum(begins[:, None], edges[:-1])
    held = np.maximum(overlap, 0.0) * devices[:, None]
    asked = held[n_gaps:].sum(axis=0)
    # A gap is given away as a whole; for what is wanted, somebody waits in each cell.
    rows, cells = np.nonzero(held)
    is_gap = rows < n_gaps
    waiting = (rows[~is_gap] - n_gaps, cells[~is_gap])
    rate = (wants.n_waiting / wants.devices)[waiting[0]]
    n_waiting = len(rate)
    solution = solve(
        LinearProgram(
            cost=np.concatenate([gaps.cost, rate]),
            most=np.append(np.ones(n_gaps), held[rows[~is_gap], cells[~is_gap]]).astype(float),
            floor=asked - problem.n_devices * np.diff(edges),
            row=np.concatenate([cells[is_gap], cells[~is_gap]]),
            column=np.concatenate([rows[is_gap], n_gaps + np.arange(n_waiting)]),
            factor=np.append(held[rows[is_gap], cells[is_gap]], np.ones(n_waiting)).astype(float),
        )
    )
    assert solution is not None
    assert n_cells == len(solution.multipliers)
    return solution.cost


def test_the_best_prices_prove_what_the_linear_program_proves() -> None:
    for seed in range(10):
        problem = random_problem(seed, n_requests=60)
        edges = cells_of(problem)

        found = best_prices(gaps_of(problem), wants_of(problem), edges, n_devices=problem.n_devices)

        least = _least_cost(problem, edges)
        assert found.waiting_seconds <= least + 1e-6
        assert found.waiting_seconds >= 0.98 * least


def test_any_prices_prove_no_more_than_the_best() -> None:
    problem = random_problem(1, n_requests=60)
    edges, draw = cells_of(problem), np.random.default_rng(1)
    dual = Dual(gaps_of(problem), wants_of(problem), edges, n_devices=problem.n_devices)
    least = _least_cost(problem, edges)

    values = [dual.value(draw.exponential(scale, len(edges) - 1))[0] for scale in (0.01, 0.1, 1.0)]

    assert max(values) <= least


def test_the_slope_is_how_the_value_changes() -> None:
    problem = random_problem(2, n_requests=30)
    edges, draw = cells_of(problem), np.random.default_rng(1)
    dual = Dual(gaps_of(problem), wants_of(problem), edges, n_devices=problem.n_devices)
    prices = draw.uniform(0.05, 0.9, len(edges) - 1)
    value, slope = dual.value(prices)

    for cell in range(0, len(prices), 7):
        moved = prices.copy()
        moved[cell] += 1e-7
        assert (dual.value(moved)[0] - value) / 1e-7 == pytest.approx(slope[cell], abs=1e-3)

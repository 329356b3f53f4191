"""Runs drawn at random, and as the bound sees them."""

from __future__ import annotations

from random import Random

import numpy as np
from tests.scheduler.simulation.bound.exhaustive import TinyRun

from pilotlight.scheduler.simulation.bound import RunProblem


def tiny_run(seed: int) -> TinyRun:
    """Return a run of 3 to 5 requests for 2 to 4 models on 1 to 3 devices."""
    draw = Random(seed)
    n_devices, models = draw.randint(1, 3), range(draw.randint(2, 4))
    span = draw.choice([10, 20, 40])
    n_requests = draw.randint(3, 5)
    next_start = [draw.randint(2, 8) for _ in models]
    return TinyRun(
        arrived_at=tuple(sorted(draw.randint(0, span) for _ in range(n_requests))),
        model=tuple(draw.choice(models) for _ in range(n_requests)),
        hold_seconds=tuple(draw.choice([1, 2, 5, 10]) for _ in models),
        devices=tuple(min(n_devices, draw.choice([1, 1, 1, 2])) for _ in models),
        concurrency=tuple(draw.choice([1, 2, 4]) for _ in models),
        first_start_seconds=tuple(seconds * draw.choice([1, 2]) for seconds in next_start),
        next_start_seconds=tuple(next_start),
        n_devices=n_devices,
    )


def problem_of(run: TinyRun) -> RunProblem:
    """Return a tiny run as the bound sees it; first tokens come at once."""
    hold = np.array(run.hold_seconds, np.float64)
    rows = np.array(run.model, np.int64)
    return RunProblem(
        arrived_at=np.array(run.arrived_at, np.float64),
        model=rows,
        prefill_seconds=np.zeros(len(rows)),
        hold_seconds=hold[rows],
        model_devices=np.array(run.devices, np.int64),
        model_concurrency=np.array(run.concurrency, np.int64),
        first_start_seconds=np.array(run.first_start_seconds, np.float64),
        next_start_seconds=np.array(run.next_start_seconds, np.float64),
        is_kept=np.zeros(run.n_models, np.bool_),
        n_devices=run.n_devices,
    )


def random_problem(seed: int, *, n_requests: int = 120, is_busy: bool | None = None) -> RunProblem:
    """Return a run of popular and rare models that do not all fit, at some load."""
    draw = np.random.default_rng(seed)
    n_models, n_devices = int(draw.integers(3, 20)), int(draw.integers(1, 8))
    popularity = 1.0 / np.arange(1, n_models + 1) ** draw.choice([0.5, 1.0])
    next_start = draw.uniform(0.5, 5.0, n_models)
    load = float(draw.choice([0.1, 0.5, 1.2])) if is_busy is None else (2.0 if is_busy else 0.1)
    hold = draw.exponential(2.0, n_requests) + 0.05
    span = hold.sum() / (n_devices * load)
    return RunProblem(
        arrived_at=np.sort(draw.uniform(0.0, span, n_requests)),
        model=draw.choice(n_models, n_requests, p=popularity / popularity.sum()),
        prefill_seconds=np.full(n_requests, 0.05),
        hold_seconds=hold,
        model_devices=np.minimum(draw.choice([1, 1, 1, 2], n_models), n_devices),
        model_concurrency=draw.choice([1, 2, 4], n_models),
        first_start_seconds=next_start * draw.choice([1.0, 4.0], n_models),
        next_start_seconds=next_start,
        is_kept=np.zeros(n_models, np.bool_),
        n_devices=n_devices,
    )

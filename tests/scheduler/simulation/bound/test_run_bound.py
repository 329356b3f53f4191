from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.scheduler.simulation.bound.exhaustive import TinyRun, least_waiting
from tests.scheduler.simulation.bound.pool import Pool, at_random, last_needed, longest_idle
from tests.scheduler.simulation.bound.runs import problem_of, random_problem, tiny_run

from pilotlight.scheduler.simulation.bound import BoundInputError, RunProblem, run_bound

POLICIES = (longest_idle, at_random, last_needed)


def _run(
    *requests: tuple[int, int],
    n_models: int = 1,
    n_devices: int = 1,
    first: int = 4,
    following: int = 4,
    hold: int = 1,
    concurrency: int = 4,
) -> TinyRun:
    """Return a run of requests, each (arrived at, model), for models that are all alike."""
    return TinyRun(
        arrived_at=tuple(at for at, _ in requests),
        model=tuple(model for _, model in requests),
        hold_seconds=(hold,) * n_models,
        devices=(1,) * n_models,
        concurrency=(concurrency,) * n_models,
        first_start_seconds=(first,) * n_models,
        next_start_seconds=(following,) * n_models,
        n_devices=n_devices,
    )


def _total(run: TinyRun) -> float:
    return run_bound(problem_of(run)).total_seconds


def test_the_first_request_waits_for_a_start() -> None:
    assert _total(_run((0, 0))) == pytest.approx(4.0)


def test_those_that_arrive_meanwhile_wait_for_the_rest_of_it() -> None:
    # 4 s, and 4 - 3 s.
    assert _total(_run((0, 0), (3, 0))) == pytest.approx(5.0)


def test_a_model_that_fits_is_started_once() -> None:
    assert _total(_run((0, 0), (50, 0), (100, 0))) == pytest.approx(4.0)


def test_two_models_in_turn_on_one_device_are_started_again_and_again() -> None:
    run = _run(*((10 * n, n % 2) for n in range(6)), n_models=2, hold=4)

    # Whoever is kept on the device, the other one's next request waits for a start.
    assert least_waiting(run) == 6 * 4
    assert _total(run) == pytest.approx(24.0, rel=0.01)


def test_of_three_models_in_turn_on_two_devices_one_of_two_requests_waits() -> None:
    run = _run(*((10 * n, n % 3) for n in range(9)), n_models=3, n_devices=2, hold=4)

    # Three first starts, and at best every other request afterwards (Belady).
    assert least_waiting(run) == 3 * 4 + 3 * 4
    assert _total(run) == pytest.approx(24.0, rel=0.01)


def test_later_starts_may_come_from_memory() -> None:
    run = _run((0, 0), (20, 1), (40, 0), n_models=2, first=8, following=2)

    assert _total(run) == pytest.approx(8.0 + 8.0 + 2.0, rel=0.01)


def test_a_model_is_not_missed_while_its_request_is_served() -> None:
    run = _run((0, 0), (1, 1), n_models=2, hold=10)

    # The second start waits for the first request's end at 14 s: 13 + 4 s.
    assert least_waiting(run) == 4 + 17
    assert _total(run) >= 4 + 4 + 8


def test_devices_that_are_too_slow_altogether_make_requests_wait() -> None:
    run = _run(*((0, 0) for _ in range(4)), hold=10, concurrency=1)

    # One after another: 4, 14, 24 and 34 s.
    assert least_waiting(run) == 76
    assert run_bound(problem_of(run)).saturation_wait_seconds == pytest.approx(76.0)


def test_models_that_run_unasked_cost_nothing() -> None:
    problem = problem_of(_run((0, 0), (10, 1), (20, 0), n_models=2))

    bound = run_bound(replace(problem, is_kept=np.array([True, True])))

    assert bound.total_seconds == 0.0
    assert bound.percentile(100) == 0.0


def test_the_prompts_are_computed_whatever_the_policy() -> None:
    problem = problem_of(_run((0, 0), (50, 0)))

    bound = run_bound(replace(problem, prefill_seconds=np.array([0.5, 0.25])))

    assert bound.total_seconds == pytest.approx(4.0 + 0.75)
    assert bound.first_token_seconds == pytest.approx([0.25, 4.5])
    assert bound.mean == pytest.approx(4.75 / 2)


def test_a_run_without_requests_has_neither_mean_nor_percentiles() -> None:
    bound = run_bound(problem_of(_run()))

    assert bound.total_seconds == 0.0
    assert np.isnan(bound.mean)
    assert np.isnan(bound.percentile(50))


def test_devices_that_no_whole_replica_can_use_do_not_count() -> None:
    run = _run(*((10 * n, n % 2) for n in range(6)), n_models=2, n_devices=3, hold=4)
    problem = replace(problem_of(run), model_devices=np.array([2, 2]))

    assert run_bound(problem).total_seconds == pytest.approx(24.0, rel=0.01)


def test_in_order_more_requests_are_known_to_wait_long() -> None:
    run = _run(*((10 * n, n % 6) for n in range(30)), n_models=6)
    problem = problem_of(run)

    in_order, in_any = run_bound(problem), run_bound(problem, in_order=False)

    # Six first starts are sure; in order, a third of the others on top at least.
    assert int((in_any.first_token_seconds >= 3.9).sum()) == 6
    assert int((in_order.first_token_seconds >= 3.9).sum()) >= 6 + 8
    assert in_order.total_seconds == in_any.total_seconds
    assert in_order.percentile(60) >= 3.9 > in_any.percentile(60)


def test_equal_runs_have_equal_bounds() -> None:
    bounds = [run_bound(random_problem(3)) for _ in range(2)]

    assert bounds[0].total_seconds == bounds[1].total_seconds
    assert np.array_equal(bounds[0].first_token_seconds, bounds[1].first_token_seconds)


def _gap(run: TinyRun) -> float:
    """Return by how much the bound is below the best schedule, as a share of that."""
    least, bound = least_waiting(run), run_bound(problem_of(run))
    assert bound.total_seconds <= least
    return 1.0 - bound.total_seconds / least


def test_no_schedule_at_all_beats_the_bound() -> None:
    gaps = [_gap(tiny_run(seed)) for seed in range(100)]

    assert np.median(gaps) <= 0.1
    assert np.mean(gaps) <= 0.2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_schedule_at_all_beats_the_bound_in_a_thousand_runs() -> None:
    gaps = [_gap(tiny_run(seed)) for seed in range(1000)]

    assert np.median(gaps) <= 0.1


def _check(problem: RunProblem, seed: int, *, slowness: float) -> None:
    bound = run_bound(problem)
    for choose in POLICIES:
        waits = Pool(problem, choose, Random(seed), slowness).run()
        first_tokens = np.sort(waits + problem.prefill_seconds)
        assert first_tokens.sum() >= bound.total_seconds
        assert (first_tokens >= bound.first_token_seconds - 1e-9).all()


def test_no_simple_policy_beats_the_bound() -> None:
    for seed in range(50):
        _check(random_problem(seed), seed, slowness=0.0)
        _check(random_problem(seed, n_requests=40), seed, slowness=0.5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_simple_policy_beats_the_bound_in_a_thousand_runs() -> None:
    for seed in range(1000):
        _check(random_problem(seed), seed, slowness=0.2 * (seed % 2))


def test_is_near_the_clairvoyant_policy_where_the_cluster_is_not_busy() -> None:
    shares = []
    for seed in range(20):
        problem = random_problem(seed, is_busy=False)
        waits = Pool(problem, last_needed, Random(seed)).run()
        total = waits.sum() + problem.prefill_seconds.sum()
        shares.append(run_bound(problem).total_seconds / total)

    assert np.median(shares) >= 0.7


@pytest.mark.parametrize(
    ("field", "column", "rule"),
    [
        ("arrived_at", [1.0, 0.0], "never fall"),
        ("arrived_at", [0.0, np.nan], "finite"),
        ("arrived_at", [0.0], "one length"),
        ("model", [0, 7], "names a model"),
        ("hold_seconds", [1.0, -1.0], "not negative"),
        ("next_start_seconds", [np.inf], "finite"),
        ("first_start_seconds", [1.0], "no first start is shorter"),
        ("model_devices", [0], "has devices"),
        ("model_concurrency", [0], "takes requests"),
    ],
)
def test_says_what_is_wrong_with_columns(field: str, column: list[float], rule: str) -> None:
    problem = problem_of(_run((0, 0), (1, 0)))
    wrong: dict[str, Any] = {field: np.array(column, getattr(problem, field).dtype)}

    with pytest.raises(BoundInputError, match=rule):
        replace(problem, **wrong)

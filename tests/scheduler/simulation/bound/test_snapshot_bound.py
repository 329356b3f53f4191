from __future__ import annotations

from random import Random

import numpy as np
import pytest
from tests.scheduler.simulation.bound.cases import (
    UNPLACED_SECONDS,
    contended_case,
    random_plan,
)

from pilotlight.scheduler.policies import RandomNode, ServerlessLLM
from pilotlight.scheduler.simulation.bound import (
    SnapshotOptimum,
    plan_cost,
    snapshot_bound,
    snapshot_optimum,
)
from pilotlight.scheduler.testing import Case
from pilotlight.scheduler.testing.clusters import random_case
from pilotlight.scheduler.testing.reports import GIGABYTE

ALONE = 1.0 + 0.002 + 0.05 + 0.1
"""A gigabyte from disk, attached, bound, and the prompt computed: no measurements, the priors."""


def _bound(case: Case, *, unplaced_seconds: float = 300.0) -> float:
    snapshot = case.snapshot()
    return snapshot_bound(snapshot, case.estimator, unplaced_seconds=unplaced_seconds).total_seconds


def test_one_request_waits_for_its_start() -> None:
    case = Case()
    case.node(holds=["m"])
    case.requests("m")

    assert _bound(case) == pytest.approx(ALONE)


def test_loads_of_one_disk_wait_for_each_other() -> None:
    case = Case()
    case.node(devices=2, holds=["m", "n"])
    case.requests("m")
    case.requests("n")

    # One of them begins when the other one's gigabyte has been read.
    assert _bound(case) == pytest.approx(2 * ALONE + 1.0)


def test_the_smaller_of_two_loads_goes_first() -> None:
    case = Case()
    case.model("large", size_bytes=3 * GIGABYTE)
    case.node(devices=2, holds=["large", "small"])
    case.requests("large")
    case.requests("small")

    # 1 s, and 1 + 3 s.
    assert _bound(case) == pytest.approx(2 * ALONE + 3.0)


def test_nodes_that_share_a_disk_wait_for_each_other() -> None:
    case = Case()
    case.node(holds=["m", "n"], channel="shared")
    case.node(holds=["m", "n"], channel="shared")
    case.requests("m")
    case.requests("n")

    assert _bound(case) == pytest.approx(2 * ALONE + 1.0)


def test_a_load_in_flight_is_waited_for() -> None:
    case = Case()
    case.model("loading", size_bytes=4 * GIGABYTE)
    node = case.node(holds=["m", "loading"])
    case.load("loading", node, left_bytes=3 * GIGABYTE)
    case.requests("m")

    assert _bound(case) == pytest.approx(ALONE + 3.0)


def test_requests_beyond_the_devices_cost_what_no_place_costs() -> None:
    case = Case()
    case.model("m", max_replicas=4)
    case.node(devices=1, holds=["m"])
    case.requests("m", 3)

    assert _bound(case, unplaced_seconds=60.0) == pytest.approx(ALONE + 2 * 60.0)


def test_requests_beyond_a_models_replicas_cost_what_no_place_costs() -> None:
    case = Case()
    case.model("m", max_replicas=1)
    case.node(devices=3, holds=["m"])
    case.requests("m", 3)

    assert _bound(case, unplaced_seconds=60.0) == pytest.approx(ALONE + 2 * 60.0)


def test_what_no_node_holds_costs_what_no_place_costs() -> None:
    case = Case()
    case.node(devices=1)
    case.requests("m", 2)

    assert _bound(case, unplaced_seconds=60.0) == 120.0


def test_starts_of_one_model_on_one_node_share_their_load() -> None:
    case = Case()
    case.model("m", max_replicas=3)
    case.node(devices=3, holds=["m"])
    case.requests("m", 3)

    assert _bound(case) == pytest.approx(3 * ALONE)


def test_what_is_busy_is_stopped_only_by_those_who_may() -> None:
    case = Case()
    node = case.node(holds=["m", "busy"])
    case.replica("busy", node)
    case.requests("m")
    snapshot = case.snapshot()

    kept = snapshot_bound(snapshot, case.estimator)
    stopped = snapshot_bound(snapshot, case.estimator, may_preempt=True)

    assert kept.total_seconds == 300.0
    # Its devices are free long before the load is done.
    assert stopped.total_seconds == pytest.approx(ALONE)


def test_without_requests_there_is_nothing_to_wait_for() -> None:
    case = Case()
    case.node(holds=["m"])

    bound = snapshot_bound(case.snapshot(), case.estimator)

    assert bound.total_seconds == 0.0
    assert np.isnan(bound.mean)
    assert np.isnan(bound.percentile(50))


def _check(case: Case, seed: int, *, n_plans: int) -> SnapshotOptimum:
    """Return the optimum of a case, having seen that nothing is below the bound."""
    snapshot, estimator, draw = case.snapshot(), case.estimator, Random(seed)
    bound = snapshot_bound(snapshot, estimator, unplaced_seconds=UNPLACED_SECONDS)
    optimum = snapshot_optimum(snapshot, estimator, unplaced_seconds=UNPLACED_SECONDS)
    plans = [policy.plan(snapshot, estimator) for policy in (ServerlessLLM(), RandomNode())]
    plans += [random_plan(snapshot, draw) for _ in range(n_plans if snapshot.node_ids else 0)]
    for plan in [optimum.plan, *plans]:
        cost = plan_cost(snapshot, estimator, plan, unplaced_seconds=UNPLACED_SECONDS)
        assert cost.total_seconds >= bound.total_seconds - 1e-6
        assert cost.total_seconds >= optimum.proven_seconds - 1e-6
        assert (cost.first_token_seconds >= bound.soonest_seconds - 1e-9).all()
        assert cost.total_seconds >= optimum.total_seconds - 1e-4
    assert optimum.is_proven
    return optimum


def _gap(case: Case, optimum: SnapshotOptimum) -> float:
    return 1.0 - _bound(case, unplaced_seconds=UNPLACED_SECONDS) / optimum.total_seconds


def test_no_plan_beats_the_bound_in_broken_clusters() -> None:
    for seed in range(75):
        _check(random_case(seed), seed, n_plans=5)


def test_no_plan_beats_the_bound_where_starts_contend() -> None:
    gaps = []
    for seed in range(75):
        case = contended_case(seed)
        optimum = _check(case, seed, n_plans=10)
        if optimum.total_seconds > 0.0:
            gaps.append(_gap(case, optimum))

    assert np.median(gaps) <= 0.02
    assert np.percentile(gaps, 90) <= 0.1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_plan_beats_the_bound_on_a_thousand_instances() -> None:
    gaps = []
    for seed in range(1000):
        case = contended_case(seed)
        optimum = _check(case, seed, n_plans=10)
        if optimum.total_seconds > 0.0:
            gaps.append(_gap(case, optimum))

    assert len(gaps) >= 990
    assert np.median(gaps) <= 0.1


def test_the_bound_of_a_large_snapshot_lies_between_the_trivial_one_and_a_plan() -> None:
    case = contended_case(3, most_nodes=1, most_models=2)
    models = [f"many-{row}" for row in range(48)]
    draw = Random(1)
    for model in models:
        case.model(model, size_bytes=draw.randint(1, 40) * GIGABYTE, max_replicas=4, concurrency=2)
        case.requests(model, draw.randint(1, 4))
    for _ in range(64):
        held = [model for model in models if draw.random() < 0.2]
        case.node(devices=draw.randint(0, 2), holds=held)
    snapshot, estimator = case.snapshot(), case.estimator

    bound = snapshot_bound(snapshot, estimator)

    cost = plan_cost(snapshot, estimator, ServerlessLLM().plan(snapshot, estimator))
    assert bound.soonest_seconds.sum() < bound.total_seconds <= cost.total_seconds
    assert bound.mean == pytest.approx(bound.total_seconds / len(cost.first_token_seconds))

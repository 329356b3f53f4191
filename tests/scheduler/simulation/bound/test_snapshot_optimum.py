from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.scheduler.simulation.bound.cases import UNPLACED_SECONDS, contended_case

from pilotlight.scheduler.core.plan import AnyStep, Fetch, Plan, Start, StepId, Stop
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.simulation.bound import BoundInputError, plan_cost, snapshot_optimum
from pilotlight.scheduler.testing import Case
from pilotlight.store_node.protocol import Tier


def _plans(snapshot: Snapshot) -> Iterator[Plan]:
    """Yield every plan with one start per request at most, loads fetched first in any order."""
    stops: list[AnyStep] = [
        Stop(id=StepId(f"stop-{row}"), replica=replica)
        for row, replica in enumerate(snapshot.replica_ids)
    ]
    starts = [
        Start(id=StepId(f"start-{model}-{node}"), model=model, node=node, tier=Tier.SSD)
        for model, node in itertools.product(snapshot.model_ids, snapshot.node_ids)
    ]
    for length in range(int(snapshot.waiting.sum()) + 1):
        for chosen in itertools.product(starts, repeat=length):
            loads = dict.fromkeys((start.model, start.node) for start in chosen)
            for order in itertools.permutations(loads):
                fetches = [
                    Fetch(id=StepId(f"fetch-{model}-{node}"), model=model, node=node)
                    for model, node in order
                ]
                yield Plan(steps=(*stops, *fetches, *chosen))
                yield Plan(steps=(*fetches, *chosen))


def test_equals_the_best_of_all_plans() -> None:
    n_compared = 0
    for seed in range(400):
        case = contended_case(seed, most_nodes=2, most_models=2)
        snapshot = case.snapshot()
        if not 2 <= snapshot.waiting.sum() <= 3:
            continue
        n_compared += 1

        optimum = snapshot_optimum(snapshot, case.estimator, unplaced_seconds=UNPLACED_SECONDS)

        costs = [
            plan_cost(
                snapshot, case.estimator, plan, unplaced_seconds=UNPLACED_SECONDS
            ).total_seconds
            for plan in _plans(snapshot)
        ]
        assert optimum.total_seconds == pytest.approx(min(costs), abs=1e-4)
        assert optimum.is_proven
        if n_compared == 12:
            return
    pytest.fail("too few of the cases were small enough")


def test_equal_inputs_give_equal_plans() -> None:
    case = contended_case(7)

    plans = [snapshot_optimum(case.snapshot(), case.estimator).plan for _ in range(2)]

    assert plans[0] == plans[1]


def test_no_effort_finds_nothing_and_says_so() -> None:
    case = contended_case(7)

    with pytest.raises(BoundInputError, match="effort"):
        snapshot_optimum(case.snapshot(), case.estimator, effort=0.0)


def test_an_idle_replica_makes_way() -> None:
    case = Case()
    node = case.node(holds=["m", "idle"])
    case.replica("idle", node, idle_seconds=5.0)
    case.requests("m")

    optimum = snapshot_optimum(case.snapshot(), case.estimator)

    # 1 s from disk while the devices are torn down, attach, bind and prefill.
    assert optimum.total_seconds == pytest.approx(1.0 + 0.002 + 0.05 + 0.1)

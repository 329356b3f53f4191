from __future__ import annotations

import dataclasses
from collections import Counter

from pilotlight.scheduler.core.plan import Plan, Start
from pilotlight.scheduler.policies import Policy, RandomNode
from pilotlight.scheduler.testing import Case, PolicyContract


class TestRandomNode(PolicyContract):
    def make_policy(self) -> Policy:
        return RandomNode()


def _nodes(plan: Plan) -> list[str]:
    return [step.node for step in plan.steps if isinstance(step, Start)]


def _case() -> Case:
    case = Case()
    for _ in range(3):
        case.node(devices=1, holds=["m"])
    case.node(devices=1)
    case.requests("m")
    return case


def test_every_node_that_can_is_chosen_now_and_then_and_no_other() -> None:
    case = _case()
    snapshot = case.snapshot()

    chosen = Counter(
        _nodes(RandomNode().plan(dataclasses.replace(snapshot, seed=seed), case.estimator))[0]
        for seed in range(300)
    )

    # A third of 300 each; eight standard deviations of sqrt(300 * 1/3 * 2/3) = 8.2 are 65.
    assert set(chosen) == {"node-1", "node-2", "node-3"}
    assert all(35 < n < 165 for n in chosen.values())


def test_the_snapshot_is_the_only_source_of_randomness() -> None:
    case = _case()
    snapshot = case.snapshot()

    plans = {_nodes(RandomNode().plan(snapshot, case.estimator))[0] for _ in range(20)}

    assert len(plans) == 1


def test_how_long_a_start_takes_does_not_matter() -> None:
    case = Case()
    case.node(devices=1, dram=["m"])
    slow = case.node(devices=1, holds=["m"], bytes_per_second=1e6)
    case.requests("m")
    snapshot = case.snapshot()

    plans = [
        RandomNode().plan(dataclasses.replace(snapshot, seed=seed), case.estimator)
        for seed in range(20)
    ]

    assert [slow.id] in [_nodes(plan) for plan in plans]


def test_idle_replicas_give_way() -> None:
    case = Case()
    node = case.node(devices=1, holds=["m"]).expect("m")
    case.replica("other", node, idle_seconds=3.0)
    case.requests("m")

    plan = case.check(RandomNode())

    assert len(plan.steps) == 2

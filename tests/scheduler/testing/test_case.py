from __future__ import annotations

import pytest

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.policies import Policy, ServerlessLLM
from pilotlight.scheduler.testing import Case, PolicyContract
from pilotlight.scheduler.testing.clusters import random_case
from pilotlight.scheduler.testing.stage import start_step


class _Idle:
    """A policy that never does anything."""

    name = "idle"

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        return Plan()


class _DoubleBooking:
    """A policy that gives every model the first node."""

    name = "double-booking"

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        if not snapshot.node_ids:
            return Plan()
        return Plan(
            steps=tuple(
                start_step(model, snapshot.node_ids[0], id_=f"start-{model}")
                for model in snapshot.model_ids
            )
        )


class _Forgetful:
    """A policy whose plans differ from one call to the next."""

    name = "forgetful"

    def __init__(self) -> None:
        self._calls = 0

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        self._calls += 1
        return Plan(replan_at=snapshot.now + self._calls)


class _Contract(PolicyContract):
    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def make_policy(self) -> Policy:
        return self._policy


def test_what_is_planned_as_expected_passes() -> None:
    case = Case()
    case.node(devices=1, holds=["llama-8b"]).expect("llama-8b")
    case.node(devices=1)
    case.requests("llama-8b", 2)

    plan = case.check(ServerlessLLM())

    assert len(plan.steps) == 1


def test_what_is_planned_otherwise_fails_and_says_how() -> None:
    case = Case()
    case.node("a", devices=1, holds=["llama-8b"])
    case.node("b", devices=1).expect("llama-8b")
    case.requests("llama-8b")

    with pytest.raises(AssertionError, match=r"\('a', 'llama-8b'\).* is planned, .*'b'.* is right"):
        case.check(ServerlessLLM())


def test_models_may_be_described_after_the_nodes_that_hold_them() -> None:
    case = Case()
    case.node(holds=["m"], dram=["n"])

    case.model("m", size_bytes=5, layout_id="packed")
    case.model("n", size_bytes=7)

    snapshot = case.snapshot()
    # "m" lies on SSD, "n" in memory too.
    assert snapshot.residency.tolist() == [[1], [3]]
    assert snapshot.model_size_bytes.tolist() == [5, 7]


@pytest.mark.parametrize("seed", range(40))
def test_a_cluster_drawn_at_random_is_one_that_a_core_could_have(seed: int) -> None:
    random_case(seed).core().check_integrity()


def test_the_contract_finds_a_policy_that_does_nothing() -> None:
    with pytest.raises(AssertionError, match="is right"):
        _Contract(_Idle()).test_starts_what_waits_where_it_can()


def test_the_contract_finds_a_policy_that_books_devices_twice() -> None:
    with pytest.raises(AssertionError, match="was rejected"):
        _Contract(_DoubleBooking()).test_plans_what_the_core_accepts_whole()


def test_the_contract_finds_starts_that_were_decided_on_nothing() -> None:
    with pytest.raises(AssertionError, match="reads no node"):
        _Contract(_DoubleBooking()).test_says_what_each_step_was_decided_on()


def test_the_contract_finds_a_policy_that_remembers() -> None:
    with pytest.raises(AssertionError, match="the second time"):
        _Contract(_Forgetful()).test_gives_equal_plans_for_equal_snapshots()

from __future__ import annotations

import pytest

from pilotlight.scheduler.core.plan import Plan, Refuse, Start
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.policies.scaling import GIVE_UP_FAILURES, wanted_starts
from pilotlight.scheduler.testing import Case
from pilotlight.store_node.protocol import ReplicaState

POLICY = ServerlessLLM()


def _wanted(case: Case, *, spare_devices: int = 100) -> list[str]:
    case.node("spare", devices=spare_devices)
    snapshot = case.snapshot()
    return [snapshot.model_ids[model] for model in wanted_starts(snapshot)]


def _refusals(plan: Plan) -> list[tuple[str, str]]:
    return [(step.model, step.reason) for step in plan.steps if isinstance(step, Refuse)]


@pytest.mark.parametrize(
    ("waiting", "concurrency", "most", "expected"),
    [(1, 1, 4, 1), (4, 4, 4, 1), (5, 4, 4, 2), (100, 4, 4, 4), (3, 1, 2, 2), (0, 1, 4, 0)],
)
def test_as_many_replicas_are_wanted_as_waiting_requests_fill(
    waiting: int, concurrency: int, most: int, expected: int
) -> None:
    case = Case()
    case.model("m", concurrency=concurrency, max_replicas=most)
    if waiting:
        case.requests("m", waiting)

    assert len(_wanted(case)) == expected


def test_starts_that_are_under_way_are_counted() -> None:
    case = Case()
    case.model("m", max_replicas=4)
    node = case.node(devices=4)
    case.replica("m", node, state=ReplicaState.STARTING)
    case.replica("m", node, state=ReplicaState.STARTING, is_stopping=True)
    case.requests("m", 3)

    # Three are needed; one is on its way, the other one is being cancelled.
    assert len(_wanted(case)) == 2


def test_what_a_replica_was_found_to_take_counts_more_than_what_its_owner_allows() -> None:
    case = Case()
    case.model("m", concurrency=16, max_replicas=8)
    node = case.node(devices=1)
    case.replica("m", node, concurrency=4)
    case.requests("m", 8)

    # The engine takes 4 of the 16 that are allowed: 8 requests fill two more.
    assert len(_wanted(case)) == 2


def test_a_minimum_is_wanted_without_requests() -> None:
    case = Case()
    case.model("m", min_replicas=2, max_replicas=3)
    node = case.node(devices=1)
    case.replica("m", node)

    assert _wanted(case) == ["m"]


def test_no_more_are_wanted_than_the_cluster_has_devices_for() -> None:
    case = Case()
    case.model("m", min_replicas=4_000_000_000, max_replicas=4_000_000_000, devices=2)
    case.node(devices=5)
    case.node(devices=4, is_up=False)

    assert _wanted(case, spare_devices=0) == ["m", "m"]


def test_requests_go_before_minima_and_priority_before_both() -> None:
    case = Case()
    case.model("minimum", min_replicas=1)
    case.model("waits")
    case.model("urgent-minimum", min_replicas=1, priority=1)
    case.requests("waits")

    assert _wanted(case) == ["urgent-minimum", "waits", "minimum"]


# What nothing can serve.


def test_a_model_without_a_copy_is_refused() -> None:
    case = Case()
    case.node()
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == [("m", "no node holds a usable copy of m")]


def test_a_model_whose_holders_are_down_is_refused() -> None:
    case = Case()
    case.node("a", holds=["m"], is_up=False)
    case.node("b", holds=["m"], is_up=False)
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == [("m", "its only copies lie on a, b: down")]


def test_a_model_whose_engine_no_holder_has_is_refused() -> None:
    case = Case()
    case.node(holds=["m"], engines=["other"])
    case.node(engines=["timed"])
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == [("m", "no node that holds it has the engine timed")]


def test_a_model_too_large_for_every_holder_is_refused() -> None:
    case = Case()
    case.model("m", devices=3)
    case.node(devices=2, holds=["m"])
    case.node(devices=8)
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == [
        ("m", "it needs 3 devices; no node that holds it has more than 2")
    ]


def test_a_model_that_fails_everywhere_is_refused() -> None:
    case = Case()
    for node in (case.node(holds=["m"]), case.node(holds=["m"])):
        case.failed("m", node, times=GIVE_UP_FAILURES, reason="chunk 3 is corrupt")
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == [
        ("m", "its start failed 3 times on every node: chunk 3 is corrupt")
    ]


def test_a_model_that_would_fail_again_is_refused_at_once() -> None:
    case = Case()
    for node in (case.node(holds=["m"]), case.node(holds=["m"])):
        case.failed("m", node, reason="dtype 'int3' is not supported", is_final=True)
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == [
        ("m", "its start failed on every node: dtype 'int3' is not supported")
    ]


def test_a_model_that_fails_everywhere_it_fits_is_refused() -> None:
    case = Case()
    case.model("m", devices=2)
    large = case.node(devices=2, holds=["m"])
    case.node(devices=1, holds=["m"])
    case.failed("m", large, times=GIVE_UP_FAILURES, reason="chunk 3 is corrupt")
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == [
        ("m", "its start failed 3 times on every node: chunk 3 is corrupt")
    ]


@pytest.mark.parametrize(("times", "seconds_left"), [(2, 10.0), (3, -1.0)])
def test_a_model_that_may_be_tried_again_is_not_refused(times: int, seconds_left: float) -> None:
    case = Case()
    node = case.node(holds=["m"])
    case.failed("m", node, times=times, seconds_left=seconds_left)
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == []


def test_a_model_that_may_be_tried_elsewhere_is_not_refused() -> None:
    case = Case()
    bad = case.node(holds=["m"])
    case.node(holds=["m"]).expect("m")
    case.failed("m", bad, times=9)
    case.requests("m")

    assert _refusals(case.check(POLICY)) == []


def test_a_model_that_waits_for_devices_is_not_refused() -> None:
    case = Case()
    node = case.node(devices=1, holds=["m"])
    case.replica("busy", node)
    case.requests("m")

    assert case.plan(POLICY) == Plan()


@pytest.mark.parametrize("state", [ReplicaState.STARTING, ReplicaState.READY])
def test_requests_that_a_replica_will_serve_are_not_refused(state: ReplicaState) -> None:
    case = Case()
    case.model("m", max_replicas=2)
    node = case.node("bad", devices=2, holds=["m"])
    # It runs from memory; its copy on disk is gone, or has failed since.
    other = case.node("good", devices=1)
    case.replica("m", other, state=state)
    case.failed("m", node, times=GIVE_UP_FAILURES)
    case.requests("m", 2)

    assert _refusals(case.plan(POLICY)) == []


def test_a_replica_that_leaves_serves_nobody() -> None:
    case = Case()
    node = case.node(devices=1)
    case.replica("m", node, is_stopping=True)
    case.requests("m")

    assert _refusals(case.plan(POLICY)) == [("m", "no node holds a usable copy of m")]


def test_who_is_refused_is_not_started() -> None:
    case = Case()
    case.model("m", devices=3)
    case.node(devices=2, holds=["m"])
    case.requests("m")

    assert not [step for step in case.plan(POLICY).steps if isinstance(step, Start)]


def test_a_model_that_nobody_waits_for_is_never_refused() -> None:
    case = Case()
    case.model("m", min_replicas=1)
    case.node()

    assert case.plan(POLICY) == Plan()

from __future__ import annotations

import pytest

from pilotlight.scheduler.core.plan import CancelStart, Plan, Start, Stop
from pilotlight.scheduler.policies import Draft, ServerlessLLM
from pilotlight.scheduler.testing import Case
from pilotlight.store_node.protocol import ModelId, ReplicaState

POLICY = ServerlessLLM()


def _stops(plan: Plan) -> list[str]:
    return [step.replica for step in plan.steps if isinstance(step, Stop)]


def _cancels(plan: Plan) -> list[str]:
    return [step.replica for step in plan.steps if isinstance(step, CancelStart)]


# Whose devices a start may take.


def test_the_longest_idle_replica_gives_way() -> None:
    case = Case()
    node = case.node(devices=2, holds=["m"]).expect("m")
    case.replica("young", node, idle_seconds=1.0)
    old = case.replica("old", node, idle_seconds=9.0)
    case.requests("m")

    assert _stops(case.check(POLICY)) == [old]


def test_as_many_idle_replicas_give_way_as_are_needed() -> None:
    case = Case()
    case.model("wide", devices=2)
    node = case.node(devices=3, holds=["wide"]).expect("wide")
    oldest = case.replica("a", node, idle_seconds=9.0)
    older = case.replica("b", node, idle_seconds=8.0)
    case.replica("c", node, idle_seconds=7.0)
    case.requests("wide")

    plan = case.check(POLICY)

    assert _stops(plan) == [oldest, older]
    assert plan.steps[-1].after == tuple(step.id for step in plan.steps[:2])


def test_a_free_device_is_used_before_any_replica_gives_way() -> None:
    case = Case()
    case.model("wide", devices=2)
    node = case.node(devices=2, holds=["wide"]).expect("wide")
    only = case.replica("a", node, idle_seconds=9.0)
    case.requests("wide")

    assert _stops(case.check(POLICY)) == [only]


@pytest.mark.parametrize(
    "why", ["busy", "starting", "stopping", "its own requests wait", "a minimum needs it"]
)
def test_a_replica_that_is_needed_does_not_give_way(why: str) -> None:
    case = Case()
    case.model("other", min_replicas=1 if why == "a minimum needs it" else 0)
    node = case.node(devices=1, holds=["m", "other"])
    case.replica(
        "other",
        node,
        state=ReplicaState.STARTING if why == "starting" else ReplicaState.READY,
        idle_seconds=None if why in ("busy", "starting") else 9.0,
        is_stopping=why == "stopping",
    )
    if why == "its own requests wait":
        case.requests("other", waited_seconds=0.5)
    case.requests("m", waited_seconds=1.0)

    plan = case.check(POLICY)

    assert _stops(plan) == []


def test_a_minimum_may_be_kept_by_a_replica_elsewhere() -> None:
    case = Case()
    case.model("other", min_replicas=1, max_replicas=2)
    elsewhere = case.node("elsewhere", devices=1)
    node = case.node("here", devices=1, holds=["m"]).expect("m")
    case.replica("other", elsewhere, idle_seconds=9.0)
    younger = case.replica("other", node, idle_seconds=1.0)
    case.requests("m")

    # The older one keeps the minimum; only the younger one is where the devices are needed.
    assert _stops(case.check(POLICY)) == [younger]


def test_a_minimum_is_kept_over_all_starts_of_a_plan() -> None:
    case = Case()
    case.model("other", min_replicas=1, max_replicas=2)
    nodes = [case.node(devices=1, holds=[model]) for model in ("m", "n")]
    for node in nodes:
        case.replica("other", node, idle_seconds=9.0)
    case.requests("m", waited_seconds=2.0)
    case.requests("n", waited_seconds=1.0)

    plan = case.plan(POLICY)

    assert len(_stops(plan)) == 1
    assert [step.model for step in plan.steps if isinstance(step, Start)] == ["m"]


def test_a_replica_gives_way_once() -> None:
    case = Case()
    node = case.node(devices=1, holds=["m", "n"]).expect("m")
    case.replica("other", node, idle_seconds=9.0)
    case.requests("m", waited_seconds=2.0)
    case.requests("n", waited_seconds=1.0)

    assert len(_stops(case.check(POLICY))) == 1


def test_two_starts_wait_for_the_stop_whose_devices_they_share() -> None:
    case = Case()
    case.model("wide", devices=2)
    node = case.node(devices=2, holds=["m", "n"]).expect("m", "n")
    case.replica("wide", node, idle_seconds=9.0)
    case.requests("m", waited_seconds=2.0)
    case.requests("n", waited_seconds=1.0)

    stop, *starts = case.check(POLICY).steps

    assert [start.after for start in starts] == [(stop.id,), (stop.id,)]


def test_a_start_waits_for_a_stop_only_where_it_needs_its_devices() -> None:
    case = Case()
    case.model("wide", devices=2)
    node = case.node(devices=3, holds=["wide", "m"]).expect("wide", "m")
    case.replica("other", node, idle_seconds=9.0)
    case.replica("other-2", node, idle_seconds=8.0)
    case.requests("m", waited_seconds=2.0)
    case.requests("wide", waited_seconds=1.0)

    plan = case.check(POLICY)

    narrow, *_ = [step for step in plan.steps if isinstance(step, Start)]
    assert (narrow.model, narrow.after) == ("m", ())


def test_a_start_comes_after_an_expired_replica_whose_devices_it_takes() -> None:
    case = Case()
    case.model("other", keep_alive_seconds=5.0)
    node = case.node(devices=1, dram=["m"]).expect("m")
    case.node(devices=1, holds=["m"])
    expired = case.replica("other", node, idle_seconds=9.0)
    case.requests("m")

    plan = case.check(POLICY)

    assert _stops(plan) == [expired]
    assert plan.steps[-1].after == (plan.steps[0].id,)


def test_a_model_that_no_node_has_room_for_is_wanted_no_more() -> None:
    case = Case()
    case.model("m", max_replicas=3)
    case.replica("busy", case.node(devices=1, holds=["m"]))
    case.requests("m", 3)
    snapshot = case.snapshot()
    draft = Draft(snapshot, case.estimator.timeline(snapshot))
    wanted: list[int] = []

    for model in draft.wanted_starts():
        wanted.append(model)
        draft.first_token_seconds(model)

    assert wanted == [snapshot.model_row(ModelId("m"))]


# What ends without anybody needing its place.


def test_expired_replicas_stop() -> None:
    case = Case()
    case.model("m", keep_alive_seconds=5.0)
    node = case.node(devices=2)
    expired = case.replica("m", node, idle_seconds=5.0)
    case.replica("n", node, idle_seconds=5.0)

    plan = case.plan(POLICY)

    assert _stops(plan) == [expired]
    # "n" has been idle for 5 of its 60 s: when those are over, the core asks by itself.
    assert plan.replan_at is None


def test_an_expired_minimum_stays() -> None:
    case = Case()
    case.model("m", keep_alive_seconds=5.0, min_replicas=1, max_replicas=2)
    node = case.node(devices=2)
    older = case.replica("m", node, idle_seconds=9.0)
    case.replica("m", node, idle_seconds=8.0)

    assert _stops(case.plan(POLICY)) == [older]


def test_a_replica_that_requests_wait_for_does_not_expire() -> None:
    case = Case()
    case.model("m", keep_alive_seconds=5.0)
    node = case.node(devices=1)
    case.replica("m", node, idle_seconds=9.0)
    case.requests("m")

    assert case.plan(POLICY) == Plan()


def test_a_start_that_nobody_waits_for_is_cancelled() -> None:
    case = Case()
    node = case.node(devices=1, holds=["m"])
    starting = case.replica("m", node, state=ReplicaState.STARTING)

    assert _cancels(case.plan(POLICY)) == [starting]


def test_a_start_that_requests_wait_for_goes_on() -> None:
    case = Case()
    node = case.node(devices=1, holds=["m"])
    case.replica("m", node, state=ReplicaState.STARTING)
    case.requests("m")

    assert case.plan(POLICY) == Plan()


def test_of_two_starts_a_minimum_keeps_one() -> None:
    case = Case()
    case.model("m", min_replicas=1, max_replicas=2)
    node = case.node(devices=2, holds=["m"])
    case.replica("m", node, state=ReplicaState.STARTING)
    second = case.replica("m", node, state=ReplicaState.STARTING)

    assert _cancels(case.plan(POLICY)) == [second]


def test_a_minimum_keeps_what_serves_rather_than_what_starts() -> None:
    case = Case()
    case.model("m", min_replicas=1, max_replicas=2, keep_alive_seconds=5.0)
    node = case.node(devices=2, holds=["m"])
    case.replica("m", node, idle_seconds=9.0)
    starting = case.replica("m", node, state=ReplicaState.STARTING)

    plan = case.plan(POLICY)

    assert _cancels(plan) == [starting]
    assert _stops(plan) == []


def test_a_start_whose_model_is_deleted_is_not_the_policys_business() -> None:
    case = Case()
    node = case.node(devices=1, holds=["m"])
    case.replica("m", node, state=ReplicaState.STARTING)
    del case.state.models[next(iter(case.state.models))]

    assert case.plan(POLICY) == Plan()


@pytest.mark.parametrize("state", [ReplicaState.STARTING, ReplicaState.READY])
def test_nothing_ends_on_a_node_that_can_not_be_told(state: ReplicaState) -> None:
    case = Case()
    node = case.node(devices=1, is_up=False)
    case.replica("m", node, state=state, idle_seconds=99.0 if state == "ready" else None)

    assert case.plan(POLICY) == Plan()

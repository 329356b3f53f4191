from __future__ import annotations

import pytest

from pilotlight.scheduler.core.actions import (
    DecisionMade,
    ModelRefused,
    Persist,
    ReplicaChanged,
    RequestPlan,
    RouteAdded,
)
from pilotlight.scheduler.core.events import (
    DemandChanged,
    Persisted,
    PersistFailed,
    PlanProposed,
)
from pilotlight.scheduler.core.plan import Plan, Read, Refuse, Start, StepId, Subject, WaitFor
from pilotlight.scheduler.core.planning import LEAST_REPLAN_SECONDS
from pilotlight.scheduler.core.turn import CoreSettings
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.testing.reports import copy_of, model_of
from pilotlight.scheduler.testing.stage import Stage, start_step
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    ModelId,
    ReplicaState,
    StartReplicaRequest,
)


def _stage(*, devices: int = 1, max_replicas: int = 1) -> Stage:
    stage = Stage()
    stage.deploy("m", max_replicas=max_replicas)
    stage.join("a", devices=devices, holds=["m"])
    stage.settle()
    return stage


def test_demand_for_a_cold_model_asks_for_a_plan_at_once() -> None:
    stage = _stage()

    actions = stage.handle(DemandChanged(model=ModelId("m"), waiting=1, oldest_arrival=stage.now))

    assert [type(action) for action in actions] == [RequestPlan]


def test_a_cold_model_is_brought_up_for_the_first_request() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.settle()
    (send,) = stage.sends
    stage.ack(send)
    (replica,) = stage.replicas("m")

    stage.report(replica, ReplicaState.READY)

    (route,) = [update for update in stage.routes if isinstance(update, RouteAdded)]
    assert (route.replica, route.model, route.node) == (replica.id, "m", "a")
    assert (route.address, route.incarnation, route.epoch) == ("a:9000", "a-1", 1)


def test_ten_requests_for_a_cold_model_wait_for_one_start() -> None:
    stage = _stage(devices=4)
    for waiting in range(1, 11):
        stage.demand("m", waiting)
        stage.settle()

    assert len(stage.sends) == 1
    assert len(stage.replicas("m")) == 1


def test_never_are_two_plans_asked_for_at_once() -> None:
    stage = _stage()

    for waiting in range(1, 5):
        stage.demand("m", waiting)

    assert len(stage.plans) == 1


def test_what_changes_while_a_plan_is_made_leads_to_the_next_plan() -> None:
    stage = _stage(max_replicas=2)
    stage.demand("m", 1)
    plan_id = stage.plans[0]
    stage.demand("m", 2)

    stage.plan(Plan())

    assert len(stage.plans) == 1
    assert stage.plans[0] != plan_id


def test_an_answer_to_another_plan_is_passed_over() -> None:
    stage = _stage()
    stage.demand("m", 1)
    plan = Plan(steps=(start_step("m", "a"),))

    stage.handle(PlanProposed(plan_id=stage.plans[0] - 1, policy="late", plan=plan))

    assert stage.replicas() == []
    assert stage.core.state.plan_in_flight == stage.plans[0]


def test_the_same_answer_twice_is_taken_once() -> None:
    stage = _stage(devices=2)
    stage.demand("m", 1)
    answer = PlanProposed(
        plan_id=stage.plans.pop(), policy="test", plan=Plan(steps=(start_step("m", "a"),))
    )

    stage.handle(answer)
    stage.handle(answer)

    assert len(stage.replicas("m")) == 1


def test_nothing_is_sent_before_its_transaction() -> None:
    stage = _stage()
    stage.demand("m", 1)

    stage.plan()

    assert stage.sends == []
    (persist,) = stage.persists
    made, reserved = persist.changes
    assert isinstance(made, DecisionMade)
    assert [step.model for step in made.steps if isinstance(step, Start)] == ["m"]
    assert isinstance(reserved, ReplicaChanged)
    assert reserved.state is ReplicaState.STARTING

    stage.commit()

    (send,) = stage.sends
    assert isinstance(send.command, StartReplicaRequest)
    assert send.command.spec.replica_id == reserved.replica
    assert send.command.header.decision_id == made.decision


def test_a_failed_transaction_takes_back_its_reservations() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.plan()

    stage.fail_commit()

    assert stage.replicas() == []
    assert stage.sends == []
    assert stage.core.state.decisions == {}
    assert stage.core.snapshot(stage.now).node_devices_free.tolist() == [1]


def test_a_failed_transaction_is_tried_again_later_not_at_once() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.plan()
    stage.fail_commit()
    stage.commit()
    assert stage.plans == []

    stage.pass_time(CoreSettings().first_back_off_seconds)
    stage.settle()

    assert len(stage.sends) == 1


def test_a_later_plan_does_not_put_off_the_second_try() -> None:
    stage = _stage(devices=2, max_replicas=2)
    stage.deploy("other", keep_alive_seconds=1000.0)
    stage.join("b", holds=["other"])
    stage.bring_up("other")
    stage.demand("m", 1)
    stage.plan()
    stage.demand("m", 2)
    stage.fail_commit()
    # This plan has nothing to do, and asks to be made again when "other" expires.
    stage.plan(Plan(replan_at=stage.now + 1000.0))
    stage.commit()

    stage.pass_time(CoreSettings().first_back_off_seconds)

    assert len(stage.plans) == 1


@pytest.mark.parametrize("event", [Persisted(token=999), PersistFailed(token=999, reason="full")])
def test_an_answer_to_no_transaction_is_harmless(event: Persisted | PersistFailed) -> None:
    stage = _stage()

    stage.handle(event)

    assert stage.core.state.decisions == {}


def test_a_transaction_answered_twice_is_committed_once() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.plan()
    (persist,) = stage.persists
    stage.commit()

    stage.handle(Persisted(token=persist.token))
    stage.handle(PersistFailed(token=persist.token, reason="late"))

    assert len(stage.sends) == 1
    assert len(stage.replicas("m")) == 1


def test_demand_for_a_model_that_is_not_deployed_is_refused() -> None:
    stage = _stage()

    stage.demand("unknown", 3)
    stage.demand("unknown", 0)

    assert stage.core.state.demand == {}
    assert stage.plans == []
    assert stage.routes == [ModelRefused(model=ModelId("unknown"), reason="it was deleted")]


def test_demand_that_is_gone_is_forgotten() -> None:
    stage = _stage()
    stage.demand("m", 3)

    stage.demand("m", 0)

    assert stage.core.state.demand == {}


def test_a_start_that_nobody_waits_for_any_more_is_withdrawn_before_it_is_sent() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.plan()
    stage.demand("m", 0)
    stage.plan()

    stage.commit()

    assert stage.sends == []
    assert stage.replicas() == []
    assert stage.core.state.decisions == {}


def test_a_start_that_nobody_waits_for_any_more_is_cancelled_at_its_node() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.settle()
    (start,) = stage.sends
    stage.ack(start)

    stage.demand("m", 0)
    stage.settle()

    (cancel,) = stage.sends
    assert isinstance(cancel.command, CancelStartRequest)
    assert cancel.command.replica_id == stage.replicas("m")[0].id


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_start_that_could_not_be_cancelled_is_let_be_for_a_moment(is_answered: bool) -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.settle()
    stage.ack(stage.sends[0])
    stage.demand("m", 0)
    stage.settle()
    (cancel,) = stage.sends

    if is_answered:
        stage.refuse(cancel)
    else:
        stage.lose(cancel)
    stage.settle()

    assert stage.sends == []
    stage.pass_time(CoreSettings().first_back_off_seconds)
    stage.settle()
    (again,) = stage.sends
    assert isinstance(again.command, CancelStartRequest)


def test_the_policys_time_for_the_next_plan_is_kept() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.plan(Plan(replan_at=stage.now + 7.0))
    stage.pass_time(6.9)
    assert stage.plans == []

    stage.pass_time(0.1)

    assert len(stage.plans) == 1


def test_a_plan_without_steps_writes_nothing() -> None:
    stage = _stage()
    stage.demand("m", 1)

    actions = stage.handle(PlanProposed(plan_id=stage.plans.pop(), policy="test", plan=Plan()))

    assert not [action for action in actions if isinstance(action, Persist)]


def test_a_policy_that_failed_is_named_to_those_who_watch() -> None:
    stage = _stage()
    stage.demand("m", 1)

    stage.handle(
        PlanProposed(
            plan_id=stage.plans.pop(), policy="random", plan=Plan(), failure="mine is broken"
        )
    )

    assert ("policy_failed", "mine is broken") in [
        (each.kind, each.text) for each in stage.published
    ]


def test_what_nothing_can_serve_is_refused_with_a_reason() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a")
    stage.settle()
    stage.demand("m", 1)

    stage.settle()

    assert stage.routes == [
        ModelRefused(model=ModelId("m"), reason="no node holds a usable copy of m")
    ]


def test_nothing_is_refused_while_nodes_may_still_come_back() -> None:
    stage = Stage(models=[model_of("m")], is_settled=False)
    stage.demand("m", 1)
    stage.settle()
    assert stage.routes == []

    stage.pass_time(CoreSettings().restore_grace_seconds)
    stage.settle()

    assert {type(update) for update in stage.routes} == {ModelRefused}


def test_a_refusal_that_came_too_early_comes_once_nodes_have_settled() -> None:
    stage = _stage()
    stage.deploy("nowhere")
    stage.disconnect("a", may_return=True)
    stage.pass_time(1.5)
    stage.join("a", holds=["m"])
    stage.demand("nowhere", 1)
    stage.settle()
    assert stage.routes == []

    # The grace of two seconds ends half a second later, with the node back.
    stage.pass_time(0.5)
    stage.settle()

    assert {type(update) for update in stage.routes} == {ModelRefused}


def test_waiting_for_what_is_under_way_is_done_as_soon_as_it_is_written() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.plan(Plan(steps=(WaitFor(id=StepId("wait"), model=ModelId("m")),)))

    stage.commit()

    assert stage.core.state.decisions == {}


@pytest.mark.parametrize(
    "step",
    [
        WaitFor(id=StepId("s"), model=ModelId("unknown")),
        Refuse(id=StepId("s"), model=ModelId("unknown"), reason="because"),
    ],
)
def test_a_step_for_a_model_that_is_not_deployed_is_rejected(step: WaitFor | Refuse) -> None:
    stage = _stage()
    stage.demand("m", 1)

    stage.plan(Plan(steps=(step,)))

    assert stage.core.state.decisions == {}
    assert [each.text for each in stage.published if each.kind == "plan_rejected"] == [
        "step s was rejected: no model unknown is deployed"
    ]


def test_a_plan_that_events_overtook_is_asked_for_again() -> None:
    stage = _stage(devices=2)
    stage.deploy("other")
    stage.update("a", checkpoints=(copy_of("m"), copy_of("other")))
    stage.settle()
    stage.bring_up("other")
    stage.demand("m", 1)
    plan = ServerlessLLM().plan(stage.core.snapshot(stage.now), stage.estimator)
    stage.delete("other")

    stage.plan(plan)
    assert stage.replicas("m") == []
    stage.settle()

    assert len(stage.replicas("m")) == 1


def test_a_policy_that_makes_facts_up_is_not_asked_again_and_again() -> None:
    stage = _stage()
    stage.demand("m", 1)

    stage.plan(Plan(steps=(start_step("m", "a", reads=[Read(Subject.NODE, "a", 0)]),)))

    assert stage.replicas() == []
    assert stage.plans == []


@pytest.mark.parametrize("later", [0.0, -5.0])
def test_a_policy_that_wants_to_be_asked_at_once_is_asked_a_little_later(later: float) -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])

    stage.plan(Plan(replan_at=stage.now + later))

    assert stage.timers["replan:policy"] == pytest.approx(stage.now + LEAST_REPLAN_SECONDS)


def test_a_time_that_is_none_asks_for_nothing() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])

    stage.plan(Plan(replan_at=float("nan")))

    assert "replan:policy" not in stage.timers

from __future__ import annotations

import pytest

from pilotlight.scheduler.core.actions import DecisionEnded, RouteAdded, RouteRemoved, Send
from pilotlight.scheduler.core.events import Acked, AnyEvent, FetchAsked, Lost, Refused
from pilotlight.scheduler.core.plan import (
    AnyStep,
    CancelStart,
    DecisionId,
    Evict,
    Fetch,
    Migrate,
    Plan,
    Preempt,
    StepId,
    Stop,
)
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.core.turn import CoreSettings
from pilotlight.scheduler.testing.reports import copy_of, status_of
from pilotlight.scheduler.testing.stage import Stage, start_step, stop_step
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    ModelId,
    NodeId,
    ReplicaId,
    ReplicaState,
    RequestId,
    StartReplicaRequest,
    StopReplicaRequest,
)

NOBODY = ReplicaId("nobody")
FIRST_BACK_OFF = CoreSettings().first_back_off_seconds


def _two_models(*, devices: int = 1) -> Stage:
    """Return one node that holds "old" and "new"."""
    stage = Stage()
    stage.deploy("old")
    stage.deploy("new")
    stage.join("a", devices=devices, holds=["old", "new"])
    stage.settle()
    return stage


def _replacing() -> tuple[Stage, Replica, Send]:
    """Return a stage on which "new" replaces an idle "old", and the stop that was sent."""
    stage = _two_models()
    old = stage.bring_up("old")
    stage.demand("new", 1)
    stage.plan(Plan(steps=(stop_step(old, id_="stop"), start_step("new", "a", after=["stop"]))))
    stage.commit()
    (send,) = stage.sends
    return stage, old, send


def test_a_start_waits_until_what_it_comes_after_has_stopped() -> None:
    stage, old, stop = _replacing()
    assert isinstance(stop.command, StopReplicaRequest)

    stage.ack(stop)
    stage.report(old, ReplicaState.DRAINING)
    assert stage.sends == []
    stage.report(old, ReplicaState.STOPPED)

    (start,) = stage.sends
    assert isinstance(start.command, StartReplicaRequest)
    assert start.command.spec.model == "new"


def test_devices_that_a_stop_will_free_are_promised_to_its_beneficiary() -> None:
    stage, _, _ = _replacing()

    assert stage.core.snapshot(stage.now).node_devices_free.tolist() == [0]

    stage.deploy("third")
    stage.update("a", checkpoints=(copy_of("third"),))
    stage.plan(Plan(steps=(start_step("third", "a"),)))

    assert stage.replicas("third") == []


def test_a_refused_stop_cancels_the_start_after_it() -> None:
    stage, old, stop = _replacing()

    stage.refuse(stop, code="replica_busy", reason="1 request runs on it")

    assert stage.replicas("new") == []
    assert stage.replica(old).is_stopping is False
    assert stage.core.snapshot(stage.now).node_devices_free.tolist() == [0]
    (ended,) = stage.changes(DecisionEnded)[-1:]
    assert ended.outcome == (
        "stop failed: 1 request runs on it; start cancelled: what it comes after did not happen"
    )


def test_a_replica_that_its_node_does_not_know_is_as_good_as_stopped() -> None:
    stage, old, stop = _replacing()

    stage.refuse(stop, code="unknown_replica", reason=f"no replica {old.id} here")

    assert stage.replicas("old") == []
    (start,) = stage.sends
    assert isinstance(start.command, StartReplicaRequest)


def test_a_replica_whose_stop_was_refused_is_routed_to_again() -> None:
    stage, old, stop = _replacing()

    stage.refuse(stop)

    assert isinstance(stage.routes[-2], RouteRemoved)
    assert isinstance(stage.routes[-1], RouteAdded)
    assert stage.routes[-1].replica == old.id


def test_demand_whose_start_was_cancelled_is_planned_again() -> None:
    stage, old, stop = _replacing()
    stage.refuse(stop)
    stage.settle()
    assert stage.replicas("new") == []

    # The request that kept it busy has ended.
    stage.traffic(old, running=0)
    stage.settle()

    assert len(stage.replicas("new")) == 1


def test_routers_hear_of_a_stop_before_its_node_does() -> None:
    stage, old, stop = _replacing()

    actions = stage.actions
    told = next(
        row
        for row, action in enumerate(actions)
        if isinstance(getattr(action, "update", None), RouteRemoved)
    )

    assert told < actions.index(stop)
    assert stage.routes[-1] == RouteRemoved(replica=old.id, is_lost=False, reason="")


def test_a_refused_start_frees_its_devices_and_backs_off() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()

    stage.refuse(stage.sends[0], code="devices_busy", reason="no device is free")
    stage.settle()

    assert stage.replicas() == []
    assert stage.sends == []
    snapshot = stage.core.snapshot(stage.now)
    assert snapshot.node_devices_free.tolist() == [1]
    assert snapshot.back_off_reasons == ("no device is free",)
    assert snapshot.back_off_until.tolist() == [stage.now + FIRST_BACK_OFF]

    stage.pass_time(FIRST_BACK_OFF)
    stage.settle()

    assert len(stage.sends) == 1


def test_a_later_plan_does_not_put_off_the_end_of_a_back_off() -> None:
    stage = _two_models(devices=2)
    stage.bring_up("old")
    stage.demand("new", 1)
    stage.settle()

    stage.refuse(stage.sends[0])
    # The next plan asks to be made again when "old" expires, a minute from here.
    stage.settle()
    stage.pass_time(FIRST_BACK_OFF)
    stage.settle()

    assert len(stage.sends) == 1


def test_back_off_doubles_with_each_failure_in_a_row() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    waits: list[float] = []
    for _ in range(3):
        stage.settle()
        stage.refuse(stage.sends[0])
        waits.append(stage.core.state.back_offs["new@a"].until - stage.now)
        stage.pass_time(waits[-1])

    assert waits == [1.0, 2.0, 4.0]


def test_back_off_has_a_longest_however_often_a_start_fails() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()
    stage.refuse(stage.sends[0])
    # As after a few days of failures; 2 ** 5000 is more than a float can say.
    stage.core.state.back_offs["new@a"].failures = 5000
    stage.pass_time(FIRST_BACK_OFF)
    stage.settle()

    stage.refuse(stage.sends[0])

    longest = CoreSettings().longest_back_off_seconds
    assert stage.core.state.back_offs["new@a"].until == stage.now + longest


def test_another_node_is_tried_while_one_backs_off() -> None:
    stage = _two_models()
    stage.join("b", holds=["new"])
    stage.settle()
    stage.demand("new", 1)
    stage.settle()
    (first,) = stage.sends

    stage.refuse(first)
    stage.settle()

    (second,) = stage.sends
    assert {first.node, second.node} == {"a", "b"}


def test_a_start_that_was_lost_counts_as_failed() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()

    stage.lose(stage.sends[0])

    assert stage.replicas() == []
    assert stage.core.state.back_offs["new@a"].failures == 1


def test_a_start_that_was_lost_and_came_up_after_all_is_used() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()
    (start,) = stage.sends
    (replica,) = stage.replicas("new")
    stage.lose(start)

    stage.update("a", replicas=(status_of(replica.id, "new", ReplicaState.STARTING),))
    stage.report(replica, ReplicaState.READY)
    stage.settle()

    assert [route.replica for route in stage.routes if isinstance(route, RouteAdded)] == [
        replica.id
    ]
    assert stage.sends == []


@pytest.mark.parametrize("kind", [Acked, Refused, Lost])
def test_a_late_answer_changes_nothing(kind: type[AnyEvent]) -> None:
    stage = _two_models()
    stage.demand("old", 1)
    stage.settle()
    (start,) = stage.sends
    stage.ack(start)
    (replica,) = stage.replicas("old")
    stage.report(replica, ReplicaState.READY)
    version = stage.core.state.version

    stage.handle(_answer(kind, start))

    assert stage.replica(replica).state is ReplicaState.READY
    assert stage.core.state.version == version


@pytest.mark.parametrize("kind", [Acked, Refused, Lost])
def test_an_answer_after_a_refusal_changes_nothing(kind: type[AnyEvent]) -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()
    (start,) = stage.sends
    stage.refuse(start)

    stage.handle(_answer(kind, start))

    assert stage.replicas() == []
    assert stage.core.state.back_offs["new@a"].failures == 1


def test_an_answer_to_an_unknown_step_changes_nothing() -> None:
    stage = _two_models()

    stage.handle(Acked(decision=DecisionId("d9-9"), step=StepId("start-1")))

    assert stage.core.state.decisions == {}


def test_a_start_is_done_when_its_replica_is_ready_even_before_it_is_acked() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()
    (start,) = stage.sends
    (replica,) = stage.replicas("new")

    stage.report(replica, ReplicaState.READY)
    stage.ack(start)

    assert stage.core.state.decisions == {}
    assert stage.changes(DecisionEnded)[-1].outcome == "done"


def test_all_that_waits_for_a_failed_start_ends_with_it() -> None:
    stage = _two_models(devices=2)
    stage.demand("new", 1)
    stage.plan(
        Plan(steps=(start_step("new", "a"), start_step("old", "a", id_="next", after=["start"])))
    )
    stage.commit()
    assert len(stage.sends) == 1

    stage.refuse(stage.sends[0])

    assert stage.replicas() == []
    assert stage.core.state.decisions == {}


def test_a_cancel_of_a_start_that_fails_ends_too() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()
    (start,) = stage.sends
    stage.demand("new", 0)
    stage.settle()
    cancel = next(send for send in stage.sends if isinstance(send.command, CancelStartRequest))
    stage.ack(cancel)

    stage.refuse(start)

    assert stage.replicas() == []
    assert stage.core.state.decisions == {}


def test_a_cancel_of_a_start_that_its_node_does_not_know_is_no_failure() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()
    stage.ack(stage.sends[0])
    stage.demand("new", 0)
    stage.settle()
    (cancel,) = stage.sends

    stage.refuse(cancel, code="unknown_replica")

    assert stage.replicas() == []
    assert stage.core.state.back_offs == {}
    assert stage.core.state.decisions == {}


def test_a_command_that_is_refused_is_told() -> None:
    stage = _two_models()
    stage.handle(FetchAsked(model=ModelId("new"), nodes=(NodeId("a"),)))
    stage.commit()

    stage.refuse(stage.sends[0], reason="no room for it")

    assert stage.published[-1].kind == "command_failed"
    assert stage.published[-1].text == "fetch-a: no room for it"


def test_a_cancel_that_comes_too_late_lets_the_replica_serve() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()
    stage.ack(stage.sends[0])
    (replica,) = stage.replicas("new")
    stage.demand("new", 0)
    stage.settle()
    (cancel,) = stage.sends
    stage.report(replica, ReplicaState.READY)
    assert not [route for route in stage.routes if isinstance(route, RouteAdded)]

    stage.refuse(cancel, code="already_ready")

    assert isinstance(stage.routes[-1], RouteAdded)
    assert stage.replica(replica).is_stopping is False


def test_a_withdrawn_start_is_sent_after_all_when_its_withdrawal_is_not_written() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.plan()
    starting = stage.persists.pop()
    stage.demand("new", 0)
    stage.plan()
    withdrawing, stage.persists = stage.persists, [starting]
    stage.commit()
    assert stage.sends == []

    stage.persists = withdrawing
    stage.fail_commit()

    assert [type(send.command) for send in stage.sends] == [StartReplicaRequest]


def test_a_stop_of_a_replica_that_is_gone_meanwhile_is_done() -> None:
    stage = _two_models()
    old = stage.bring_up("old")
    stage.demand("new", 1)
    stage.plan(Plan(steps=(stop_step(old), start_step("new", "a", after=["stop"]))))
    stage.report(old, ReplicaState.FAILED, error="its worker died")

    stage.commit()

    (start,) = stage.sends
    assert isinstance(start.command, StartReplicaRequest)


def test_a_start_whose_copy_is_gone_when_its_turn_comes_is_cancelled() -> None:
    stage, old, stop = _replacing()
    stage.update("a", removed_checkpoints=(copy_of("new").reference,))

    stage.ack(stop)
    stage.report(old, ReplicaState.STOPPED)

    assert stage.sends == []
    assert stage.replicas() == []
    assert stage.core.state.decisions == {}


@pytest.mark.parametrize(
    ("step", "command"),
    [
        (Fetch(id=StepId("s"), model=ModelId("new"), node=NodeId("a")), FetchCheckpointRequest),
        (Evict(id=StepId("s"), model=ModelId("new"), node=NodeId("a")), EvictCheckpointRequest),
    ],
)
def test_residency_steps_are_done_when_they_are_acked(
    step: Fetch | Evict, command: type[FetchCheckpointRequest | EvictCheckpointRequest]
) -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.plan(Plan(steps=(step,)))
    stage.commit()
    (send,) = stage.sends
    assert isinstance(send.command, command)

    stage.ack(send)

    assert stage.core.state.decisions == {}


@pytest.mark.parametrize(
    "step",
    [
        Preempt(id=StepId("s"), replica=NOBODY),
        Migrate(id=StepId("s"), request=RequestId("q"), source=NOBODY, destination=NOBODY),
        CancelStart(id=StepId("s"), replica=NOBODY),
        Stop(id=StepId("s"), replica=NOBODY),
        Fetch(id=StepId("s"), model=ModelId("unknown"), node=NodeId("a")),
        Fetch(id=StepId("s"), model=ModelId("new"), node=NodeId("b")),
        Evict(id=StepId("s"), model=ModelId("new"), node=NodeId("unknown")),
    ],
)
def test_a_step_that_can_not_be_taken_is_rejected(step: AnyStep) -> None:
    stage = _two_models()
    stage.join("b")
    stage.plan(Plan(steps=(step,)))

    assert stage.core.state.decisions == {}
    assert [each.kind for each in stage.published if "was rejected" in each.text] == [
        "plan_rejected"
    ]


def test_commands_carry_what_makes_them_safe_to_repeat() -> None:
    stage = _two_models()
    stage.demand("new", 1)
    stage.settle()
    (start,) = stage.sends

    header = start.command.header

    assert (header.epoch, header.incarnation) == (1, "a-1")
    assert header.idempotency_key == f"1/{start.decision}/{start.step}"
    assert header.deadline_seconds == CoreSettings().command_deadline_seconds


def _answer(kind: type[AnyEvent], send: Send) -> AnyEvent:
    if kind is Refused:
        return Refused(decision=send.decision, step=send.step, code="late", reason="late")
    if kind is Lost:
        return Lost(decision=send.decision, step=send.step, reason="late")
    return Acked(decision=send.decision, step=send.step)

from __future__ import annotations

import pytest

from pilotlight.scheduler.core.actions import DecisionMade
from pilotlight.scheduler.core.plan import AnyStep, Plan, Read, StepId, Stop, Subject
from pilotlight.scheduler.core.state import Replica, StepState
from pilotlight.scheduler.testing.reports import copy_of
from pilotlight.scheduler.testing.stage import Stage, start_step, stop_step
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId, ReplicaState


def _stage(*, devices: int = 2) -> Stage:
    stage = Stage()
    for model in ("m", "n"):
        stage.deploy(model, max_replicas=2)
    stage.deploy("wide", devices=2)
    stage.join("a", devices=devices, holds=["m", "n", "wide"])
    stage.settle()
    return stage


def _propose(stage: Stage, *steps: AnyStep, replan_at: float | None = None) -> None:
    if not stage.plans:
        stage.demand("m", 1)
    stage.plan(Plan(steps=steps, replan_at=replan_at))


def _rejections(stage: Stage) -> list[str]:
    return [each.text for each in stage.published if each.kind == "plan_rejected"]


def _is_free(stage: Stage) -> list[int]:
    free: list[int] = stage.core.snapshot(stage.now).node_devices_free.tolist()
    return free


def test_a_step_whose_reads_still_hold_is_accepted() -> None:
    stage = _stage()
    snapshot = stage.core.snapshot(stage.now)
    reads = [snapshot.read_node(0), snapshot.read_model(0)]

    _propose(stage, start_step("m", "a", reads=reads))

    assert len(stage.replicas("m")) == 1


@pytest.mark.parametrize("subject", list(Subject))
def test_a_step_whose_reads_no_longer_hold_is_rejected(subject: Subject) -> None:
    stage = _stage()
    replica = stage.bring_up("n")
    snapshot = stage.core.snapshot(stage.now)
    read = {
        Subject.NODE: snapshot.read_node(0),
        Subject.MODEL: snapshot.read_model(1),
        Subject.REPLICA: snapshot.read_replica(0),
    }[subject]
    stage.deploy("n", keep_alive_seconds=1.0)
    stage.report(replica, ReplicaState.DRAINING)

    _propose(stage, start_step("m", "a", reads=[read]))

    assert stage.replicas("m") == []
    assert _rejections(stage) == [
        f"step start was rejected: {subject} {read.key} has changed since the plan was made"
    ]


@pytest.mark.parametrize("subject", list(Subject))
def test_a_read_of_what_is_gone_or_never_was_is_stale(subject: Subject) -> None:
    stage = _stage()

    _propose(stage, start_step("m", "a", reads=[Read(subject, "nobody", 1)]))

    assert stage.replicas() == []


def test_all_reads_are_compared_before_any_step_is_taken() -> None:
    stage = _stage()
    snapshot = stage.core.snapshot(stage.now)
    reads = [snapshot.read_node(0)]

    # Taking the first start changes the node that the second one read.
    _propose(
        stage,
        start_step("m", "a", id_="1", reads=reads),
        start_step("n", "a", id_="2", reads=reads),
    )

    assert len(stage.replicas()) == 2


def test_a_stale_step_takes_along_those_after_it_and_no_others() -> None:
    stage = _stage()

    _propose(
        stage,
        start_step("m", "a", id_="stale", reads=[Read(Subject.NODE, "a", 0)]),
        start_step("m", "a", id_="after", after=["stale"]),
        start_step("n", "a", id_="apart"),
    )

    assert [replica.model for replica in stage.replicas()] == ["n"]
    assert _rejections(stage)[1] == (
        "step after was rejected: it comes after stale, which was not accepted"
    )


def test_a_step_can_not_come_after_one_that_follows_it() -> None:
    stage = _stage()

    _propose(stage, start_step("m", "a", id_="1", after=["2"]), start_step("n", "a", id_="2"))

    assert [replica.model for replica in stage.replicas()] == ["n"]


def test_two_steps_of_one_name_are_one_too_many() -> None:
    stage = _stage()

    _propose(stage, start_step("m", "a"), start_step("n", "a"))

    assert [replica.model for replica in stage.replicas()] == ["m"]


def test_a_stale_step_stays_stale_beside_another_of_its_name() -> None:
    stage = _stage()

    _propose(stage, start_step("m", "a", reads=[Read(Subject.NODE, "a", 0)]), start_step("n", "a"))

    assert [replica.model for replica in stage.replicas()] == ["n"]


def test_devices_of_a_tentative_start_are_taken() -> None:
    stage = _stage(devices=1)
    _propose(stage, start_step("m", "a"))
    assert _is_free(stage) == [0]

    stage.demand("n", 1)
    _propose(stage, start_step("n", "a"))

    assert stage.replicas("n") == []
    assert _rejections(stage) == ["step start was rejected: a has 0 free devices, n needs 1"]


def test_steps_are_tentative_until_their_transaction() -> None:
    stage = _stage()
    _propose(stage, start_step("m", "a"))
    (decision,) = stage.core.state.decisions.values()
    assert [step.state for step in decision.steps.values()] == [StepState.TENTATIVE]

    stage.commit()

    assert [step.state for step in decision.steps.values()] == [StepState.SENT]


def test_two_starts_share_what_one_stop_frees() -> None:
    stage, wide = _wide()

    _propose(
        stage,
        stop_step(wide),
        start_step("m", "a", id_="1", after=["stop"]),
        start_step("n", "a", id_="2", after=["stop"]),
    )

    assert {replica.model for replica in stage.replicas()} == {"wide", "m", "n"}
    assert _is_free(stage) == [0]


def test_what_a_stop_frees_is_promised_only_once() -> None:
    stage, wide = _wide()

    # Two devices come free; three starts of one device each want them.
    _propose(
        stage,
        stop_step(wide),
        start_step("m", "a", id_="1", after=["stop"]),
        start_step("n", "a", id_="2", after=["stop"]),
        start_step("m", "a", id_="3", after=["stop"]),
    )

    assert len(stage.replicas("m")) == 1
    assert len(stage.replicas("n")) == 1
    assert _is_free(stage) == [0]


def test_what_a_stop_frees_elsewhere_is_no_help() -> None:
    stage = _stage(devices=1)
    stage.join("b", devices=1, holds=["m"])
    stage.settle()
    here = stage.bring_up("n")

    # The stop is on "a"; "b" would need a second device.
    _propose(
        stage,
        start_step("m", "b", id_="1"),
        stop_step(here),
        start_step("m", "b", id_="2", after=["stop"]),
    )

    assert len(stage.replicas("m")) == 1


def test_a_replica_is_stopped_once() -> None:
    stage, wide = _wide()

    _propose(stage, stop_step(wide, id_="1"), stop_step(wide, id_="2"))

    assert _rejections(stage) == [f"step 2 was rejected: {wide.id} is already being stopped"]


def test_a_busy_replica_is_not_stopped_if_idle() -> None:
    stage, wide = _wide()
    stage.traffic(wide, running=1)

    _propose(stage, stop_step(wide))

    assert _rejections(stage) == [f"step stop was rejected: {wide.id} runs requests"]


def test_a_replica_that_is_not_ready_is_not_stopped_if_idle() -> None:
    stage = _stage()
    _propose(stage, start_step("m", "a"))
    stage.commit()
    (starting,) = stage.replicas("m")

    stage.demand("n", 1)
    _propose(stage, stop_step(starting))

    assert _rejections(stage) == [f"step stop was rejected: {starting.id} is starting"]


def test_a_replica_that_does_not_exist_is_not_stopped() -> None:
    stage = _stage()

    _propose(stage, Stop(id=StepId("stop"), replica=ReplicaId("nobody")))

    assert _rejections(stage) == ["step stop was rejected: nobody is gone"]


@pytest.mark.parametrize(
    ("model", "node", "reason"),
    [
        ("unknown", "a", "no model unknown is deployed"),
        ("m", "unknown", "unknown is not up"),
        ("m", "down", "down is not up"),
        ("m", "empty", "empty holds no usable copy of m"),
        ("m", "corrupt", "corrupt holds no usable copy of m"),
        ("m", "other-engine", "other-engine does not have the engine timed"),
        ("wide", "narrow", "narrow has 1 free devices, wide needs 2"),
    ],
)
def test_a_start_that_can_not_be_is_rejected_with_its_reason(
    model: str, node: str, reason: str
) -> None:
    stage = _stage()
    stage.join("down", holds=["m"])
    stage.disconnect("down")
    stage.join("empty")
    stage.join("corrupt", holds=[copy_of("m", quarantine="chunk 3")])
    stage.join("other-engine", holds=["m"], engines=["another"])
    stage.join("narrow", holds=["wide"])

    _propose(stage, start_step(model, node))

    assert stage.replicas() == []
    assert _rejections(stage) == [f"step start was rejected: {reason}"]


def test_a_start_on_a_node_that_backs_off_is_rejected() -> None:
    stage = _stage()
    _propose(stage, start_step("m", "a"))
    stage.commit()
    stage.refuse(stage.sends[0])

    _propose(stage, start_step("m", "a"))

    assert _rejections(stage) == ["step start was rejected: m has failed 1 times on a"]


def test_a_start_beyond_the_maximum_is_rejected() -> None:
    stage = _stage(devices=4)

    _propose(stage, *(start_step("m", "a", id_=str(n)) for n in range(3)))

    assert len(stage.replicas("m")) == 2
    assert _rejections(stage) == ["step 2 was rejected: m has 2 of 2 replicas"]


def test_what_was_rejected_is_written_beside_what_was_decided() -> None:
    stage = _stage(devices=1)

    _propose(stage, start_step("m", "a", id_="1"), start_step("n", "a", id_="2"))

    (made,) = stage.changes(DecisionMade)
    assert [step.id for step in made.steps] == ["1"]
    assert [(item.step.id, item.reason) for item in made.rejected] == [
        ("2", "a has 0 free devices, n needs 1")
    ]


def test_a_plan_of_which_nothing_is_accepted_is_no_decision() -> None:
    stage = _stage()

    _propose(stage, start_step("unknown", "a"))

    assert stage.core.state.decisions == {}
    assert stage.persists == []
    assert stage.core.state.next_decision == 1


def _wide() -> tuple[Stage, Replica]:
    """Return a stage on which an idle replica holds both devices of its node."""
    stage = _stage(devices=2)
    return stage, stage.bring_up("wide")


def test_the_names_of_replicas_and_decisions_carry_the_epoch() -> None:
    stage = _stage()

    _propose(stage, start_step("m", "a"))

    (replica,) = stage.replicas()
    assert (replica.id, replica.decision) == ("r1-1", "d1-1")
    assert (replica.model, replica.node) == (ModelId("m"), NodeId("a"))


def test_a_replica_on_a_node_that_is_away_is_not_stopped() -> None:
    stage, wide = _wide()
    stage.disconnect("a", may_return=True)

    _propose(stage, stop_step(wide))

    assert _rejections(stage) == ["step stop was rejected: a is not up"]


def test_what_can_not_be_told_at_the_moment_is_not_planned_over_and_over() -> None:
    stage, _ = _wide()
    stage.disconnect("a", may_return=True)
    stage.now += 60.0

    stage.demand("m", 1)
    stage.settle()

    assert stage.core.state.decisions == {}

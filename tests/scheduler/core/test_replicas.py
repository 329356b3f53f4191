from __future__ import annotations

import dataclasses

import pytest

from pilotlight.scheduler.core.actions import (
    ModelRefused,
    ReplicaChanged,
    RouteAdded,
    RouteRemoved,
    StartFinished,
)
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.testing.reports import outcome_of, status_of, summary_of
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import (
    CompatibilityKey,
    ModelId,
    ReplicaId,
    ReplicaState,
    StopReplicaRequest,
    Tier,
)
from pilotlight.store_node.protocol.refusals import FINAL_CODES

KEY = CompatibilityKey(content="c", engine="timed", engine_version="1", dtype="f32", parallelism=1)


def _stage(**model: object) -> Stage:
    stage = Stage()
    stage.deploy("m", **model)
    stage.join("a", devices=2, holds=["m"])
    stage.settle()
    return stage


def _starting(**model: object) -> tuple[Stage, Replica]:
    stage = _stage(**model)
    stage.demand("m", 1)
    stage.settle()
    stage.ack(stage.sends[0])
    (replica,) = stage.replicas("m")
    return stage, replica


def _ready(**model: object) -> tuple[Stage, Replica]:
    stage = _stage(**model)
    return stage, stage.bring_up("m")


def _stops(stage: Stage) -> list[ReplicaId]:
    commands = [send.command for send in stage.sends]
    return [each.replica_id for each in commands if isinstance(each, StopReplicaRequest)]


def test_a_route_says_all_that_a_router_needs() -> None:
    stage, replica = _starting()

    stage.report(replica, ReplicaState.READY, concurrency=8, context_tokens=2048, compatibility=KEY)

    assert stage.routes == [
        RouteAdded(
            replica=replica.id,
            model=ModelId("m"),
            node=replica.node,
            incarnation=stage.incarnation("a"),
            address="a:9000",
            concurrency=8,
            context_tokens=2048,
            compatibility=KEY,
            epoch=1,
        )
    ]


def test_a_report_that_would_go_backwards_is_old() -> None:
    stage, replica = _ready()
    routes = list(stage.routes)

    stage.report(replica, ReplicaState.STARTING)

    assert stage.replica(replica).state is ReplicaState.READY
    assert stage.routes == routes


def test_the_same_report_twice_counts_once() -> None:
    stage, replica = _starting()
    stage.report(replica, ReplicaState.READY)
    n_finished, n_routes = len(stage.changes(StartFinished)), len(stage.routes)

    stage.report(replica, ReplicaState.READY)

    assert len(stage.changes(StartFinished)) == n_finished
    assert len(stage.routes) == n_routes


def test_a_replica_that_requests_wait_for_is_not_idle_when_it_is_ready() -> None:
    stage, replica = _starting(keep_alive_seconds=0.0)

    stage.report(replica, ReplicaState.READY)
    # The requests are sent there; that they run is reported up to a second later.
    stage.demand("m", 0)
    stage.settle()
    assert _stops(stage) == []
    stage.traffic(replica)
    stage.settle()

    assert _stops(stage) == [replica.id]


def test_a_start_is_written_with_what_was_estimated_and_what_it_took() -> None:
    stage, replica = _starting()
    stage.now += 2.5

    stage.report(replica, ReplicaState.READY)

    (finished,) = stage.changes(StartFinished)
    assert finished.ready_seconds == pytest.approx(2.5)
    assert finished.outcome == outcome_of()
    assert finished.estimated is not None
    # A gigabyte at a gigabyte per second, and 0.002 s to attach.
    assert finished.estimated.transfer_seconds == pytest.approx(1.002)


def test_a_measured_start_teaches_the_estimator() -> None:
    stage, replica = _starting()
    slow = outcome_of(disk_busy_seconds=4.0)

    stage.report(replica, ReplicaState.READY, outcome=slow)

    # A gigabyte took four seconds.
    speeds = stage.estimator.bytes_per_second(stage.core.snapshot(stage.now))
    assert speeds[0].tolist() == pytest.approx([0.25e9])


def test_the_first_prefill_is_learned_and_written_when_it_is_known() -> None:
    stage, replica = _ready()
    late = dataclasses.replace(outcome_of(), prefill_seconds=0.4)
    n_finished = len(stage.changes(StartFinished))

    stage.report(replica, ReplicaState.READY, outcome=late)
    stage.report(replica, ReplicaState.READY, outcome=late)

    assert stage.changes(StartFinished)[n_finished:][0].outcome == late
    assert len(stage.changes(StartFinished)) == n_finished + 1
    lessons = stage.estimator.lessons()
    assert isinstance(lessons, dict)
    assert list(lessons["prefill"]["by_key"]) == ["m"]


@pytest.mark.parametrize("by_way_of", [[], [ReplicaState.DRAINING]])
def test_a_start_that_fails_at_its_node_backs_off(by_way_of: list[ReplicaState]) -> None:
    stage, replica = _starting()

    for state in by_way_of:
        stage.report(replica, state)
    stage.report(replica, ReplicaState.FAILED, error="chunk 3 is corrupt", log_tail="last words")

    back_off = stage.core.state.back_offs["m@a"]
    assert (back_off.failures, back_off.reason) == (1, "chunk 3 is corrupt")
    assert not back_off.is_final
    (finished,) = stage.changes(StartFinished)
    assert finished.error == "chunk 3 is corrupt"
    [told] = [each for each in stage.published if each.kind == "start_failed"]
    assert (told.text, told.log_tail) == ("chunk 3 is corrupt", "last words")
    assert stage.replicas() == []


@pytest.mark.parametrize("code", sorted(FINAL_CODES))
def test_a_start_that_would_fail_again_is_not_tried_again(code: str) -> None:
    stage, replica = _starting()

    stage.report(replica, ReplicaState.FAILED, error="no such option", error_code=code)
    stage.demand("m", 1)
    stage.settle()

    assert stage.sends == []
    assert stage.routes[-1] == ModelRefused(
        model=ModelId("m"), reason="its start failed on every node: no such option"
    )


@pytest.mark.parametrize("by_way_of", [[], [ReplicaState.DRAINING]])
def test_a_replica_that_fails_after_it_served_may_start_again_at_once(
    by_way_of: list[ReplicaState],
) -> None:
    stage, replica = _ready()
    stage.demand("m", 1)
    stage.settle()

    for state in by_way_of:
        stage.report(replica, state)
    stage.report(replica, ReplicaState.FAILED, error="its worker died")
    stage.settle()

    assert stage.core.state.back_offs == {}
    assert stage.routes[-1] == RouteRemoved(
        replica=replica.id, is_lost=True, reason="its worker died"
    )
    assert len(stage.sends) == 1


def test_a_start_that_succeeds_clears_the_failures_before_it() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.settle()
    stage.refuse(stage.sends[0])
    stage.pass_time(1.0)

    stage.bring_up("m")

    assert stage.core.state.back_offs == {}


def test_an_ended_replica_is_written_and_forgotten() -> None:
    stage, replica = _ready()

    stage.report(replica, ReplicaState.STOPPED)

    assert stage.replicas() == []
    assert stage.changes(ReplicaChanged)[-1].state is ReplicaState.STOPPED
    assert stage.routes[-1] == RouteRemoved(replica=replica.id, is_lost=True, reason="stopped")


def test_a_replica_that_was_asked_to_stop_is_not_lost() -> None:
    stage, replica = _ready(keep_alive_seconds=5.0)
    stage.pass_time(5.0)
    stage.settle()
    stage.ack(stage.sends[0])

    stage.report(replica, ReplicaState.DRAINING)
    stage.report(replica, ReplicaState.STOPPED)

    removed = [update for update in stage.routes if isinstance(update, RouteRemoved)]
    assert {update.is_lost for update in removed} == {False}


def test_an_idle_replica_is_stopped_when_its_keep_alive_is_over() -> None:
    stage, replica = _ready(keep_alive_seconds=5.0)
    stage.pass_time(4.9)
    stage.settle()
    assert _stops(stage) == []

    stage.pass_time(0.1)
    stage.settle()

    assert _stops(stage) == [replica.id]
    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert stop.command.if_idle


def test_keep_alive_as_long_as_the_load_takes() -> None:
    stage, replica = _ready(keep_alive_seconds=None)

    # Its start took 0 + 1 + 0.1 + 0.05 s.
    stage.pass_time(1.14)
    stage.settle()
    assert _stops(stage) == []
    stage.pass_time(0.02)
    stage.settle()

    assert _stops(stage) == [replica.id]


def test_a_request_begins_keep_alive_anew() -> None:
    stage, replica = _ready(keep_alive_seconds=5.0)
    stage.pass_time(4.0)
    stage.traffic(replica, running=1)
    stage.pass_time(2.0)
    stage.settle()
    assert _stops(stage) == []

    stage.traffic(replica, running=0, idle_seconds=0.5)
    stage.settle()
    stage.pass_time(4.4)
    stage.settle()
    assert _stops(stage) == []
    stage.pass_time(0.1)
    stage.settle()

    assert _stops(stage) == [replica.id]


def test_a_request_between_two_summaries_shows_as_a_shorter_idle_time() -> None:
    stage, replica = _ready(keep_alive_seconds=5.0)
    stage.pass_time(4.0)

    stage.traffic(replica, running=0, idle_seconds=0.25)

    assert stage.replica(replica).idle_since == stage.now - 0.25


def test_a_replica_that_a_minimum_needs_outlives_its_keep_alive() -> None:
    stage, _ = _ready(keep_alive_seconds=5.0, min_replicas=1)

    stage.pass_time(100.0)
    stage.settle()

    assert _stops(stage) == []


def test_a_minimum_is_brought_up_without_demand() -> None:
    stage = _stage(min_replicas=1)

    assert len(stage.sends) == 1
    stage.settle()
    assert len(stage.sends) == 1


def test_a_minimum_is_brought_up_again_when_a_replica_fails() -> None:
    stage = _stage(min_replicas=1)
    stage.ack(stage.sends[0])
    (replica,) = stage.replicas()
    stage.report(replica, ReplicaState.READY)
    stage.settle()

    stage.report(replica, ReplicaState.FAILED)
    stage.settle()

    assert len(stage.replicas("m")) == 1


def test_demand_beyond_the_maximum_waits() -> None:
    stage = _stage(max_replicas=2)
    stage.join("b", devices=2, holds=["m"])

    stage.demand("m", 9)
    stage.settle()

    assert len(stage.replicas("m")) == 2
    assert stage.routes == []


def test_as_many_replicas_as_waiting_requests_fill() -> None:
    stage = _stage(max_replicas=4, concurrency=4)

    stage.demand("m", 5)
    stage.settle()

    # Five requests fill two replicas of four each.
    assert len(stage.replicas("m")) == 2


@pytest.mark.parametrize("stranger", ["another", "r1-1x", ""])
def test_traffic_of_an_unknown_replica_is_passed_over(stranger: str) -> None:
    stage, replica = _ready()

    stage.update("a", summaries=(summary_of(stranger, running=3),), has_summaries=True)

    assert stage.replica(replica).running == 0


def test_a_replica_answers_only_for_its_own_node() -> None:
    stage, replica = _ready()
    stage.join("b")

    stage.update("b", replicas=(status_of(replica.id, "m", ReplicaState.FAILED),))
    stage.update("b", summaries=(summary_of(replica.id, running=3),), has_summaries=True)
    stage.join("b", replicas=[status_of(replica.id, "m")])

    known = stage.replica(replica)
    assert (known.node, known.state, known.running) == ("a", ReplicaState.READY, 0)


def test_a_node_can_not_know_of_a_start_that_was_not_sent() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.plan()
    (replica,) = stage.replicas("m")

    stage.report(replica, ReplicaState.READY)

    assert stage.replica(replica).state is ReplicaState.STARTING
    assert stage.routes == []


def test_a_tier_is_published_with_a_start() -> None:
    stage, replica = _starting()

    stage.report(replica, ReplicaState.READY, outcome=outcome_of(tier=Tier.DRAM))

    assert "m started on a from dram" in [each.text for each in stage.published]


def test_a_draining_replica_does_not_count_against_the_maximum() -> None:
    stage, replica = _ready()
    stage.report(replica, ReplicaState.DRAINING)

    stage.demand("m", 1)
    stage.settle()

    assert len(stage.sends) == 1

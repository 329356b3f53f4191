from __future__ import annotations

import pytest

from pilotlight.scheduler.core.actions import (
    ModelRefused,
    ReplicaChanged,
    RouteAdded,
    RouteRemoved,
    StartFinished,
)
from pilotlight.scheduler.core.events import EpochRaised, KnownNode, KnownReplica
from pilotlight.scheduler.core.plan import DecisionId
from pilotlight.scheduler.core.turn import CoreSettings
from pilotlight.scheduler.testing.reports import copy_of, model_of, status_of, summary_of
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    CompatibilityKey,
    Incarnation,
    ModelId,
    NodeId,
    NodeResources,
    ReplicaId,
    ReplicaState,
    StartReplicaRequest,
    StopReplicaRequest,
)

GRACE = CoreSettings().restore_grace_seconds


def _known(replica: str = "r0-1", *, model: str = "m", node: str = "a") -> KnownReplica:
    return KnownReplica(
        replica=ReplicaId(replica),
        model=ModelId(model),
        node=NodeId(node),
        devices=1,
        decision=DecisionId("d0-1"),
    )


def _restored(*, model: str = "m", deployed: str = "m") -> Stage:
    return Stage(models=[model_of(deployed)], replicas=[_known(model=model)], is_settled=False)


def _ready_replica() -> tuple[Stage, ReplicaId]:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", devices=2, holds=["m"])
    stage.settle()
    return stage, stage.bring_up("m").id


# After a restart of the controller.


def test_a_leader_of_nothing_has_nothing_to_wait_for() -> None:
    stage = Stage(is_settled=False)
    stage.deploy("m")
    stage.join("a")

    stage.demand("m", 1)
    stage.settle()

    assert {type(update) for update in stage.routes} == {ModelRefused}


def test_a_node_from_before_a_restart_is_down_until_it_is_back() -> None:
    known = KnownNode(
        node=NodeId("a"),
        incarnation=Incarnation("a-1"),
        address="a:9000",
        resources=NodeResources(devices=2, device_kind="cpu", device_bytes=0, dram_bytes=1),
    )
    stage = Stage(models=[model_of("m")], nodes=[known], is_settled=False)
    stage.demand("m", 1)
    stage.settle()

    snapshot = stage.core.snapshot(stage.now)
    assert (snapshot.node_ids, snapshot.node_is_up.tolist()) == (("a",), [False])
    assert stage.sends == []

    stage.join("a", devices=2, holds=["m"])
    stage.settle()
    assert [type(send.command) for send in stage.sends] == [StartReplicaRequest]


def test_a_replica_from_before_a_restart_goes_on_serving() -> None:
    stage = _restored()

    stage.join("a", holds=["m"], replicas=[status_of("r0-1", "m")])
    stage.settle()
    stage.pass_time(GRACE)
    stage.settle()

    assert stage.replica("r0-1").state is ReplicaState.READY
    assert [type(update) for update in stage.routes] == [RouteAdded, RouteAdded]
    assert stage.sends == []
    # It was found, not started.
    kinds = [each.kind for each in stage.published]
    assert ("replica_adopted" in kinds, "start_done" in kinds) == (True, False)


def test_a_replica_from_before_a_restart_counts_before_its_node_has_reported() -> None:
    stage = _restored()
    stage.demand("m", 1)
    stage.settle()
    stage.join("b", holds=["m"])
    stage.settle()

    # Its model has one replica at most, and it may well be running.
    assert stage.sends == []
    assert [replica.id for replica in stage.replicas()] == ["r0-1"]


def test_a_replica_from_before_a_restart_is_not_given_up_before_its_node_has_reported() -> None:
    stage = _restored()
    stage.join("b")
    stage.settle()

    assert [replica.id for replica in stage.replicas()] == ["r0-1"]
    assert stage.changes(ReplicaChanged) == []


def test_a_replica_from_before_a_restart_stops_like_any_other() -> None:
    stage = _restored()
    stage.join("a", holds=["m"], replicas=[status_of("r0-1", "m")])
    stage.settle()

    stage.pass_time(60.0)
    stage.settle()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert stop.command.replica_id == "r0-1"
    assert [replica.id for replica in stage.replicas()] == ["r0-1"]


def test_a_start_from_before_a_restart_is_cancelled_like_any_other() -> None:
    stage = _restored()
    stage.join("a", holds=["m"], replicas=[status_of("r0-1", "m", ReplicaState.STARTING)])

    stage.settle()

    (cancel,) = stage.sends
    assert isinstance(cancel.command, CancelStartRequest)
    assert stage.replica("r0-1").is_stopping


def test_a_replica_that_its_node_does_not_report_after_a_restart_is_gone() -> None:
    stage = _restored()

    stage.join("a", holds=["m"])

    assert stage.replicas() == []
    assert stage.changes(ReplicaChanged)[-1].state is ReplicaState.FAILED
    assert stage.core.snapshot(stage.now).node_devices_free.tolist() == [1]


def test_a_replica_whose_node_never_reports_after_a_restart_is_gone_after_a_grace() -> None:
    stage = _restored()
    stage.pass_time(GRACE * 0.99)
    assert len(stage.replicas()) == 1

    stage.pass_time(GRACE * 0.02)

    assert stage.replicas() == []


def test_a_replica_that_was_never_seen_starting_did_not_fail_to_start() -> None:
    stage = _restored()

    stage.join("a", holds=["m"])

    assert stage.core.state.back_offs == {}
    assert stage.changes(StartFinished) == []


def test_a_start_from_before_a_restart_is_not_written_again() -> None:
    stage = _restored()
    stage.pass_time(3.0)

    stage.join("a", holds=["m"], replicas=[status_of("r0-1", "m")])

    # When its command was sent is not known here; what was written then stays.
    assert stage.changes(StartFinished) == []


def test_a_replica_of_a_model_that_is_no_longer_deployed_is_stopped_after_a_restart() -> None:
    stage = _restored(model="gone")

    stage.join("a", holds=["m"], replicas=[status_of("r0-1", "gone")])
    stage.settle()

    assert [type(send.command) for send in stage.sends] == [StopReplicaRequest]


def test_a_busy_replica_from_before_a_restart_is_busy() -> None:
    stage = _restored()

    stage.join(
        "a",
        holds=["m"],
        replicas=[status_of("r0-1", "m")],
        summaries=(summary_of("r0-1", running=1),),
    )
    stage.settle()
    stage.pass_time(600.0)
    stage.settle()

    assert stage.sends == []


def test_what_is_new_in_an_epoch_has_other_names_than_before() -> None:
    stage = Stage()
    stage.handle(EpochRaised(epoch=4))
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.demand("m", 1)
    stage.settle()

    (start,) = stage.sends
    assert isinstance(start.command, StartReplicaRequest)
    assert start.decision == "d4-1"
    assert start.command.spec.replica_id == "r4-1"
    assert start.command.header.epoch == 4


def test_an_epoch_never_falls() -> None:
    stage = Stage()
    stage.handle(EpochRaised(epoch=4))

    stage.handle(EpochRaised(epoch=3))

    assert stage.core.state.epoch == 4


def test_routes_are_announced_again_with_the_epoch_that_a_node_acknowledged() -> None:
    stage, replica = _ready_replica()
    stage.handle(EpochRaised(epoch=4))

    stage.join("a", devices=2, holds=["m"], replicas=[status_of(replica, "m")])

    assert isinstance(stage.routes[-1], RouteAdded)
    assert stage.routes[-1].epoch == 4


# Models that are deleted and deployed anew.


def test_a_deleted_models_replica_is_drained() -> None:
    stage, replica = _ready_replica()

    stage.delete("m")
    stage.settle()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert (stop.command.replica_id, stop.command.if_idle) == (replica, False)
    assert stop.command.grace_seconds == CoreSettings().drain_seconds
    assert stage.routes[-1] == RouteRemoved(
        replica=replica, is_lost=False, reason="its model was deleted"
    )


def test_a_deleted_model_has_no_demand() -> None:
    stage, _ = _ready_replica()
    stage.demand("m", 3)

    stage.delete("m")

    assert stage.core.state.demand == {}
    assert stage.core.snapshot(stage.now).model_ids == ()


@pytest.mark.parametrize(("digest", "is_stopped"), [("one", False), ("two", True), ("", True)])
def test_a_replica_of_other_bytes_than_are_there_goes_when_its_model_is_deployed_again(
    digest: str, is_stopped: bool
) -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=[copy_of("m", bytes_digest="one")])
    stage.demand("m", 1)
    stage.settle()
    stage.ack(stage.sends[0])
    key = CompatibilityKey(
        content=copy_of("m", bytes_digest="one").content,
        engine="timed",
        engine_version="1",
        dtype="float32",
        parallelism=1,
    )
    stage.report(stage.replicas("m")[0], ReplicaState.READY, compatibility=key)
    stage.update("a", checkpoints=(copy_of("m", bytes_digest=digest),))

    stage.deploy("m")
    stage.settle()

    stops = [send for send in stage.sends if isinstance(send.command, StopReplicaRequest)]
    assert bool(stops) is is_stopped


def test_a_start_that_waits_for_the_end_of_what_a_copy_was_is_not_given_up() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.demand("m", 1)
    stage.settle()

    for _ in range(6):
        (start,) = stage.sends
        stage.refuse(start, code="layout_changed")
        stage.pass_time(GRACE)
        stage.settle()

    assert not [update for update in stage.routes if isinstance(update, ModelRefused)]
    assert len(stage.sends) == 1


def test_a_deleted_model_leaves_nothing_behind() -> None:
    stage, _ = _ready_replica()

    stage.delete("m")
    stage.obey_all()

    state = stage.core.state
    assert state.replicas == {}
    assert (state.models, state.model_versions, state.digests) == ({}, {}, {})


def test_deleting_what_is_not_deployed_is_harmless() -> None:
    stage, replica = _ready_replica()

    stage.delete("unknown")
    stage.settle()

    assert stage.sends == []
    assert stage.replica(replica).is_stopping is False


def test_a_start_that_was_not_sent_ends_with_its_model() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.plan()

    stage.delete("m")
    stage.settle()

    assert stage.sends == []
    assert stage.replicas() == []
    assert stage.core.state.decisions == {}


def test_a_start_that_was_sent_is_stopped_with_its_model() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.settle()

    stage.delete("m")
    stage.settle()

    assert [type(send.command) for send in stage.sends] == [
        StartReplicaRequest,
        StopReplicaRequest,
    ]


def test_a_model_deployed_anew_as_it_was_keeps_its_replicas() -> None:
    stage, replica = _ready_replica()

    stage.deploy("m", keep_alive_seconds=7.0, max_replicas=3, priority=1)
    stage.settle()

    assert stage.replica(replica).is_stopping is False
    assert stage.core.state.models[ModelId("m")].keep_alive_seconds == 7.0


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float16"},
        {"engine_options": {"threads": "2"}},
        {"context_tokens": 512},
        {"concurrency": 2},
        {"devices": 2},
    ],
)
def test_replicas_of_a_model_that_runs_otherwise_now_are_replaced(
    change: dict[str, object],
) -> None:
    stage, replica = _ready_replica()

    stage.deploy("m", **change)
    stage.demand("m", 1)
    stage.settle()
    stage.report(replica, ReplicaState.STOPPED)
    stage.settle()

    assert [type(send.command) for send in stage.sends] == [
        StopReplicaRequest,
        StartReplicaRequest,
    ]


def test_a_model_deployed_anew_forgets_its_failures() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.settle()
    stage.refuse(stage.sends[0])
    assert stage.core.state.back_offs != {}

    stage.deploy("m", dtype="float16")
    stage.settle()

    assert stage.core.state.back_offs == {}
    assert len(stage.sends) == 1


def test_a_deleted_model_leaves_no_failures_behind() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.demand("m", 1)
    stage.settle()
    stage.refuse(stage.sends[0])

    stage.delete("m")

    assert stage.core.state.back_offs == {}


# Replicas that must go, whatever comes in between.


def test_a_replica_that_must_go_is_not_given_new_requests_when_its_stop_is_refused() -> None:
    stage, replica = _ready_replica()
    stage.delete("m")
    stage.settle()
    n_routes = len(stage.routes)

    stage.refuse(stage.sends[0])

    assert not [each for each in stage.routes[n_routes:] if isinstance(each, RouteAdded)]
    assert stage.replica(replica).state is ReplicaState.READY


@pytest.mark.parametrize("how", ["refuse", "lose"])
def test_a_replica_that_must_go_is_told_again(how: str) -> None:
    stage, replica = _ready_replica()
    stage.deploy("m", dtype="float16")
    stage.settle()
    (stop,) = stage.sends
    getattr(stage, how)(stop)
    stage.settle()
    assert stage.sends == []

    stage.pass_time(CoreSettings().first_back_off_seconds)
    stage.settle()

    (again,) = stage.sends
    assert isinstance(again.command, StopReplicaRequest)
    assert again.command.replica_id == replica


def test_a_replica_that_must_go_is_told_again_when_that_was_not_written() -> None:
    stage, replica = _ready_replica()
    stage.deploy("m", dtype="float16")
    stage.fail_commit()
    assert not [each for each in stage.routes[1:] if isinstance(each, RouteAdded)]

    stage.pass_time(CoreSettings().first_back_off_seconds)
    stage.settle()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert stop.command.replica_id == replica


def test_a_replica_that_must_go_is_told_when_its_node_is_back() -> None:
    stage, replica = _ready_replica()
    stage.disconnect("a", may_return=True)
    stage.deploy("m", dtype="float16")
    stage.settle()
    assert stage.sends == []

    stage.join("a", devices=2, holds=["m"], replicas=[status_of(replica, "m")])
    stage.settle()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert stop.command.if_idle is False


def test_a_replica_that_must_go_does_not_count_as_one_of_its_model() -> None:
    stage, replica = _ready_replica()
    stage.disconnect("a", may_return=True)
    stage.deploy("m", dtype="float16")
    stage.join("b", holds=["m"])
    stage.demand("m", 1)

    stage.settle()

    assert [send.node for send in stage.sends] == ["b"]
    assert stage.replica(replica).model == "m"


def test_a_replica_that_was_to_stop_if_idle_and_must_go_goes_although_it_is_busy() -> None:
    stage, replica = _ready_replica()
    stage.pass_time(60.0)
    stage.settle()
    (politely,) = stage.sends
    stage.deploy("m", dtype="float16")
    stage.settle()

    stage.refuse(politely, code="replica_busy")
    stage.pass_time(CoreSettings().first_back_off_seconds)
    stage.settle()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert (stop.command.replica_id, stop.command.if_idle) == (replica, False)


def test_a_replica_from_before_a_restart_goes_if_its_model_was_deployed_anew_meanwhile() -> None:
    stage = _restored()
    stage.deploy("m", dtype="float16")
    stage.settle()
    stage.join("a", holds=[copy_of("m")], replicas=[status_of("r0-1", "m")])

    stage.settle()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert stop.command.replica_id == "r0-1"
    assert not [each for each in stage.routes if isinstance(each, RouteAdded)]

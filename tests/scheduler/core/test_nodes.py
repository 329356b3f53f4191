from __future__ import annotations

import pytest

from pilotlight.scheduler.core.actions import (
    ModelRefused,
    NodeChanged,
    ReplicaChanged,
    RouteAdded,
    RouteRemoved,
)
from pilotlight.scheduler.core.events import (
    KnownReplica,
    NodeDisconnected,
    NodeUpdated,
    TimerFired,
)
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import DecisionId, Plan
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.core.turn import CoreSettings
from pilotlight.scheduler.testing.reports import (
    copy_of,
    disk,
    load_of,
    model_of,
    status_of,
    summary_of,
)
from pilotlight.scheduler.testing.stage import Stage, start_step, stop_step
from pilotlight.store_node.protocol import (
    Incarnation,
    ModelId,
    NodeId,
    NodeUpdate,
    ReplicaId,
    ReplicaState,
    StartReplicaRequest,
    StopReplicaRequest,
)

GRACE = CoreSettings().reconnect_grace_seconds


def _stage() -> tuple[Stage, Replica]:
    """Return a stage with an idle replica of "m" on node "a"; "b" holds a copy too."""
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    replica = stage.bring_up("m")
    stage.join("b", holds=["m"])
    stage.settle()
    return stage, replica


def test_a_node_that_joins_is_written_and_published() -> None:
    stage = Stage()

    stage.join("a", holds=["m"])

    (changed,) = stage.changes(NodeChanged)
    assert (changed.node, changed.incarnation, changed.is_up) == ("a", "a-1", True)
    assert [each.text for each in stage.published] == ["a is up with 1 checkpoint"]


def test_demand_that_waits_for_a_node_is_served_when_it_joins() -> None:
    stage = Stage(models=[model_of("m")], is_settled=False)
    stage.demand("m", 1)
    stage.settle()
    assert stage.routes == []

    stage.join("a", holds=["m"])
    stage.settle()

    assert len(stage.sends) == 1


def test_a_node_that_falls_silent_loses_its_replicas_at_once() -> None:
    stage, replica = _stage()

    stage.disconnect("a")

    assert stage.replicas() == []
    assert stage.routes[-1] == RouteRemoved(
        replica=replica.id,
        is_lost=True,
        reason="a is down: it fell silent",
        code="node_lost",
    )
    assert stage.changes(ReplicaChanged)[-1].state is ReplicaState.FAILED
    assert stage.changes(NodeChanged)[-1].is_up is False


def test_demand_moves_on_when_a_node_falls_silent() -> None:
    stage, _ = _stage()
    stage.disconnect("a")

    stage.demand("m", 1)
    stage.settle()

    assert [send.node for send in stage.sends] == ["b"]


def test_a_start_on_a_node_that_falls_silent_is_planned_elsewhere() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.settle()
    stage.join("b", holds=["m"])
    stage.settle()

    stage.disconnect("a")
    stage.settle()

    assert [send.node for send in stage.sends] == ["a", "b"]


def test_a_node_whose_connection_broke_keeps_its_replicas_for_a_grace() -> None:
    stage, replica = _stage()
    stage.disconnect("a", may_return=True)

    stage.pass_time(GRACE * 0.9)
    assert stage.replica(replica).state is ReplicaState.READY
    stage.pass_time(GRACE * 0.2)

    assert stage.replicas() == []


def test_a_node_that_returns_within_its_grace_keeps_its_replicas() -> None:
    stage, replica = _stage()
    stage.disconnect("a", may_return=True)
    stage.pass_time(GRACE * 0.5)

    stage.join("a", holds=["m"], replicas=[status_of(replica.id, "m")])
    stage.pass_time(GRACE)

    assert stage.replica(replica).state is ReplicaState.READY
    assert not [update for update in stage.routes if isinstance(update, RouteRemoved)]


def test_the_grace_of_an_earlier_break_does_not_cut_the_next_one_short() -> None:
    stage, replica = _stage()
    stage.disconnect("a", may_return=True)
    stage.pass_time(GRACE * 0.5)
    stage.join("a", holds=["m"], replicas=[status_of(replica.id, "m")])
    stage.disconnect("a", may_return=True)

    # The first grace would end here, the second one later.
    stage.pass_time(GRACE * 0.6)

    assert stage.replica(replica).state is ReplicaState.READY


def test_what_a_returning_node_does_not_run_any_more_is_gone() -> None:
    stage, replica = _stage()
    stage.disconnect("a", may_return=True)

    stage.join("a", holds=["m"])

    assert stage.replicas() == []
    assert stage.routes[-1] == RouteRemoved(
        replica=replica.id, is_lost=True, reason="a does not run it any more"
    )


def test_a_start_that_a_returning_node_does_not_know_yet_is_on_its_way() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.settle()
    stage.disconnect("a", may_return=True)

    stage.join("a", holds=["m"])

    assert len(stage.replicas()) == 1
    stage.lose(stage.sends[0])
    assert stage.replicas() == []
    assert stage.core.state.decisions == {}


def test_a_start_that_a_returning_node_had_taken_and_does_not_know_has_failed() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.settle()
    stage.ack(stage.sends[0])
    stage.disconnect("a", may_return=True)

    stage.join("a", holds=["m"])

    assert stage.replicas() == []
    assert stage.core.state.decisions == {}


def test_a_start_that_was_not_sent_survives_a_reconnection() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.plan()
    stage.disconnect("a", may_return=True)

    stage.join("a", holds=["m"])
    stage.commit()

    assert [send.node for send in stage.sends] == ["a"]


def test_a_restarted_node_has_lost_its_replicas() -> None:
    stage, replica = _stage()

    stage.join("a", holds=["m"], incarnation=Incarnation("a-2"))

    assert stage.replicas() == []
    assert stage.routes[-1] == RouteRemoved(
        replica=replica.id, is_lost=True, reason="its node was restarted", code="node_lost"
    )
    assert stage.core.snapshot(stage.now).node_devices_free.tolist() == [1, 1]


def test_a_start_for_the_earlier_incarnation_of_a_node_is_not_sent() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.plan()

    stage.join("a", holds=["m"], incarnation=Incarnation("a-2"))
    stage.commit()

    assert stage.sends == []
    assert stage.replicas() == []


def test_a_start_on_a_restarted_node_is_not_held_against_it() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.plan()

    stage.join("a", holds=["m"], incarnation=Incarnation("a-2"))
    stage.settle()

    assert stage.core.state.back_offs == {}
    assert [send.incarnation for send in stage.sends] == ["a-2"]


def test_what_waited_for_a_replica_of_a_restarted_node_is_not_sent_to_it() -> None:
    stage, old = _stage()
    stage.deploy("new")
    stage.update("a", checkpoints=(copy_of("new"),))
    stage.demand("new", 1)
    stage.plan(Plan(steps=(stop_step(old), start_step("new", "a", after=["stop"]))))
    stage.commit()
    assert len(stage.sends) == 1

    stage.join("a", holds=["m", "new"], incarnation=Incarnation("a-2"))

    assert [type(send.command) for send in stage.sends] == [StopReplicaRequest]
    assert stage.replicas() == []


def test_a_step_for_a_node_that_is_away_is_planned_again() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.plan()
    stage.disconnect("a", may_return=True)
    stage.commit()
    assert stage.sends == []

    stage.join("a", holds=["m"])
    stage.settle()

    assert len(stage.sends) == 1


def test_a_late_grace_timer_is_harmless() -> None:
    stage, replica = _stage()

    stage.handle(TimerFired(timer="node:a:a-1"))
    stage.handle(TimerFired(timer="node:unknown:x"))
    stage.handle(TimerFired(timer="node:"))

    assert stage.replica(replica).state is ReplicaState.READY


@pytest.mark.parametrize(("node", "incarnation"), [("unknown", "x"), ("a", "a-0"), ("a", "a-2")])
def test_news_of_an_unknown_node_or_incarnation_is_passed_over(node: str, incarnation: str) -> None:
    stage, replica = _stage()
    update = NodeUpdate(
        replicas=(status_of(replica.id, "m", ReplicaState.FAILED), status_of("stray", "m")),
        removed_checkpoints=(copy_of("m").reference,),
    )

    stage.handle(
        NodeUpdated(node=NodeId(node), incarnation=Incarnation(incarnation), update=update)
    )
    stage.handle(
        NodeDisconnected(
            node=NodeId(node),
            incarnation=Incarnation(incarnation),
            reason="gone",
            may_return=False,
        )
    )

    assert [each.id for each in stage.replicas()] == [replica.id]
    assert stage.core.state.nodes[NodeId("a")].is_up


def test_news_of_a_node_that_is_down_is_passed_over() -> None:
    stage, replica = _stage()
    stage.disconnect("a")
    routes = list(stage.routes)

    stage.update("a", replicas=(status_of(replica.id, "m"),))

    assert stage.replicas() == []
    assert stage.routes == routes


def test_a_node_that_goes_twice_goes_once() -> None:
    stage, _ = _stage()
    stage.disconnect("a")
    n = len(stage.published)

    stage.disconnect("a")

    assert len(stage.published) == n


def test_demand_learns_at_once_that_its_only_node_is_down() -> None:
    stage = Stage()
    stage.deploy("m", devices=2)
    stage.deploy("busy")
    stage.join("a", devices=2, holds=["m", "busy"])
    stage.settle()
    replica = stage.bring_up("busy")
    stage.traffic(replica, running=1)
    stage.demand("m", 1)
    stage.settle()
    assert not [each for each in stage.routes if isinstance(each, ModelRefused)]
    stage.report(replica, ReplicaState.FAILED)
    stage.settle()
    stage.refuse(stage.sends[-1])
    stage.settle()

    stage.disconnect("a")
    stage.settle()

    assert isinstance(stage.routes[-1], ModelRefused)
    assert stage.routes[-1].reason == "its only copies lie on a: down"


def test_demand_learns_what_is_wrong_with_the_copies_that_there_are() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=[copy_of("m", quarantine="model.safetensors is cut short")])
    stage.demand("m", 1)
    stage.settle()
    refused = stage.routes[-1]
    stage.update("a", checkpoints=(copy_of("m"),))
    stage.settle()

    assert isinstance(refused, ModelRefused)
    assert refused.reason == (
        "no node holds a usable copy of m; a says: model.safetensors is cut short"
    )
    assert stage.core.snapshot(stage.now).fault_reasons == ()
    assert len(stage.replicas("m")) == 1


def test_an_unknown_replica_of_a_deployed_model_is_adopted() -> None:
    stage = Stage()
    stage.deploy("m", max_replicas=2)

    stage.join("a", holds=["m"], replicas=[status_of("stray", "m")])

    assert stage.replica("stray").state is ReplicaState.READY
    assert {each.replica for each in stage.routes if isinstance(each, RouteAdded)} == {"stray"}
    assert stage.changes(ReplicaChanged)[-1].replica == "stray"


def test_an_unknown_replica_of_a_copy_elsewhere_on_its_node_is_adopted() -> None:
    stage = Stage()
    stage.deploy("m", content_id="same-bytes")
    moved = copy_of("m", reference="elsewhere/m", layout_id="other", content_id="same-bytes")

    stage.join("a", holds=[moved], replicas=[status_of("stray", "m", reference="elsewhere/m")])
    stage.commit()

    assert stage.replica("stray").is_stopping is False
    assert stage.sends == []


@pytest.mark.parametrize(
    "stray",
    [
        status_of("stray", "unknown"),
        status_of("stray", "m", reference="another-checkpoint"),
        status_of("stray", "m", ReplicaState.STARTING, reference="another-checkpoint"),
    ],
)
def test_an_unknown_replica_that_nothing_asked_for_is_stopped(stray: object) -> None:
    stage = Stage()
    stage.deploy("m")

    stage.join("a", holds=["m"], replicas=[stray])  # type: ignore[list-item]
    stage.commit()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert stop.command.replica_id == "stray"
    assert not [each for each in stage.routes if isinstance(each, RouteAdded)]


def test_an_unknown_replica_beyond_the_maximum_is_stopped() -> None:
    stage, replica = _stage()

    stage.join("b", holds=["m"], replicas=[status_of("stray", "m")])
    stage.settle()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert stop.command.replica_id == "stray"
    assert stage.replica(replica).is_stopping is False


@pytest.mark.parametrize("state", [ReplicaState.STOPPED, ReplicaState.FAILED])
def test_an_unknown_replica_that_has_ended_is_nothing(state: ReplicaState) -> None:
    stage = Stage()
    stage.deploy("m")

    stage.join("a", holds=["m"], replicas=[status_of("stray", "m", state)])

    assert stage.replicas() == []


def test_a_replica_that_more_devices_belong_to_than_there_are_is_counted_as_it_is() -> None:
    stage, _ = _stage()

    stage.update("a", replicas=(status_of("stray", "unknown", devices=(0, 1)),))
    stage.commit()

    # One device, less the core's replica of one and the stray one of two.
    assert stage.core.snapshot(stage.now).node_devices_free.tolist() == [-2, 1]
    assert len(stage.sends) == 1


def test_a_start_is_not_planned_on_devices_that_a_stray_replica_holds() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"], replicas=[status_of("stray", "unknown")])
    stage.settle()
    stage.demand("m", 1)
    stage.settle()
    assert not [s for s in stage.sends if isinstance(s.command, StartReplicaRequest)]

    stage.report(ReplicaId("stray"), ReplicaState.STOPPED)
    stage.settle()

    assert [s for s in stage.sends if isinstance(s.command, StartReplicaRequest)]


def test_a_full_report_brings_traffic_along() -> None:
    stage, replica = _stage()
    stage.disconnect("a", may_return=True)

    stage.join(
        "a",
        holds=["m"],
        replicas=[status_of(replica.id, "m")],
        summaries=(summary_of(replica.id, running=2),),
    )

    assert (stage.replica(replica).running, stage.replica(replica).idle_since) == (2, None)


def test_loads_of_a_node_that_is_down_occupy_no_disk() -> None:
    stage, _ = _stage()
    stage.update("a", loads=(load_of("m"),))
    assert stage.core.snapshot(stage.now).load_left_bytes.tolist() == [10**9]

    stage.disconnect("a")

    assert stage.core.snapshot(stage.now).load_left_bytes.tolist() == []


def test_copies_that_come_and_go_are_followed() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a")
    stage.update("a", checkpoints=(copy_of("m"),))
    assert stage.core.snapshot(stage.now).residency.tolist() == [[1]]

    stage.update("a", removed_checkpoints=(copy_of("m").reference,))

    assert stage.core.snapshot(stage.now).residency.tolist() == [[0]]


def test_demand_is_planned_again_when_a_copy_arrives() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a")
    stage.demand("m", 1)
    stage.settle()

    stage.update("a", checkpoints=(copy_of("m"),))
    stage.settle()

    assert len(stage.sends) == 1


def test_quarantine_and_eviction_are_published() -> None:
    stage = Stage()
    stage.join("a", holds=[copy_of("m", in_dram=True)])

    stage.update("a", checkpoints=(copy_of("m"),))
    stage.update("a", checkpoints=(copy_of("m", quarantine="chunk 3 is corrupt"),))

    assert [each.kind for each in stage.published[-2:]] == ["evicted", "quarantined"]


def test_a_start_that_is_sent_while_its_node_rejoins_is_not_missing_there() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.deploy("other")
    stage.join("a", holds=["m", "other"])
    stage.bring_up("m")
    stage.demand("other", 1)
    stage.settle()
    stage.ack(stage.sends[-1])
    stage.disconnect("a", may_return=True)

    stage.join("a", holds=["m", "other"])

    (send,) = stage.sends
    assert isinstance(send.command, StartReplicaRequest)
    (starting,) = stage.replicas()
    assert starting.id == send.command.spec.replica_id
    assert stage.core.state.back_offs == {}


@pytest.mark.parametrize("changes", [{"dtype": "float64"}, {"engine_options": {"a": "b"}}])
def test_a_replica_of_an_earlier_deployment_is_not_adopted(changes: dict[str, object]) -> None:
    stage = Stage()
    before = stage.deploy("m")
    stage.join("a", holds=["m"])
    replica = stage.bring_up("m")
    stage.disconnect("a")
    stage.deploy("m", **changes)

    found = status_of(replica.id, "m", deployment=before.deployment)
    stage.join("a", holds=["m"], replicas=[found])
    stage.settle()

    (send,) = stage.sends
    assert isinstance(send.command, StopReplicaRequest)
    assert not isinstance(stage.routes[-1], RouteAdded)


def test_a_change_that_replicas_know_nothing_of_leaves_them() -> None:
    stage = Stage()
    before = stage.deploy("m")
    stage.join("a", holds=["m"])
    replica = stage.bring_up("m")
    stage.disconnect("a")
    stage.deploy("m", keep_alive_seconds=5.0, max_replicas=3)

    found = status_of(replica.id, "m", deployment=before.deployment)
    stage.join("a", holds=["m"], replicas=[found])
    stage.settle()

    assert stage.sends == []
    assert isinstance(stage.routes[-1], RouteAdded)


@pytest.mark.parametrize("deployed", [[], [model_of("m", dtype="float64")]])
def test_a_replica_that_the_last_leader_did_not_come_to_stop_is_stopped(
    deployed: list[Model],
) -> None:
    known = KnownReplica(
        replica=ReplicaId("r0-1"),
        model=ModelId("m"),
        node=NodeId("a"),
        devices=1,
        decision=DecisionId("d"),
    )
    stage = Stage(models=deployed, replicas=[known], is_settled=False)

    stage.join(
        "a", holds=["m"], replicas=[status_of("r0-1", "m", deployment=model_of("m").deployment)]
    )
    stage.settle()

    (send,) = stage.sends
    assert isinstance(send.command, StopReplicaRequest)
    assert not [route for route in stage.routes if isinstance(route, RouteAdded)]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_start_that_is_found_under_way_has_its_time_and_no_more(is_known: bool) -> None:
    known = KnownReplica(
        replica=ReplicaId("r0-1"),
        model=ModelId("m"),
        node=NodeId("a"),
        devices=1,
        decision=DecisionId("d"),
    )
    stage = Stage(models=[model_of("m")], replicas=[known] if is_known else [], is_settled=False)
    stage.demand("m", 1)
    stage.join("a", holds=["m"], replicas=[status_of("r0-1", "m", ReplicaState.STARTING)])
    stage.settle()

    stage.pass_time(CoreSettings().start_timeout_seconds)
    stage.settle()

    (send,) = stage.sends
    assert isinstance(send.command, StopReplicaRequest)


def test_a_disk_that_becomes_known_may_change_plans() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"], channels=[])
    stage.settle()

    stage.update("a", channels=(disk("new"),))

    assert len(stage.plans) == 1

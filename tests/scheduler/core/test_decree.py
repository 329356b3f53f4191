from __future__ import annotations

from pilotlight.scheduler.core.actions import DecisionMade, Send
from pilotlight.scheduler.core.events import EvictAsked, FetchAsked
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import (
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    ModelId,
    NodeId,
    ReplicaState,
    StartReplicaRequest,
    StopReplicaRequest,
)

BOTH = (NodeId("a"), NodeId("b"))


def _stage() -> Stage:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.join("b", holds=["m"])
    stage.settle()
    return stage


def test_a_fetch_that_a_user_asked_for_goes_to_each_node_once_it_is_written() -> None:
    stage = _stage()
    stage.handle(FetchAsked(model=ModelId("m"), nodes=BOTH))
    assert stage.sends == []

    stage.commit()

    assert [(send.node, type(send.command)) for send in stage.sends] == [
        ("a", FetchCheckpointRequest),
        ("b", FetchCheckpointRequest),
    ]
    for send in list(stage.sends):
        stage.ack(send)
    assert stage.core.state.decisions == {}


def test_an_eviction_that_a_user_asked_for_goes_where_it_can() -> None:
    stage = _stage()
    stage.disconnect("b")

    stage.handle(EvictAsked(model=ModelId("m"), nodes=BOTH))
    stage.commit()

    (send,) = stage.sends
    assert (send.node, type(send.command)) == ("a", EvictCheckpointRequest)
    (made,) = stage.changes(DecisionMade)
    assert [(item.step.id, item.reason) for item in made.rejected] == [("evict-b", "b is not up")]


def test_what_a_user_asked_for_in_vain_is_published() -> None:
    stage = _stage()

    stage.handle(FetchAsked(model=ModelId("unknown"), nodes=BOTH[:1]))

    assert stage.persists == []
    assert stage.published[-1].text == ("step fetch-a was rejected: no model unknown is deployed")


def test_a_replica_that_must_go_is_told_once_while_it_goes() -> None:
    stage = _stage()
    replica = stage.bring_up("m")
    stage.delete("m")
    stage.settle()
    stage.ack(stage.sends[0])
    stage.report(replica, ReplicaState.DRAINING)

    stage.pass_time(100.0)
    stage.settle()

    assert stage.sends == []
    commands = [action.command for action in stage.actions if isinstance(action, Send)]
    assert [type(command) for command in commands] == [StartReplicaRequest, StopReplicaRequest]

from __future__ import annotations

import pytest

from pilotlight.scheduler.core.events import TimerFired
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.core.turn import CoreSettings
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import ReplicaState, StartReplicaRequest, StopReplicaRequest

TIMEOUT = CoreSettings().start_timeout_seconds


def _starting() -> tuple[Stage, Replica]:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.settle()
    stage.ack(stage.sends[0])
    return stage, stage.replicas("m")[0]


def test_a_start_that_takes_too_long_is_stopped() -> None:
    stage, replica = _starting()
    stage.pass_time(TIMEOUT - 1.0)
    stage.settle()
    assert stage.sends == []

    stage.pass_time(1.0)
    stage.settle()

    (stop,) = stage.sends
    assert isinstance(stop.command, StopReplicaRequest)
    assert (stop.command.replica_id, stop.command.if_idle) == (replica.id, False)


def test_a_start_that_took_too_long_counts_as_failed_there() -> None:
    stage, replica = _starting()
    stage.join("b", holds=["m"])
    stage.pass_time(TIMEOUT)

    stage.settle()

    assert stage.core.state.back_offs["m@a"].reason == "not ready after 900 s"
    starts = [send for send in stage.sends if isinstance(send.command, StartReplicaRequest)]
    assert [send.node for send in starts] == ["b"]
    assert stage.replica(replica).is_leaving


def test_devices_of_a_start_that_took_too_long_are_held_until_its_node_gives_them_back() -> None:
    stage, replica = _starting()
    stage.pass_time(TIMEOUT)
    stage.settle()
    assert stage.core.snapshot(stage.now).node_devices_free.tolist() == [0]

    stage.report(replica, ReplicaState.STOPPED)

    assert stage.core.snapshot(stage.now).node_devices_free.tolist() == [1]


def test_a_start_that_was_in_time_is_left_alone() -> None:
    stage, replica = _starting()
    stage.report(replica, ReplicaState.READY)
    stage.traffic(replica, running=1)

    stage.pass_time(TIMEOUT * 2)
    stage.settle()

    assert stage.sends == []


@pytest.mark.parametrize("timer", ["start:unknown", "start:", "node:x:y", "insist", "restored"])
def test_a_timer_that_nothing_waits_for_any_more_is_harmless(timer: str) -> None:
    stage, replica = _starting()
    stage.report(replica, ReplicaState.READY)

    stage.handle(TimerFired(timer=timer))
    stage.handle(TimerFired(timer=timer))

    assert stage.replica(replica).state is ReplicaState.READY


def test_a_timer_that_nobody_set_is_a_mistake_of_ours() -> None:
    stage = Stage()

    with pytest.raises(AssertionError, match="unknown timer 'tea'"):
        stage.handle(TimerFired(timer="tea"))

from __future__ import annotations

import pytest

from pilotlight.store_node.core.actions import KillWorker, SetTimer
from pilotlight.store_node.core.events import DrainDeadline, ShutdownRequested, TimerFired
from pilotlight.store_node.protocol import FinishReason, ReplicaId, ReplicaState
from pilotlight.store_node.protocol.refusals import ErrorCode
from pilotlight.store_node.testing import NodeCase


def test_device_and_chunks_return_only_when_the_worker_is_dead() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=4)
    llama = case.checkpoint("llama", chunks=2)
    case.run(llama)

    case.stop()
    assert case.asked_for(KillWorker)
    assert case.status().state is ReplicaState.DRAINING
    assert case.chunks() == (6, 0, 2)
    case.after(0.125).die()

    assert case.status().state is ReplicaState.STOPPED
    assert case.status().teardown_seconds == 0.125
    assert case.status().devices == ()
    assert case.chunks() == (6, 2, 0)


def test_idle_stop_is_refused_while_a_request_runs() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"))
    case.generate()

    refusal = case.stop(if_idle=True)

    assert refusal is not None
    assert refusal.code is ErrorCode.REPLICA_BUSY
    assert case.status().state is ReplicaState.READY


def test_idle_stop_stops_an_idle_replica() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"))

    assert case.stop(if_idle=True) is None
    assert case.asked_for(KillWorker)


def test_drain_lets_requests_finish_and_admits_none() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"))
    case.generate("q1")

    case.stop(grace_seconds=10.0)
    refusal = case.generate("q2")
    assert not case.asked_for(KillWorker)
    case.emit("q1", finish=FinishReason.STOP)

    assert refusal is not None
    assert refusal.code is ErrorCode.NOT_READY
    assert case.asked_for(KillWorker)
    assert case.ended_streams() == {"q1": FinishReason.STOP}


def test_drain_cuts_what_still_runs_at_its_deadline() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"))
    case.generate("q1")

    case.stop(grace_seconds=10.0)
    key = DrainDeadline(replica_id=ReplicaId("r1"))
    assert case.asked_for(SetTimer) == [SetTimer(key=key, at=case.now + 10.0)]
    case.after(10.0).handle(TimerFired(key=key))

    assert case.ended_streams() == {"q1": ErrorCode.REPLICA_STOPPED}
    assert case.asked_for(KillWorker)


def test_second_stop_can_only_shorten_the_drain() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"))
    case.generate("q1")
    case.stop(grace_seconds=10.0)

    case.stop(grace_seconds=60.0)
    assert not case.asked_for(KillWorker)
    case.stop(grace_seconds=0.0)

    assert case.asked_for(KillWorker)


def test_worker_that_dies_while_ready_fails_the_replica_and_its_requests() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=4)
    llama = case.checkpoint("llama", chunks=2)
    case.run(llama)
    case.generate("q1")

    case.die(reason="killed by SIGKILL; last line: step 12")

    assert case.status().state is ReplicaState.FAILED
    assert case.status().error_code == ErrorCode.WORKER_DIED
    assert "step 12" in case.status().error
    assert case.ended_streams() == {"q1": ErrorCode.WORKER_DIED}
    # The bytes are as good as before: they go back to DRAM.
    assert case.chunks() == (6, 2, 0)


def test_worker_that_dies_during_the_load_fails_the_start_when_the_load_has_ended() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama", chunks=2)
    case.start(llama)

    case.die()
    assert case.status().state is ReplicaState.DRAINING
    case.fail_load(llama, None)

    assert case.status().state is ReplicaState.FAILED
    assert case.chunks() == (16, 0, 0)


def test_worker_that_dies_while_binding_fails_the_start() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama", chunks=2)
    case.start(llama)
    case.finish_load(llama)
    case.prepare()

    case.die()

    assert case.status().state is ReplicaState.FAILED
    assert case.copy_status(llama).dram_bytes == 2_000


def test_worker_that_dies_unasked_leaves_its_last_lines() -> None:
    case = NodeCase(devices=2)
    llama = case.checkpoint("llama")
    case.run(llama, "asked")
    case.run(llama, "unasked")

    case.stop("asked")
    case.die("asked", log_tail="bye")
    case.die("unasked", log_tail="Traceback:\nout of patience")

    tails = [case.status(replica).log_tail for replica in ("asked", "unasked")]
    assert tails == ["", "Traceback:\nout of patience"]


def test_worker_that_dies_in_a_drain_fails_the_replica_unless_it_was_told_to_end() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"), "r1")
    case.run(case.checkpoint("qwen"), "r2")
    case.generate("q1", "r1")

    case.stop("r1", grace_seconds=10.0)
    case.die("r1")
    case.stop("r2")
    case.die("r2")

    assert case.status("r1").state is ReplicaState.FAILED
    assert case.status("r2").state is ReplicaState.STOPPED


@pytest.mark.parametrize("phase", ["loading", "loaded", "binding"])
def test_stop_during_a_start_brings_everything_back(phase: str) -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=4)
    llama = case.checkpoint("llama", chunks=2)
    case.start(llama)
    if phase != "loading":
        case.finish_load(llama)
    if phase == "binding":
        case.prepare()

    case.stop()
    case.die()
    if phase == "loading":
        case.fail_load(llama, None)

    assert case.status().state is ReplicaState.STOPPED
    assert case.chunks() == ((8, 0, 0) if phase == "loading" else (6, 2, 0))
    assert case.start(llama, "r2") is None


def test_late_news_of_a_stopped_start_changes_nothing() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama)
    case.stop()

    case.prepare()
    case.finish_load(llama)
    case.bind()

    assert case.status().state is ReplicaState.DRAINING
    assert case.status().compatibility is None


def test_stopping_what_has_ended_is_no_error_and_what_never_was_is() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"))
    case.end()

    assert case.stop() is None
    refusal = case.stop("never")
    assert refusal is not None
    assert refusal.code is ErrorCode.UNKNOWN_REPLICA


def test_cancelling_a_start_that_succeeded_is_refused() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"))

    refusal = case.cancel_start()

    assert refusal is not None
    assert refusal.code is ErrorCode.ALREADY_READY


def test_chunks_of_an_ended_replica_are_freed_where_dram_has_no_room() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=3)
    pinned = case.checkpoint("pinned", chunks=2)
    llama = case.checkpoint("llama", chunks=2)
    case.fetch(pinned)
    case.finish_load(pinned)
    case.pin(pinned)
    case.run(llama)

    case.end()

    assert case.copy_status(llama).dram_bytes == 0
    assert case.copy_status(pinned).dram_bytes == 2_000
    assert case.chunks() == (5, 2, 0)


def test_chunks_of_an_ended_replica_take_the_place_of_the_least_recently_used() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=4)
    names = [case.checkpoint(name, chunks=2) for name in ("a", "b", "c")]
    for number, name in enumerate(names):
        case.after(1.0).run(name, f"r{number}")
        case.after(1.0).end(f"r{number}")

    # 3 x 2 chunks for 4 places: "a" was used longest ago.
    assert [case.copy_status(name).dram_bytes for name in names] == [0, 2_000, 2_000]


def test_a_plan_may_say_what_leaves_dram() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=4)
    old, young = case.checkpoint("old", chunks=2), case.checkpoint("young", chunks=2)
    for name in (old, young):
        case.after(1.0).fetch(name)
        case.finish_load(name)
    llama = case.checkpoint("llama", chunks=2)

    case.start(llama, evict=[young])
    case.finish_load(llama)
    case.end()

    assert case.copy_status(young).dram_bytes == 0
    assert case.copy_status(old).dram_bytes == 2_000
    assert case.copy_status(llama).dram_bytes == 2_000


def test_shutdown_ends_everything_and_admits_nothing() -> None:
    case = NodeCase()
    llama, qwen = case.checkpoint("llama"), case.checkpoint("qwen")
    opt = case.checkpoint("opt")
    case.run(llama, "r1")
    case.generate("q1", "r1")
    case.start(qwen, "r2")
    case.fetch(opt)

    case.handle(ShutdownRequested())
    assert case.ended_streams() == {"q1": ErrorCode.NODE_STOPPING}
    refusal = case.start(opt, "r3")
    assert not case.core.is_idle
    for replica in ("r1", "r2"):
        case.die(replica)
    for reference in (qwen, opt):
        case.fail_load(reference, None)

    assert refusal is not None
    assert refusal.code is ErrorCode.NODE_STOPPING
    assert case.core.is_idle


def test_shutdown_lets_requests_finish_if_it_is_told_to() -> None:
    case = NodeCase(devices=2)
    llama, qwen = case.checkpoint("llama"), case.checkpoint("qwen")
    case.run(llama, "r1")
    case.start(qwen, "r2")
    for request in ("q1", "q2"):
        case.generate(request, "r1")

    case.handle(ShutdownRequested(grace_seconds=5.0))
    killed = [replica for replica, state in case.workers.items() if state == "killed"]
    case.emit("q1", "r1", finish=FinishReason.STOP)
    refusal = case.generate("q3", "r1")
    case.after(5.0).handle(TimerFired(key=DrainDeadline(replica_id=ReplicaId("r1"))))

    assert killed == ["r2"]
    assert refusal is not None
    assert refusal.code is ErrorCode.NODE_STOPPING
    assert case.ended_streams() == {"q2": ErrorCode.NODE_STOPPING}
    assert case.workers[ReplicaId("r1")] == "killed"


def test_remembers_a_bounded_number_of_ended_replicas() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")

    for number in range(70):
        case.run(llama, f"r{number}")
        case.end(f"r{number}")

    kept = [each.replica_id for each in case.core.reports.replicas()]
    assert kept == [f"r{number}" for number in range(6, 70)]  # 70 - 64 = 6

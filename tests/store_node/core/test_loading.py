from __future__ import annotations

import pytest

from pilotlight.store_node.core.actions import CancelLoad, PromoteLoad, SubmitLoad
from pilotlight.store_node.protocol import ReplicaState
from pilotlight.store_node.protocol.refusals import ErrorCode
from pilotlight.store_node.testing import NodeCase


def test_start_promotes_the_prefetch_that_it_joins() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.fetch(llama, priority=1)

    case.start(llama, priority=5)

    assert not case.asked_for(SubmitLoad)
    assert case.asked_for(PromoteLoad) == [PromoteLoad(load_id="load-1", priority=5)]
    assert case.core.reports.loads()[0].replica_id == "r1"


def test_lower_priority_never_demotes_a_load() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama, priority=5)

    case.fetch(llama, priority=1)

    assert not case.asked_for(PromoteLoad)
    assert case.core.reports.loads()[0].priority == 5


def test_cancelled_start_ends_a_load_that_is_less_than_half_done() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=4)
    llama = case.checkpoint("llama", chunks=2)
    case.start(llama)
    case.progress(llama, 999)  # of 2000

    case.cancel_start()
    assert case.asked_for(CancelLoad)
    case.die()
    # The load still writes: neither the chunks nor the device are free.
    assert case.status().state is ReplicaState.DRAINING
    assert case.chunks() == (6, 0, 2)
    case.fail_load(llama, None)

    assert case.status().state is ReplicaState.STOPPED
    assert case.chunks() == (8, 0, 0)
    assert case.start(llama, "r2") is None


def test_cancelled_start_keeps_a_load_that_is_half_done_as_a_prefetch() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=4)
    llama = case.checkpoint("llama", chunks=2)
    case.start(llama)
    case.progress(llama, 1_000)  # of 2000

    case.cancel_start()
    case.die()

    assert not case.asked_for(CancelLoad)
    assert case.status().state is ReplicaState.STOPPED
    assert case.chunks() == (6, 2, 0)
    case.finish_load(llama)
    assert case.copy_status(llama).dram_bytes == 2_000


def test_half_done_load_of_a_cancelled_start_ends_when_dram_has_no_room() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=1)
    llama = case.checkpoint("llama", chunks=2)
    case.start(llama)
    case.progress(llama, 1_500)

    case.cancel_start()
    case.die()
    assert case.asked_for(CancelLoad)
    case.fail_load(llama, None)

    assert case.status().state is ReplicaState.STOPPED
    assert case.chunks() == (5, 0, 0)


def test_load_that_wins_against_its_cancellation_is_kept_if_it_fits() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama", chunks=2)
    case.start(llama)
    case.cancel_start()

    case.finish_load(llama)
    case.die()

    assert case.status().state is ReplicaState.STOPPED
    assert case.copy_status(llama).dram_bytes == 2_000


def test_cancelled_start_leaves_the_load_to_another_replica() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama, "r1")
    case.start(llama, "r2")

    case.cancel_start("r1")
    case.die("r1")
    case.finish_load(llama)
    case.prepare("r2")
    case.bind("r2")

    assert case.status("r1").state is ReplicaState.STOPPED
    assert case.status("r2").state is ReplicaState.READY


def test_cancelled_start_leaves_the_load_to_whoever_asked_for_a_prefetch() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama)
    case.fetch(llama)

    case.cancel_start()
    case.die()

    assert llama in case.loads
    assert not case.cancelled_loads


def test_start_during_a_cancellation_loads_anew_when_that_has_ended() -> None:
    case = NodeCase(devices=2)
    llama = case.checkpoint("llama")
    case.start(llama, "r1")
    case.cancel_start("r1")

    case.start(llama, "r2", priority=7)
    assert llama in case.loads
    case.die("r1")
    case.fail_load(llama, None)

    assert case.asked_for(SubmitLoad) == [SubmitLoad(load_id="load-2", reference=llama, priority=7)]
    assert case.status("r1").state is ReplicaState.STOPPED
    assert case.status("r2").state is ReplicaState.STARTING


def test_prefetch_during_a_cancellation_loads_anew_when_that_has_ended() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama", chunks=2)
    case.start(llama)
    case.cancel_start()

    case.fetch(llama)
    case.die()
    case.fail_load(llama, None)

    assert case.asked_for(SubmitLoad)
    assert case.status().state is ReplicaState.STOPPED
    assert case.chunks() == (14, 2, 0)


def test_checksum_mismatch_fails_the_start_and_quarantines_the_copy() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama)

    case.fail_load(llama, ErrorCode.CHECKSUM_MISMATCH)
    case.die()

    assert case.status().state is ReplicaState.FAILED
    assert case.status().error_code == ErrorCode.CHECKSUM_MISMATCH
    assert case.copy_status(llama).quarantine == "it failed"
    refusal = case.start(llama, "r2")
    assert refusal is not None
    assert refusal.code is ErrorCode.QUARANTINED
    # free + cached + bound: everything is back.
    assert case.chunks() == (16, 0, 0)


def test_quarantine_ends_when_the_files_change() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.fetch(llama)
    case.fail_load(llama, ErrorCode.CHECKSUM_MISMATCH)

    case.checkpoint("llama", version=2)

    assert case.copy_status(llama).quarantine == ""
    assert case.start(llama) is None


def test_read_error_fails_the_start_but_not_the_copy() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama)

    case.fail_load(llama, ErrorCode.READ_FAILED)
    case.die()

    assert case.status().state is ReplicaState.FAILED
    assert case.status().error_code == ErrorCode.READ_FAILED
    assert case.start(llama, "r2") is None


def test_replica_stopped_during_its_start_does_not_fail_with_its_load() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama)
    case.stop()

    case.fail_load(llama, ErrorCode.READ_FAILED)
    case.die()

    assert case.status().state is ReplicaState.STOPPED
    assert case.status().error == ""


def test_prefetch_never_exceeds_dram() -> None:
    case = NodeCase(dram_chunks=4)
    one, two = case.checkpoint("one", chunks=3), case.checkpoint("two", chunks=2)
    huge = case.checkpoint("huge", chunks=5)
    case.fetch(one)

    full = case.fetch(two)
    too_large = case.fetch(huge)

    assert full is not None
    assert full.code is ErrorCode.DRAM_FULL
    assert too_large is not None
    assert too_large.code is ErrorCode.TOO_LARGE


def test_prefetch_of_what_is_there_does_nothing() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.run(llama)

    assert case.fetch(llama) is None
    assert not case.loads


def test_changed_copy_drops_what_is_cached_of_the_old_one() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.fetch(llama)
    case.finish_load(llama)

    case.checkpoint("llama", version=2)

    assert case.copy_status(llama).dram_bytes == 0
    assert case.chunks() == (16, 0, 0)


def test_changed_copy_waits_for_the_replicas_that_use_the_old_one() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.run(llama)
    case.checkpoint("llama", version=2)

    refusal = case.start(llama, "r2")
    case.end("r1")

    assert refusal is not None
    assert refusal.code is ErrorCode.LAYOUT_CHANGED
    assert case.chunks() == (16, 0, 0)
    assert case.start(llama, "r3") is None


@pytest.mark.parametrize("wins", [True, False])
def test_prefetch_of_a_removed_copy_ends(wins: bool) -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.fetch(llama)

    case.remove_checkpoint(llama)
    assert case.asked_for(CancelLoad)
    if wins:
        case.finish_load(llama)
    else:
        case.fail_load(llama, None)

    assert case.chunks() == (16, 0, 0)
    assert case.core.reports.checkpoint(llama) is None

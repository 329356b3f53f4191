from __future__ import annotations

import pytest

from pilotlight.store_node.core.actions import BindWorker, SubmitLoad, TakeWorker
from pilotlight.store_node.protocol import ChecksumState, Reference, ReplicaId, ReplicaState, Tier
from pilotlight.store_node.protocol.refusals import ErrorCode
from pilotlight.store_node.testing import NodeCase


def test_takes_a_worker_and_begins_loading_in_the_same_instant() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")

    refusal = case.start(llama, priority=3)

    assert refusal is None
    assert [type(a) for a in case.actions if isinstance(a, SubmitLoad | TakeWorker)] == [
        SubmitLoad,
        TakeWorker,
    ]
    assert case.status().state is ReplicaState.STARTING
    assert case.status().devices == (0,)


def test_loads_straight_into_the_devices_account() -> None:
    case = NodeCase(devices=2, device_chunks=4, dram_chunks=0)
    llama = case.checkpoint("llama", chunks=3)

    case.start(llama)

    # 2 x 4 chunks in all, 3 of them on the device's account, none on DRAM's.
    assert case.chunks() == (5, 0, 3)


@pytest.mark.parametrize("load_ends_first", [True, False])
def test_binds_once_both_the_load_and_the_worker_are_done(load_ends_first: bool) -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama)

    if load_ends_first:
        case.finish_load(llama)
        assert not case.asked_for(BindWorker)
        case.prepare()
    else:
        case.prepare()
        assert not case.asked_for(BindWorker)
        case.finish_load(llama)

    assert case.asked_for(BindWorker) == [BindWorker(replica_id=ReplicaId("r1"), reference=llama)]


def test_reports_phases_that_sum_to_the_start_when_the_worker_is_last() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama", chunks=2)

    case.start(llama)
    case.after(3.0).finish_load(llama, queue_seconds=1.0)
    case.after(0.5).prepare(busy_seconds=3.4)
    case.after(0.25).bind()

    outcome = case.status().outcome
    assert outcome is not None
    assert outcome.tier is Tier.SSD
    assert outcome.bytes_read == 2_000
    assert outcome.queue_seconds == pytest.approx(1.0)
    assert outcome.transfer_seconds == pytest.approx(2.0)  # 3.0 - 1.0
    assert outcome.worker_seconds == pytest.approx(0.5)
    assert outcome.bind_seconds == pytest.approx(0.25)
    assert outcome.disk_busy_seconds == 1.0
    assert outcome.worker_busy_seconds == 3.4
    assert outcome.checksum is ChecksumState.LEARNED
    assert outcome.prefill_seconds is None


def test_has_no_worker_phase_when_the_load_is_last() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")

    case.start(llama)
    case.after(0.5).prepare()
    case.after(2.0).finish_load(llama)
    case.after(0.25).bind()

    outcome = case.status().outcome
    assert outcome is not None
    assert (outcome.queue_seconds, outcome.transfer_seconds) == (0.0, 2.5)
    assert (outcome.worker_seconds, outcome.bind_seconds) == (0.0, 0.25)


def test_start_from_dram_reads_nothing() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.fetch(llama)
    case.finish_load(llama)

    case.start(llama)
    case.after(0.5).prepare()
    case.after(0.25).bind()

    outcome = case.status().outcome
    assert not case.loads
    assert outcome is not None
    assert (outcome.tier, outcome.bytes_read) == (Tier.DRAM, 0)
    assert (outcome.queue_seconds, outcome.transfer_seconds) == (0.0, 0.0)
    assert (outcome.worker_seconds, outcome.bind_seconds) == (0.5, 0.25)
    assert outcome.checksum is None


def test_a_start_that_joins_a_prefetch_counts_only_its_own_wait() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.fetch(llama)

    case.after(4.0).start(llama)
    case.prepare()
    # The first block was asked for 1 s after the prefetch, 3 s before the start.
    case.after(2.0).finish_load(llama, queue_seconds=1.0)
    case.bind()

    outcome = case.status().outcome
    assert outcome is not None
    assert outcome.tier is Tier.SSD
    assert (outcome.queue_seconds, outcome.transfer_seconds) == (0.0, 2.0)


def test_two_replicas_of_one_checkpoint_share_load_and_chunks() -> None:
    case = NodeCase(devices=2, device_chunks=4, dram_chunks=0)
    llama = case.checkpoint("llama", chunks=3)

    case.start(llama, "r1")
    case.start(llama, "r2")
    case.finish_load(llama)
    for replica in ("r1", "r2"):
        case.prepare(replica)
        case.bind(replica)

    assert case.chunks() == (5, 0, 3)
    assert case.status("r1").state is case.status("r2").state is ReplicaState.READY
    assert (case.status("r1").devices, case.status("r2").devices) == ((0,), (1,))


def test_chunks_shared_by_replicas_return_with_the_last_of_them() -> None:
    case = NodeCase(devices=2, device_chunks=4, dram_chunks=4)
    llama = case.checkpoint("llama", chunks=3)
    case.run(llama, "r1")
    case.run(llama, "r2")

    case.end("r1")
    assert case.chunks() == (9, 0, 3)
    case.end("r2")

    assert case.chunks() == (9, 3, 0)


def test_second_replica_of_a_bound_checkpoint_starts_from_the_device() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.run(llama, "r1")

    case.run(llama, "r2")

    outcome = case.status("r2").outcome
    assert outcome is not None
    assert outcome.tier is Tier.DEVICE


def test_binding_moves_chunks_out_of_dram() -> None:
    case = NodeCase(devices=1, device_chunks=4, dram_chunks=2)
    llama, qwen = case.checkpoint("llama", chunks=2), case.checkpoint("qwen", chunks=2)
    case.fetch(llama)
    case.finish_load(llama)

    case.start(llama)
    refusal = case.fetch(qwen)

    # 4 + 2 chunks: llama's 2 are the device's now, so DRAM has room for qwen's 2.
    assert refusal is None
    assert case.chunks() == (2, 2, 2)


def test_key_of_what_it_computes_names_the_bytes() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")

    case.run(llama)

    key = case.status().compatibility
    assert key is not None
    assert key.content == "layout-llama-1:digest-llama"
    assert (key.engine, key.engine_version, key.dtype, key.parallelism) == ("timed", "1", "F32", 1)


def test_key_of_what_it_computes_names_the_variant_of_the_engine() -> None:
    keys = [started_with(variant=variant).status().compatibility for variant in ("", "lora-1")]

    assert [key.engine_version for key in keys if key is not None] == ["1", "1 lora-1"]


def started_with(*, variant: str) -> NodeCase:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama)
    case.finish_load(llama)
    case.prepare()
    case.bind(variant=variant)
    return case


def test_concurrency_is_what_owner_and_engine_both_allow() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")

    case.start(llama, concurrency=8)
    case.finish_load(llama)
    case.prepare()
    case.bind(concurrency=3)

    assert case.status().concurrency == 3


def test_refuses_a_start_when_no_device_is_free() -> None:
    case = NodeCase(devices=1)
    llama, qwen = case.checkpoint("llama"), case.checkpoint("qwen")
    case.run(llama)

    refusal = case.start(qwen, "r2")

    assert refusal is not None
    assert refusal.code is ErrorCode.DEVICES_BUSY


def test_refuses_a_start_that_would_never_fit() -> None:
    case = NodeCase(devices=2, device_chunks=4)
    huge = case.checkpoint("huge", chunks=9)
    large = case.checkpoint("large", chunks=5)

    refusals = [
        case.start(huge, "r1", devices=2),  # 9 > 2 x 4
        case.start(large, "r2", devices=1),  # 5 > 4
        case.start(large, "r3", devices=3),
    ]

    assert [each.code for each in refusals if each] == [ErrorCode.TOO_LARGE] * 3
    assert case.start(large, "r4", devices=2) is None


def test_refuses_what_it_does_not_know() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    broken = case.checkpoint("broken")
    case.break_checkpoint(broken, "model.safetensors: header is longer than the file")

    unknown = case.start(Reference("nowhere"))
    quarantined = case.start(broken)
    engine = case.start(llama, engine="vllm")
    layout = case.start(llama, layout_id="another")

    assert unknown is not None
    assert unknown.code is ErrorCode.UNKNOWN_CHECKPOINT
    assert quarantined is not None
    assert quarantined.code is ErrorCode.QUARANTINED
    assert "header is longer than the file" in quarantined.message
    assert engine is not None
    assert engine.code is ErrorCode.UNKNOWN_ENGINE
    assert "timed" in engine.message
    assert layout is not None
    assert layout.code is ErrorCode.LAYOUT_CHANGED


def test_refuses_a_replica_id_twice() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.start(llama, "r1")

    refusal = case.start(llama, "r1")

    assert refusal is not None
    assert refusal.code is ErrorCode.REPLICA_EXISTS


def test_an_adapter_that_is_not_here_is_no_start() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    options = {"adapter": "french"}
    refused = case.start(llama, engine_options=options)
    case.checkpoint("french")

    assert refused is not None
    assert (refused.code, "'french'" in refused.message) == (ErrorCode.UNKNOWN_CHECKPOINT, True)
    assert case.start(llama, engine_options=options) is None

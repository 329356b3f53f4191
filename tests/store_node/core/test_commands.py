from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from pilotlight.store_node.core import fence
from pilotlight.store_node.core.actions import SubmitLoad, TakeWorker
from pilotlight.store_node.core.events import EpochSeen
from pilotlight.store_node.protocol import Incarnation
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal
from pilotlight.store_node.testing import NodeCase


def code_of(refusal: Refusal | None) -> ErrorCode | None:
    return refusal.code if refusal is not None else None


def test_refuses_a_leader_that_another_has_followed() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.handle(EpochSeen(epoch=5))

    old = case.start(llama, "r1", header=case.header(epoch=4))
    present = case.start(llama, "r2", header=case.header(epoch=5))
    new = case.start(llama, "r3", header=case.header(epoch=6))

    assert (code_of(old), present, new) == (ErrorCode.STALE_EPOCH, None, None)
    assert case.core.epoch == 6


def test_epoch_never_falls() -> None:
    case = NodeCase()

    case.handle(EpochSeen(epoch=5))
    case.handle(EpochSeen(epoch=3))

    assert case.core.epoch == 5


def test_requests_of_an_old_leader_are_refused_too() -> None:
    case = NodeCase()
    case.run(case.checkpoint("llama"))
    case.handle(EpochSeen(epoch=5))

    assert code_of(case.generate(epoch=4)) is ErrorCode.STALE_EPOCH
    assert code_of(case.cancel()) is ErrorCode.STALE_EPOCH


def test_refuses_a_command_for_an_earlier_incarnation() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    header = dataclasses.replace(case.header(epoch=9), incarnation=Incarnation("inc-0"))

    refusal = case.start(llama, header=header)

    assert code_of(refusal) is ErrorCode.WRONG_INCARNATION
    assert case.core.epoch == 0


def test_repeated_command_gets_the_first_answer_and_does_nothing() -> None:
    case = NodeCase(devices=1)
    llama = case.checkpoint("llama")
    header = case.header(key="same")

    first = case.start(llama, header=header)
    second = case.start(llama, header=header)

    assert (first, second) == (None, None)
    assert not case.asked_for(SubmitLoad)
    assert not case.asked_for(TakeWorker)


def test_repeated_refusal_stays_a_refusal() -> None:
    case = NodeCase(devices=1)
    llama = case.checkpoint("llama")
    case.run(llama, "r1")
    header = case.header(key="same")

    first = case.start(llama, "r2", header=header)
    case.end("r1")
    second = case.start(llama, "r2", header=header)

    assert code_of(first) is code_of(second) is ErrorCode.DEVICES_BUSY
    assert case.start(llama, "r2") is None


@pytest.mark.parametrize("give_up", [NodeCase.stop, NodeCase.cancel_start])
def test_start_that_comes_after_it_was_given_up_is_refused(
    give_up: Callable[[NodeCase, str], Refusal | None],
) -> None:
    case = NodeCase(devices=1)
    llama = case.checkpoint("llama")

    assert code_of(give_up(case, "r1")) is ErrorCode.UNKNOWN_REPLICA
    assert code_of(case.start(llama, "r1")) is ErrorCode.REPLICA_STOPPED
    assert case.start(llama, "r2") is None


def test_command_without_a_key_is_refused() -> None:
    case = NodeCase()
    header = dataclasses.replace(case.header(), idempotency_key="")

    refusal = case.start(case.checkpoint("llama"), header=header)

    assert code_of(refusal) is ErrorCode.INVALID_REQUEST


def test_remembers_a_bounded_number_of_keys_those_used_last() -> None:
    keys = fence.Fence(Incarnation("inc-1"))

    for number in range(fence.MOST_KNOWN_KEYS):
        keys.remember(f"key-{number}", None)
    keys.recall("key-0")
    keys.remember("one more", None)

    assert keys.knows("key-0")
    assert not keys.knows("key-1")


def test_evicts_what_is_evictable() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.fetch(llama)

    loading = case.evict(llama)
    case.finish_load(llama)
    case.pin(llama)
    pinned = case.evict(llama)
    case.pin(llama, pinned=False)
    evictable = case.evict(llama)
    gone = case.evict(llama)

    assert (code_of(loading), code_of(pinned)) == (ErrorCode.LOADING, ErrorCode.PINNED)
    assert (evictable, gone) == (None, None)
    assert case.chunks() == (16, 0, 0)


def test_evicting_a_bound_checkpoint_leaves_it() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama", chunks=2)
    case.run(llama)

    assert case.evict(llama) is None
    assert case.chunks() == (14, 0, 2)


def test_pinned_checkpoint_is_never_evicted() -> None:
    case = NodeCase(dram_chunks=3)
    llama, qwen = case.checkpoint("llama", chunks=2), case.checkpoint("qwen", chunks=2)
    case.fetch(llama)
    case.finish_load(llama)
    case.pin(llama)

    assert code_of(case.fetch(qwen)) is ErrorCode.DRAM_FULL
    case.pin(llama, pinned=False)
    assert case.fetch(qwen) is None


def test_pin_of_an_unknown_checkpoint_is_refused() -> None:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.pin(llama)
    case.remove_checkpoint(llama)

    assert code_of(case.pin(llama)) is ErrorCode.UNKNOWN_CHECKPOINT
    assert case.pin(llama, pinned=False) is None

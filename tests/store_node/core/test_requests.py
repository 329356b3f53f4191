from __future__ import annotations

import dataclasses

import pytest

from pilotlight.store_node.core.actions import (
    AdmitWork,
    CancelWork,
    ClearTimer,
    Deliver,
    EndStream,
    ReportIdle,
    SetTimer,
)
from pilotlight.store_node.core.events import (
    RequestDeadline,
    StreamClosed,
    StreamOverflowed,
    TimerFired,
    WorkRejected,
)
from pilotlight.store_node.engines import WorkFailure
from pilotlight.store_node.protocol import CompatibilityKey, FinishReason, ReplicaId, RequestId
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal
from pilotlight.store_node.testing import NodeCase


def ready_case(*, concurrency: int = 4) -> NodeCase:
    case = NodeCase()
    case.run(case.checkpoint("llama"), concurrency=concurrency)
    return case


def code_of(refusal: Refusal | None) -> ErrorCode | None:
    return refusal.code if refusal is not None else None


def test_admits_an_attempt_with_its_earlier_tokens() -> None:
    case = ready_case()

    refusal = case.generate(attempt=2, emitted=(7, 8), deadline_seconds=60.0)

    assert refusal is None
    [admitted] = case.asked_for(AdmitWork)
    assert isinstance(admitted, AdmitWork)
    assert admitted.work.prompt_ids == (1, 2, 3)
    assert admitted.work.emitted_ids == (7, 8)
    key = RequestDeadline(request_id=RequestId("q1"), attempt=2)
    assert case.asked_for(SetTimer) == [SetTimer(key=key, at=case.now + 60.0)]


def test_refuses_more_than_its_concurrency() -> None:
    case = ready_case(concurrency=2)

    answers = [code_of(case.generate(f"q{number}")) for number in range(3)]

    assert answers == [None, None, ErrorCode.NO_SLOT]


def test_request_refused_for_want_of_a_slot_may_come_again() -> None:
    case = ready_case(concurrency=1)
    case.generate("q1")
    case.generate("q2")

    case.emit("q1", finish=FinishReason.STOP)

    assert case.generate("q2") is None


def test_says_when_a_replica_has_nothing_left_to_do() -> None:
    case = ready_case(concurrency=2)
    case.generate("q1")
    case.generate("q2")

    case.emit("q1", finish=FinishReason.STOP)
    assert case.asked_for(ReportIdle) == []
    case.emit("q2", finish=FinishReason.STOP)

    assert case.asked_for(ReportIdle) == [ReportIdle()]


def test_refuses_a_replica_that_is_not_ready() -> None:
    case = NodeCase()
    case.start(case.checkpoint("llama"))

    assert code_of(case.generate()) is ErrorCode.NOT_READY
    assert code_of(case.generate("q2", "r9")) is ErrorCode.UNKNOWN_REPLICA


def test_refuses_a_replica_that_would_compute_other_tokens() -> None:
    case = ready_case()
    key = case.status().compatibility
    assert key is not None
    other: CompatibilityKey = dataclasses.replace(key, dtype="BF16")

    assert case.generate("q1", compatibility=key) is None
    assert code_of(case.generate("q2", compatibility=other)) is ErrorCode.INCOMPATIBLE


def test_refuses_a_request_that_makes_no_sense() -> None:
    case = ready_case()

    assert code_of(case.generate(attempt=0)) is ErrorCode.INVALID_REQUEST
    assert code_of(case.generate(deadline_seconds=0.0)) is ErrorCode.DEADLINE_EXCEEDED


def test_delivers_tokens_and_frees_the_slot_with_the_last() -> None:
    case = ready_case(concurrency=1)
    case.generate()

    case.emit(seq=0, tokens=(7, 8))
    assert len(case.asked_for(Deliver)) == 1
    case.emit(seq=2, tokens=(9,), finish=FinishReason.LENGTH)

    assert case.ended_streams() == {"q1": FinishReason.LENGTH}
    assert case.asked_for(ClearTimer)
    assert case.generate("q2") is None


def test_repeated_attempt_is_refused_while_it_runs_and_after() -> None:
    case = ready_case()
    case.generate(attempt=2)

    running = [code_of(case.generate(attempt=attempt)) for attempt in (1, 2)]
    case.emit(attempt=2, finish=FinishReason.STOP)
    ended = [code_of(case.generate(attempt=attempt)) for attempt in (1, 2)]

    assert running == ended == [ErrorCode.STALE_ATTEMPT] * 2


def test_higher_attempt_drops_the_lower_one() -> None:
    case = ready_case(concurrency=1)
    case.generate(attempt=1)

    refusal = case.generate(attempt=2)

    assert refusal is None
    assert case.ended_streams() == {"q1": ErrorCode.SUPERSEDED}
    kinds = [type(a) for a in case.actions if isinstance(a, CancelWork | AdmitWork)]
    assert kinds == [CancelWork, AdmitWork]


def test_tokens_of_a_dropped_attempt_are_discarded() -> None:
    case = ready_case()
    case.generate(attempt=1)
    case.generate(attempt=2)

    case.emit(attempt=1, tokens=(7,))
    assert not case.asked_for(Deliver)
    case.emit(attempt=2, tokens=(7,))

    assert case.asked_for(Deliver)


def test_cancelled_attempts_are_never_admitted_later() -> None:
    case = ready_case()

    assert case.cancel(attempt=3) is None
    answers = [code_of(case.generate(attempt=attempt)) for attempt in (1, 3, 4)]

    assert answers == [ErrorCode.STALE_ATTEMPT, ErrorCode.STALE_ATTEMPT, None]


def test_cancel_ends_the_stream_and_the_work() -> None:
    case = ready_case()
    case.generate()
    case.emit(tokens=(7, 8))

    case.cancel()

    assert case.asked_for(CancelWork)
    [farewell] = case.asked_for(Deliver)
    assert isinstance(farewell, Deliver)
    assert farewell.emission.seq == 2
    assert farewell.emission.finish_reason is FinishReason.CANCELLED


def test_cancel_of_a_lower_attempt_leaves_the_higher_one() -> None:
    case = ready_case()
    case.generate(attempt=2)

    case.cancel(attempt=1)

    assert case.ended_streams() == {}
    assert not case.asked_for(CancelWork)


def test_reader_that_leaves_cancels_its_request() -> None:
    case = ready_case(concurrency=1)
    case.generate()

    case.handle(StreamClosed(request_id=RequestId("q1"), attempt=1))

    assert case.asked_for(CancelWork)
    assert case.generate("q2") is None


def test_reader_that_is_too_slow_loses_its_request() -> None:
    case = ready_case()
    case.generate()

    case.handle(StreamOverflowed(request_id=RequestId("q1"), attempt=1))

    assert case.asked_for(CancelWork)
    assert case.ended_streams() == {"q1": ErrorCode.SLOW_CLIENT}


def test_request_ends_at_its_deadline() -> None:
    case = ready_case()
    case.generate(deadline_seconds=5.0)

    key = RequestDeadline(request_id=RequestId("q1"), attempt=1)
    case.after(5.0).handle(TimerFired(key=key))

    assert case.asked_for(CancelWork)
    assert case.ended_streams() == {"q1": ErrorCode.DEADLINE_EXCEEDED}


def test_engine_may_reject_a_request() -> None:
    case = ready_case(concurrency=1)
    case.generate()

    case.handle(
        WorkRejected(
            request_id=RequestId("q1"),
            attempt=1,
            code=ErrorCode.CONTEXT_EXCEEDED,
            message="3 + 200 tokens exceed 128",
        )
    )

    assert case.ended_streams() == {"q1": ErrorCode.CONTEXT_EXCEEDED}
    assert case.generate("q2") is None


def test_first_request_completes_the_starts_outcome() -> None:
    case = ready_case()
    case.after(0.5).generate("q1")
    case.after(0.25).emit("q1", tokens=(7,))
    case.after(8.0).generate("q2")
    case.after(2.0).emit("q2", tokens=(7,))

    outcome = case.status().outcome
    assert outcome is not None
    assert outcome.handover_seconds == 0.5
    assert outcome.prefill_seconds == 0.25


@pytest.mark.parametrize(("running", "free"), [(0, 4), (3, 1)])
def test_summary_counts_slots(running: int, free: int) -> None:
    case = ready_case(concurrency=4)
    for number in range(running):
        case.generate(f"q{number}")

    [summary] = case.core.reports.summaries(now=case.now)

    assert (summary.running, summary.free_slots) == (running, free)


def test_summary_of_a_request_says_how_fast_it_runs() -> None:
    case = ready_case()
    case.generate(attempt=2, emitted=(7, 8), deadline_seconds=60.0)
    case.after(1.0).emit(attempt=2, seq=2, tokens=(9,))
    case.after(2.0).emit(attempt=2, seq=3, tokens=(9, 9, 9))

    [summary] = case.core.reports.summaries(now=case.now)

    [request] = summary.requests
    assert request.prompt_tokens == 3
    assert request.emitted_tokens == 6  # 2 + 1 + 3
    assert request.tokens_per_second == pytest.approx(1.5)  # 3 tokens in the 2 s after the first
    assert request.deadline_seconds == pytest.approx(57.0)  # 60 - 1 - 2


def test_summary_says_how_long_a_replica_has_been_idle() -> None:
    case = ready_case()
    case.after(4.0)
    [fresh] = case.core.reports.summaries(now=case.now)
    case.generate()
    [busy] = case.core.reports.summaries(now=case.now)
    case.after(1.0).emit(finish=FinishReason.STOP)

    [idle] = case.core.reports.summaries(now=case.now + 2.5)

    assert (fresh.idle_seconds, busy.idle_seconds, idle.idle_seconds) == (4.0, 0.0, 2.5)


def test_summary_of_one_replica_is_that_of_all() -> None:
    case = ready_case()
    case.generate()

    [summary] = case.core.reports.summaries(now=case.now)

    assert case.core.reports.summary(summary.replica_id, now=case.now) == summary
    assert case.core.reports.summary(ReplicaId("nobody"), now=case.now) is None


def kv_case(*, kv_tokens: int, kv_block_tokens: int = 1, concurrency: int = 4) -> NodeCase:
    case = NodeCase()
    llama = case.checkpoint("llama")
    case.run(llama, kv_tokens=kv_tokens, kv_block_tokens=kv_block_tokens, concurrency=concurrency)
    return case


def kv_free(case: NodeCase) -> int | None:
    [summary] = case.core.reports.summaries(now=case.now)
    return summary.kv_tokens_free


def test_request_holds_kv_memory_for_all_it_may_come_to_until_it_ends() -> None:
    case = kv_case(kv_tokens=100)

    case.generate(max_tokens=16)
    admitted = kv_free(case)
    case.emit(tokens=(7, 8))
    under_way = kv_free(case)
    case.emit(seq=2, finish=FinishReason.STOP)

    # 3 of the prompt and up to 16 of the answer, whatever of them is there.
    assert (admitted, under_way, kv_free(case)) == (81, 81, 100)


def test_request_holds_kv_memory_in_whole_blocks_and_no_more_than_a_context() -> None:
    case = kv_case(kv_tokens=256, kv_block_tokens=16)

    case.generate("small", max_tokens=14)
    small = kv_free(case)
    case.generate("large", max_tokens=1000)

    # 3 + 14 tokens take two blocks of 16, a context of 128 tokens takes eight.
    assert (small, kv_free(case)) == (256 - 32, 256 - 32 - 128)


def test_refuses_what_does_not_fit_into_kv_memory_beside_the_others() -> None:
    case = kv_case(kv_tokens=40)
    case.generate("q1", max_tokens=17)  # holds 20

    answers = [
        code_of(case.generate("q2", max_tokens=18)),  # 21 of 20
        code_of(case.generate("q3", max_tokens=17)),  # 20 of 20
        code_of(case.generate("q4", max_tokens=0)),  # 3 of 0
    ]
    case.emit("q1", finish=FinishReason.STOP)

    assert answers == [ErrorCode.NO_KV_MEMORY, None, ErrorCode.NO_KV_MEMORY]
    assert case.generate("q4", max_tokens=0) is None


def test_refuses_for_ever_what_no_kv_memory_would_be_enough_for() -> None:
    case = kv_case(kv_tokens=40, concurrency=1)
    case.generate("q1")

    answers = [code_of(case.generate("q2", max_tokens=n)) for n in (38, 37)]

    # 3 + 38 tokens never fit into 40; the slot is taken for the other.
    assert answers == [ErrorCode.CONTEXT_EXCEEDED, ErrorCode.NO_SLOT]


@pytest.mark.parametrize("end", ["cancel", "deadline", "failure", "rejection"])
def test_kv_memory_comes_back_however_a_request_ends(end: str) -> None:
    case = kv_case(kv_tokens=100)
    case.generate()

    match end:
        case "cancel":
            case.cancel()
        case "deadline":
            key = RequestDeadline(request_id=RequestId("q1"), attempt=1)
            case.handle(TimerFired(key=key))
        case "failure":
            case.emit(tokens=(), failure=WorkFailure(code="invalid_logits", message="NaN"))
        case _:
            case.handle(rejection(ErrorCode.INVALID_REQUEST))

    assert kv_free(case) == 100


def test_replica_without_kv_accounts_refuses_nothing_for_it() -> None:
    case = ready_case()

    assert case.generate(max_tokens=1_000_000) is None
    assert kv_free(case) is None


def rejection(code: ErrorCode) -> WorkRejected:
    return WorkRejected(request_id=RequestId("q1"), attempt=1, code=code, message="full")


def test_engine_that_is_full_beside_a_free_slot_lacks_kv_memory() -> None:
    case = kv_case(kv_tokens=100)
    case.generate()

    case.handle(rejection(ErrorCode.NO_SLOT))

    assert case.ended_streams() == {"q1": ErrorCode.NO_KV_MEMORY}


def test_engine_that_is_full_and_does_not_account_for_kv_memory_lacks_a_slot() -> None:
    case = ready_case()
    case.generate()

    case.handle(rejection(ErrorCode.NO_SLOT))

    assert case.ended_streams() == {"q1": ErrorCode.NO_SLOT}


@pytest.mark.parametrize(
    ("word", "code"),
    [("invalid_logits", ErrorCode.INVALID_LOGITS), ("hiccup", ErrorCode.ENGINE_FAILED)],
)
def test_attempt_that_the_engine_gives_up_ends_and_the_others_go_on(
    word: str, code: ErrorCode
) -> None:
    case = ready_case(concurrency=2)
    case.generate("q1")
    case.generate("q2")

    case.emit("q1", tokens=(), failure=WorkFailure(code=word, message="position 3"))

    assert case.ended_streams() == {"q1": code}
    [end] = case.asked_for(EndStream)
    assert isinstance(end, EndStream)
    assert end.refusal.message == "position 3"
    assert not case.asked_for(Deliver), "there is nothing to read"
    assert not case.asked_for(CancelWork), "the engine has forgotten it"
    assert case.generate("q3") is None
    case.emit("q2", finish=FinishReason.STOP)
    assert case.ended_streams() == {"q2": FinishReason.STOP}


def test_tokens_that_come_with_a_failure_are_delivered_before_it() -> None:
    case = ready_case()
    case.generate()

    case.emit(tokens=(7,), failure=WorkFailure(code="invalid_logits", message="position 4"))

    kinds = [type(action) for action in case.actions if isinstance(action, Deliver | EndStream)]
    assert kinds == [Deliver, EndStream]

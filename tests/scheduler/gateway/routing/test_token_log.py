from __future__ import annotations

import pytest

from pilotlight.scheduler.gateway.routing.token_log import TokenLog
from pilotlight.store_node.protocol import FinishReason, RequestId, TokenBatch, TokenLogprobs


def batch(seq: int, *token_ids: int, attempt: int = 1, is_last: bool = False) -> TokenBatch:
    return TokenBatch(
        request_id=RequestId("q1"),
        attempt=attempt,
        seq=seq,
        token_ids=token_ids,
        logprobs=tuple(TokenLogprobs(logprob=-float(token)) for token in token_ids),
        finish_reason=FinishReason.STOP if is_last else None,
    )


def begun(*token_ids: int) -> TokenLog:
    log = TokenLog()
    log.begin_attempt()
    log.take(batch(0, *token_ids))
    return log


def test_what_follows_is_taken_as_it_is() -> None:
    log = begun(10, 11)

    assert log.take(batch(2, 12)) == batch(2, 12)
    assert log.emitted_ids == [10, 11, 12]


def test_of_an_overlap_only_the_new_part_is_taken_with_its_logprobs() -> None:
    log = begun(10, 11)

    assert log.take(batch(1, 11, 12, 13)) == batch(2, 12, 13)
    assert log.emitted_ids == [10, 11, 12, 13]


def test_a_repetition_is_nothing_new() -> None:
    log = begun(10, 11)

    assert log.take(batch(0, 10)) is None
    assert log.emitted_ids == [10, 11]


def test_the_end_is_new_even_where_its_tokens_are_not() -> None:
    log = begun(10, 11)

    assert log.take(batch(0, 10, 11, is_last=True)) == batch(2, is_last=True)


def test_a_gap_is_named() -> None:
    log = begun(10, 11)

    with pytest.raises(ValueError, match="tokens 2 to 4 are missing"):
        log.take(batch(5, 15))

    assert log.emitted_ids == [10, 11]


@pytest.mark.parametrize("attempt", [1, 3])
def test_only_the_present_attempt_adds_tokens(attempt: int) -> None:
    log = begun(10)
    log.begin_attempt()

    assert log.take(batch(1, 11, attempt=attempt)) is None
    assert log.take(batch(1, 12, attempt=2)) == batch(1, 12, attempt=2)

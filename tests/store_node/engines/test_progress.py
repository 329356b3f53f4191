"""When an attempt may run, and when it ends."""

from __future__ import annotations

import pytest

from pilotlight.store_node.engines import Work, WorkRefused
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.protocol import FinishReason, RequestId, Sampling


def _progress(
    prompt: int = 4,
    emitted: tuple[int, ...] = (),
    *,
    context_tokens: int = 10,
    max_tokens: int = 3,
    stop_ids: tuple[int, ...] = (),
) -> Progress:
    work = Work(
        request_id=RequestId("a"),
        attempt=1,
        prompt_ids=(1,) * prompt,
        emitted_ids=emitted,
        sampling=Sampling(max_tokens=max_tokens, stop_token_ids=stop_ids),
    )
    return Progress(work, context_tokens=context_tokens, vocabulary=100)


def test_position_and_seq_go_on_from_what_was_emitted() -> None:
    progress = _progress(prompt=4, emitted=(7,))
    before = (progress.position, progress.seq)

    progress.accept(8)

    assert before == (5, 1)
    assert (progress.position, progress.seq) == (6, 2)


def test_tokens_left_is_bounded_by_max_tokens_and_by_the_context() -> None:
    assert _progress(prompt=4, max_tokens=3).tokens_left == 3
    assert _progress(prompt=8, max_tokens=3).tokens_left == 2  # 10 - 8
    assert _progress(prompt=8, emitted=(7,), max_tokens=3).tokens_left == 1
    assert _progress(emitted=(7, 7, 7), max_tokens=3).tokens_left == 0


def test_a_stop_id_counts_before_the_length() -> None:
    progress = _progress(max_tokens=1, stop_ids=(9,))

    progress.accept(9)

    assert progress.finish_reason is FinishReason.STOP


def test_more_tokens_than_asked_for_are_an_end_too() -> None:
    assert _progress(emitted=(7, 7, 7, 7), max_tokens=3).finish_reason is FinishReason.LENGTH


def test_a_resumed_request_that_fills_the_context_has_ended() -> None:
    progress = _progress(prompt=8, emitted=(7, 7), max_tokens=30)

    assert progress.finish_reason is FinishReason.LENGTH


def test_emitted_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(WorkRefused, match="between 0 and 99"):
        _progress(emitted=(100,))

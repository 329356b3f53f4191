"""When an attempt may run, and when it ends."""

from __future__ import annotations

import pytest

from pilotlight.store_node.engines import Extension, Work, WorkRefused
from pilotlight.store_node.engines.progress import MAX_LOGIT_BIASES, Progress
from pilotlight.store_node.protocol import FinishReason, RequestId, Sampling


def _progress(
    prompt: int = 4,
    emitted: tuple[int, ...] = (),
    *,
    context_tokens: int = 10,
    max_tokens: int = 3,
    stop_ids: tuple[int, ...] = (),
    is_held: bool = False,
    sampling: Sampling | None = None,
) -> Progress:
    work = Work(
        request_id=RequestId("a"),
        attempt=2,
        prompt_ids=(1,) * prompt,
        emitted_ids=emitted,
        sampling=sampling or Sampling(max_tokens=max_tokens, stop_token_ids=stop_ids),
        is_held=is_held,
    )
    return Progress(work, context_tokens=context_tokens, vocabulary=100)


def _extension(*ids: int, attempt: int = 2, is_held: bool = True) -> Extension:
    return Extension(request_id=RequestId("a"), attempt=attempt, emitted_ids=ids, is_held=is_held)


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


def test_all_tokens_are_there_whoever_emitted_them() -> None:
    progress = _progress(prompt=2, emitted=(7,), max_tokens=5, is_held=True)
    ids = progress.ids

    progress.extend(_extension(8, is_held=False))
    progress.accept(9)

    assert list(ids) == [1, 1, 7, 8, 9]
    assert (progress.seq, progress.position, progress.tokens_left) == (3, 5, 2)


def test_an_extension_says_which_attempt_it_is_and_whether_it_goes_on() -> None:
    progress = _progress(is_held=True)

    progress.extend(_extension(7, attempt=3))
    held = (progress.attempt, progress.is_held)
    progress.extend(_extension(attempt=5, is_held=False))

    assert held == (3, True)
    assert (progress.attempt, progress.is_held) == (5, False)


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        (_extension(7, 8, 9), FinishReason.LENGTH),
        (_extension(7, 5), FinishReason.STOP),
        (_extension(7, 8, 5), FinishReason.STOP),
    ],
    ids=["length", "stop", "both"],
)
def test_an_extension_may_be_the_end_which_is_said_at_the_release(
    extension: Extension, reason: FinishReason
) -> None:
    progress = _progress(max_tokens=3, stop_ids=(5,), is_held=True)

    progress.extend(extension)
    while_held = progress.finish_reason
    progress.extend(_extension(is_held=False))

    assert while_held is None
    assert progress.finish_reason is reason
    assert progress.tokens_left == 0


def test_a_held_attempt_that_came_complete_takes_no_more_tokens() -> None:
    progress = _progress(emitted=(7, 7, 7), max_tokens=3, is_held=True)

    with pytest.raises(WorkRefused, match="1 more tokens were given, where 0 could follow"):
        progress.extend(_extension(7))


@pytest.mark.parametrize(
    ("extension", "rule"),
    [
        (_extension(7, 8, 9, 7), "4 more tokens were given, where 3 could follow"),
        (_extension(5, 7), "follow a stop id"),
        (_extension(100), "between 0 and 99"),
        (_extension(7, attempt=1), "attempt 2 can't become 1"),
    ],
)
def test_what_can_not_follow_is_refused_and_changes_nothing(
    extension: Extension, rule: str
) -> None:
    progress = _progress(max_tokens=3, stop_ids=(5,), is_held=True)

    with pytest.raises(WorkRefused, match=rule) as refused:
        progress.extend(extension)

    assert refused.value.code == "invalid"
    assert (progress.seq, progress.attempt, progress.is_held) == (0, 2, True)


def test_what_is_not_held_is_not_extended() -> None:
    progress = _progress()

    with pytest.raises(WorkRefused) as refused:
        progress.extend(_extension(7))

    assert refused.value.code == "unknown"


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(presence_penalty=-2.0, frequency_penalty=2.0, repetition_penalty=10.0),
        Sampling(repetition_penalty=0.0),
        Sampling(logit_bias={0: -100.0, 99: 100.0}),
    ],
)
def test_the_bounds_of_the_sampling_rules_are_allowed(sampling: Sampling) -> None:
    assert _progress(sampling=sampling).tokens_left == 6  # 10 - 4


@pytest.mark.parametrize(
    ("sampling", "rule"),
    [
        (Sampling(presence_penalty=2.1), "presence_penalty must lie between -2 and 2, not 2.1"),
        (Sampling(frequency_penalty=float("nan")), "frequency_penalty must lie .* not nan"),
        (Sampling(repetition_penalty=-0.1), "repetition_penalty must lie between 0.01 and 10"),
        (Sampling(logit_bias={3: -101.0}), "not -101.0 as that of token 3"),
        (Sampling(logit_bias={100: 1.0}), "token ids must lie between 0 and 99"),
    ],
)
def test_the_rule_that_a_request_breaks_is_named(sampling: Sampling, rule: str) -> None:
    with pytest.raises(WorkRefused, match=rule):
        _progress(sampling=sampling)


def test_a_request_has_no_more_biases_than_a_token_should_cost() -> None:
    biases = dict.fromkeys(range(MAX_LOGIT_BIASES + 1), 0.0)
    work = Work(
        request_id=RequestId("a"),
        attempt=1,
        prompt_ids=(1,),
        emitted_ids=(),
        sampling=Sampling(logit_bias=biases),
    )

    with pytest.raises(WorkRefused, match="may name 1024 tokens, not 1025"):
        Progress(work, context_tokens=10, vocabulary=5000)

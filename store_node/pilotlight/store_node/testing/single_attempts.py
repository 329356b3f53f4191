"""What an engine must do for one attempt, as tests."""

# A test's name says what it shows:
# ruff: noqa: D102

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace

import pytest

from pilotlight.store_node.engines.engine import Engine, WorkRefused
from pilotlight.store_node.protocol.values import FinishReason, RequestId, Sampling
from pilotlight.store_node.testing.engine_fixtures import (
    GREEDY,
    SAMPLED,
    Bound,
    EngineFixtures,
    every_sampling,
)


class SingleAttempts(EngineFixtures):
    """From admission to end, alone."""

    def test_has_a_version_without_being_prepared(self, make_engine: Callable[[], Engine]) -> None:
        engine = make_engine()

        assert engine.version()
        assert engine.version() == type(engine).version()

    def test_is_idle_until_a_request_comes_and_after_it_ends(self, bound: Bound) -> None:
        engine, _ = bound
        was_busy = engine.is_busy

        engine.admit(self.work())
        is_busy = engine.is_busy
        while engine.is_busy:
            engine.step()

        assert (was_busy, is_busy) == (False, True)
        assert list(engine.step()) == []

    def test_offers_a_slot_and_a_context(self, bound: Bound) -> None:
        _, offer = bound

        assert offer.concurrency >= 1
        assert 32 <= offer.context_tokens <= 4096

    @every_sampling
    def test_equal_requests_get_equal_tokens(self, bound: Bound, sampling: Sampling) -> None:
        engine, _ = bound

        first = self.answer(engine, self.work("a", sampling))
        second = self.answer(engine, self.work("b", sampling))

        assert first.token_ids == second.token_ids

    def test_another_seed_gets_other_tokens(self, bound: Bound) -> None:
        engine, _ = bound
        wild = replace(SAMPLED, temperature=5.0, top_p=1.0)

        answers = {
            tuple(self.answer(engine, self.work("a", replace(wild, seed=seed))).token_ids)
            for seed in range(4)
        }

        assert len(answers) > 1

    @every_sampling
    def test_resumes_at_every_token_as_if_never_interrupted(
        self, bound: Bound, sampling: Sampling
    ) -> None:
        engine, _ = bound
        whole = self.answer(engine, self.work("a", sampling)).token_ids

        for n_emitted in range(1, len(whole)):
            emitted = tuple(whole[:n_emitted])
            rest = self.answer(engine, self.work("a", sampling, attempt=2, emitted_ids=emitted))
            assert [*emitted, *rest.token_ids] == whole

    def test_ends_after_max_tokens(self, bound: Bound) -> None:
        engine, _ = bound

        answer = self.answer(engine, self.work(sampling=replace(GREEDY, max_tokens=5)))

        assert len(answer.token_ids) == 5
        assert answer.finish_reason is FinishReason.LENGTH

    def test_max_tokens_counts_those_of_earlier_attempts(self, bound: Bound) -> None:
        engine, _ = bound
        sampling = replace(GREEDY, max_tokens=5)
        emitted = tuple(self.answer(engine, self.work(sampling=sampling)).token_ids[:3])

        rest = self.answer(engine, self.work(sampling=sampling, emitted_ids=emitted))

        assert len(rest.token_ids) == 2  # 5 - 3
        assert rest.finish_reason is FinishReason.LENGTH

    def test_ends_with_a_stop_id_which_it_emits(self, bound: Bound) -> None:
        engine, _ = bound
        whole = self.answer(engine, self.work()).token_ids
        stop_id = whole[3]
        expected = whole[: whole.index(stop_id) + 1]

        answer = self.answer(engine, self.work(sampling=replace(GREEDY, stop_token_ids=(stop_id,))))

        assert answer.token_ids == expected
        assert answer.finish_reason is FinishReason.STOP

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"max_tokens": 2}, FinishReason.LENGTH),
            ({"stop_token_ids": (6,)}, FinishReason.STOP),
        ],
        ids=["length", "stop"],
    )
    def test_a_request_that_is_complete_when_it_comes_ends_without_a_token(
        self, bound: Bound, changes: dict[str, object], reason: FinishReason
    ) -> None:
        engine, _ = bound
        sampling = replace(GREEDY, **changes)  # type: ignore[arg-type]  # as parametrised

        answer = self.answer(engine, self.work(sampling=sampling, emitted_ids=(5, 6)))

        assert answer.token_ids == []
        assert answer.finish_reason is reason

    def test_ends_when_the_context_is_full(self, bound: Bound) -> None:
        engine, offer = bound
        room = 3
        prompt_ids = tuple(self.prompt_ids[0] for _ in range(offer.context_tokens - room))

        answer = self.answer(engine, self.work(prompt_ids=prompt_ids))

        assert len(answer.token_ids) == room
        assert answer.finish_reason is FinishReason.LENGTH

    def test_answers_a_prompt_of_one_token(self, bound: Bound) -> None:
        engine, _ = bound

        answer = self.answer(engine, self.work(prompt_ids=self.prompt_ids[:1]))

        assert len(answer.token_ids) == GREEDY.max_tokens

    def test_refuses_a_prompt_as_long_as_the_context(self, bound: Bound) -> None:
        engine, offer = bound
        prompt_ids = tuple(self.prompt_ids[0] for _ in range(offer.context_tokens))

        with pytest.raises(WorkRefused) as refused:
            engine.admit(self.work(prompt_ids=prompt_ids))

        assert refused.value.code == "too_long"
        assert not engine.is_busy

    @pytest.mark.parametrize(
        "changes",
        [
            {"temperature": -1.0},
            {"temperature": float("nan")},
            {"top_p": 0.0},
            {"top_k": -1},
            {"logprobs": 1000},
            {"presence_penalty": 2.5},
            {"presence_penalty": float("nan")},
            {"frequency_penalty": -2.5},
            {"repetition_penalty": -1.0},
            {"repetition_penalty": float("inf")},
            {"logit_bias": {5: 101.0}},
            {"logit_bias": {5: float("nan")}},
            {"logit_bias": {-1: 1.0}},
            {"logit_bias": {2**40: 1.0}},
            {"logit_bias": dict.fromkeys(range(1025), 1.0)},
        ],
        ids=lambda changes: textwrap.shorten(str(changes), 40),
    )
    def test_refuses_sampling_that_makes_no_sense(
        self, bound: Bound, changes: dict[str, object]
    ) -> None:
        engine, _ = bound
        sampling = replace(GREEDY, **changes)  # type: ignore[arg-type]  # as parametrised

        with pytest.raises(WorkRefused) as refused:
            engine.admit(self.work(sampling=sampling))

        assert refused.value.code == "invalid"
        assert not engine.is_busy

    @pytest.mark.parametrize(
        "prompt_ids", [(), (-1,), (2**40,)], ids=["no-ids", "below-0", "above-all"]
    )
    def test_refuses_a_prompt_that_makes_no_sense(
        self, bound: Bound, prompt_ids: tuple[int, ...]
    ) -> None:
        engine, _ = bound

        with pytest.raises(WorkRefused) as refused:
            engine.admit(self.work(prompt_ids=prompt_ids))

        assert refused.value.code == "invalid"
        assert not engine.is_busy

    @pytest.mark.parametrize("n_steps", [0, 1, 3])
    def test_a_cancelled_request_is_forgotten(self, bound: Bound, n_steps: int) -> None:
        engine, _ = bound
        whole = self.answer(engine, self.work("a")).token_ids
        engine.admit(self.work("a"))
        for _ in range(n_steps):
            engine.step()

        engine.cancel(RequestId("a"))

        assert not engine.is_busy
        assert list(engine.step()) == []
        assert self.answer(engine, self.work("a", attempt=2)).token_ids == whole

    def test_cancelling_an_unknown_request_is_no_error(self, bound: Bound) -> None:
        engine, _ = bound
        engine.cancel(RequestId("nobody"))

        assert len(self.answer(engine, self.work()).token_ids) == GREEDY.max_tokens

    def test_tells_the_time_to_the_first_token_once(self, bound: Bound) -> None:
        engine, _ = bound
        engine.admit(self.work())
        emissions = [emission for _ in range(1000) for emission in engine.step()]

        seconds = [emission.prefill_seconds for emission in emissions]

        assert seconds[0] > 0
        assert not any(seconds[1:])

    def test_gives_log_probabilities_only_when_asked(self, bound: Bound) -> None:
        engine, _ = bound

        without = self.answer(engine, self.work())
        with_two = self.answer(engine, self.work(sampling=replace(GREEDY, logprobs=2)))

        assert without.logprobs == []
        assert len(with_two.logprobs) == len(with_two.token_ids)
        for token_id, logprobs in zip(with_two.token_ids, with_two.logprobs, strict=True):
            assert logprobs.logprob <= 0
            assert len(logprobs.top_ids) == len(logprobs.top_logprobs) <= 2
            assert list(logprobs.top_logprobs) == sorted(logprobs.top_logprobs, reverse=True)
            # A greedy token is the most likely one.
            assert logprobs.top_ids[0] == token_id
            assert logprobs.top_logprobs[0] == logprobs.logprob

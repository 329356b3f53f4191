"""What an engine must do for attempts that are prepared before they may emit, as tests."""

# A test's name says what it shows:
# ruff: noqa: D102

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from pilotlight.store_node.engines.engine import Extension, Work, WorkRefused
from pilotlight.store_node.protocol.values import FinishReason, RequestId, Sampling
from pilotlight.store_node.testing.engine_fixtures import (
    GREEDY,
    Bound,
    EngineFixtures,
    every_sampling,
)
from pilotlight.store_node.testing.transcripts import EngineRun

_ID = RequestId("a")


class HeldAttempts(EngineFixtures):
    """From a held admission, in rounds, to the release."""

    def held(self, emitted_ids: tuple[int, ...] = (), sampling: Sampling = GREEDY) -> Work:
        """Build an attempt that is held."""
        return self.work(_ID, sampling, attempt=2, emitted_ids=emitted_ids, is_held=True)

    def prepare(self, run: EngineRun, work: Work) -> None:
        """Admit a held attempt and step until it is prepared."""
        transcript = run.admit(work)
        run.until(lambda: transcript.is_prepared)

    def test_a_held_attempt_says_that_it_is_prepared_and_no_more(self, bound: Bound) -> None:
        engine, _ = bound
        run = EngineRun(engine)

        self.prepare(run, self.held((5, 6)))

        # The transcript has checked that nothing was emitted.
        assert not engine.is_busy
        assert list(engine.step()) == []

    @every_sampling
    @pytest.mark.parametrize("n_rounds", [1, 2, 4])
    def test_goes_on_after_its_release_as_if_never_interrupted(
        self, bound: Bound, n_rounds: int, sampling: Sampling
    ) -> None:
        engine, _ = bound
        whole = self.answer(engine, self.work("alone", sampling)).token_ids
        run = EngineRun(engine)
        ends = [1 + 2 * n for n in range(n_rounds + 1)]  # at most 9 of 12 tokens

        self.prepare(run, self.held(tuple(whole[:1]), sampling))
        transcript = run.transcripts[_ID]
        for begin, end in itertools.pairwise(ends):
            is_last = end == ends[-1]
            run.extend(_extension(whole[begin:end], is_held=not is_last))
            run.until(lambda: transcript.is_prepared or bool(transcript.token_ids))
        run.to_end()

        assert transcript.token_ids == whole[ends[-1] :]
        assert transcript.finish_reason is not None

    def test_may_be_extended_and_released_before_it_is_prepared(self, bound: Bound) -> None:
        engine, _ = bound
        whole = self.answer(engine, self.work("alone")).token_ids
        run = EngineRun(engine)

        transcript = run.admit(self.held(tuple(whole[:3])))
        run.extend(_extension(whole[3:4], is_held=True))
        run.extend(_extension(whole[4:7], is_held=False))
        run.to_end()

        assert transcript.token_ids == whole[7:]

    def test_is_released_by_an_extension_without_tokens(self, bound: Bound) -> None:
        engine, _ = bound
        whole = self.answer(engine, self.work("alone")).token_ids
        run = EngineRun(engine)
        self.prepare(run, self.held(tuple(whole[:4])))

        run.extend(_extension((), is_held=False))
        is_busy = engine.is_busy
        run.to_end()

        assert is_busy
        assert run.transcripts[_ID].token_ids == whole[4:]

    def test_every_extension_that_holds_is_answered_even_an_empty_one(self, bound: Bound) -> None:
        engine, _ = bound
        run = EngineRun(engine)
        self.prepare(run, self.held((5,)))

        for ids in ((6,), (), (7, 8)):
            run.extend(_extension(ids, is_held=True))
            run.until(lambda: run.transcripts[_ID].is_prepared)

        assert not engine.is_busy

    def test_tokens_carry_the_attempt_of_the_release(self, bound: Bound) -> None:
        engine, _ = bound
        run = EngineRun(engine)
        self.prepare(run, self.held((5,)))

        run.extend(replace(_extension((6,), is_held=False), attempt=7))
        run.to_end()

        # The transcript has checked each emission for it.
        assert run.transcripts[_ID].attempt == 7
        assert run.transcripts[_ID].finish_reason is not None

    @pytest.mark.parametrize("name", ["nobody", "running", "released"])
    def test_what_is_not_held_can_not_be_extended(self, bound: Bound, name: str) -> None:
        engine, _ = bound
        if name == "running":
            engine.admit(self.work(name))
        if name == "released":
            engine.admit(replace(self.held(), request_id=RequestId(name)))
            engine.extend(replace(_extension((), is_held=False), request_id=RequestId(name)))

        with pytest.raises(WorkRefused) as refused:
            engine.extend(replace(_extension((5,), is_held=False), request_id=RequestId(name)))

        assert refused.value.code == "unknown"

    @pytest.mark.parametrize(
        ("ids", "attempt"),
        [((-1,), 2), ((2**40,), 2), ((5,) * 13, 2), ((9, 5), 2), ((5,), 1)],
        ids=["below-0", "above-all", "more-than-max", "after-the-stop", "older-attempt"],
    )
    def test_what_can_not_follow_is_refused_and_changes_nothing(
        self, bound: Bound, ids: tuple[int, ...], attempt: int
    ) -> None:
        engine, _ = bound
        sampling = replace(GREEDY, stop_token_ids=(9,))
        rest = self.answer(engine, self.work("alone", sampling, emitted_ids=(5, 6))).token_ids
        run = EngineRun(engine)
        self.prepare(run, self.held((5,), sampling))

        with pytest.raises(WorkRefused) as refused:
            run.extend(replace(_extension(ids, is_held=False), attempt=attempt))
        run.extend(_extension((6,), is_held=False))
        run.to_end()

        assert refused.value.code == "invalid"
        assert run.transcripts[_ID].token_ids == rest

    @pytest.mark.parametrize(
        ("ids", "reason"),
        [((6, 7), FinishReason.LENGTH), ((9,), FinishReason.STOP)],
        ids=["length", "stop"],
    )
    @pytest.mark.parametrize("is_held", [False, True], ids=["at-once", "in-two-rounds"])
    def test_an_extension_may_be_the_end(
        self, bound: Bound, ids: tuple[int, ...], reason: FinishReason, is_held: bool
    ) -> None:
        engine, offer = bound
        run = EngineRun(engine)
        sampling = replace(GREEDY, max_tokens=3, stop_token_ids=(9,))
        self.prepare(run, self.held((5,), sampling))

        run.extend(_extension(ids, is_held=is_held))
        if is_held:
            run.until(lambda: run.transcripts[_ID].is_prepared)
            run.extend(_extension((), is_held=False))
        run.to_end()

        assert run.transcripts[_ID].token_ids == []
        assert run.transcripts[_ID].finish_reason is reason
        for n in range(offer.concurrency):
            engine.admit(self.work(f"r{n}"))

    def test_a_held_attempt_that_came_complete_ends_when_it_is_released(self, bound: Bound) -> None:
        engine, _ = bound
        run = EngineRun(engine)
        self.prepare(run, self.held((5, 6, 7), replace(GREEDY, max_tokens=3)))

        run.extend(_extension((), is_held=False))
        run.to_end()

        assert run.transcripts[_ID].finish_reason is FinishReason.LENGTH

    @pytest.mark.parametrize("is_awaited", [True, False], ids=["prepared", "at-once"])
    def test_a_cancelled_held_attempt_is_forgotten(self, bound: Bound, is_awaited: bool) -> None:
        engine, offer = bound
        run = EngineRun(engine)
        run.admit(self.held())
        for n in range(offer.concurrency - 1):
            run.admit(replace(self.held(), request_id=RequestId(f"r{n}")))
        if is_awaited:
            run.to_end()
        with pytest.raises(WorkRefused) as refused:
            engine.admit(self.work("one-too-many"))

        run.cancel(_ID)
        answer = run.admit(self.work("next"))
        run.until(lambda: answer.has_ended)

        assert refused.value.code == "full"
        with pytest.raises(WorkRefused):
            engine.extend(_extension((), is_held=False))


def _extension(ids: tuple[int, ...] | list[int], *, is_held: bool) -> Extension:
    return Extension(request_id=_ID, attempt=2, emitted_ids=tuple(ids), is_held=is_held)

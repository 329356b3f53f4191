"""What an engine must do for several requests at once, as tests."""

# A test's name says what it shows:
# ruff: noqa: D102

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pilotlight.store_node.engines.engine import Extension, Offer, Work, WorkRefused
from pilotlight.store_node.protocol.values import RequestId
from pilotlight.store_node.testing.engine_fixtures import (
    GREEDY,
    PENALISED,
    SAMPLED,
    Bound,
    EngineFixtures,
)
from pilotlight.store_node.testing.transcripts import MAX_STEPS, EngineRun, run_to_end

_SAMPLINGS = (GREEDY, SAMPLED, PENALISED)


class SharedEngine(EngineFixtures):
    """Slots and memory, and that nobody notices the others."""

    def test_refuses_more_requests_than_it_offered_slots(self, bound: Bound) -> None:
        engine, offer = bound
        for n in range(offer.concurrency):
            engine.admit(self.work(f"r{n}"))

        with pytest.raises(WorkRefused) as refused:
            engine.admit(self.work("one-too-many"))

        assert refused.value.code == "full"

    @pytest.mark.parametrize("is_held", [False, True], ids=["running", "held"])
    def test_gives_out_as_much_kv_memory_as_it_offered(self, bound: Bound, is_held: bool) -> None:
        engine, offer = bound
        sampling = replace(GREEDY, max_tokens=offer.context_tokens)
        works = [
            self.work(f"r{n}", sampling, is_held=is_held)
            for n in range(_n_that_fit(offer, len(self.prompt_ids), offer.context_tokens))
        ]
        for work in works:
            engine.admit(work)

        with pytest.raises(WorkRefused) as refused:
            engine.admit(self.work("one-too-many", sampling))
        engine.cancel(works[0].request_id)
        engine.admit(self.work("next", sampling))

        assert refused.value.code == "full"

    def test_refuses_a_request_that_is_already_here(self, bound: Bound) -> None:
        engine, _ = bound
        engine.admit(self.work("a"))

        with pytest.raises(WorkRefused):
            engine.admit(self.work("a", attempt=2))

    def test_requests_together_get_the_tokens_that_each_gets_alone(self, bound: Bound) -> None:
        engine, offer = bound
        works = [
            self.work(f"r{n}", SAMPLED, prompt_ids=self.prompt_ids + self.prompt_ids[: n % 3])
            for n in range(min(offer.concurrency, 6))
        ]
        alone = {work.request_id: self.answer(engine, work).token_ids for work in works}

        together = run_to_end(engine, works)

        assert {name: script.token_ids for name, script in together.items()} == alone

    @pytest.mark.parametrize("seed", range(3))
    def test_nobody_notices_who_joins_and_leaves(self, bound: Bound, seed: int) -> None:
        engine, offer = bound
        rng = random.Random(seed)
        works = [self._any_work(rng, f"r{n}") for n in range(12)]
        alone = {work.request_id: self.answer(engine, work).token_ids for work in works}
        traffic = _Traffic(EngineRun(engine), offer, alone, rng)

        traffic.run(works)

        assert traffic.n_ended + traffic.n_cancelled == len(works)
        assert traffic.n_ended > 0

    def test_a_long_prompt_does_not_stall_the_others(self, bound: Bound) -> None:
        engine, offer = bound
        n_long = offer.context_tokens - 1
        if offer.concurrency < 2 or not self.chunks_prefill:
            pytest.skip("this engine says that it does not do so")
        if _n_that_fit(offer, n_long, 1) < 2:
            pytest.skip("its KV memory holds no two requests that are long enough")
        run = EngineRun(engine)
        n_short = offer.context_tokens - len(self.prompt_ids)
        short = run.admit(self.work("short", replace(GREEDY, max_tokens=n_short)))
        run.until(lambda: bool(short.token_ids))
        ids = (self.prompt_ids * n_long)[:n_long]
        long = run.admit(self.work("long", prompt_ids=ids))

        n_tokens: list[int] = []
        for _ in range(MAX_STEPS):
            n_tokens.append(len(short.token_ids))
            run.step()
            if long.token_ids:
                break

        assert long.token_ids
        # Where one step computed all of the prompt, nobody waited for long.
        assert len(n_tokens) == 1 or n_tokens[-1] > n_tokens[0]

    def _any_work(self, rng: random.Random, name: str) -> Work:
        n_more = rng.randrange(4)
        return self.work(
            name,
            replace(rng.choice(_SAMPLINGS), seed=rng.randrange(100)),
            prompt_ids=self.prompt_ids + tuple(rng.choices(self.prompt_ids, k=n_more)),
        )


class _Traffic:
    """Requests that come and go by chance, some of them prepared before they may emit."""

    def __init__(
        self, run: EngineRun, offer: Offer, alone: dict[RequestId, list[int]], rng: random.Random
    ) -> None:
        self._run = run
        self._offer = offer
        self._alone = alone
        self._rng = rng
        self._given: dict[RequestId, int] = {}
        """How many tokens of its answer a request was given."""
        self._leaves_after: dict[RequestId, int] = {}
        """After how many tokens its client goes."""
        self.n_ended = 0
        self.n_cancelled = 0

    def run(self, works: list[Work]) -> None:
        waiting = list(reversed(works))
        for _ in range(MAX_STEPS):
            if waiting and len(self._given) < self._offer.concurrency and self._rng.random() < 0.5:
                self._admit(waiting.pop())
            for request_id in list(self._given):
                self._look_at(request_id)
            if not (waiting or self._given):
                return
            self._run.step()

    def _admit(self, work: Work) -> None:
        n_given = self._rng.choice([0, 0, 3])
        emitted_ids = tuple(self._alone[work.request_id][:n_given])
        is_held = self._rng.random() < 0.3
        self._run.admit(replace(work, emitted_ids=emitted_ids, is_held=is_held))
        self._given[work.request_id] = len(emitted_ids)
        is_impatient = self._rng.random() < 0.3
        n_tokens = self._rng.randrange(6) if is_impatient else work.sampling.max_tokens
        self._leaves_after[work.request_id] = n_tokens

    def _look_at(self, request_id: RequestId) -> None:
        transcript, answer = self._run.transcripts[request_id], self._alone[request_id]
        begin = self._given[request_id]
        assert transcript.token_ids == answer[begin : begin + len(transcript.token_ids)]
        if transcript.has_ended:
            assert begin + len(transcript.token_ids) == len(answer)
            self._forget(request_id)
            self.n_ended += 1
        elif len(transcript.token_ids) >= self._leaves_after[request_id]:
            self._run.cancel(request_id)
            self._forget(request_id)
            self.n_cancelled += 1
        elif transcript.is_held and self._rng.random() < 0.3:
            self._extend(request_id)

    def _extend(self, request_id: RequestId) -> None:
        begin = self._given[request_id]
        ids = self._alone[request_id][begin : begin + self._rng.randrange(4)]
        self._run.extend(
            Extension(
                request_id=request_id,
                attempt=self._run.transcripts[request_id].attempt,
                emitted_ids=tuple(ids),
                is_held=self._rng.random() < 0.5,
            )
        )
        self._given[request_id] += len(ids)

    def _forget(self, request_id: RequestId) -> None:
        del self._given[request_id]


def _n_that_fit(offer: Offer, prompt_tokens: int, max_tokens: int) -> int:
    if offer.kv_tokens is None:
        return offer.concurrency
    fit = offer.kv_tokens // offer.kv_need(prompt_tokens, max_tokens)
    return min(offer.concurrency, fit)

"""The shared bookkeeping of engines that only say what the next token is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.store_node.engines.timed_rig import NoWeights, make_setup, make_work

from pilotlight.store_node.engines import (
    Engine,
    EngineSetup,
    Offer,
    Progress,
    TokenByToken,
    Weights,
)
from pilotlight.store_node.errors import InvalidLogits
from pilotlight.store_node.protocol import TokenLogprobs
from pilotlight.store_node.testing import EngineContract, EngineRun, FakeClock

VOCABULARY = 1000
BROKEN_ID = 999


class Sums(TokenByToken):
    """The next token is made of the sum of all before it; one id breaks it."""

    vocabulary = VOCABULARY

    @classmethod
    def version(cls) -> str:
        return "1"

    def attach(self, weights: Weights) -> Offer:
        return Offer(
            concurrency=self.setup.spec.concurrency,
            context_tokens=64,
            dtype="none",
            kv_tokens=192,
            kv_block_tokens=16,
        )

    def next_token(self, progress: Progress) -> tuple[int, TokenLogprobs | None]:
        work = progress.work
        if BROKEN_ID in work.prompt_ids:
            raise InvalidLogits(work.request_id, position=progress.position)
        seed = work.sampling.seed if work.sampling.temperature > 0 else 0
        token_id = (sum(progress.ids) * 31 + seed + progress.position) % VOCABULARY
        if work.sampling.logprobs is None:
            return token_id, None
        return token_id, TokenLogprobs(logprob=0.0, top_ids=(token_id,), top_logprobs=(0.0,))


class TestContract(EngineContract):
    @pytest.fixture
    def make_engine(self) -> Callable[[], Engine]:
        return Sums

    @pytest.fixture
    def engine_setup(self, tmp_path: Path) -> EngineSetup:
        return make_setup(tmp_path, concurrency=5)

    @pytest.fixture
    def weights(self) -> Weights:
        return NoWeights()


class TestContractOneAtATime(TestContract):
    @pytest.fixture
    def engine_setup(self, tmp_path: Path) -> EngineSetup:
        return make_setup(tmp_path, concurrency=1)


def test_a_request_without_a_next_token_fails_alone(tmp_path: Path) -> None:
    engine = Sums(clock=FakeClock())
    engine.prepare(make_setup(tmp_path, concurrency=2))
    engine.bind(NoWeights())
    run = EngineRun(engine)

    broken = run.admit(replace(make_work("broken"), prompt_ids=(BROKEN_ID,)))
    whole = run.admit(make_work("whole"))
    run.to_end()

    assert broken.failure is not None
    assert broken.failure.code == "invalid_logits"
    assert "'broken' at position 1" in broken.failure.message
    assert len(whole.token_ids) == 3


def test_the_first_token_tells_the_time_since_the_admission(tmp_path: Path) -> None:
    clock = FakeClock()
    engine = Sums(clock=clock)
    engine.prepare(make_setup(tmp_path))
    engine.bind(NoWeights())
    engine.admit(make_work())
    clock.advance(3.0)

    emissions = [*engine.step(), *engine.step()]

    assert [emission.prefill_seconds for emission in emissions] == [3.0, 0.0]
